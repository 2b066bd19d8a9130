"""Demand on equidistant points, and the distribution of its sum over several periods."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import fft, special, stats

WIDTH = 8.5
"""Standard deviations after which a normal density is cut; 1e-17 is beyond."""


class Lattice(NamedTuple):
    """A distribution on the points `start + step * k`.

    Attributes:
      start: the lowest point.
      step: above 0.
      pmf: `[K]` float64, sums to 1.
    """

    start: float
    step: float
    pmf: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """`[K]` float64."""
        return self.start + self.step * np.arange(self.pmf.size)

    @property
    def mean(self) -> float:
        """Of the distribution on the points."""
        return float(self.points @ self.pmf)


def normal_lattice(mean: float, std: float, clipped: bool, points_per_std: int) -> Lattice:
    """Normal demand; what is computed with it is off by the square of the step.

    Args:
      mean: before clipping.
      std: before clipping, above 0.
      clipped: demand below 0 is 0.
      points_per_std: 1 / step, in standard deviations.

    Returns:
      Each point has the probability of the cell of width `step` around it.
    """
    step = std / points_per_std
    low, high = mean - WIDTH * std, mean + WIDTH * std
    low, high = (max(low, 0.0), max(high, step)) if clipped else (low, high)
    edges = low + step * (np.arange(int(np.ceil((high - low) / step)) + 1) - 0.5)
    below = special.ndtr((edges - mean) / std)
    below[0], below[-1] = 0.0, 1.0
    return Lattice(low, step, np.diff(below))


def poisson_lattice(mean: float) -> Lattice:
    """Poisson demand, whole units.

    Args:
      mean: above 0.

    Returns:
      Points up to a tail of 1e-15.
    """
    largest = int(stats.poisson.isf(1e-15, mean)) + 1
    pmf = stats.poisson.pmf(np.arange(largest + 1), mean)
    return Lattice(0.0, 1.0, pmf / pmf.sum())


def total(demand: Lattice, periods: int) -> Lattice:
    """Demand of several independent periods together.

    Args:
      demand: of one.
      periods: at least 1.

    Returns:
      A `Lattice` with the same step.
    """
    size = periods * (demand.pmf.size - 1) + 1
    length = fft.next_fast_len(size, real=True)
    pmf = fft.irfft(fft.rfft(demand.pmf, length) ** periods, length)[:size]
    # The transform leaves rounding errors of both signs where there is nothing.
    pmf = np.maximum(pmf, 0.0)
    return Lattice(periods * demand.start, demand.step, pmf / pmf.sum())


def costs_at_points(demand: Lattice, holding_cost: float, underage_cost: float) -> np.ndarray:
    """Expected cost of meeting the demand from each of its points.

    Args:
      demand: of the periods that the stock has to cover.
      holding_cost: h, for each unit left.
      underage_cost: p, for each unit short.

    Returns:
      `[K]`, h E[(y - D)+] + p E[(D - y)+] at the points y.
    """
    # E[(y - D)+] grows by step * P(D <= point) from a point to the next.
    left = demand.step * np.concatenate([[0.0], np.cumsum(np.cumsum(demand.pmf))[:-1]])
    short = left - (demand.points - demand.mean)
    return holding_cost * left + underage_cost * short
