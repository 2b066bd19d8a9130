"""How sure a mean over problems is: confidence intervals."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over problems and its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = 9_999,
    seed: int = 0,
) -> Estimate:
    """Mean over problems with its bootstrapped interval (bias-corrected and accelerated).

    Args:
      values: `[N]` float, one for each problem: of `evaluation.pass_at_k`, or differences of two
        models on the same problems. Problems are resampled, not samples.
      confidence: in (0, 1).
      num_resamples: of the bootstrap.
      seed: of the resamples.

    Returns:
      The mean and its interval; of width 0 where all values agree, which says nothing about
      problems unseen: `wilson` does, for values of 0 and 1. NaN for a single problem.

    Raises:
      ValueError: no values, one that is not finite, or an argument out of range.

    Source: Efron 1987, "Better bootstrap confidence intervals", as in `scipy.stats.bootstrap`.
    """
    values = _values(values, confidence)
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}, but has to be at least 1")
    mean = float(values.mean())
    if len(values) == 1:
        return Estimate(mean, math.nan, math.nan)
    if (values == values[0]).all():
        return Estimate(mean, mean, mean)
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=num_resamples,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high))


def normal(values: ArrayLike, *, confidence: float = CONFIDENCE) -> Estimate:
    """Mean over problems with Student's interval: right for many problems, and quick.

    Args:
      values: `[N]` float, one for each problem.
      confidence: in (0, 1).

    Returns:
      The mean and its interval, which may leave the range of the values. NaN for a single problem.

    Raises:
      ValueError: no values, one that is not finite, or `confidence` out of range.

    >>> normal([0.0, 1.0, 0.0, 1.0])
    Estimate(mean=0.5, low=-0.418693, high=1.418693)
    """
    values = _values(values, confidence)
    mean = float(values.mean())
    if len(values) == 1:
        return Estimate(mean, math.nan, math.nan)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    width = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * error
    return Estimate(mean, mean - width, mean + width)


def wilson(num_correct: int, num_problems: int, *, confidence: float = CONFIDENCE) -> Estimate:
    """Share of problems solved with Wilson's interval: right for few problems, and near 0 or 1.

    Args:
      num_correct: problems solved, one attempt each.
      num_problems: N, at least 1.
      confidence: in (0, 1).

    Returns:
      The share and its interval, within [0, 1].

    Raises:
      ValueError: a number out of range.

    Source: Wilson 1927, "Probable inference"; `scipy.stats.binomtest`.

    >>> wilson(10, 10)
    Estimate(mean=1.0, low=0.722467, high=1.0)
    """
    if not 0 <= num_correct <= num_problems or num_problems < 1:
        raise ValueError(
            f"num_correct is {num_correct} and num_problems {num_problems}, but there has to be "
            f"one problem at least, and no more can be solved than there are"
        )
    _check_confidence(confidence)
    found = stats.binomtest(int(num_correct), int(num_problems)).proportion_ci(confidence, "wilson")
    return Estimate(num_correct / num_problems, float(found.low), float(found.high))


def _values(values: ArrayLike, confidence: float) -> np.ndarray:
    _check_confidence(confidence)
    values = np.asarray(values, float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            f"values has shape {values.shape}, but it needs one value for each problem, [N]"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"values holds {values[~np.isfinite(values)][0]}; leave problems without a value out"
        )
    return values


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but has to be between 0 and 1")
