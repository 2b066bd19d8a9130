"""What a deterministic policy and its critics learn from, on plain arrays.

Actions lie in [-1, 1]. Losses are given item by item; the batch is averaged outside.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxpg.types import Array


def smoothed(action: Array, noise: Array, clip: float | Array) -> Array:
    """Target policy smoothing: an action near the given one, still in [-1, 1].

    Args:
      action: `[B, A]` float, of the target policy.
      noise: `[B, A]` float, a draw of its own for every entry.
      clip: largest distance from the action, at least 0.

    Returns:
      `[B, A]` float.

    Source: TD3, Fujimoto et al. 2018 (arXiv 1802.09477), eq. 14.

    >>> smoothed(jnp.array([[0.0, 0.9]]), jnp.array([[0.7, 0.3]]), 0.5).tolist()
    [[0.5, 1.0]]
    """
    chex.assert_rank([action, noise], 2)
    chex.assert_equal_shape([action, noise])
    return jnp.clip(action + jnp.clip(noise, -clip, clip), -1.0, 1.0)


def td_target(
    reward: Array, terminated: Array, next_values: Array, discount: float | Array
) -> Array:
    """Reward plus the discounted least value of what follows: clipped double Q-learning.

    Args:
      reward: `[B]` float.
      terminated: `[B]` bool; nothing follows there. A truncated step is not terminated.
      next_values: `[K, B]` float, of K target critics at the true next observation.
      discount: in [0, 1].

    Returns:
      `[B]` float, a constant to the gradient. With K = 1 it is DDPG's target.

    Source: TD3, Fujimoto et al. 2018 (arXiv 1802.09477), eq. 10.

    >>> next_values = jnp.array([[10., 9.], [8., 9.]])
    >>> td_target(jnp.ones(2), jnp.array([False, True]), next_values, 0.5).tolist()
    [5.0, 1.0]
    """
    chex.assert_rank([reward, terminated, next_values], [1, 1, 2])
    chex.assert_shape([terminated, next_values[0]], reward.shape)
    follows = jnp.where(terminated, 0.0, jnp.min(next_values, axis=0))
    return jax.lax.stop_gradient(reward + discount * follows)


def critics(values: Array, target: Array) -> Array:
    """Squared errors of all critics about one target, summed over the critics.

    Args:
      values: `[K, B]` float, at the actions that were taken.
      target: `[B]` float, a constant to the gradient.

    Returns:
      `[B]` float.

    Source: TD3, Fujimoto et al. 2018 (arXiv 1802.09477), algorithm 1.
    """
    chex.assert_rank([values, target], [2, 1])
    chex.assert_shape(values[0], target.shape)
    return jnp.sum((values - jax.lax.stop_gradient(target)) ** 2, axis=0)


def actor(value: Array) -> Array:
    """The value of the policy's own action, negated: deterministic policy gradient.

    Args:
      value: `[B]` float, of one critic at `action = policy(observation)`. Its derivative by the
        parameters of the policy is `dQ/da da/dtheta`; differentiate by those parameters alone.

    Returns:
      `[B]` float.

    Source: Silver et al. 2014, "Deterministic policy gradient algorithms", eq. 8.
    """
    chex.assert_rank(value, 1)
    return -value
