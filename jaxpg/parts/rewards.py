"""Terms that are added to the reward of a response."""

from __future__ import annotations

import jax.numpy as jnp

from jaxpg.types import Array


def overlong_penalty(length: Array, longest: int, buffer: int) -> Array:
    """Punishes responses that come near the length limit.

    Args:
      length: `[...]` int, tokens of each response.
      longest: the limit, above `buffer`.
      buffer: the last tokens before the limit, in which the penalty grows.

    Returns:
      `[...]` float: 0 up to `longest - buffer` tokens, then falling linearly to -1 at `longest`,
      and -1 beyond.

    Raises:
      ValueError: the buffer is not between 1 and `longest`.

    Source: Yu et al. 2025, "DAPO", eq. 13.

    >>> overlong_penalty(jnp.array([16, 18, 20, 21]), 20, 4).tolist()
    [0.0, -0.5, -1.0, -1.0]
    """
    if not 1 <= buffer <= longest:
        raise ValueError(f"buffer is {buffer}, but it has to be between 1 and longest={longest}")
    beyond = length.astype(jnp.float32) - (longest - buffer)
    return -jnp.clip(beyond / buffer, 0.0, 1.0)
