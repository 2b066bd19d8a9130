"""Losses of a critic, element by element."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxpg.types import Array


def squared(value: Array, target: Array) -> Array:
    """Half the squared error.

    Args:
      value: `[...]` float.
      target: `[...]` float, a constant to the gradient.

    Returns:
      `[...]` float.
    """
    chex.assert_equal_shape([value, target])
    return 0.5 * (value - jax.lax.stop_gradient(target)) ** 2


def clipped(value: Array, target: Array, old_value: Array, clip: float) -> Array:
    """The larger of the squared error and the one of a value kept near the old value.

    Args:
      value: `[...]` float.
      target: `[...]` float, a constant to the gradient.
      old_value: `[...]` float, the critic's value when the batch was collected.
      clip: largest distance from `old_value`, in units of the (normalised) return.

    Returns:
      `[...]` float, half the larger squared error.

    Source: baselines' PPO2; Andrychowicz et al. 2021, "What matters for on-policy deep
    actor-critic methods?", section 3.2, where it does not help.

    >>> clipped(jnp.array(1.), jnp.array(2.), jnp.array(0.), 0.2).item() * 2
    3.24
    """
    chex.assert_equal_shape([value, target, old_value])
    old_value = jax.lax.stop_gradient(old_value)
    near = old_value + jnp.clip(value - old_value, -clip, clip)
    return jnp.maximum(squared(value, target), squared(near, target))
