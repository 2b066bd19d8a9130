"""The statistics of the audit, against distributions that are known."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxpg.diagnostics.moments import moments, significance


def draws(num_audits, num_batches, covariance, seed=0):
    """Independent samples, each as (mean, centred)."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(covariance)))
    for _ in range(num_audits):
        sample = rng.normal(size=(num_batches, len(covariance))) @ root.T
        mean = sample.mean(axis=0)
        yield mean, sample - mean


@pytest.mark.parametrize(
    "spectrum", [[1.0], [1.0, 1.0], [1.0, 0.2, 0.01], [1.0] * 10, [5.0, *[0.1] * 20]]
)
def test_significance_of_nothing_is_standard_normal_in_its_upper_tail(spectrum):
    scores = np.array([significance(*draw) for draw in draws(4000, 100, np.diag(spectrum))])
    for level in (1.0, 2.0):
        expected = stats.norm.sf(level)
        error = math.sqrt(expected * (1 - expected) / len(scores))
        assert abs(np.mean(scores > level) - expected) < 4 * error + 0.006
    assert np.mean(scores > 4.0) < 0.001


def test_significance_is_the_chi_square_tail_of_independent_components():
    rng = np.random.default_rng(1)
    num_batches, size = 4000, 30
    centred = rng.normal(size=(num_batches, size))
    centred -= centred.mean(axis=0)
    difference = np.full(size, 1.6 / math.sqrt(num_batches))
    tail = stats.chi2.sf(np.sum(difference**2) * num_batches, size)
    assert significance(difference, centred) == pytest.approx(stats.norm.isf(tail), abs=0.1)


def test_significance_does_not_mind_a_singular_covariance():
    (mean, centred), *_ = draws(1, 500, np.ones((3, 3)))
    repeated = significance(mean, centred)
    alone = significance(mean[:1], centred[:, :1])
    assert repeated == pytest.approx(alone, abs=1e-3)


def test_without_variance_any_difference_counts():
    still = np.zeros((10, 2))
    assert significance(np.zeros(2), still) == 0
    assert significance(np.array([0.0, 1e-9]), still) == math.inf


def test_moments_of_a_scaled_and_turned_gradient():
    exact = np.array([3.0, 0.0])
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(20_000, 2)) * [0.3, 0.4]
    found = moments(np.array([6.0, 8.0]) + noise, exact)
    assert found.scale == pytest.approx(2.0, abs=4 * found.scale_error)
    assert found.cosine == pytest.approx(0.6, abs=4 * found.cosine_error)
    assert found.bias == pytest.approx(math.hypot(3, 8) / 3, abs=0.01)
    assert found.variance == pytest.approx(0.25, rel=0.03)
    assert found.signal_to_noise == pytest.approx(400, rel=0.03)
    assert found.bias_error == pytest.approx(0.5 / math.sqrt(20_000) / 3, rel=0.02)
    assert found.gradient_norm == pytest.approx(10, rel=0.01)
    assert not found.unbiased
    assert not found.unbiased_direction


def test_a_wrong_norm_is_told_from_a_wrong_direction():
    exact = np.array([1.0, 2.0, -1.0])
    noise = np.random.default_rng(0).normal(size=(1000, 3))
    assert moments(exact + noise, exact).unbiased
    longer = moments(2 * exact + noise, exact)
    assert longer.unbiased_direction and not longer.unbiased
    assert not moments(-exact + noise, exact).unbiased_direction


def test_cosine_error_covers_the_truth_at_both_ends():
    rng = np.random.default_rng(0)
    exact = np.array([1.0, 0.0, 0.0, 0.0])
    for truth, tolerance in ((exact, 1.0), (np.array([1.0, 1.0, 0.0, 0.0]), 0.5**0.5)):
        distance = []
        for _ in range(300):
            found = moments(truth + 3 * rng.normal(size=(400, 4)), exact)
            distance.append(abs(found.cosine - tolerance) / found.cosine_error)
        assert np.mean(np.array(distance) < 2) > 0.9
