"""Estimates of KL(pi || reference) from samples of pi, element by element.

Their values and their gradients are different matters. Averaged over samples of pi, k1 and k3
have the right value; as a loss, the expected gradient of k1 is zero, that of k2 is the gradient
of KL(pi || reference), and that of k3 is the gradient of the reverse KL(reference || pi). Off the
behaviour policy each has to be weighted with the probability ratio.

Source: Schulman 2020, "Approximating KL divergence"; Tang and Munos 2025, "On a few pitfalls in
KL divergence gradient estimation for RL".
"""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxpg.types import Array

LARGEST_EXPONENT = 60.0
"""exp of a larger difference is cut here, so that an outlier is a large number and not inf; beyond
it the gradient is 0."""


def k1(log_prob: Array, reference_log_prob: Array) -> Array:
    """log(pi / reference): unbiased, of either sign, high variance.

    Args:
      log_prob: `[...]` float, under pi, of samples of pi.
      reference_log_prob: `[...]` float, of the same samples.

    Returns:
      `[...]` float, in nats.
    """
    chex.assert_equal_shape([log_prob, reference_log_prob])
    return log_prob - reference_log_prob


def k2(log_prob: Array, reference_log_prob: Array) -> Array:
    """Half the squared log-ratio: biased but low variance, never negative.

    Args:
      log_prob: `[...]` float, under pi, of samples of pi.
      reference_log_prob: `[...]` float, of the same samples.

    Returns:
      `[...]` float, in nats.
    """
    return 0.5 * k1(log_prob, reference_log_prob) ** 2


def k3(log_prob: Array, reference_log_prob: Array) -> Array:
    """exp(d) - 1 - d with d = log(reference / pi): unbiased, never negative.

    Args:
      log_prob: `[...]` float, under pi, of samples of pi.
      reference_log_prob: `[...]` float, of the same samples.

    Returns:
      `[...]` float, in nats; finite, see `LARGEST_EXPONENT`.

    >>> k3(jnp.log(jnp.array([0.8, 0.2])), jnp.log(jnp.array([0.5, 0.5]))).tolist()
    [0.0950, 0.5837]
    """
    # Both terms are cut: cutting the exponential alone would turn the gradient's sign.
    difference = jnp.minimum(-k1(log_prob, reference_log_prob), LARGEST_EXPONENT)
    return jnp.expm1(difference) - difference


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
