"""What a critic that is told a descriptor learns from, on plain arrays."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxpg.types import Array


def similarity(observed: Array, asked: Array, length_scale: float | Array) -> Array:
    """How well a descriptor meets the one that was asked for: `exp(-|observed - asked| / L)`.

    Args:
      observed: `[B, D]` float, in the units of the networks.
      asked: `[B, D]` float, likewise.
      length_scale: L, positive. Without end every descriptor is as good as the one asked for.

    Returns:
      `[B]` float in [0, 1], 1 where the two are equal.

    Source: DCG-MAP-Elites, Faldor et al. 2023 (arXiv 2303.03832).

    >>> similarity(jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.zeros((2, 2)), 5.0).tolist()
    [0.3678794, 1.0]
    """
    chex.assert_rank([observed, asked], 2)
    chex.assert_equal_shape([observed, asked])
    distance = jnp.sqrt(jnp.sum((observed - asked) ** 2, axis=-1))
    return jnp.exp(-distance / length_scale)


def scaled_reward(
    reward: Array, observed: Array, asked: Array, length_scale: float | Array
) -> Array:
    """A reward that counts as far as the descriptor was met.

    Only rewards that are not negative make a near miss worth less than a hit.

    Args:
      reward: `[B]` float.
      observed: `[B, D]` float, of the whole episode.
      asked: `[B, D]` float.
      length_scale: see `similarity`.

    Returns:
      `[B]` float.

    Source: DCG-MAP-Elites, Faldor et al. 2023 (arXiv 2303.03832).
    """
    chex.assert_rank(reward, 1)
    return similarity(observed, asked, length_scale) * reward
