"""What a learned rule does to an agent: gradients by hand, REINFORCE as a special case, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats

import jaxpg
from jaxpg import estimators
from jaxpg.losses import learned_rule
from jaxpg.losses.learned_rule import (
    MetaCoefficients,
    inner_loss,
    meta_policy_loss,
    meta_regularisers,
    normalised,
)

N, T, M, ACTIONS, STATES = 3, 4, 5, 3, 6
DRAW = np.random.default_rng(0)
ACTION = DRAW.integers(0, ACTIONS, (N, T))
STATE = DRAW.integers(0, STATES, (N, T))
TAKEN = np.eye(ACTIONS)[ACTION]
LOGITS = DRAW.normal(size=(N, T, ACTIONS))
TARGET_LOGITS = DRAW.normal(size=(N, T, M))
POLICY_UPDATE = DRAW.normal(size=(N, T))
TARGET_UPDATE = DRAW.dirichlet(np.ones(M), (N, T))
PROBABILITIES = np.sum(special.softmax(LOGITS, axis=-1) * TAKEN, axis=-1)
TARGETS = special.softmax(TARGET_LOGITS, axis=-1)


def single(*arrays):
    return [np.asarray(array, np.float32) for array in arrays]


def of_logits(logits, target_logits, *updates, **named):
    probabilities = jnp.sum(jax.nn.softmax(logits) * TAKEN, axis=-1)
    return inner_loss(probabilities, jax.nn.softmax(target_logits), *updates, **named)


@pytest.fixture(scope="module")
def slopes():
    """Gradients of the two terms by the logits."""
    given = single(LOGITS, TARGET_LOGITS, POLICY_UPDATE, TARGET_UPDATE)

    @jax.jit
    def run(*given):
        loss = lambda *given: of_logits(*given, target_coefficient=1.0)[0]
        return jax.grad(loss, argnums=(0, 1))(*given)

    return run(*given)


def test_the_loss_is_the_mean_of_its_two_terms():
    given = single(PROBABILITIES, TARGETS, POLICY_UPDATE, TARGET_UPDATE)
    loss, terms = jax.jit(inner_loss)(*given)
    policy = np.mean(POLICY_UPDATE * np.log(PROBABILITIES))
    target = np.mean(stats.entropy(TARGETS, TARGET_UPDATE, axis=-1))
    np.testing.assert_allclose(terms["policy"], policy, rtol=1e-5)
    np.testing.assert_allclose(terms["target"], target, rtol=1e-5)
    np.testing.assert_allclose(loss, policy + 0.5 * target, rtol=1e-5)


def test_the_policy_s_gradient_by_its_logits_is_the_update_times_onehot_minus_p(slopes):
    expected = POLICY_UPDATE[..., None] * (TAKEN - special.softmax(LOGITS, axis=-1)) / (N * T)
    np.testing.assert_allclose(slopes[0], expected, atol=1e-6)


def test_the_predictor_s_gradient_by_its_logits_is_that_of_central_differences(slopes):
    def native(logits):
        y = special.softmax(logits, axis=-1)
        return np.mean(np.sum(y * (np.log(y + 1e-8) - np.log(TARGET_UPDATE + 1e-8)), axis=-1))

    for place in np.ndindex(N, T, M):
        step = np.zeros((N, T, M))
        step[place] = 1e-5
        difference = (native(TARGET_LOGITS + step) - native(TARGET_LOGITS - step)) / 2e-5
        np.testing.assert_allclose(slopes[1][place], difference, atol=1e-6)


def test_minus_an_advantage_as_the_update_is_one_step_of_reinforce():
    """A tabular agent; clipped to norm 0.5, rate 40, against NumPy and against the estimator."""
    draw = np.random.default_rng(1)
    table = draw.normal(size=(STATES, ACTIONS))
    reward = 4.0 * draw.normal(size=(N, T))
    returns = np.cumsum(reward[:, ::-1], axis=1)[:, ::-1]
    softmax = special.softmax(table, axis=-1)
    gradient = np.zeros((STATES, ACTIONS))
    np.add.at(gradient, STATE, -returns[..., None] * (TAKEN - softmax[STATE]) / (N * T))
    norm = np.sqrt(np.sum(gradient**2))
    assert norm > 0.5
    expected = table - 40.0 * gradient * 0.5 / norm

    def by_rule(table):
        policy = jax.nn.softmax(table[STATE])
        probabilities = jnp.sum(policy * TAKEN, axis=-1)
        y = jnp.full((N, T, M), 1.0 / M)
        return inner_loss(probabilities, y, *single(-returns), y, target_coefficient=0.0)[0]

    def by_estimator(table):
        log_prob = jnp.sum(jax.nn.log_softmax(table[STATE]) * TAKEN, axis=-1)
        batch = jaxpg.trajectory(jax.lax.stop_gradient(log_prob), *single(reward))
        estimator = estimators.reinforce(discount=1.0)
        return jaxpg.policy_gradient_loss(estimator, log_prob, estimator.score(batch))

    optimiser = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(40.0))

    @jax.jit
    def stepped(table):
        tables = []
        for loss in (by_rule, by_estimator):
            updates, _ = optimiser.update(jax.grad(loss)(table), optimiser.init(table))
            tables.append(optax.apply_updates(table, updates))
        return tables

    for found in stepped(*single(table)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_a_negative_update_makes_its_action_more_likely_and_a_target_pulls():
    logits, target_logits = np.zeros((1, 1, 2), np.float32), np.zeros((1, 1, 2), np.float32)

    @jax.jit
    def stepped(*logits):
        def loss(logits, target_logits):
            probabilities = jax.nn.softmax(logits)[..., 0]
            y, target = jax.nn.softmax(target_logits), jnp.array([[[0.9, 0.1]]])
            return inner_loss(probabilities, y, jnp.full((1, 1), -1.0), target)[0]

        slopes = jax.grad(loss, argnums=(0, 1))(*logits)
        return [jax.nn.softmax(x - slope)[0, 0, 0] for x, slope in zip(logits, slopes, strict=True)]

    policy, target = stepped(logits, target_logits)
    assert policy > 0.5 and 0.5 < target < 0.9


def test_the_meta_gradient_through_one_inner_step_is_that_of_central_differences():
    """The updates are not stopped: a rule `eta * signal` learns through the agent's step."""
    draw = np.random.default_rng(2)
    signal, advantages = draw.normal(size=(2, N, T))
    table = draw.normal(size=(STATES, ACTIONS))

    def native(eta):
        softmax = special.softmax(table, axis=-1)
        gradient = np.zeros((STATES, ACTIONS))
        np.add.at(gradient, STATE, eta * signal[..., None] * (TAKEN - softmax[STATE]) / (N * T))
        after = special.softmax(table - 2.0 * gradient, axis=-1)
        return -np.mean(advantages * np.log(np.sum(after[STATE] * TAKEN, axis=-1)))

    def outer(eta):
        def chosen(table):
            return jnp.sum(jax.nn.softmax(table[STATE]) * TAKEN, axis=-1)

        def inner(table):
            y = jnp.full((N, T, M), 1.0 / M)
            return inner_loss(chosen(table), y, eta * signal, y)[0]

        (before,) = single(table)
        return meta_policy_loss(chosen(before - 2.0 * jax.grad(inner)(before)), advantages)

    loss, slope = jax.jit(jax.value_and_grad(outer))(0.7)
    np.testing.assert_allclose(loss, native(0.7), rtol=1e-5)
    np.testing.assert_allclose(slope, (native(0.7 + 1e-5) - native(0.7 - 1e-5)) / 2e-5, rtol=1e-4)
    assert abs(slope) > 1e-2


