"""A KL estimator has a value and a gradient, and the two are different matters.

Expectations are sums over a two-armed softmax, so they are exact.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpg.losses import divergences
from jaxpg.parts import regularisers
from jaxpg.types import Evaluation, trajectory

POLICY, REFERENCE = np.array([0.8, 0.2]), np.array([0.5, 0.5])
LOGITS = np.log(POLICY).astype(np.float32)
KL = stats.entropy(POLICY, REFERENCE)

each = pytest.mark.parametrize("name", divergences.ESTIMATORS)


def values_at(name: str) -> np.ndarray:
    estimate = jax.jit(divergences.ESTIMATORS[name])
    return np.asarray(estimate(LOGITS, np.log(REFERENCE).astype(np.float32)))


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_k1_and_k3_average_to_the_divergence(name):
    np.testing.assert_allclose(POLICY @ values_at(name), KL, rtol=1e-5)
    np.testing.assert_allclose(KL, 0.192745, atol=1e-6)


def test_k3_of_each_arm():
    np.testing.assert_allclose(values_at("k3"), [0.095004, 0.583709], atol=1e-6)


def test_k2_is_half_the_squared_log_ratio():
    np.testing.assert_allclose(values_at("k2"), 0.5 * np.log(POLICY / REFERENCE) ** 2, rtol=1e-5)


def expected_gradient(name: str, sampler: np.ndarray, importance_weighted: bool = False):
    """Gradient with respect to the logits of the estimate, averaged over the sampler's arms."""
    part = regularisers.kl(estimator=name, importance_weighted=importance_weighted)
    batch = trajectory(
        np.log(sampler).astype(np.float32)[None],
        reference_log_prob=np.log(REFERENCE).astype(np.float32)[None],
    )

    @jax.jit
    @jax.grad
    def gradient(logits):
        log_prob = jax.nn.log_softmax(logits)[None]
        return jnp.sum(sampler * part.term(Evaluation(log_prob), batch)[0])

    return gradient(LOGITS)


def exact_gradient() -> np.ndarray:
    def divergence(logits):
        policy = np.exp(logits) / np.exp(logits).sum()
        return stats.entropy(policy, REFERENCE)

    logits, h = np.log(POLICY), 1e-6
    return np.array(
        [(divergence(logits + h * e) - divergence(logits - h * e)) / (2 * h) for e in np.eye(2)]
    )


def test_the_true_gradient():
    np.testing.assert_allclose(exact_gradient(), [0.221807, -0.221807], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "first"), [("k1", 0.0), ("k2", 0.221807), ("k3", (POLICY - REFERENCE)[0])]
)
def test_expected_gradient_on_the_policy_s_own_samples(name, first):
    np.testing.assert_allclose(expected_gradient(name, POLICY), [first, -first], atol=1e-6)


@pytest.mark.parametrize(("weighted", "first"), [(False, 0.413517), (True, 0.221807)])
def test_stale_samples_need_the_probability_ratio(weighted, first):
    gradient = expected_gradient("k2", np.array([0.5, 0.5]), importance_weighted=weighted)
    np.testing.assert_allclose(gradient, [first, -first], atol=1e-6)


def test_a_step_on_k2_lowers_the_divergence():
    after = LOGITS - 0.1 * np.asarray(expected_gradient("k2", POLICY))
    policy = np.exp(after) / np.exp(after).sum()
    assert stats.entropy(policy, REFERENCE) < KL


@each
@pytest.mark.parametrize("log_ratio", [100.0, -100.0, 1e4, -1e4])
def test_an_outlier_stays_finite_and_is_never_pushed_further_away(name, log_ratio):
    estimate = jax.jit(jax.value_and_grad(divergences.ESTIMATORS[name]))
    value, slope = estimate(np.float32(log_ratio), np.float32(0))
    assert np.isfinite(value)
    assert np.isfinite(slope)
    if name != "k1":
        assert value >= 0
        assert slope * np.sign(log_ratio) >= 0


@each
def test_equal_policies_have_no_divergence(name):
    estimate = jax.jit(divergences.ESTIMATORS[name])
    np.testing.assert_array_equal(estimate(LOGITS, LOGITS), np.zeros(2))


def test_arrays_of_different_shapes_are_refused():
    with pytest.raises(AssertionError, match=r"\(2,\).*\(1,\)"):
        divergences.k3(LOGITS, LOGITS[:1])
