"""Pools of prompts: a numbered set, split into prompts to train on and prompts to evaluate on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg_envs.tokens.arguments import probability, whole_number
from jaxpg_envs.tokens.task import Prompts

LARGEST = 2**24
"""Prompts that a pool may have."""


class Pool(NamedTuple):
    """The fields of a `TokenTask` that say where its prompts come from, under the same names."""

    prompts: Callable[[jax.Array], Prompts]
    held_out: Callable[[jax.Array], Prompts]
    num_prompts: int
    num_held_out: int


def pool(
    build: Callable[[jax.Array], tuple[jax.Array, jax.Array, Any]],
    total: int,
    held_out_fraction: float = 0.0,
    split_seed: int = 0,
) -> Pool:
    """Split the prompts 0 to `total - 1` into a training pool and one that is held out.

    Args:
      build: `(numbers [N] int32) -> (tokens [N, P], mask [N, P], data)`, see `Prompts`.
      total: prompts in all, from 1 to 2**24.
      held_out_fraction: share that is held out, in [0, 1); 0 holds none out, and any other share
        holds out at least one and leaves at least one.
      split_seed: which ones.

    Returns:
      The two pools, each in the order of the numbers.

    Raises:
      ValueError, TypeError: an argument out of range. The pools refuse ids out of range too, where
        they are not traced.
    """
    training, held_out = split(total, held_out_fraction, split_seed)
    prompts = _numbered(build, training)
    return Pool(
        prompts=prompts,
        held_out=_numbered(build, held_out) if held_out.size else prompts,
        num_prompts=training.size,
        num_held_out=held_out.size,
    )


def split(
    total: int, held_out_fraction: float, split_seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers to train on and numbers to evaluate on.

    Args:
      total: see `pool`.
      held_out_fraction: see `pool`.
      split_seed: which of the ways to split them.

    Returns:
      Two sorted int32 arrays that together hold 0 to `total - 1` once each.

    Raises:
      ValueError, TypeError: see `pool`.

    >>> training, held_out = split(10, 0.2)
    >>> training.size, held_out.size
    (8, 2)
    """
    whole_number("number of prompts", total, 1, LARGEST)
    whole_number("split_seed", split_seed, 0)
    fraction = probability("held_out_fraction", held_out_fraction, below=True)
    if not fraction:
        return np.arange(total, dtype=np.int32), np.zeros(0, np.int32)
    if total == 1:
        raise ValueError(
            f"held_out_fraction={held_out_fraction} must be 0 where there is one prompt only"
        )
    num_held_out = min(max(1, round(fraction * total)), total - 1)
    order = np.random.default_rng(split_seed).permutation(total).astype(np.int32)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])


def digit_pool(
    num_digits: int,
    base: int,
    held_out_fraction: float,
    split_seed: int,
    extra: Callable[[jax.Array], dict[str, jax.Array]] = lambda numbers: {},
) -> Pool:
    """All the prompts of n digits in a base, in lexicographic order, with their digit sums.

    Args:
      num_digits: n, at least 1.
      base: b, at least 2; `b ** n` is at most 2**24.
      held_out_fraction: see `pool`.
      split_seed: see `pool`.
      extra: further data of the prompts, from their numbers `[N]` in `[0, b ** n)`.

    Returns:
      The pools; the data hold `answer`, `[N]` int32, the sum of the digits modulo the base.

    Raises:
      ValueError, TypeError: an argument out of range.
    """
    if base**num_digits > LARGEST:
        raise ValueError(
            f"{num_digits} digits in base {base} make {base**num_digits} prompts; choose fewer "
            f"digits or a smaller base, for at most {LARGEST}"
        )
    powers = base ** np.arange(num_digits - 1, -1, -1, dtype=np.int32)

    def build(numbers):
        tokens = (numbers[:, None] // powers) % base
        data = {"answer": tokens.sum(1) % base} | extra(numbers)
        return tokens, jnp.ones_like(tokens, bool), data

    return pool(build, base**num_digits, held_out_fraction, split_seed)


def _numbered(build, members: np.ndarray) -> Callable[[jax.Array], Prompts]:
    """The prompts whose numbers are given, under ids that count from 0."""
    numbers = jnp.asarray(members)

    @jax.jit
    def numbered(ids: jax.Array) -> Prompts:
        tokens, mask, data = build(numbers[ids])
        return Prompts(tokens=tokens.astype(jnp.int32), mask=mask, ids=ids, data=data)

    def prompts(ids: jax.Array) -> Prompts:
        ids = jnp.asarray(ids)
        _check_ids(ids, members.size)
        return numbered(ids.astype(jnp.int32))

    return prompts


def _check_ids(ids: jax.Array, size: int) -> None:
    if ids.ndim != 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"ids is {ids.dtype}{list(ids.shape)}; it must be [N] integers")
    # JAX would take the last prompt for every id that is too large, without a word.
    if not isinstance(ids, jax.core.Tracer) and ids.size:
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= size:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"ids holds {wrong}; it must hold numbers from 0 to {size - 1}")
