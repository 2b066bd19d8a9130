"""Likelihoods: the log-probability through which the gradient flows, `[B, T]`.

Each takes the per-decision log-probabilities under the current policy and the mask.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxpg.types import Array

Likelihood = Callable[[Array, Array], Array]


def decision(log_prob: Array, mask: Array) -> Array:
    """Each decision (environment step, token) has its own likelihood.

    Args:
      log_prob: `[B, T]` float.
      mask: `[B, T]`.

    Returns:
      `[B, T]` float, the input.
    """
    chex.assert_equal_shape([log_prob, mask])
    return log_prob


def sequence(log_prob: Array, mask: Array) -> Array:
    """The row's log-probability, the sum over its decisions, at every decision.

    Args:
      log_prob: `[B, T]` float.
      mask: `[B, T]`.

    Returns:
      `[B, T]` float, equal along each row.

    >>> sequence(jnp.array([[-1., -2.]]), jnp.ones((1, 2))).tolist()
    [[-3.0, -3.0]]
    """
    return _along_row(log_prob, mask, lambda total, length: total)


def sequence_mean(log_prob: Array, mask: Array) -> Array:
    """The row's length-normalised log-probability, at every decision.

    Args:
      log_prob: `[B, T]` float.
      mask: `[B, T]`.

    Returns:
      `[B, T]` float, equal along each row; 0 in a row without a real decision.

    Source: GSPO, Zheng et al. 2025, "Group Sequence Policy Optimization", eq. 7.

    >>> sequence_mean(jnp.array([[-1., -2.]]), jnp.ones((1, 2))).tolist()
    [[-1.5, -1.5]]
    """
    return _along_row(log_prob, mask, lambda total, length: total / jnp.maximum(length, 1.0))


def shaped(gamma: float = 0.1) -> Likelihood:
    """Log of pi/(pi + gamma): keeps a gradient on decisions that the policy finds unlikely.

    With reference 1 the loss is `-pi/(pi + gamma) A`, whose derivative with respect to pi is
    `gamma/(pi + gamma)^2`.

    Args:
      gamma: above 0.

    Returns:
      A likelihood.

    Source: LUFFY, Yan et al. 2025, "Learning to reason under off-policy guidance", eq. 6.
    """

    def likelihood(log_prob: Array, mask: Array) -> Array:
        chex.assert_equal_shape([log_prob, mask])
        # log(pi/(pi + gamma)) without exp(log_prob), which overflows for a sharp density.
        return -jax.nn.softplus(jnp.log(gamma) - log_prob)

    return likelihood


def _along_row(log_prob: Array, mask: Array, reduce: Callable[[Array, Array], Array]) -> Array:
    chex.assert_rank([log_prob, mask], 2)
    chex.assert_equal_shape([log_prob, mask])
    real = mask > 0
    total = jnp.sum(jnp.where(real, log_prob, 0.0), axis=-1, keepdims=True)
    length = jnp.sum(real, axis=-1, keepdims=True).astype(log_prob.dtype)
    return jnp.broadcast_to(reduce(total, length), log_prob.shape)
