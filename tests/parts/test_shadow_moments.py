"""Planning with Adam's moments and keeping them, against loops in NumPy and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import parallel
from jaxpg.parts import shadow_moments
from jaxpg.parts.curvature import LastLayer, sgd_shifts
from jaxpg.parts.shadow_moments import Moments

NUM, KEPT, WIDTH, SIZE = 16, 3, 4, 7
RATE = 0.05


def layer_of(seed=0, num=NUM):
    """Tokens that keep different parts of the vocabulary; the chosen one is not always kept."""
    numbers = np.random.default_rng(seed)
    tokens = np.array([numbers.permutation(SIZE)[:KEPT] for _ in range(num)])
    logits = numbers.normal(size=(num, KEPT))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    chosen = numbers.integers(0, SIZE, num)
    residual = (tokens == chosen[:, None]) - probabilities
    hidden, advantage = numbers.normal(size=(num, WIDTH)), numbers.normal(size=num)
    floats = [jnp.asarray(x, jnp.float32) for x in (hidden, probabilities, residual, advantage)]
    return LastLayer(floats[0], floats[1], jnp.asarray(tokens), *floats[2:])


def moments_of(seed=1, count=3):
    numbers = np.random.default_rng(seed)
    first, second = numbers.normal(size=(2, SIZE, WIDTH))
    parts = (0.3 * first, 0.1 * second**2)
    return Moments(*(jnp.asarray(x, jnp.float32) for x in parts), jnp.asarray(count))


def dense(layer, i):
    """Gradient `[V, D]` of one token, in float64."""
    gradient = np.zeros((SIZE, WIDTH))
    for row, v in zip(np.asarray(layer.tokens[i]), np.float64(layer.residual[i]), strict=True):
        gradient[row] += np.float64(layer.advantage[i]) * v * np.float64(layer.hidden[i])
    return gradient


def adam_by_hand(gradient, moments, b1=0.9, b2=0.999):
    n = int(moments.count)
    if n == 0:
        return gradient
    first = (b1 * np.float64(moments.first) + (1 - b1) * gradient) / (1 - b1 ** (n + 1))
    second = (b2 * np.float64(moments.second) + (1 - b2) * gradient**2) / (1 - b2 ** (n + 1))
    return first / (np.sqrt(second) + 1e-8)


def shifts_by_hand(layer, i, gradient, direction):
    """m_H and m_F with the whole direction, the tokens that were not kept having probability 0."""
    pi, v = np.zeros(SIZE), np.zeros(SIZE)
    pi[layer.tokens[i]], v[layer.tokens[i]] = layer.probabilities[i], layer.residual[i]
    u = direction @ np.float64(layer.hidden[i])
    dot, fisher = v @ u, pi @ u**2 - (pi @ u) ** 2
    advantage = np.float64(layer.advantage[i])
    linear = RATE * np.sum(gradient * direction)
    return linear + 0.5 * RATE**2 * advantage * (dot**2 - fisher), 0.5 * RATE**2 * dot**2


@pytest.mark.parametrize("chunk", [1, 5, 16, 99])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_a_token_is_planned_as_if_it_were_the_whole_batch(chunk, count):
    layer, moments = layer_of(), moments_of(count=count)
    found = shadow_moments.adam_shifts(layer, RATE, moments, chunk)
    for i in range(NUM):
        gradient = dense(layer, i)
        expected = shifts_by_hand(layer, i, gradient, adam_by_hand(gradient, moments))
        np.testing.assert_allclose(
            [found.objective[i], found.policy[i]], expected, rtol=2e-4, atol=1e-7
        )


def test_with_nothing_stored_the_plan_is_the_gradient():
    layer, moments = layer_of(), shadow_moments.no_moments(SIZE, WIDTH)
    for ours, plain in zip(
        shadow_moments.adam_shifts(layer, RATE, moments), sgd_shifts(layer, RATE), strict=True
    ):
        np.testing.assert_allclose(ours, plain, rtol=1e-5)
    still = layer._replace(advantage=jnp.zeros(NUM))
    for shift in shadow_moments.adam_shifts(still, RATE, moments):
        np.testing.assert_array_equal(shift, 0.0)


def test_old_moments_move_a_token_without_advantage():
    still = layer_of()._replace(advantage=jnp.zeros(NUM))
    found = shadow_moments.adam_shifts(still, RATE, moments_of())
    assert (found.policy > 0).all() and (found.objective == 0).all()


def test_the_plan_is_the_step_of_optax():
    """From the same gradients, of which the last is only planned."""
    gradients = np.random.default_rng(2).normal(size=(4, SIZE, WIDTH)).astype(np.float32)
    adam = optax.scale_by_adam()
    state = adam.init(gradients[0])
    for gradient in gradients[:3]:
        _, state = adam.update(gradient, state)
    expected, _ = adam.update(gradients[3], state)
    moments = Moments(state.mu, state.nu, state.count)
    found = shadow_moments.planned_direction(jnp.asarray(gradients[3]), moments)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def largest_array(function, *arguments):
    """Numbers in the largest array that a program makes, its loops included."""

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))
            for value in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
            ):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.parametrize("chunk", [4, 16])
def test_memory_is_that_of_a_chunk(chunk):
    num, kept, width, size = 512, 5, 32, 100
    numbers = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(numbers.random(shape), jnp.float32)
    tokens = jnp.asarray(numbers.integers(0, size, (num, kept)))
    layer = LastLayer(draw(num, width), draw(num, kept), tokens, draw(num, kept), draw(num))
    moments = Moments(draw(size, width), draw(size, width), jnp.asarray(3))
    given = num * width  # the hidden states, cut into chunks
    plan = lambda layer, moments: shadow_moments.adam_shifts(layer, RATE, moments, chunk)
    keep = lambda layer, moments: shadow_moments.update_moments(
        moments, layer, layer.advantage > 0, chunk
    )
    assert largest_array(plan, layer, moments) == max(given, chunk * kept * width)
    assert largest_array(keep, layer, moments) == max(given, chunk * size)


def updated_by_hand(moments, layer, accepted):
    """Row by row of the vocabulary, over the tokens that kept it."""
    first, second = np.float64(moments.first), np.float64(moments.second)
    for row in range(SIZE):
        kept = [
            np.float64(layer.advantage[i] * v) * np.float64(layer.hidden[i])
            for i in range(len(accepted))
            for token, v in zip(np.asarray(layer.tokens[i]), layer.residual[i], strict=True)
            if accepted[i] and token == row
        ]
        if kept:
            mean = np.mean(kept, axis=0)
            first[row] = 0.9 * first[row] + 0.1 * mean
            second[row] = 0.999 * second[row] + 0.001 * mean**2
    return first, second


def test_a_row_takes_the_mean_of_its_occurrences_and_one_without_any_stays():
    moments, occurrences = moments_of(count=0), []
    for seed in range(3):
        layer = layer_of(seed, num=6)
        accepted = np.array([True, False, True, True, False, False])
        counts = np.bincount(np.asarray(layer.tokens)[accepted].ravel(), minlength=SIZE)
        expected = updated_by_hand(moments, layer, accepted)
        old, moments = moments, shadow_moments.update_moments(moments, layer, jnp.array(accepted))
        np.testing.assert_allclose(moments.first, expected[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moments.second, expected[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(moments.first[counts == 0], old.first[counts == 0])
        np.testing.assert_array_equal(moments.second[counts == 0], old.second[counts == 0])
        assert moments.count == seed + 1
        occurrences.append(counts)
    # Else a division by the number of tokens would do as well.
    assert set(np.ravel(occurrences)) >= {0, 1, 2}


def test_where_nothing_is_accepted_nothing_is_stored():
    moments = moments_of()
    spoiled = jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jnp.integer) else jnp.full_like(x, jnp.nan),
        layer_of(),
    )
    after = shadow_moments.update_moments(moments, spoiled, jnp.zeros(NUM, bool))
    for one, other in zip(after, moments, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_may_not_be_drawn_does_not_count_as_an_occurrence():
    layer = layer_of()
    spare = jnp.full((NUM, 1), SIZE)
    none = jnp.zeros((NUM, 1))
    wider = layer._replace(
        tokens=jnp.concatenate([layer.tokens, spare], 1),
        probabilities=jnp.concatenate([layer.probabilities, none], 1),
        residual=jnp.concatenate([layer.residual, none], 1),
    )
    before = Moments(jnp.ones((SIZE + 1, WIDTH)), jnp.ones((SIZE + 1, WIDTH)), jnp.asarray(2))
    after = shadow_moments.update_moments(before, wider, jnp.ones(NUM, bool))
    np.testing.assert_array_equal(after.first[SIZE], 1.0)
    assert (after.first[:SIZE] != 1.0).any()


@pytest.mark.parametrize("adam", [True, False])
def test_a_unit_follows_its_mean_gradient_and_averages_what_that_does(adam):
    layer, moments = layer_of(), moments_of() if adam else None
    weight = np.random.default_rng(4).random(NUM)
    weight[3] = 0.0
    weight /= weight.sum()
    gradient = np.einsum("n,nvd->vd", weight, [dense(layer, i) for i in range(NUM)])
    direction = adam_by_hand(gradient, moments) if adam else gradient
    each = np.array([shifts_by_hand(layer, i, gradient, direction) for i in range(NUM)])
    expected = weight @ each  # the linear part is the unit's own
    spoiled = layer._replace(hidden=layer.hidden.at[3].set(jnp.nan))
    found = shadow_moments.unit_shifts(
        spoiled, RATE, jnp.asarray(weight, jnp.float32), moments, SIZE, chunk=5
    )
    np.testing.assert_allclose([found.objective, found.policy], expected, rtol=1e-4)


def test_planning_of_permuted_tokens_is_permuted():
    layer, order = layer_of(), np.random.default_rng(5).permutation(NUM)
    moved = jax.tree.map(lambda leaf: leaf[order], layer)
    for one, other in zip(
        shadow_moments.adam_shifts(layer, RATE, moments_of(), 5),
        shadow_moments.adam_shifts(moved, RATE, moments_of(), 5),
        strict=True,
    ):
        np.testing.assert_allclose(one[order], other, rtol=1e-6)


def test_no_moment_and_no_plan_carries_a_gradient():
    def everything(layer_floats, moments_floats):
        layer = layer_of()
        layer = layer._replace(**layer_floats)
        moments = Moments(*moments_floats, jnp.asarray(2))
        found = (
            shadow_moments.adam_shifts(layer, RATE, moments),
            shadow_moments.update_moments(moments, layer, jnp.ones(NUM, bool))[:2],
        )
        return sum(jnp.sum(x) for x in jax.tree.leaves(found))

    floats = {"hidden": layer_of().hidden, "advantage": layer_of().advantage}
    gradient = jax.grad(everything, argnums=(0, 1))(floats, moments_of()[:2])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_four_devices_remember_what_one_does():
    layer, moments, accepted = layer_of(), moments_of(), jnp.arange(NUM) % 3 > 0
    weight = jnp.full(NUM, 1.0 / NUM)

    def both(layer, accepted, weight):
        unit = shadow_moments.unit_shifts(layer, RATE, weight, moments, SIZE, total=parallel.total)
        return shadow_moments.update_moments(moments, layer, accepted), unit

    one = both(layer, accepted, weight)
    shares = jax.tree.map(lambda x: x.reshape((4, -1, *x.shape[1:])), (layer, accepted, weight))
    four = jax.pmap(both, axis_name=parallel.AXIS)(*shares)
    for whole, parts in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        for part in parts:
            np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-7)
