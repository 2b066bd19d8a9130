"""The model of a step, against NumPy in float64, enumeration and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.parts import curvature

WIDTH, SIZE = 4, 5
RATE = 0.05


def policy(weights, hidden):
    """Probabilities of a head `[V, D]` at one state."""
    logits = weights @ hidden
    exponential = np.exp(logits - logits.max())
    return exponential / exponential.sum()


def problem(seed=0, num_tokens=12):
    """Head, states, drawn tokens and advantages of both signs, in float64."""
    numbers = np.random.default_rng(seed)
    weights = numbers.normal(size=(SIZE, WIDTH))
    hidden = numbers.normal(size=(num_tokens, WIDTH))
    chosen = np.array([numbers.choice(SIZE, p=policy(weights, h)) for h in hidden])
    return weights, hidden, chosen, numbers.normal(size=num_tokens)


def layer_of(weights, hidden, chosen, advantage, kept=SIZE):
    logits, tokens = jax.lax.top_k(jnp.asarray(hidden @ weights.T, jnp.float32), kept)
    return curvature.last_layer(
        jnp.asarray(hidden, jnp.float32),
        logits,
        tokens,
        jnp.asarray(chosen),
        jnp.asarray(advantage, jnp.float32),
    )


def gradient_by_hand(weights, hidden, chosen, advantage, step=1e-6):
    """Of `advantage * log pi(chosen)` for the head, by central differences."""
    gradient = np.zeros_like(weights)
    for place in np.ndindex(*weights.shape):
        moved = np.zeros_like(weights)
        moved[place] = step
        up, down = (np.log(policy(weights + s * moved, hidden)[chosen]) for s in (1, -1))
        gradient[place] = advantage * (up - down) / (2 * step)
    return gradient


def taylor(weights, hidden, chosen, advantage, direction, step=1e-3):
    """Second-order Taylor value at 1 of `s -> A pi(a | W + s d) / pi(a | W) - A`."""
    now = policy(weights, hidden)[chosen]
    along = lambda s: advantage * (policy(weights + s * direction, hidden)[chosen] / now - 1.0)
    first = (along(step) - along(-step)) / (2 * step)
    second = (along(step) + along(-step)) / step**2
    return first + 0.5 * second


def kl(p, q):
    return np.sum(p * np.log(p / q))


def test_a_token_s_gradient_is_that_of_its_log_probability():
    parts = problem()
    layer = layer_of(*parts)
    for i, (hidden, chosen, advantage) in enumerate(zip(*parts[1:], strict=True)):
        weight = jnp.zeros(len(parts[1])).at[i].set(1.0)
        found = curvature.summed_gradient(layer, weight, SIZE, chunk=5)
        expected = gradient_by_hand(parts[0], hidden, chosen, advantage)
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_weighted_gradients_add_up_and_what_weighs_nothing_may_be_anything(chunk):
    parts = problem()
    layer = layer_of(*parts)
    weight = np.random.default_rng(1).random(12)
    weight[[2, 7]] = 0.0
    each = [gradient_by_hand(parts[0], *token) for token in zip(*parts[1:], strict=True)]
    expected = np.einsum("n,nvd->vd", weight, each)
    spoiled = layer._replace(
        hidden=layer.hidden.at[2].set(jnp.nan), residual=layer.residual.at[7].set(jnp.nan)
    )
    found = curvature.summed_gradient(spoiled, jnp.asarray(weight, jnp.float32), SIZE, chunk)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_objective_shift_is_the_taylor_value_of_the_surrogate():
    parts = problem()
    alone = curvature.sgd_shifts(layer_of(*parts), RATE).objective
    direction = np.random.default_rng(3).normal(size=(SIZE, WIDTH))
    given = curvature.direction_shifts(layer_of(*parts), RATE, jnp.asarray(direction, jnp.float32))
    for i, token in enumerate(zip(*parts[1:], strict=True)):
        own = RATE * gradient_by_hand(parts[0], *token)
        expected = [taylor(parts[0], *token, d) for d in (own, RATE * direction)]
        np.testing.assert_allclose([alone[i], given.objective[i]], expected, rtol=1e-3, atol=1e-6)


def test_the_policy_shift_s_expectation_is_the_quadratic_form_of_the_fisher_matrix():
    """By enumeration of what could have been drawn, the direction held fixed."""
    weights, hidden, _, _ = problem()
    direction = np.random.default_rng(3).normal(size=(SIZE, WIDTH))
    for h in hidden[:4]:
        p = policy(weights, h)
        scores = [gradient_by_hand(weights, h, a, 1.0).ravel() for a in range(SIZE)]
        fisher = sum(p[a] * np.outer(s, s) for a, s in enumerate(scores))
        expected = 0.5 * RATE**2 * direction.ravel() @ fisher @ direction.ravel()
        every = layer_of(weights, np.tile(h, (SIZE, 1)), np.arange(SIZE), np.ones(SIZE))
        found = curvature.direction_shifts(every, RATE, jnp.asarray(direction, jnp.float32))
        np.testing.assert_allclose(p @ np.asarray(found.policy), expected, rtol=1e-4)
        np.testing.assert_allclose(found.expected_policy, expected, rtol=1e-4)


@pytest.mark.parametrize(("rate", "tolerance"), [(1e-1, 0.2), (1e-2, 0.02), (1e-3, 0.002)])
def test_the_expected_policy_shift_becomes_the_kl_as_the_step_becomes_small(rate, tolerance):
    weights, hidden, chosen, advantage = problem()
    direction = np.random.default_rng(3).normal(size=(SIZE, WIDTH))
    measured = [kl(policy(weights, h), policy(weights + rate * direction, h)) for h in hidden]
    found = curvature.direction_shifts(
        layer_of(weights, hidden, chosen, advantage), rate, jnp.asarray(direction, jnp.float32)
    )
    ratio = np.asarray(measured) / found.expected_policy
    assert np.abs(ratio - 1.0).max() < tolerance
    assert np.abs(ratio - 1.0).max() > tolerance / 100


@pytest.mark.parametrize("kept", [SIZE, 3])
def test_shifts_of_gradient_ascent_have_the_card_s_closed_form(kept):
    """With the chosen token kept or not."""
    weights, hidden, chosen, advantage = problem(num_tokens=40)
    found = curvature.sgd_shifts(layer_of(weights, hidden, chosen, advantage, kept), RATE)
    outside = 0
    for i, (h, a, A) in enumerate(zip(hidden, chosen, advantage, strict=True)):
        logits = weights @ h
        top = np.argsort(-logits)[:kept]
        pi = np.exp(logits[top]) / np.exp(logits[top]).sum()
        outside += a not in top
        v = (top == a) - pi
        vv, hh = v @ v, h @ h
        vFv = pi @ v**2 - (pi @ v) ** 2
        m_F = 0.5 * RATE**2 * A**2 * vv**2 * hh**2
        m_H = RATE * A**2 * vv * hh + 0.5 * RATE**2 * A**3 * hh**2 * (vv**2 - vFv)
        np.testing.assert_allclose(found.policy[i], m_F, rtol=1e-4)
        np.testing.assert_allclose(found.objective[i], m_H, rtol=1e-4)
    assert (outside > 0) == (kept < SIZE)


def test_the_policy_shift_scales_with_rate_advantage_and_states():
    layer = layer_of(*problem())
    once = curvature.sgd_shifts(layer, RATE).policy
    for factor, other in (
        (4.0, curvature.sgd_shifts(layer, 2 * RATE)),
        (9.0, curvature.sgd_shifts(layer._replace(advantage=-3 * layer.advantage), RATE)),
        (16.0, curvature.sgd_shifts(layer._replace(hidden=2 * layer.hidden), RATE)),
    ):
        np.testing.assert_allclose(other.policy, factor * once, rtol=1e-5)


def test_the_sign_of_the_advantage_turns_the_quadratic_part_of_the_objective_shift_alone():
    layer = layer_of(*problem())
    turned = layer._replace(advantage=-layer.advantage)
    at = lambda layer, rate: np.float64(curvature.sgd_shifts(layer, rate).objective)
    np.testing.assert_array_equal(
        curvature.sgd_shifts(layer, RATE).policy, curvature.sgd_shifts(turned, RATE).policy
    )
    # f(r) = a r + b r^2, solved from two rates.
    linear, other_linear = (4 * at(x, 0.5) - at(x, 1.0) for x in (layer, turned))
    quadratic, other_quadratic = (2 * at(x, 1.0) - 4 * at(x, 0.5) for x in (layer, turned))
    np.testing.assert_allclose(linear, other_linear, rtol=1e-3)
    assert (linear > 0).all()
    np.testing.assert_allclose(quadratic, -other_quadratic, rtol=1e-3, atol=1e-4)
    assert np.abs(quadratic).max() > 0.1


def test_no_shift_carries_a_gradient():
    weights, hidden, chosen, advantage = (jnp.asarray(x) for x in problem())
    direction = jnp.ones((SIZE, WIDTH))

    def every_shift(weights, hidden, advantage, direction):
        logits, tokens = jax.lax.top_k(hidden @ weights.T, 3)
        layer = curvature.last_layer(hidden, logits, tokens, chosen, advantage)
        found = (
            curvature.sgd_shifts(layer, RATE),
            curvature.direction_shifts(layer, RATE, direction),
            curvature.summed_gradient(layer, advantage, SIZE),
        )
        return sum(jnp.sum(x) for x in jax.tree.leaves(found))

    floats = [x.astype(jnp.float32) for x in (weights, hidden, advantage, direction)]
    assert abs(every_shift(*floats)) > 0
    for gradient in jax.grad(every_shift, argnums=(0, 1, 2, 3))(*floats):
        np.testing.assert_array_equal(gradient, 0.0)


def test_a_token_that_may_not_be_drawn_changes_nothing():
    weights, hidden, chosen, advantage = problem()
    layer = layer_of(weights, hidden, chosen, advantage)
    more = curvature.last_layer(
        layer.hidden,
        jnp.pad(jnp.log(layer.probabilities), ((0, 0), (0, 2)), constant_values=-jnp.inf),
        jnp.pad(layer.tokens, ((0, 0), (0, 2)), constant_values=SIZE),
        jnp.asarray(chosen),
        layer.advantage,
    )
    for one, other in zip(
        curvature.sgd_shifts(layer, RATE), curvature.sgd_shifts(more, RATE), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


OBJECTIVE = jnp.array([-1.0, -0.5, 0.0, 0.5, 1.0, 0.0, jnp.nan])
POLICY = jnp.array([0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tau_h": 1.0, "tau_f": 1.0}, [0, 1, 1, 1, 0, 0, 0]),
        ({"tau_h": 1.0, "tau_f": 2.0}, [0, 1, 1, 1, 0, 0, 0]),
        ({"tau_h": 1.0, "tau_f": 0.0}, [0, 1, 1, 1, 0, 1, 0]),
        ({"tau_h": 0.0, "tau_f": 1.0}, [1, 1, 1, 1, 1, 0, 1]),
        ({"tau_h": 0.0, "tau_f": 0.0}, [1, 1, 1, 1, 1, 1, 1]),
        ({"tau_h": 1.0, "tau_f": 1.0, "symmetric": False}, [0, 0, 1, 1, 0, 0, 0]),
    ],
)
def test_the_released_form_is_strict_and_a_bound_of_0_is_no_test(settings, expected):
    np.testing.assert_array_equal(curvature.accept(OBJECTIVE, POLICY, **settings), expected)
    traced = {k: v for k, v in settings.items() if k != "symmetric"}
    fixed = {k: v for k, v in settings.items() if k == "symmetric"}
    jitted = jax.jit(lambda taus: curvature.accept(OBJECTIVE, POLICY, **taus, **fixed))(traced)
    np.testing.assert_array_equal(jitted, expected)


def test_the_paper_s_form_holds_its_bounds():
    found = curvature.accept_between(OBJECTIVE, POLICY, -0.5, 1.0, 2.0)
    np.testing.assert_array_equal(found, [0, 1, 1, 1, 1, 1, 0])
