"""The best of two simple rules where unmet demand is lost, exactly, from their Markov chains.

A state is the stock on hand at the start of a period and what arrives in each of the next L - 1
periods; the order of this period arrives after them.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy import sparse, stats

from jaxpg_envs.inventory.references.checks import check_costs, check_lead_time, check_positive
from jaxpg_envs.inventory.references.lost_sales import one_period

TOLERANCE = 1e-10
"""Change of the distribution at which it counts as stationary."""


class LostSalesLevel(NamedTuple):
    """A base stock rule for lost sales.

    Attributes:
      level: of the inventory position after ordering.
      cap: most that is ordered in a period; the level where there is no cap.
      cost: expected, per period.
    """

    level: int
    cap: int
    cost: float


def best_base_stock(
    mean: float, holding_cost: float, underage_cost: float, lead_time: int
) -> LostSalesLevel:
    """The best whole base stock level for lost sales.

    Args:
      mean: of the Poisson demand of a period, above 0.
      holding_cost: h, above 0, for each unit left at the end of a period.
      underage_cost: p, above 0, for each unit of lost demand.
      lead_time: L, a whole number from 1 on.

    Returns:
      `LostSalesLevel`.

    Raises:
      ValueError: an argument out of range.

    >>> best_base_stock(5.0, 1.0, 9.0, 1).level
    13
    """
    _check(mean, holding_cost, underage_cost, lead_time)
    costs = (mean, holding_cost, underage_cost, lead_time)
    return _downhill(lambda level: LostSalesLevel(level, level, rule_cost(*costs, level)), costs)


def best_capped_base_stock(
    mean: float, holding_cost: float, underage_cost: float, lead_time: int
) -> LostSalesLevel:
    """The best whole base stock level for lost sales with a cap on each order.

    Args:
      mean: of the Poisson demand of a period, above 0.
      holding_cost: h, above 0, for each unit left at the end of a period.
      underage_cost: p, above 0, for each unit of lost demand.
      lead_time: L, a whole number from 1 on.

    Returns:
      `LostSalesLevel`.

    Raises:
      ValueError: an argument out of range.

    Source: Xin 2021, "Understanding the performance of capped base-stock policies in lost-sales
    inventory models".

    >>> best_capped_base_stock(5.0, 1.0, 9.0, 1)[:2]
    (14, 6)
    """
    _check(mean, holding_cost, underage_cost, lead_time)
    costs = (mean, holding_cost, underage_cost, lead_time)
    caps = range(int(np.ceil(mean)), int(stats.poisson.isf(0.01, mean)) + 2)
    found = [
        _downhill(
            lambda level, cap=cap: LostSalesLevel(level, cap, rule_cost(*costs, level, cap)), costs
        )
        for cap in caps
    ]
    return min(found, key=lambda rule: rule.cost)


def rule_cost(
    mean: float,
    holding_cost: float,
    underage_cost: float,
    lead_time: int,
    level: int,
    cap: int | None = None,
) -> float:
    """Long-run cost of a base stock rule, from the stationary distribution of its Markov chain.

    Args:
      mean: of the Poisson demand of a period, above 0.
      holding_cost: h, above 0, for each unit left at the end of a period.
      underage_cost: p, above 0, for each unit of lost demand.
      lead_time: L, a whole number from 1 on.
      level: of the inventory position after ordering, at least 0.
      cap: most that is ordered in a period; None orders up to the level.

    Returns:
      The cost per period.

    Raises:
      ValueError: an argument out of range.
    """
    _check(mean, holding_cost, underage_cost, lead_time)
    cap = level if cap is None else min(cap, level)
    for name, value in (("level", level), ("cap", cap)):
        if value != int(value) or value < 0:
            raise ValueError(f"{name} is {value!r}, but a whole number from 0 on is needed")
    sizes = (level + 1, *[cap + 1] * (lead_time - 1))
    states = np.array([s for s in itertools.product(*map(range, sizes)) if sum(s) <= level])
    number = np.full(sizes, -1)
    number[tuple(states.T)] = np.arange(len(states))
    cost, left = one_period(states[:, 0], mean, holding_cost, underage_cost, level)
    ordered = np.minimum(level - states.sum(axis=1), cap)
    coming = np.column_stack([states[:, 1:], ordered])
    first, rest = coming[:, 0], coming[:, 1:]
    rows, kept = np.nonzero(left)
    following = number[(kept + first[rows], *rest[rows].T)]
    chain = sparse.csr_matrix((left[rows, kept], (following, rows)), shape=(len(states),) * 2)
    share = np.full(len(states), 1.0 / len(states))
    while True:
        new = chain @ share
        if np.abs(new - share).sum() < TOLERANCE:
            return float(new @ cost)
        share = new / new.sum()


def _check(mean: float, holding_cost: float, underage_cost: float, lead_time: int) -> None:
    check_positive("mean", mean)
    check_costs(holding_cost, underage_cost)
    check_lead_time("lead_time", lead_time)


def _downhill(cost_of, costs: tuple[float, float, float, int]) -> LostSalesLevel:
    """The best level, walked to from the backlogged problem's: costs have one valley."""
    mean, holding_cost, underage_cost, lead_time = costs
    fractile = underage_cost / (underage_cost + holding_cost)
    best = cost_of(int(stats.poisson.ppf(fractile, mean * (lead_time + 1))))
    for step in (-1, 1):
        while best.level + step >= 0:
            other = cost_of(best.level + step)
            if other.cost >= best.cost:
                break
            best = other
    return best
