"""Bootstrapped intervals of means over seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

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
    rows = values.reshape(-1, values.shape[-1])
    low, high = np.full((2, len(rows)), np.nan)
    if rows.shape[-1] > 1:
        usable = np.isfinite(rows).all(axis=-1)
        agree = usable & (rows == rows[:, :1]).all(axis=-1)
        low[agree] = high[agree] = rows[agree, 0]
        spread = usable & ~agree
        if spread.any():
            found = stats.bootstrap(
                (rows[spread],),
                np.mean,
                axis=-1,
                confidence_level=confidence,
                n_resamples=num_resamples,
                rng=np.random.default_rng(0),
            ).confidence_interval
            low[spread], high[spread] = found.low, found.high
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
