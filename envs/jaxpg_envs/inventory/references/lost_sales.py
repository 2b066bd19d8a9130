"""The exact optimum where unmet demand is lost, by value iteration over stock and pipeline.

A state is the stock on hand at the start of a period and what arrives in each of the next L - 1
periods; the order of this period arrives after them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxpg_envs.inventory.references.checks import check_costs, check_lead_time, check_positive

TAIL = 1e-9
"""Probability of a larger demand than is counted."""
LARGEST = 10**8
"""Entries of the largest table, of 8 bytes each."""
TOLERANCE = 1e-7
"""Relative distance of the bounds between which the optimal cost lies."""


class LostSalesOptimum(NamedTuple):
    """An optimal policy.

    Attributes:
      cost: expected, per period.
      orders: `[X, Q, ...]` int, L axes: the best order for each stock on hand and each order under
        way, the next one to arrive first.
    """

    cost: float
    orders: np.ndarray


def lost_sales_optimum(
    mean: float, holding_cost: float, underage_cost: float, lead_time: int
) -> LostSalesOptimum:
    """The least long-run cost of a store with lost sales, by relative value iteration.

    Stock is counted up to the optimal level of the backlogged problem and a little more, orders up
    to the same quantile of two periods' demand; larger tables give the same seven digits on the
    benchmark. Effort grows by a factor of the largest order with each period of lead time.

    Args:
      mean: of the Poisson demand of a period, above 0.
      holding_cost: h, above 0, for each unit left at the end of a period.
      underage_cost: p, above 0, for each unit of demand lost.
      lead_time: L, a whole number from 1 on.

    Returns:
      `LostSalesOptimum`.

    Raises:
      ValueError: an argument out of range, or a table that would not fit the memory.

    Source: Zipkin 2008, "Old and new methods for lost-sales inventory systems".

    >>> round(lost_sales_optimum(5.0, 1.0, 9.0, 2).cost, 3)
    6.094
    """
    _check(mean, holding_cost, underage_cost, lead_time)
    fractile = underage_cost / (underage_cost + holding_cost)
    most = int(stats.poisson.ppf(fractile, mean * (lead_time + 1))) + 3
    most_ordered = int(stats.poisson.ppf(fractile, mean * 2)) + 1
    entries = (most + 1.0) * (most_ordered + 1.0) ** lead_time
    if entries > LARGEST:
        raise ValueError(
            f"lead_time is {lead_time} with a mean of {mean:g}, whose table has {entries:.1g} "
            f"entries, but at most {LARGEST:.0e} are built"
        )
    cost, left = one_period(np.arange(most + 1), mean, holding_cost, underage_cost, most)
    value = np.zeros((most + 1, *[most_ordered + 1] * (lead_time - 1)))
    while True:
        following = _expected(left, value, most_ordered)
        new = cost.reshape(-1, *[1] * (lead_time - 1)) + following.min(axis=-1)
        change = new - value
        # The optimum lies between the smallest and the largest change of a state's value.
        if np.ptp(change) <= TOLERANCE * abs(change.max()):
            best = following.argmin(axis=-1)
            return LostSalesOptimum(float((change.min() + change.max()) / 2), best)
        value = new - new.flat[0]


def _check(mean: float, holding_cost: float, underage_cost: float, lead_time: int) -> None:
    check_positive("mean", mean)
    check_costs(holding_cost, underage_cost)
    check_lead_time("lead_time", lead_time)


def one_period(
    stock: np.ndarray, mean: float, holding_cost: float, underage_cost: float, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """One period of a store that loses what it cannot sell.

    Args:
      stock: `[N]` int, on hand.
      mean: of the Poisson demand.
      holding_cost: h, for each unit left.
      underage_cost: p, for each unit of lost demand.
      most: largest stock of the result.

    Returns:
      Expected cost `[N]`, and the distribution `[N, most + 1]` of what is left.
    """
    demand = np.arange(int(stats.poisson.isf(TAIL, mean)) + most + 2)
    pmf = stats.poisson.pmf(demand, mean)
    pmf /= pmf.sum()
    over = np.maximum(stock[:, None] - demand, 0)
    short = np.maximum(demand - stock[:, None], 0)
    left = np.zeros((len(stock), most + 1))
    np.add.at(left, (np.arange(len(stock))[:, None], over), pmf)
    return (holding_cost * over + underage_cost * short) @ pmf, left


def _expected(left: np.ndarray, value: np.ndarray, most_ordered: int) -> np.ndarray:
    """Expected value of the next state, `[stock, orders under way ..., new order]`."""
    most = len(left) - 1
    stock = np.arange(most + 1)
    if value.ndim == 1:
        return left @ value[np.minimum(stock[:, None] + np.arange(most_ordered + 1), most)]
    arriving = [value[np.minimum(stock + units, most)] for units in range(most_ordered + 1)]
    return np.stack([np.tensordot(left, later, 1) for later in arriving], axis=1)
