"""Bootstrapped intervals of means over seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxpg import intervals

CONFIDENCE = 0.95
NUM_RESAMPLES = 9_999


def interval(
    values: ArrayLike, *, confidence: float = CONFIDENCE, num_resamples: int = NUM_RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrapped interval (bias-corrected and accelerated) of the mean over the last axis.

    The resamples come from a fixed seed: the same values give the same interval.

    Args:
      values: `[..., num_seeds]` float.
      confidence: in (0, 1).
      num_resamples: of the bootstrap.

    Returns:
      `(low, high)`, each `[...]` float. Seeds that agree give an interval of width 0; a single
      seed, or a value that is not finite, gives NaN: nothing is known about the spread.

    Source: Efron 1987, "Better bootstrap confidence intervals", as in `scipy.stats.bootstrap`.

    >>> [float(x) for x in interval([2.0, 2.0, 2.0])]
    [2.0, 2.0]
    """
    values = np.asarray(values, float)
    bounds = [
        intervals.bootstrap(row, confidence=confidence, num_resamples=num_resamples)[1:]
        if np.isfinite(row).all()
        else (np.nan, np.nan)
        for row in values.reshape(-1, values.shape[-1])
    ]
    low, high = np.array(bounds).T
    return low.reshape(values.shape[:-1]), high.reshape(values.shape[:-1])


def describe(values: ArrayLike) -> dict[str, float]:
    """Mean and interval of one value for each seed.

    Args:
      values: `[num_seeds]` float.

    Returns:
      `mean`, `low` and `high`.

    >>> describe([1.0, 1.0])
    {'mean': 1.0, 'low': 1.0, 'high': 1.0}
    """
    low, high = interval(values)
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}
