"""Confidence intervals: how often they hold what they estimate, and their closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxpg import intervals


def test_wilson_solves_its_quadratic():
    for solved, number in ((0, 5), (3, 10), (10, 10), (50, 200)):
        share = solved / number
        z = stats.norm.ppf(0.975)
        found = intervals.wilson(solved, number)
        for end in (found.low, found.high):
            # The bounds are the p whose own normal interval just reaches the share.
            assert (share - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / number, abs=1e-9)
        assert 0 <= found.low <= share <= found.high <= 1


def test_wilson_holds_the_share_as_often_as_it_says():
    draws = np.random.default_rng(0).binomial(40, 0.1, size=2000)
    ends = [intervals.wilson(int(solved), 40) for solved in np.unique(draws)]
    holds = {e.mean: e.low <= 0.1 <= e.high for e in ends}
    assert np.mean([holds[d / 40] for d in draws]) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("estimate", [intervals.normal, intervals.bootstrap])
def test_intervals_of_means_hold_the_mean_as_often_as_they_say(estimate):
    generator = np.random.default_rng(1)
    options = {"num_resamples": 500} if estimate is intervals.bootstrap else {}
    held = []
    for _ in range(150):
        found = estimate(generator.uniform(size=40), confidence=0.9, **options)
        held.append(found.low <= 0.5 <= found.high)
    assert np.mean(held) == pytest.approx(0.9, abs=0.08)


def test_bootstrap_is_the_same_for_the_same_seed():
    values = np.random.default_rng(2).normal(size=20)
    assert intervals.bootstrap(values) == intervals.bootstrap(values)
    assert intervals.bootstrap(values) != intervals.bootstrap(values, seed=1)


def test_bootstrap_agrees_with_the_normal_interval_on_many_problems():
    values = np.random.default_rng(3).normal(size=2000)
    np.testing.assert_allclose(
        intervals.bootstrap(values, num_resamples=2000), intervals.normal(values), atol=0.01
    )


def test_values_that_agree_and_single_values():
    assert intervals.bootstrap([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)
    assert intervals.normal([0.5, 0.5]) == (0.5, 0.5, 0.5)
    for estimate in (intervals.bootstrap, intervals.normal):
        found = estimate([2.0])
        assert found.mean == 2.0
        assert math.isnan(found.low)
        assert math.isnan(found.high)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="one value for each problem"):
        intervals.normal([])
    with pytest.raises(ValueError, match="values holds nan"):
        intervals.bootstrap([1.0, math.nan])
    with pytest.raises(ValueError, match="confidence is 95"):
        intervals.normal([1.0, 2.0], confidence=95)
    with pytest.raises(ValueError, match="num_correct is 3 and num_problems 2"):
        intervals.wilson(3, 2)
    with pytest.raises(ValueError, match="num_resamples is 0"):
        intervals.bootstrap([1.0, 2.0], num_resamples=0)
