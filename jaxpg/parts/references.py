"""References: the denominator of the probability ratio, `[B, T]`, a constant to the gradient.

Each takes the log-likelihood under the current policy (already stopped) and the trajectory.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from jaxpg.parts import likelihoods
from jaxpg.types import Array, Trajectory

Reference = Callable[[Array, Trajectory], Array]


def behaviour(log_likelihood: Array, trajectory: Trajectory) -> Array:
    """The policy that acted: importance sampling, as in PPO and GRPO.

    Args:
      log_likelihood: `[B, T]` float, unused.
      trajectory: its `log_prob` is returned.

    Returns:
      `[B, T]` float.
    """
    del log_likelihood
    return trajectory.log_prob


def behaviour_sequence(log_likelihood: Array, trajectory: Trajectory) -> Array:
    """The behaviour policy's length-normalised log-probability of the row, as in GSPO.

    Args:
      log_likelihood: `[B, T]` float, unused.
      trajectory: its `log_prob` is averaged over the real decisions of each row.

    Returns:
      `[B, T]` float, equal along each row.
    """
    del log_likelihood
    return likelihoods.sequence_mean(trajectory.log_prob, trajectory.mask)


def behaviour_sequence_sum(log_likelihood: Array, trajectory: Trajectory) -> Array:
    """The behaviour policy's log-probability of the whole row.

    Args:
      log_likelihood: `[B, T]` float, unused.
      trajectory: its `log_prob` is summed over the real decisions of each row.

    Returns:
      `[B, T]` float, equal along each row.
    """
    del log_likelihood
    return likelihoods.sequence(trajectory.log_prob, trajectory.mask)


def detached(log_likelihood: Array, trajectory: Trajectory) -> Array:
    """The current policy itself, so that the ratio is 1: REINFORCE, supervised fine-tuning.

    Args:
      log_likelihood: `[B, T]` float, returned.
      trajectory: unused.

    Returns:
      `[B, T]` float.
    """
    del trajectory
    return log_likelihood


def one(log_likelihood: Array, trajectory: Trajectory) -> Array:
    """Probability 1, so that the weight is the raw probability (SRFT, LUFFY on demonstrations).

    Args:
      log_likelihood: `[B, T]` float, gives the shape.
      trajectory: unused.

    Returns:
      `[B, T]` zeros.
    """
    del trajectory
    return jnp.zeros_like(log_likelihood)


def truncated_behaviour(upper: float, lower: float | None = None) -> Reference:
    """Makes the ratio the behaviour ratio cut at `1 + upper`, without cutting the gradient.

    Args:
      upper: the ratio is at most `1 + upper`.
      lower: the ratio is at least `1 - lower`; None leaves it free.

    Returns:
      A reference: `log pi - log clip(pi / mu)`.

    Source: CISPO, MiniMax 2025, "MiniMax-M1", eq. 4 and 5.
    """

    def reference(log_likelihood: Array, trajectory: Trajectory) -> Array:
        log_ratio = jnp.minimum(log_likelihood - trajectory.log_prob, jnp.log1p(upper))
        if lower is not None:
            log_ratio = jnp.maximum(log_ratio, jnp.log1p(-lower))
        return log_likelihood - log_ratio

    return reference
