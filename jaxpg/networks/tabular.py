"""Tables: outputs that are linear in the one-hot of a state, and in the time beside it."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxpg.types import Array, PyTree


def table(num_states: int, num_outputs: int) -> PyTree:
    """Parameters of a linear map without bias, all zero.

    Args:
      num_states: S.
      num_outputs: of each state.

    Returns:
      `{"states": [S, num_outputs], "time": [num_outputs]}`.
    """
    return {"states": jnp.zeros((num_states, num_outputs)), "time": jnp.zeros(num_outputs)}


def look_up(params: PyTree, observation: tuple[Array, Array]) -> Array:
    """The outputs of states: what a linear layer says of a one-hot vector and the time behind it.

    Args:
      params: of `table`.
      observation: `(index [...] int32 in [0, S), time [...] float)`.

    Returns:
      `[..., num_outputs]` float.

    >>> params = {"states": jnp.eye(2), "time": jnp.array([0.0, 10.0])}
    >>> look_up(params, (jnp.array(1), jnp.array(0.2))).tolist()
    [0.0, 3.0]
    """
    index, time = observation
    chex.assert_equal_shape([index, time])
    return params["states"][index] + time[..., None] * params["time"]
