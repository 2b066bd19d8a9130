"""What a level is worth to a curriculum: the higher its score, the sooner it is replayed.

Plain arithmetic on arrays of free leading axes, one score for each of their entries; nothing here
is meant to carry a gradient.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxpg.types import Array

Axis = int | tuple[int, ...] | None


def algorithmic_regret(antagonist_returns: Array, agent_returns: Array, axis: Axis = -1) -> Array:
    """How much better another algorithm does on a level than the one that is learned.

    Args:
      antagonist_returns: `[..., E]` float, undiscounted returns of episodes of an agent that the
        antagonist algorithm trained on the level from scratch, for the same lifetime.
      agent_returns: `[..., F]` float, those of the learned algorithm's agent at the end of its
        life. E and F may differ.
      axis: of the episodes, in both; None averages over everything.

    Returns:
      `[...]` float, the difference of the mean returns: positive where the antagonist is better,
      0 in expectation where both are the same algorithm. It is not clipped at 0.

    Source: GROOVE, Jackson et al. 2023, "Discovering general reinforcement learning algorithms
    with adversarial environment design".

    >>> algorithmic_regret(jnp.array([[2., 4.], [1., 1.]]), jnp.array([[1.], [3.]])).tolist()
    [2.0, -2.0]
    """
    chex.assert_equal_rank([antagonist_returns, agent_returns])
    antagonist, agent = jnp.mean(antagonist_returns, axis), jnp.mean(agent_returns, axis)
    chex.assert_equal_shape([antagonist, agent])
    return antagonist - agent


def l1_value_loss(advantages: Array, mask: Array, axis: Axis = -1) -> Array:
    """Mean size of the advantages: how wrong the value function is on a level.

    Args:
      advantages: `[..., T]` float, as a rule those of GAE.
      mask: `[..., T]`, 1 where a decision is real; elsewhere an advantage may be anything.
      axis: of the decisions, such as `(-2, -1)` for `[..., N, T]`; None averages over everything.

    Returns:
      `[...]` float, at least 0; 0 without a real decision.

    Source: "GAE magnitude" of PLR, Jiang et al. 2021, "Prioritized level replay".

    >>> l1_value_loss(jnp.array([[1., -3., 9.]]), jnp.array([[1., 1., 0.]])).tolist()
    [2.0]
    """
    return _masked_mean(jnp.abs(advantages), mask, axis)


def positive_value_loss(advantages: Array, mask: Array, axis: Axis = -1) -> Array:
    """Mean positive part of the advantages: how much better a level went than was expected.

    Args:
      advantages: `[..., T]` float, as a rule those of GAE, whose clipped mean bounds the regret.
      mask: `[..., T]`, 1 where a decision is real; elsewhere an advantage may be anything.
      axis: of the decisions, such as `(-2, -1)` for `[..., N, T]`; None averages over everything.

    Returns:
      `[...]` float, at least 0; 0 without a real decision.

    Source: Jiang et al. 2021, "Replay-guided adversarial environment design".

    >>> positive_value_loss(jnp.array([[1., -3., 9.]]), jnp.array([[1., 1., 0.]])).tolist()
    [0.5]
    """
    return _masked_mean(jnp.maximum(advantages, 0.0), mask, axis)


def final_return(agent_returns: Array, axis: Axis = -1) -> Array:
    """Mean return at the end of a life: replays what already goes well.

    Args:
      agent_returns: `[..., E]` float, undiscounted returns of episodes.
      axis: of the episodes; None averages over everything.

    Returns:
      `[...]` float. Its negative replays what goes badly, solvable or not.

    >>> final_return(jnp.array([[1., 2.], [0., 0.]])).tolist()
    [1.5, 0.0]
    """
    return jnp.mean(agent_returns, axis)


def _masked_mean(values: Array, mask: Array, axis: Axis) -> Array:
    chex.assert_equal_shape([values, mask])
    real = mask > 0
    total = jnp.sum(jnp.where(real, values, 0.0), axis)
    return total / jnp.maximum(jnp.sum(real, axis), 1)