def test_an_impossible_action_and_an_impossible_target_have_finite_gradients():
    target = np.zeros((1, 1, 2), np.float32)
    target[..., 0] = 1.0
    given = (np.zeros((1, 1), np.float32), target[..., ::-1], np.ones((1, 1), np.float32), target)
    run = jax.jit(jax.value_and_grad(inner_loss, argnums=(0, 1, 2, 3), has_aux=True))
    (_, terms), slopes = run(*given)
    np.testing.assert_allclose(terms["policy"], np.log(1e-8), rtol=1e-6)
    np.testing.assert_allclose(terms["target"], -np.log(1e-8), rtol=1e-6)
    assert all(np.isfinite(slope).all() for slope in slopes)
    slope = jax.jit(jax.grad(lambda y: jnp.sum(learned_rule.entropy(y))))(target)
    assert np.isfinite(slope).all()


def test_equal_distributions_are_not_apart():
    (y,) = single(TARGETS)
    np.testing.assert_array_equal(jax.jit(learned_rule.divergence)(y, y), np.zeros((N, T)))
    one = np.ones((N, T, 1), np.float32)
    np.testing.assert_array_equal(jax.jit(learned_rule.divergence)(one, one), np.zeros((N, T)))


def all_losses(mask, probabilities, targets, policy_update, target_update, policies):
    inner, _ = inner_loss(probabilities, targets, policy_update, target_update, mask)
    regularisers, _ = meta_regularisers(policies, targets, policy_update, target_update, mask)
    meta = meta_policy_loss(probabilities, normalised(policy_update, mask), mask)
    return jnp.stack([inner, regularisers, meta])


GIVEN = single(
    PROBABILITIES, TARGETS, POLICY_UPDATE, TARGET_UPDATE, special.softmax(LOGITS, axis=-1)
)


