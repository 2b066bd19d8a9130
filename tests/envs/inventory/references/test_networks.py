"""Optima and bounds of networks: the benchmark's tables and what they reduce to."""

import numpy as np
import pytest

from jaxpg_envs.inventory import references, store_parameters

UNDERAGE = (4.0, 9.0, 19.0, 39.0)
SERIAL = {
    1: (6.899, 8.367, 9.608, 10.701),
    2: (7.599, 9.261, 10.671, 11.913),
    3: (8.206, 10.037, 11.592, 12.965),
    4: (8.753, 10.734, 12.420, 13.910),
}
LEVELS = {
    4.0: (79.8, 69.8, 46.6, 30.8),
    9.0: (83.2, 72.8, 49.0, 32.4),
    19.0: (86.0, 75.3, 51.0, 33.8),
    39.0: (88.3, 77.4, 52.8, 35.0),
}
# By stores and correlation: lead time 2 with p = 4 and 9, lead time 6 with p = 4 and 9.
BOUNDS = {
    (3, 0.0): (5.151, 6.459, 7.279, 9.126),
    (3, 0.5): (5.754, 7.214, 7.717, 9.675),
    (5, 0.0): (4.591, 5.756, 6.666, 8.357),
    (5, 0.5): (5.296, 6.640, 7.170, 8.989),
    (10, 0.0): (4.674, 5.859, 6.938, 8.699),
    (10, 0.5): (5.536, 6.941, 7.546, 9.461),
}


def serial(underage, lead_time):
    return references.clark_scarf([0.1, 0.2, 0.5, 1.0], underage, [2, 4, 3, lead_time], 5.0, 2.0)


@pytest.mark.parametrize("lead_time", SERIAL)
def test_clark_and_scarf_cost_what_the_benchmark_says(lead_time):
    found = [serial(p, lead_time).cost for p in UNDERAGE]
    np.testing.assert_allclose(found, SERIAL[lead_time], atol=1.1e-3)


@pytest.mark.parametrize("underage", LEVELS)
def test_their_levels_are_the_benchmarks(underage):
    np.testing.assert_allclose(serial(underage, 4).levels, LEVELS[underage], atol=0.11)


def test_a_chain_of_one_stage_is_the_newsvendor():
    chain = references.clark_scarf([1.0], 9.0, [4], 5.0, 1.6)
    alone = references.backlogged_base_stock(1.0, 9.0, 4, 5.0, 1.6)
    assert chain.cost == pytest.approx(alone.cost, abs=1e-3)
    assert chain.levels[0] == pytest.approx(alone.level, abs=0.01)


def test_levels_of_a_chain_cost_what_a_simulation_of_it_finds():
    holding, leads, underage = (0.3, 1.0), (2, 2), 9.0
    levels, cost = references.clark_scarf(holding, underage, leads, 5.0, 2.0)
    draw, copies = np.random.default_rng(0), 4000
    upper, lower = np.full((copies, 2), 10.0), np.full((copies, 2), 10.0)
    total = np.zeros(copies)
    for period in range(600):
        position = lower.sum(axis=1)
        order_low = np.minimum(np.maximum(levels[1] - position, 0.0), upper[:, 0])
        order_up = np.maximum(levels[0] - position - upper.sum(axis=1), 0.0)
        left = lower[:, 0] - np.maximum(draw.normal(5.0, 2.0, copies), 0.0)
        kept = upper[:, 0] - order_low
        if period >= 100:
            total += holding[0] * kept + np.maximum(left, 0.0) + underage * np.maximum(-left, 0.0)
        lower = np.column_stack([left + lower[:, 1], order_low])
        upper = np.column_stack([kept + upper[:, 1], order_up])
    total /= 500
    assert cost == pytest.approx(total.mean(), abs=4 * total.std() / copies**0.5)


@pytest.mark.parametrize(("stores", "correlation"), BOUNDS)
def test_transshipment_bounds_are_the_benchmarks(stores, correlation):
    of_stores = store_parameters(stores)
    found = [
        references.transshipment_bound(1.0, p, 3, lead, of_stores.mean, of_stores.std, correlation)
        for lead in (2, 6)
        for p in (4.0, 9.0)
    ]
    np.testing.assert_allclose([x.cost for x in found], BOUNDS[stores, correlation], atol=1e-3)


def test_the_bound_grows_with_lead_times_and_correlation():
    def bound(warehouse, store, correlation):
        return references.transshipment_bound(
            1.0, 9.0, warehouse, store, [5.0, 4.0], [2.0, 1.0], correlation
        ).cost

    assert bound(1, 1, 0.0) < bound(2, 1, 0.0) < bound(2, 2, 0.0) < bound(2, 2, 0.5)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="one for each of holding_costs"):
        references.clark_scarf([0.1, 1.0], 9.0, [2], 5.0, 2.0)
    with pytest.raises(ValueError, match="correlation is 1.5"):
        references.transshipment_bound(1.0, 9.0, 3, 2, [5.0, 4.0], [2.0, 1.0], 1.5)
