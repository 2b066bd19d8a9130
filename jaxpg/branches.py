"""Work that is skipped where it is not due, inside `jit` and also under `vmap`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpg.types import Array, PyTree


def only_where(flag: Array, function: Callable[[], PyTree], otherwise: PyTree) -> PyTree:
    """The value of a function where a flag is True, and another value elsewhere.

    Under `vmap` a `lax.cond` computes both of its branches. Here the function is skipped as long
    as the flag is False in the whole batch, and the result is right where flags differ.

    Args:
      flag: `[]` bool; on several devices it is the same on all of them.
      function: without arguments; what it reads is closed over.
      otherwise: pytree like the function's result.

    Returns:
      The function's result or `otherwise`.

    >>> jax.vmap(lambda x: only_where(x > 1, lambda: 10 * x, x))(jnp.arange(4)).tolist()
    [0, 1, 20, 30]
    """

    def chosen() -> PyTree:
        return jax.tree.map(lambda new, old: jnp.where(flag, new, old), function(), otherwise)

    return jax.lax.cond(_anywhere(flag), chosen, lambda: otherwise)


@jax.custom_batching.custom_vmap
def _anywhere(flag: Array) -> Array:
    return flag


@_anywhere.def_vmap
def _anywhere_in_all(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return _anywhere(jnp.any(flag, axis=0)), False
