"""The compiled programs of an algorithm: its first state, a chunk of updates, an evaluation.

A function of an algorithm may be a `jax.tree_util.Partial`: what it holds (a model's weights, a
data set) is then an argument of the program instead of a constant in it, and there is one of it for
all seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import parallel
from jaxpg.types import Algorithm, Array, PyTree

TOGETHER, IN_TURN = "together", "in turn"
"""How a program runs its seeds: vmapped, or one after the other."""


def initialisation(algorithm: Algorithm, *, seeded: bool) -> Callable[[Array], PyTree]:
    """The first state as one program instead of many small ones.

    Args:
      algorithm: any.
      seeded: the keys, and so the state, have a leading axis of seeds.

    Returns:
      `(key or keys) -> state`.
    """
    function, held = _parts(algorithm.init)
    axes = (None,) * len(held) + (0,) if seeded else None
    return functools.partial(_call(function, axes), *held)


def chunk(
    algorithm: Algorithm, capacity: int, seeds: str | None, num_devices: int
) -> Callable[[PyTree, int], tuple[PyTree, PyTree]]:
    """Up to `capacity` updates; a second run of one algorithm finds it compiled.

    Args:
      algorithm: any.
      capacity: most updates of a call.
      seeds: None without an axis of seeds, else `TOGETHER` or `IN_TURN`.
      num_devices: see `parallel.data_parallel`.

    Returns:
      `(state, number of updates) -> (state, metrics)`, metrics with a leading axis `[capacity]`
      behind those of devices and seeds. The state is donated.
    """
    function, held = _parts(algorithm.update)
    run = _chunk(function, capacity, seeds, num_devices)
    # The length is an argument: a shorter last chunk is no second program.
    return lambda state, length: run(state, (jnp.int32(length), held))


def evaluation(algorithm: Algorithm, seeds: str | None) -> Callable[[PyTree, Array], PyTree]:
    """The evaluation of a merged state.

    Args:
      algorithm: one that has `evaluate`.
      seeds: as for `chunk`.

    Returns:
      `(state, key) -> metrics`.
    """
    function, held = _parts(algorithm.evaluate)
    run = _evaluation(function, seeds)
    return lambda state, key: run(state, (key, held))


def _parts(function: Callable) -> tuple[Callable, tuple]:
    if isinstance(function, jax.tree_util.Partial):
        return function.func, function.args
    return function, ()


@functools.lru_cache(maxsize=16)
def _chunk(update: Callable, capacity: int, seeds: str | None, num_devices: int) -> Callable:
    def one_seed(state: PyTree, shared: Any) -> tuple[PyTree, PyTree]:
        length, held = shared
        one = functools.partial(update, *held)
        shapes = jax.eval_shape(one, state)[1]
        buffers = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

        def body(index, carry):
            state, buffers = carry
            state, metrics = one(state)
            return state, jax.tree.map(lambda b, m: b.at[index].set(m), buffers, metrics)

        return jax.lax.fori_loop(0, length, body, (state, buffers))

    return parallel.data_parallel(_over_seeds(one_seed, seeds), num_devices)


@functools.lru_cache(maxsize=16)
def _evaluation(evaluate: Callable, seeds: str | None) -> Callable:
    def one_seed(state: PyTree, shared: Any) -> PyTree:
        key, held = shared
        return evaluate(*held, state, key)

    return jax.jit(_over_seeds(one_seed, seeds))


def _over_seeds(function: Callable, seeds: str | None) -> Callable:
    """`function(state, shared)` for a state with an axis of seeds, if there is one."""
    if seeds is None:
        return function
    if seeds == TOGETHER:
        return jax.vmap(function, in_axes=(0, None))
    return lambda states, shared: jax.lax.map(lambda state: function(state, shared), states)


@functools.lru_cache(maxsize=32)
def _call(function: Callable, axes: tuple[int | None, ...] | None) -> Callable:
    return jax.jit(function if axes is None else jax.vmap(function, in_axes=axes))
