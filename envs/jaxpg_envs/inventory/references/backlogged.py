"""The best base stock where unmet demand waits: a newsvendor over lead_time + 1 periods.

An order placed before the demand of period t arrives before that of t + L, so the stock ordered up
to at t covers the L + 1 demands t .. t + L; h is paid for what is left of it, p for what is short.
No policy does better where demand is independent from period to period (Scarf 1960).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from jaxpg_envs.inventory.references.checks import (
    check_costs,
    check_lead_time,
    check_not_negative,
    check_positive,
)
from jaxpg_envs.inventory.references.lattice import (
    WIDTH,
    Lattice,
    costs_at_points,
    normal_lattice,
    poisson_lattice,
    total,
)

_POINTS_PER_STD = 400


class BaseStock(NamedTuple):
    """Order up to a level.

    Attributes:
      level: of the inventory position, on hand and on order, after ordering.
      cost: expected, per period.
    """

    level: float
    cost: float


def backlogged_base_stock(
    holding_cost: float,
    underage_cost: float,
    lead_time: int,
    mean: float,
    std: float,
    clipped: bool = True,
) -> BaseStock:
    """The optimum for normal demand that waits.

    Without clipping it is the closed form (h + p) phi(z) std sqrt(L + 1) at the fractile
    Phi(z) = p / (p + h). With clipping the sum of the demands has no closed form and is computed on
    a grid, to about six digits.

    Args:
      holding_cost: h, above 0, for each unit left at the end of a period.
      underage_cost: p, above 0, for each unit owed.
      lead_time: L, a whole number from 1 on.
      mean: of the demand of a period, before clipping, at least 0.
      std: likewise, at least 0.
      clipped: whether demand below 0 is 0, as in "inventory/one-store-backlogged".

    Returns:
      `BaseStock`.

    Raises:
      ValueError: an argument out of range.

    Source: newsvendor formula; the numbers are those of the benchmark of HDPO, Alvo et al. 2023.

    >>> level, cost = backlogged_base_stock(1.0, 9.0, 4, 5.0, 1.6)
    >>> round(level, 1), round(cost, 3)
    (29.6, 6.277)
    """
    check_costs(holding_cost, underage_cost)
    check_lead_time("lead_time", lead_time)
    check_not_negative("mean", mean)
    check_not_negative("std", std)
    if clipped and mean < WIDTH * std:
        demand = total(normal_lattice(mean, std, True, _POINTS_PER_STD), lead_time + 1)
        return _between_points(demand, holding_cost, underage_cost)
    return normal_newsvendor(
        holding_cost, underage_cost, (lead_time + 1) * mean, std * (lead_time + 1) ** 0.5
    )


def normal_newsvendor(
    holding_cost: float, underage_cost: float, mean: float, std: float
) -> BaseStock:
    """The closed form: the stock that meets one normal demand at least cost.

    Args:
      holding_cost: h, above 0.
      underage_cost: p, above 0.
      mean: of the demand.
      std: of it, at least 0.

    Returns:
      Level mean + z std and cost (h + p) phi(z) std, with Phi(z) = p / (p + h).
    """
    z = stats.norm.ppf(underage_cost / (underage_cost + holding_cost))
    cost = (holding_cost + underage_cost) * stats.norm.pdf(z) * std
    return BaseStock(float(mean + z * std), float(cost))


def poisson_base_stock(
    holding_cost: float, underage_cost: float, lead_time: int, mean: float
) -> BaseStock:
    """The optimum for Poisson demand that waits.

    Args:
      holding_cost: h, above 0, for each unit left at the end of a period.
      underage_cost: p, above 0, for each unit owed.
      lead_time: L, a whole number from 1 on.
      mean: of the demand of a period, above 0.

    Returns:
      `BaseStock`, its level a whole number.

    Raises:
      ValueError: an argument out of range.

    >>> poisson_base_stock(1.0, 9.0, 4, 5.0).level
    32.0
    """
    check_costs(holding_cost, underage_cost)
    check_lead_time("lead_time", lead_time)
    check_positive("mean", mean)
    return _at_a_point(total(poisson_lattice(mean), lead_time + 1), holding_cost, underage_cost)


def base_stock_from_pmf(
    holding_cost: float, underage_cost: float, lead_time: int, pmf: ArrayLike
) -> BaseStock:
    """The optimum for any demand in whole units that waits.

    Args:
      holding_cost: h, above 0, for each unit left at the end of a period.
      underage_cost: p, above 0, for each unit owed.
      lead_time: L, a whole number from 1 on.
      pmf: `[K]`, the probabilities of a demand of 0, 1, .. K - 1 in a period; they sum to 1.

    Returns:
      `BaseStock`, its level a whole number.

    Raises:
      ValueError: an argument out of range, or probabilities that are negative or do not sum to 1.

    >>> base_stock_from_pmf(1.0, 2.0, 1, [0.5, 0.5])  # a coin each in two periods
    BaseStock(level=1.0, cost=0.75)
    """
    check_costs(holding_cost, underage_cost)
    check_lead_time("lead_time", lead_time)
    pmf = np.asarray(pmf, np.float64)
    if pmf.ndim != 1 or not pmf.size:
        raise ValueError(f"pmf has shape {pmf.shape}, but [K] with K from 1 on is needed")
    wrong = ~(pmf >= 0)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise ValueError(f"pmf[{index}] is {pmf[index]}, but a probability is at least 0")
    if abs(pmf.sum() - 1.0) > 1e-6:
        raise ValueError(f"pmf sums to {pmf.sum()}, but probabilities sum to 1")
    demand = total(Lattice(0.0, 1.0, pmf / pmf.sum()), lead_time + 1)
    return _at_a_point(demand, holding_cost, underage_cost)


def base_stock_from_samples(
    holding_cost: float, underage_cost: float, lead_time: int, demand: ArrayLike
) -> BaseStock:
    """The level that would have been the cheapest for observed demand, had unmet demand waited.

    Every stretch of L + 1 periods counts once, so demand need not be independent from period to
    period; where it is not, better policies than a constant level may exist.

    Args:
      holding_cost: h, above 0, for each unit left at the end of a period.
      underage_cost: p, above 0, for each unit owed.
      lead_time: L, a whole number from 1 on.
      demand: `[T]` or `[N, T]`, N series of T periods, T at least L + 1.

    Returns:
      `BaseStock`: the smallest best level, and its mean cost over the stretches.

    Raises:
      ValueError: an argument out of range, series that are too short, or demand that is no number.

    >>> base_stock_from_samples(1.0, 3.0, 1, [1.0, 2.0, 3.0, 4.0, 5.0])  # sums 3, 5, 7, 9
    BaseStock(level=7.0, cost=3.0)
    """
    check_costs(holding_cost, underage_cost)
    check_lead_time("lead_time", lead_time)
    demand = np.asarray(demand, np.float64)
    if demand.ndim not in (1, 2) or not demand.size:
        raise ValueError(f"demand has shape {demand.shape}, but [T] or [N, T] is needed")
    if demand.shape[-1] <= lead_time:
        raise ValueError(
            f"demand has {demand.shape[-1]} periods, but lead_time={lead_time} needs at least "
            f"{lead_time + 1}"
        )
    if not np.isfinite(demand).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(demand))[0])
        where = ", ".join(map(str, index))
        raise ValueError(f"demand[{where}] is {demand[index]}, but finite numbers are needed")
    windows = np.lib.stride_tricks.sliding_window_view(demand, lead_time + 1, axis=-1)
    sums = windows.sum(axis=-1).ravel()
    fractile = underage_cost / (underage_cost + holding_cost)
    level = float(np.quantile(sums, fractile, method="inverted_cdf"))
    over = np.maximum(level - sums, 0.0)
    short = np.maximum(sums - level, 0.0)
    return BaseStock(level, float(np.mean(holding_cost * over + underage_cost * short)))


def _at_a_point(demand: Lattice, holding_cost: float, underage_cost: float) -> BaseStock:
    costs = costs_at_points(demand, holding_cost, underage_cost)
    # The first of those that differ by rounding alone.
    best = int(np.argmax(costs <= costs.min() * (1 + 1e-12) + 1e-12))
    return BaseStock(float(demand.points[best]), float(costs[best]))


def _between_points(demand: Lattice, holding_cost: float, underage_cost: float) -> BaseStock:
    """As `_at_a_point`, for demand of which the lattice is an approximation."""
    fractile = underage_cost / (underage_cost + holding_cost)
    edges = demand.points + 0.5 * demand.step
    # Below the first edge there is only what was clipped, at 0.
    at_first = demand.pmf[0] >= fractile
    level = demand.start if at_first else np.interp(fractile, np.cumsum(demand.pmf), edges)
    costs = costs_at_points(demand, holding_cost, underage_cost)
    return BaseStock(float(level), float(np.interp(level, demand.points, costs)))