def test_what_stands_on_padding_reaches_neither_loss_nor_gradient():
    mask = np.ones((N, T), np.float32)
    mask[1:] = 0.0
    poisoned = [x.copy() for x in GIVEN]
    for x in poisoned:
        x[1:] = np.nan
    run = jax.jit(
        lambda *given: (
            all_losses(*given),
            jax.grad(lambda *given: jnp.sum(all_losses(*given)), argnums=(1, 2, 3, 4, 5))(*given),
        )
    )
    losses, slopes = run(mask, *poisoned)
    expected, expected_slopes = run(np.ones((1, T), np.float32), *(x[:1] for x in GIVEN))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for slope, whole in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(slope[:1], whole, rtol=1e-4, atol=1e-7)
        assert not np.any(slope[1:])
    losses, slopes = run(np.zeros((N, T), np.float32), *poisoned)
    assert not np.any(losses) and not any(np.any(slope) for slope in slopes)


def test_losses_are_of_one_agent_under_vmap():
    agents = [np.stack([x, x[::-1], 0.5 * x]) for x in GIVEN]
    mask = np.ones((N, T), np.float32)
    found = jax.jit(jax.vmap(all_losses, in_axes=(None, *[0] * 5)))(mask, *agents)
    one = jax.jit(all_losses)
    for agent in range(3):
        np.testing.assert_allclose(
            found[agent], one(mask, *(x[agent] for x in agents)), rtol=1e-5, atol=1e-6
        )


def test_the_regularisers_are_the_entropies_and_the_squares_of_the_card():
    policies = special.softmax(LOGITS, axis=-1)
    expected = {
        "policy_entropy": np.mean(stats.entropy(policies, axis=-1)),
        "target_entropy": np.mean(stats.entropy(TARGETS, axis=-1)),
        "policy_update": np.mean(POLICY_UPDATE**2),
        "target_update": np.mean(np.sum(TARGET_UPDATE**2, axis=-1)),
    }
    given = single(policies, TARGETS, POLICY_UPDATE, TARGET_UPDATE)
    run = jax.jit(meta_regularisers)
    loss, terms = run(*given)
    assert set(terms) == set(MetaCoefficients._fields)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5)
    weights = {
        "policy_entropy": -0.05,
        "target_entropy": -1e-3,
        "policy_update": 5e-3,
        "target_update": 1e-3,
    }
    np.testing.assert_allclose(loss, sum(weights[x] * expected[x] for x in weights), rtol=1e-5)
    none, _ = run(*given, None, MetaCoefficients(0.0, 0.0, 0.0, 2.0))
    np.testing.assert_allclose(none, 2.0 * expected["target_update"], rtol=1e-5)


def test_regularisers_of_several_updates_are_the_mean_of_those_of_each():
    single_update = single(special.softmax(LOGITS, axis=-1), TARGETS, POLICY_UPDATE, TARGET_UPDATE)
    updates = [np.stack([x, x[::-1] ** 2]) for x in single_update]
    together, _ = jax.jit(meta_regularisers)(*updates)
    each, _ = jax.jit(jax.vmap(meta_regularisers))(*updates)
    np.testing.assert_allclose(together, np.mean(each), rtol=1e-5)


def test_advantages_are_constants_and_have_no_unit():
    (advantages, probabilities) = single(POLICY_UPDATE, PROBABILITIES)
    run = jax.jit(jax.grad(lambda p, a: meta_policy_loss(p, normalised(a)), argnums=(0, 1)))
    slopes = run(probabilities, advantages)
    scaled = (POLICY_UPDATE - POLICY_UPDATE.mean()) / POLICY_UPDATE.std()
    np.testing.assert_allclose(slopes[0], -scaled / PROBABILITIES / (N * T), rtol=1e-4)
    assert not np.any(slopes[1])
    alone = jax.jit(jax.grad(meta_policy_loss, argnums=1))(probabilities, advantages)
    assert not np.any(alone)
    again = run(probabilities, 100.0 * advantages + 7.0)[0]
    np.testing.assert_allclose(again, slopes[0], rtol=1e-3)


def test_normalised_advantages_without_a_signal_are_zero_and_agents_do_not_mix():
    agents = np.stack([np.full((2, 3), 0.1), np.arange(6.0).reshape(2, 3)]).astype(np.float32)
    found = jax.jit(jax.vmap(normalised))(agents)
    assert not np.any(found[0])
    np.testing.assert_allclose(found[1], stats.zscore(agents[1], axis=None), rtol=1e-5)
    run = jax.jit(normalised)
    assert run(np.full((1, 1), 3.0, np.float32)).tolist() == [[0.0]]
    masked = run(np.float32([[1.0, 2.0, np.nan]]), np.array([[True, True, False]]))
    np.testing.assert_allclose(masked, [[-1.0, 1.0, 0.0]], rtol=1e-5)


@pytest.mark.parametrize("wrong", range(4))
def test_shapes_that_do_not_fit_are_refused(wrong):
    given = single(PROBABILITIES, TARGETS, POLICY_UPDATE, TARGET_UPDATE)
    given[wrong] = given[wrong][:, :-1]
    with pytest.raises(AssertionError):
        inner_loss(*given)
    policies = special.softmax(LOGITS, axis=-1)
    given[0] = policies[:, :-1] if wrong == 0 else policies
    with pytest.raises(AssertionError):
        meta_regularisers(*given)
