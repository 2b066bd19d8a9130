import numpy as np
from scipy import stats

from experiments.statistics import describe, interval


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    samples = np.random.default_rng(1).exponential(size=(400, 40))
    low, high = interval(samples, num_resamples=999)
    covered = np.mean((low <= 1.0) & (1.0 <= high))
    assert 0.90 < covered < 0.98


def test_the_interval_of_many_normal_values_is_the_one_of_student():
    values = np.random.default_rng(2).normal(3.0, 2.0, size=500)
    low, high = interval(values)
    expected = stats.t.interval(0.95, 499, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose([low, high], expected, rtol=0.01)


def test_the_interval_moves_and_scales_with_the_values():
    values = np.array([0.0, 1.0, 5.0, 2.0, 2.5])
    low, high = interval(values)
    moved_low, moved_high = interval(10.0 + 4.0 * values)
    np.testing.assert_allclose([moved_low, moved_high], [10 + 4 * low, 10 + 4 * high], rtol=1e-6)


def test_the_interval_is_the_same_every_time():
    assert interval([1.0, 2.0, 4.0]) == interval([1.0, 2.0, 4.0])


def test_one_seed_or_a_diverged_one_has_no_interval():
    for values in ([3.0], [1.0, np.nan, 2.0], [1.0, np.inf]):
        assert np.isnan(interval(values)).all()


def test_seeds_that_agree_have_an_interval_without_width_beside_others_that_do_not():
    low, high = interval([[2.0, 2.0, 2.0], [1.0, 2.0, 3.0], [0.0, np.nan, 1.0]])
    assert (low[0], high[0]) == (2.0, 2.0)
    assert low[1] < 2.0 < high[1]
    assert np.isnan([low[2], high[2]]).all()


def test_a_single_outlier_among_equal_seeds_still_has_a_finite_interval():
    found = describe([1.0] * 9 + [0.0])
    assert found["mean"] == 0.9
    assert 0.0 <= found["low"] < 0.9 <= found["high"] <= 1.0
