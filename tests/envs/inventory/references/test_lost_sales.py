"""The exact costs of Zipkin's problem, and what must hold between them."""

import numpy as np
import pytest

from jaxpg_envs.inventory import references

# Poisson demand of mean 5, holding cost 1, by underage cost 4, 9, 19 and 39 (Zipkin 2008).
OPTIMA = {
    1: (4.041, 5.438, 6.676, 7.836),
    2: (4.395, 6.094, 7.664, 9.106),  # 7.665 in the benchmark's table, 7.66 in Zipkin's
    3: (4.599, 6.531, 8.363, 10.038),
    4: (4.729, 6.836, 8.887, 10.794),
}
UNDERAGE = (4.0, 9.0, 19.0, 39.0)
CELLS = [
    pytest.param(lead, p, cost, id=f"{lead}-{p:g}")
    for lead, costs in OPTIMA.items()
    for p, cost in zip(UNDERAGE, costs, strict=True)
]


@pytest.mark.parametrize(("lead_time", "underage", "cost"), CELLS)
def test_the_optimum_is_zipkins(lead_time, underage, cost):
    found = references.lost_sales_optimum(5.0, 1.0, underage, lead_time)
    assert round(found.cost, 3) == cost


@pytest.mark.parametrize(
    ("lead_time", "underage", "level", "cost", "capped"),
    [
        (4, 9.0, 28, 7.27, (29, 5, 6.91)),
        (2, 9.0, 19, 6.31, (19, 6, 6.11)),
        (1, 9.0, 13, 5.54, (14, 7, 5.47)),
        pytest.param(4, 39.0, 33, 11.06, (34, 6, 10.89), marks=pytest.mark.slow),
    ],
)
def test_simple_rules_cost_what_simulation_found(lead_time, underage, level, cost, capped):
    costs = (5.0, 1.0, underage, lead_time)
    best = references.best_base_stock(*costs)
    assert best.level == level and best.cost == pytest.approx(cost, abs=0.02)
    assert references.rule_cost(*costs, *capped[:2]) == pytest.approx(capped[2], abs=0.02)
    best_capped = references.best_capped_base_stock(*costs)
    optimum = references.lost_sales_optimum(*costs).cost
    assert optimum < best_capped.cost <= references.rule_cost(*costs, *capped[:2]) + 1e-9
    assert best_capped.cost < best.cost
    assert best_capped.level == capped[0]


def simulated(choose, periods=4000, copies=500, lead_time=2):
    """Mean cost of a rule `(stock [N], under way [N, L - 1]) -> order [N]`, and its error."""
    draw = np.random.default_rng(0)
    stock, coming = np.full(copies, 5), np.full((copies, lead_time - 1), 5)
    costs = np.zeros(copies)
    for period in range(periods):
        order = choose(stock, coming)
        demand = draw.poisson(5.0, copies)
        left = np.maximum(stock - demand, 0)
        if period >= 100:
            costs += left + 9.0 * np.maximum(demand - stock, 0)
        coming = np.column_stack([coming, order])
        stock, coming = left + coming[:, 0], coming[:, 1:]
    costs /= periods - 100
    return costs.mean(), costs.std() / copies**0.5


def test_the_orders_it_returns_cost_what_it_says():
    found = references.lost_sales_optimum(5.0, 1.0, 9.0, 2)
    most = len(found.orders) - 1
    cost, error = simulated(
        lambda stock, coming: found.orders[np.minimum(stock, most), coming[:, 0]]
    )
    assert cost == pytest.approx(found.cost, abs=4 * error)


def test_the_chain_of_a_rule_is_the_simulation():
    cost, error = simulated(
        lambda stock, coming: np.minimum(np.maximum(19 - stock - coming[:, 0], 0), 6)
    )
    assert references.rule_cost(5.0, 1.0, 9.0, 2, 19, 6) == pytest.approx(cost, abs=4 * error)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((0.0, 1.0, 9.0, 2), "mean is 0.0, but a number above 0 is needed"),
        ((5.0, -1.0, 9.0, 2), "holding_cost is -1.0, but a number above 0 is needed"),
        ((5.0, 1.0, 9.0, 0), "lead_time is 0, but a whole number from 1 on is needed"),
    ],
)
def test_bad_numbers_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        references.lost_sales_optimum(*arguments)
    with pytest.raises(ValueError, match=sentence):
        references.best_base_stock(*arguments)


def test_a_level_that_is_no_whole_number_is_refused():
    with pytest.raises(ValueError, match="level is 2.5, but a whole number from 0 on is needed"):
        references.rule_cost(5.0, 1.0, 9.0, 1, 2.5)


def test_a_table_that_would_not_fit_is_refused():
    with pytest.raises(ValueError, match="lead_time is 9 with a mean of 5, whose table has"):
        references.lost_sales_optimum(5.0, 1.0, 9.0, 9)
