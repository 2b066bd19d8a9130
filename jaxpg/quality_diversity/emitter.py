"""Emitters: what proposes solutions to an archive, and learns from what became of them.

Offspring come in blocks: each operator gives as many to every block, and a device works on whole
blocks. So the offspring, their order and their random numbers are the same on one device and on
several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxpg import parallel
from jaxpg.choices import at_least
from jaxpg.quality_diversity.archive import Archive
from jaxpg.quality_diversity.scoring import Scores
from jaxpg.types import Array, Metrics, PyTree


class Offspring(NamedTuple):
    """Solutions that were proposed.

    Attributes:
      genotypes: pytree of `[N, ...]`.
      asked: `[N, D]` float, the descriptor that each was made for, in the units of the box.
      intended: `[N]` bool, whether it was made for one; elsewhere `asked` means nothing.
    """

    genotypes: PyTree
    asked: Array
    intended: Array


@struct.dataclass
class EmitterState:
    """What an emitter remembers.

    Attributes:
      rows: split over devices, every leaf has a leading axis `[num_blocks]`.
      shared: the same on all devices.
    """

    rows: PyTree
    shared: PyTree


class Emitter(NamedTuple):
    """Pure functions. On several devices each has its share of the offspring, and equal keys.

    Attributes:
      init: `(key, scores of the first solutions) -> EmitterState`, which remembers them.
      learn: `(key, state, archive) -> (state, metrics)`, before every emission; metrics are
        scalars.
      emit: `(key, state, archive) -> Offspring`, this device's share.
      remember: `(state, offspring, scores) -> state`, after the offspring were scored.
      operators: number of offspring by the name of what makes them, over all devices and in their
        order within a block.
      num_blocks: divides all of these numbers.
      has_rows: whether its state has rows; the first solutions then divide into the blocks.
      num_rollouts: episodes of `learn`.
      evaluate: `(key, state, archive, offset) -> metrics`, or None.
      policy: `(state) -> pytree` that is kept beside the archive, or None.
      settings: plain values, for checkpoints.
    """

    init: Callable[[Array, Scores], EmitterState]
    learn: Callable[[Array, EmitterState, Archive], tuple[EmitterState, Metrics]]
    emit: Callable[[Array, EmitterState, Archive], Offspring]
    remember: Callable[[EmitterState, Offspring, Scores], EmitterState]
    operators: Mapping[str, int]
    num_blocks: int
    has_rows: bool = True
    num_rollouts: int = 0
    evaluate: Callable[[Array, EmitterState, Archive, float], Metrics] | None = None
    policy: Callable[[EmitterState], PyTree] | None = None
    settings: Mapping[str, Any] = {}

    @property
    def batch_size(self) -> int:
        """Number of offspring of an update, over all devices."""
        return sum(self.operators.values())

    def added_by_operator(self, added: Array) -> Metrics:
        """How many offspring of each operator entered the archive.

        Args:
          added: `[batch_size]` bool, in the order of the offspring.

        Returns:
          `added_<operator>`, `[]` int32.
        """
        blocks = added.reshape((self.num_blocks, -1))
        ends = np.cumsum([count // self.num_blocks for count in self.operators.values()])
        parts = jnp.split(blocks, ends[:-1], axis=1)
        return {
            f"added_{name}": jnp.sum(part, dtype=jnp.int32)
            for name, part in zip(self.operators, parts, strict=True)
        }


def used(operators: Mapping[str, int]) -> dict[str, int]:
    """The operators that make offspring at all.

    Args:
      operators: number of offspring of each.

    Returns:
      Those with at least one.

    Raises:
      ValueError: a negative number, or no offspring at all.
    """
    for name, count in operators.items():
        at_least(f"num_{name}", count, 0)
    found = {name: count for name, count in operators.items() if count}
    if not found:
        raise ValueError(f"all of {sorted(operators)} have 0 offspring: at least 1 is needed")
    return found


def blocks_of(**counts: int) -> int:
    """The number of blocks: the largest that divides every count.

    Args:
      **counts: each at least 0; those of 0 do not matter.

    Returns:
      At least 1.
    """
    return math.gcd(*counts.values()) or 1


def in_blocks(parts: Sequence[PyTree], num_blocks: int) -> PyTree:
    """Joins the offspring of several operators, block by block.

    Args:
      parts: pytrees of `[N_i, ...]`, this device's share of each operator's offspring.
      num_blocks: of this device, divides every `N_i`.

    Returns:
      Pytree of `[sum N_i, ...]`: the first of each operator for the first block, and so on.

    >>> in_blocks([jnp.arange(4), jnp.array([10, 20])], 2).tolist()
    [0, 1, 10, 2, 3, 20]
    """

    def join(*leaves: Array) -> Array:
        blocks = [leaf.reshape((num_blocks, -1, *leaf.shape[1:])) for leaf in leaves]
        joined = jnp.concatenate(blocks, axis=1)
        return joined.reshape((-1, *joined.shape[2:]))

    return jax.tree.map(join, *parts)


def own_blocks(num_blocks: int) -> int:
    """The number of blocks of this device.

    Args:
      num_blocks: over all devices.

    Returns:
      An equal share.

    Raises:
      ValueError: the devices do not divide the blocks.
    """
    shards = parallel.num_shards()
    if num_blocks % shards:
        raise ValueError(
            f"num_devices is {shards}, which does not divide the {num_blocks} blocks of offspring "
            f"and minibatches into equal shares"
        )
    return num_blocks // shards
