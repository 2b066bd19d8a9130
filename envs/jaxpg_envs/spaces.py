"""A space that gymnax lacks: several choices at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces


class MultiDiscrete(spaces.Space):
    """K choices at once, in the form of gymnax's spaces: a member is int32 `[K]`.

    Attributes:
      nvec: numbers of alternatives, K ints.
      shape: `(K,)`.
      dtype: int32.

    >>> MultiDiscrete([8, 4]).sample(jax.random.key(0)).shape
    (2,)
    """

    def __init__(self, nvec: Sequence[int]):
        """Take the numbers of alternatives.

        Args:
          nvec: K whole numbers, each at least 1; K at least 1.

        Raises:
          ValueError: anything else.
        """
        given = np.asarray(nvec)
        if given.ndim != 1 or not given.size or given.dtype.kind not in "iu" or given.min() < 1:
            raise ValueError(
                f"nvec is {nvec!r}, but a sequence of whole numbers of at least 1 is needed"
            )
        self.nvec = tuple(int(n) for n in given)
        self.shape = given.shape
        self.dtype = jnp.dtype(jnp.int32)

    def __repr__(self) -> str:
        return f"MultiDiscrete({self.nvec})"

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniform and independent, int32 `[K]`."""
        high = np.array(self.nvec, self.dtype)
        return jax.random.randint(key, self.shape, 0, high, self.dtype)

    def contains(self, x: Any) -> jax.Array:
        """Whether every choice is there, a bool scalar."""
        x = jnp.asarray(x)
        return jnp.all((x >= 0) & (x < np.array(self.nvec, self.dtype)))
