"""Base stock for demand that waits: the benchmark's table, the closed form, simulation."""

import numpy as np
import pytest
from scipy import stats

from jaxpg_envs.inventory import references

UNDERAGE = (4.0, 9.0, 19.0, 39.0)
# Normal demand of mean 5 and deviation 1.6, clipped at 0, by lead time.
COSTS = {
    1: (3.167, 3.970, 4.667, 5.289),
    4: (5.006, 6.277, 7.378, 8.362),
    7: (6.332, 7.939, 9.332, 10.577),
    10: (7.425, 9.309, 10.942, 12.402),
    15: (8.954, 11.227, 13.196, 14.956),
    20: (10.258, 12.861, 15.117, 17.134),
}
LEVELS = {1: (11.90, 12.90, 13.72, 14.44), 4: (28.02, 29.58, 30.88, 32.02)}


@pytest.mark.parametrize("lead_time", COSTS)
def test_costs_and_levels_are_the_benchmarks(lead_time):
    found = [references.backlogged_base_stock(1.0, p, lead_time, 5.0, 1.6) for p in UNDERAGE]
    np.testing.assert_allclose([x.cost for x in found], COSTS[lead_time], atol=6e-4)
    if lead_time in LEVELS:
        np.testing.assert_allclose([x.level for x in found], LEVELS[lead_time], atol=0.011)


def test_without_clipping_it_is_the_closed_form():
    level, cost = references.backlogged_base_stock(1.0, 9.0, 3, 5.0, 1.6, clipped=False)
    z = stats.norm.ppf(0.9)
    assert level == pytest.approx(20.0 + z * 3.2)
    assert cost == pytest.approx(10.0 * stats.norm.pdf(z) * 3.2)


def test_the_clipped_normal_costs_what_simulation_finds():
    level, cost = references.backlogged_base_stock(1.0, 4.0, 2, 1.0, 1.0)
    draw = np.random.default_rng(0).normal(1.0, 1.0, (400_000, 3))
    left = level - np.maximum(draw, 0.0).sum(axis=1)
    costs = np.maximum(left, 0.0) + 4.0 * np.maximum(-left, 0.0)
    assert cost == pytest.approx(costs.mean(), abs=4 * costs.std() / len(costs) ** 0.5)
    assert np.mean(left < 0) == pytest.approx(0.2, abs=0.003)


def test_poisson_demand_is_the_discrete_newsvendor():
    level, cost = references.poisson_base_stock(1.0, 9.0, 4, 5.0)
    units = np.arange(120)
    probability = stats.poisson.pmf(units, 25.0)
    by_level = [
        (np.maximum(s - units, 0) + 9.0 * np.maximum(units - s, 0)) @ probability for s in units
    ]
    assert level == np.argmin(by_level) == stats.poisson.ppf(0.9, 25.0)
    assert cost == pytest.approx(min(by_level))
    same = references.base_stock_from_pmf(1.0, 9.0, 4, stats.poisson.pmf(np.arange(40), 5.0))
    assert same.level == level and same.cost == pytest.approx(cost)


def test_samples_of_known_demand_give_its_newsvendor():
    found = references.base_stock_from_samples(1.0, 3.0, 1, [[1.0, 2.0, 3.0, 4.0]])
    # Stretches of two periods: 3, 5, 7; the fractile 3 / 4 is the largest of them.
    assert found.level == 7.0 and found.cost == pytest.approx((4.0 + 2.0 + 0.0) / 3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((-1.0, 9.0, 4, 5.0, 1.6), "holding_cost is -1.0, but a number above 0 is needed"),
        ((1.0, 0.0, 4, 5.0, 1.6), "underage_cost is 0.0, but a number above 0 is needed"),
        ((1.0, 9.0, 0, 5.0, 1.6), "lead_time is 0, but a whole number from 1 on is needed"),
        ((1.0, 9.0, 4, 5.0, -1.0), "std is -1.0, but a number from 0 on is needed"),
    ],
)
def test_bad_numbers_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        references.backlogged_base_stock(*arguments)
