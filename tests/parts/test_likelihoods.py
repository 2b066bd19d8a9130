import jax
import numpy as np
import pytest
from scipy import special

from jaxpg.parts import likelihoods

LOG_PROB = np.array([[-1.0, -2.0, np.nan], [np.nan, -3.0, -0.5], [np.nan] * 3], np.float32)
MASK = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], np.float32)


@pytest.mark.parametrize(
    ("likelihood", "rows"),
    [(likelihoods.sequence, [-3.0, -3.5, 0.0]), (likelihoods.sequence_mean, [-1.5, -1.75, 0.0])],
)
def test_a_row_s_likelihood_counts_real_decisions_only(likelihood, rows):
    @jax.jit
    def total(log_prob):
        return likelihood(log_prob, MASK)[:, 0].sum(), likelihood(log_prob, MASK)

    (_, result), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(LOG_PROB)
    np.testing.assert_allclose(result, np.repeat(np.array(rows)[:, None], 3, axis=1))
    share = MASK if likelihood is likelihoods.sequence else MASK / 2
    np.testing.assert_allclose(gradient, share)


def test_the_sequence_ratio_is_the_geometric_mean_of_the_decisions_ratios():
    log_ratio = np.array([[np.log(2), -np.log(2), 5.0], [np.log(1.21), 0.0, 5.0]], np.float32)
    mask = np.array([[1, 1, 0], [1, 1, 0]], np.float32)

    @jax.jit
    def ratio(log_ratio):
        ratios = jax.numpy.exp(likelihoods.sequence_mean(log_ratio, mask)[:, 0])
        return ratios.sum(), ratios

    (_, ratios), gradient = jax.value_and_grad(ratio, has_aux=True)(log_ratio)
    np.testing.assert_allclose(ratios, [1.0, 1.1], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0.5, 0.5, 0.0], [0.55, 0.55, 0.0]], rtol=1e-6)


def test_a_decision_s_likelihood_is_its_own():
    np.testing.assert_array_equal(likelihoods.decision(LOG_PROB, MASK), LOG_PROB)


@pytest.mark.parametrize("gamma", [0.1, 2.0])
def test_shaped_likelihood_and_its_slope(gamma):
    # A density may be far above 1 and a token's probability far below any float.
    log_prob = np.array([-200.0, -5.0, -0.1, 0.0, 3.0, 100.0], np.float32)

    @jax.jit
    @jax.vmap
    @jax.value_and_grad
    def shaped(log_prob):
        return likelihoods.shaped(gamma)(log_prob, jax.numpy.ones(()))

    value, slope = shaped(log_prob)
    log_prob = log_prob.astype(float)
    np.testing.assert_allclose(
        value, log_prob - np.logaddexp(log_prob, np.log(gamma)), rtol=1e-5, atol=1e-6
    )
    # d log f / d log pi = pi f'(pi) / f(pi) = gamma / (pi + gamma)
    np.testing.assert_allclose(slope, special.expit(np.log(gamma) - log_prob), rtol=1e-5, atol=1e-6)
