import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.parts import stabilisers
from jaxpg.types import DEMONSTRATION, REPLAY, trajectory

RATIO = np.array([1.5, 1.5, 0.5, 0.5, 5.0, 5.0, 1.0, 1.5], np.float32)
ADVANTAGE = np.array([1, -1, -1, 1, -1, 1, 1, 0], np.float32)


def surrogate_slope(lower, upper, bound, ratio=RATIO, advantage=ADVANTAGE):
    """d/d(log r) of PPO's (dual) clipped surrogate, by finite differences in float64."""

    def surrogate(log_ratio):
        r, a = np.exp(log_ratio), advantage.astype(float)
        value = np.minimum(r * a, np.clip(r, 1 - lower, 1 + upper) * a)
        return np.where(a < 0, np.maximum(value, bound * a), value)

    log_ratio, h = np.log(ratio.astype(float)), 1e-6
    return (surrogate(log_ratio + h) - surrogate(log_ratio - h)) / (2 * h)


@pytest.mark.parametrize("lower", [0.2, 0.0])
@pytest.mark.parametrize("upper", [0.2, 0.28])
def test_the_clip_s_weight_is_where_the_surrogate_has_a_slope(lower, upper):
    ratio, advantage = RATIO[RATIO != 1], ADVANTAGE[RATIO != 1]
    weight = stabilisers.clip_weight(np.log(ratio), advantage, lower, upper)
    expected = surrogate_slope(lower, upper, 1e9, ratio, advantage)
    np.testing.assert_allclose(weight * ratio * advantage, expected, rtol=1e-6, atol=1e-7)


def test_the_dual_clip_cuts_negative_advantages_only():
    weight = stabilisers.dual_clip_weight(np.log(RATIO), ADVANTAGE, 0.2, 0.28, 3.0)
    np.testing.assert_array_equal(weight, [0, 1, 0, 1, 0, 0, 1, 1])
    np.testing.assert_allclose(
        weight * RATIO * ADVANTAGE, surrogate_slope(0.2, 0.28, 3.0), rtol=1e-6, atol=1e-7
    )


def test_where_the_advantage_is_zero_nothing_binds():
    weight = stabilisers.clip_weight(np.log(RATIO), np.zeros_like(RATIO), 0.2, 0.2)
    np.testing.assert_array_equal(weight, 1.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: stabilisers.clip(-0.1), r"lower is -0.1, but .* \[0, 1\)"),
        (lambda: stabilisers.clip(1.0), r"lower is 1.0, but .* \[0, 1\)"),
        (lambda: stabilisers.clip(0.2, -0.3), r"upper is -0.3, but .* at least 0"),
        (lambda: stabilisers.dual_clip(0.2, 0.2, 1.0), r"bound is 1.0, but .* above 1"),
        (lambda: stabilisers.dual_clip(2.0), r"lower is 2.0, but .* \[0, 1\)"),
    ],
)
def test_a_bound_out_of_range_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bounds_may_be_traced():
    weights = jax.jit(
        jax.vmap(lambda bound: stabilisers.clip(bound)(np.log(RATIO), ADVANTAGE, None))
    )(jnp.array([0.2, 0.9]))
    np.testing.assert_array_equal(weights[0], [0, 1, 0, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(weights[1], [1, 1, 1, 1, 1, 0, 1, 1])


SCORES = np.array([[5.0, np.nan, 1.0], [4.0, 3.0, 2.0]], np.float32)
MASK = np.array([[1, 0, 1], [1, 1, 1]], np.float32)


@pytest.mark.parametrize(("fraction", "least"), [(0.01, 5.0), (0.4, 4.0), (0.41, 3.0), (1.0, 1.0)])
def test_the_top_fraction_is_of_the_real_decisions(fraction, least):
    weight = stabilisers.top_fraction_weight(SCORES, MASK, fraction)
    np.testing.assert_array_equal(weight, (MASK > 0) & (SCORES >= least))


def test_the_top_fraction_of_nothing_is_nothing():
    assert not np.asarray(stabilisers.top_fraction_weight(SCORES, 0 * MASK, 0.5)).any()


def test_stabilisers_multiply():
    batch = trajectory(
        np.zeros((3, 2), np.float32),
        source=np.array([0, DEMONSTRATION, REPLAY]),
        of_row=np.array([1.0, 0.5, 1.0]),
        of_decision=np.array([[1, 0], [1, 1], [0, 1]]),
    )
    both = stabilisers.product(
        stabilisers.none,
        stabilisers.selected("of_row"),
        stabilisers.selected("of_decision"),
        stabilisers.from_source(DEMONSTRATION),
    )
    ones = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(both(ones, ones, batch), [[0, 0], [0.5, 0.5], [0, 0]])


def test_a_missing_weight_is_named():
    batch = trajectory(np.zeros((1, 2), np.float32), entropies=np.zeros((1, 2)))
    with pytest.raises(KeyError, match=r"no extra 'keep'; it has \['entropies'\]"):
        stabilisers.selected("keep")(batch.log_prob, batch.log_prob, batch)
