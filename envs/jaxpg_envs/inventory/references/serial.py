"""The best echelon levels of a serial chain, by the recursion of Clark and Scarf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import signal

from jaxpg_envs.inventory.references.checks import (
    check_lead_time,
    check_not_negative,
    check_positive,
)
from jaxpg_envs.inventory.references.lattice import (
    Lattice,
    costs_at_points,
    normal_lattice,
    total,
)

_POINTS_PER_STD = 200


class EchelonLevels(NamedTuple):
    """Each stage orders its echelon position up to a level, as far as its supplier can.

    Attributes:
      levels: `[N]` float64, upstream first, of a stage's position and those of all below it.
      cost: expected, per period; units in transit cost nothing.
    """

    levels: np.ndarray
    cost: float


class _StageCost(NamedTuple):
    """Cost of a stage and all below it, as a function of its echelon position.

    It is tabulated from `start` on, where no demand is met from stock and the cost is linear below.
    """

    start: float
    step: float
    costs: np.ndarray
    mean_demand: float


def clark_scarf(
    holding_costs: Sequence[float],
    underage_cost: float,
    lead_times: Sequence[int],
    mean: float,
    std: float,
    clipped: bool = True,
) -> EchelonLevels:
    """The optimum of a serial chain with normal demand that waits.

    With echelon costs e_j = h_j - h_{j-1}, from the store (stage N) upwards,

        G_N(y) = e_N (y - (L_N + 1) mu) + (p + h_N) E[(D(L_N + 1) - y)+]
        G_j(y) = e_j (y - (L_j + 1) mu) + E[G_{j+1}(min(S_{j+1}, y - D(L_j)))]

    D(n) is the demand of n periods and S_j minimises G_j. The recursion charges a stage for what is
    on its way to the next one. The simulator does not: h_j L_{j+1} mu is taken off for every stage
    but the last. That is the same for every policy, so the levels stay the best.

    Args:
      holding_costs: `[N]`, upstream first, above 0 and increasing, for each unit that a stage
        holds at the end of a period.
      underage_cost: p, above 0, for each unit owed by the last stage.
      lead_times: `[N]` whole numbers from 1 on, upstream first, of what a stage orders.
      mean: of the demand of a period, before clipping, at least 0.
      std: likewise, above 0.
      clipped: whether demand below 0 is 0, as in "inventory/serial". Without clipping the recursion
        neglects that a stage cannot send back what negative demand brings.

    Returns:
      `EchelonLevels`.

    Raises:
      ValueError: an argument out of range, or costs and lead times of different lengths.

    Source: Clark and Scarf 1960; the numbers are those of the benchmark of HDPO, Alvo et al. 2023.

    >>> levels, cost = clark_scarf([0.1, 0.2, 0.5, 1.0], 9.0, [2, 4, 3, 4], 5.0, 2.0)
    >>> [round(float(level), 1) for level in levels], round(cost, 3)
    ([83.2, 72.8, 49.0, 32.4], 10.734)
    """
    _check(holding_costs, underage_cost, lead_times, mean, std)
    demand = normal_lattice(mean, std, clipped, _POINTS_PER_STD)
    local = np.asarray(holding_costs, np.float64)
    echelon = np.diff(local, prepend=0.0)
    stage = _last_stage(demand, local[-1], echelon[-1], underage_cost, lead_times[-1])
    levels = [_lowest(stage)]
    for cost, lead_time in zip(echelon[-2::-1], lead_times[-2::-1], strict=True):
        stage = _stage_above(stage, demand, cost, lead_time)
        levels.append(_lowest(stage))
    in_transit = demand.mean * np.dot(local[:-1], lead_times[1:])
    return EchelonLevels(np.array(levels[::-1]), float(stage.costs.min() - in_transit))


def _last_stage(
    demand: Lattice, local: float, echelon: float, underage_cost: float, lead_time: int
) -> _StageCost:
    covered = total(demand, lead_time + 1)
    # e (y - E[D]) + (p + h) E[(D - y)+], by y - D = (y - D)+ - (D - y)+.
    costs = costs_at_points(covered, echelon, underage_cost + local - echelon)
    return _StageCost(covered.start, covered.step, costs, demand.mean)


def _stage_above(below: _StageCost, demand: Lattice, echelon: float, lead_time: int) -> _StageCost:
    before = total(demand, lead_time)
    best = int(np.argmin(below.costs))
    # Below its table a cost is linear, above the level it is that of the level.
    size = before.pmf.size
    slope = below.costs[1] - below.costs[0]
    under = below.costs[0] + slope * np.arange(-size + 1, 0)
    over = np.full(below.costs.size + size - 1 - best, below.costs[best])
    shipped = np.concatenate([under, below.costs[:best], over])
    expected = signal.fftconvolve(shipped, before.pmf, mode="valid")
    start = below.start + before.start
    points = start + below.step * np.arange(expected.size)
    mean_left = points - (lead_time + 1) * below.mean_demand
    return _StageCost(start, below.step, echelon * mean_left + expected, below.mean_demand)


def _lowest(stage: _StageCost) -> float:
    """Where a parabola through the three lowest points has its minimum."""
    best = int(np.argmin(stage.costs))
    if not 0 < best < stage.costs.size - 1:
        return stage.start + stage.step * best
    left, middle, right = stage.costs[best - 1 : best + 2]
    offset = 0.5 * (left - right) / (left - 2.0 * middle + right)
    return float(stage.start + stage.step * (best + offset))


def _check(
    holding_costs: Sequence[float],
    underage_cost: float,
    lead_times: Sequence[int],
    mean: float,
    std: float,
) -> None:
    if np.ndim(holding_costs) != 1 or not len(holding_costs):
        raise ValueError(
            f"holding_costs has shape {np.shape(holding_costs)}, but [N] with N from 1 on is needed"
        )
    if np.shape(lead_times) != np.shape(holding_costs):
        raise ValueError(
            f"lead_times has shape {np.shape(lead_times)}, but {np.shape(holding_costs)} is "
            f"needed, one for each of holding_costs"
        )
    for stage, lead_time in enumerate(lead_times):
        check_lead_time(f"lead_times[{stage}]", lead_time)
    check_positive("holding_costs[0]", holding_costs[0])
    for stage in range(1, len(holding_costs)):
        above, here = holding_costs[stage - 1], holding_costs[stage]
        if not above < here < np.inf:
            raise ValueError(
                f"holding_costs[{stage}] is {here!r}, but a number above the {above!r} upstream is "
                f"needed"
            )
    check_positive("underage_cost", underage_cost)
    check_not_negative("mean", mean)
    check_positive("std", std)
