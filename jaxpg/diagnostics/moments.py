"""What a sample of gradient vectors says about their mean, and how sure one can be of it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

STANDARD_ERRORS = 4.0
"""A bias counts as shown when it is significant at this many standard errors."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """N estimates against the exact gradient g, in the words of the audit's report.

    Attributes:
      bias: |mean - g| / |g|. The mean is itself an estimate, so that an unbiased estimator shows
        about `bias_error` here.
      bias_error: standard error of the mean vector, sqrt(variance / N) / |g|.
      bias_z: significance of the bias in standard errors, see `significance`.
      unbiased: whether `bias_z` is at most 4.
      direction_z: significance of the part of the mean that is orthogonal to g.
      unbiased_direction: whether `direction_z` is at most 4 while `scale` is more than 4 of its
        standard errors above 0: the mean is g times a positive constant.
      cosine: of the angle between the mean and g; NaN where the mean is 0.
      cosine_error: its standard error, by the delta method to second order.
      batch_cosine: mean over batches of the cosine between one estimate and g; an estimate of 0
        counts as 0.
      scale: the s for which s g is closest to the mean, <mean, g> / |g|^2.
      scale_error: its standard error.
      variance: trace of the covariance of one estimate.
      signal_to_noise: |mean|^2 / variance; infinite without variance.
      gradient_norm: mean over batches of the norm of the estimate.
    """

    bias: float
    bias_error: float
    bias_z: float
    unbiased: bool
    direction_z: float
    unbiased_direction: bool
    cosine: float
    cosine_error: float
    batch_cosine: float
    scale: float
    scale_error: float
    variance: float
    signal_to_noise: float
    gradient_norm: float


def moments(estimates: np.ndarray, exact: np.ndarray) -> Moments:
    """Compares estimates with the exact gradient.

    Args:
      estimates: `[N, P]` float, independent and alike, N at least 2 (hundreds for `bias_z` to
        mean what it says).
      exact: `[P]` float, not 0.

    Returns:
      The moments, computed in float64.
    """
    estimates, exact = np.asarray(estimates, np.float64), np.asarray(exact, np.float64)
    count, size = len(estimates), float(np.linalg.norm(exact))
    mean = estimates.mean(axis=0)
    centred = estimates - mean
    variance = float(np.sum(centred**2)) / (count - 1)
    bias_z = significance(mean - exact, centred)
    unit = exact / size
    direction_z = significance(_orthogonal(mean, unit), _orthogonal(centred, unit))
    scale, scale_error = float(mean @ unit) / size, _standard_error(centred @ unit) / size
    forward = scale > STANDARD_ERRORS * scale_error
    cosine, cosine_error = _cosine(mean, centred, unit)
    norms = np.linalg.norm(estimates, axis=1)
    signal = float(mean @ mean)
    return Moments(
        bias=float(np.linalg.norm(mean - exact)) / size,
        bias_error=math.sqrt(variance / count) / size,
        bias_z=bias_z,
        unbiased=bool(bias_z <= STANDARD_ERRORS),
        direction_z=direction_z,
        unbiased_direction=bool(direction_z <= STANDARD_ERRORS and forward),
        cosine=cosine,
        cosine_error=cosine_error,
        batch_cosine=float(np.mean(estimates @ unit / np.where(norms > 0, norms, 1.0))),
        scale=scale,
        scale_error=scale_error,
        variance=variance,
        signal_to_noise=_ratio(signal, variance),
        gradient_norm=float(norms.mean()),
    )


def significance(difference: np.ndarray, centred: np.ndarray) -> float:
    """How many standard errors a mean vector is away from 0.

    Were the true difference 0, its squared norm would be a sum of squares of N normal variables
    with covariance Sigma / N. That is close to a scaled chi-square with tr(Sigma)^2 / tr(Sigma^2)
    degrees of freedom (Satterthwaite), whose cube root is close to normal (Wilson and Hilferty):
    the distance of that cube root from its mean, in its standard deviations, is returned. So the
    one number accounts for the number of parameters, for their correlation and for multiple
    comparisons, and never inverts Sigma, which is singular for a softmax.

    Args:
      difference: `[P]` float, mean minus what it should be.
      centred: `[N, P]` float, the estimates minus their mean.

    Returns:
      A one-sided z-score; large means biased. Without variance it is 0 or infinite.

    Source: Satterthwaite 1946; Wilson and Hilferty 1931, "The distribution of chi-square".
    """
    count = len(centred)
    squared = float(difference @ difference)
    trace = float(np.sum(centred**2)) / (count - 1)
    if trace == 0:
        return math.inf if squared > 0 else 0.0
    gram = centred.T @ centred if centred.shape[1] <= count else centred @ centred.T
    freedom = trace**2 / (float(np.sum(gram**2)) / (count - 1) ** 2)
    spread = 2.0 / (9.0 * freedom)
    return ((squared * count / trace) ** (1 / 3) - (1.0 - spread)) / math.sqrt(spread)


def _ratio(signal: float, noise: float) -> float:
    if noise > 0:
        return signal / noise
    return math.inf if signal > 0 else 0.0


def _orthogonal(vectors: np.ndarray, unit: np.ndarray) -> np.ndarray:
    return vectors - (vectors @ unit)[..., None] * unit


def _standard_error(samples: np.ndarray) -> float:
    return float(np.std(samples, ddof=1)) / math.sqrt(len(samples))


def _cosine(mean: np.ndarray, centred: np.ndarray, unit: np.ndarray) -> tuple[float, float]:
    size = float(np.linalg.norm(mean))
    if size == 0:
        return math.nan, math.nan
    direction = mean / size
    cosine = float(direction @ unit)
    first = _standard_error(centred @ (unit - cosine * direction)) / size
    # At a cosine of 1 the first order vanishes: noise across the mean only ever shortens it.
    across = np.sum(_orthogonal(centred, direction) ** 2) / (len(centred) - 1) / len(centred)
    return cosine, math.hypot(first, float(across) / (2 * size**2))
