"""Experience replay: a ring buffer as explicit state, for transitions or any other items.

The next observation is an item's own and is not read from the slot behind it: that would save
memory and lose the final observation of every truncated episode.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg.choices import at_least
from jaxpg.types import Array, PyTree


class Transition(NamedTuple):
    """One step of an environment, leading axes free.

    Attributes:
      observation: pytree, before the action.
      action: float, in the coordinates of the policy.
      reward: float.
      terminated: bool, nothing follows. A truncated step is one like any other.
      next_observation: pytree, after the action and before any reset.
      weight: float, of the critics' squared errors; None weighs all alike.
    """

    observation: PyTree
    action: Array
    reward: Array
    terminated: Array
    next_observation: PyTree
    weight: Array | None = None


@struct.dataclass
class Buffer:
    """The last items that were added.

    Attributes:
      items: pytree of `[capacity, ...]`.
      position: int32, the slot that is written next, which holds the oldest item of a full buffer.
      size: int32, slots that hold an item; they are the first ones.
    """

    items: PyTree
    position: Array
    size: Array

    @property
    def capacity(self) -> int:
        """Most items that the buffer holds, static."""
        return jax.tree.leaves(self.items)[0].shape[0]


def init(example: PyTree, capacity: int) -> Buffer:
    """An empty buffer.

    Args:
      example: one item, a pytree of arrays or of their shapes and types.
      capacity: most items that it holds; the memory is taken at once.

    Returns:
      A `Buffer`.

    Raises:
      ValueError: the capacity is below 1.
    """
    at_least("capacity", capacity, 1)
    items = jax.tree.map(
        lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.result_type(x)), example
    )
    # Two arrays: a donated buffer must not hold one array twice.
    return Buffer(items, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(buffer: Buffer, batch: PyTree, real: Array | None = None) -> Buffer:
    """Writes items over the oldest ones.

    Args:
      buffer: donate it, and it is changed in place.
      batch: items in the order of their age, pytree of `[N, ...]`, N at most the capacity.
      real: `[N]` bool, items that are written, without gaps between them; None writes all.

    Returns:
      The buffer.

    Raises:
      ValueError: the batch is larger than the buffer.

    >>> buffer = add(init(jnp.int32(0), 4), jnp.arange(3))
    >>> buffer = add(buffer, jnp.arange(3, 6))
    >>> sorted(buffer.items.tolist()), buffer.size.item()
    ([2, 3, 4, 5], 4)
    >>> buffer = add(buffer, jnp.arange(6, 9), jnp.array([False, True, True]))
    >>> sorted(buffer.items.tolist()), buffer.position.item()
    ([4, 5, 7, 8], 0)
    """
    number, capacity = jax.tree.leaves(batch)[0].shape[0], buffer.capacity
    if number > capacity:
        raise ValueError(
            f"batch has {number} items, but the buffer holds {capacity}: it needs a capacity of at "
            f"least {number}"
        )
    places = jnp.arange(number, dtype=jnp.int32)
    slots, written, mode = (buffer.position + places) % capacity, number, "promise_in_bounds"
    if real is not None:
        # What is left out gets a slot of its own behind the last one, where nothing is written.
        before = jnp.cumsum(real, dtype=jnp.int32)
        slots = jnp.where(real, (buffer.position + before - 1) % capacity, capacity + places)
        written, mode = before[-1], "drop"
    items = jax.tree.map(
        lambda old, new: old.at[slots].set(new.astype(old.dtype), mode=mode, unique_indices=True),
        buffer.items,
        batch,
    )
    return Buffer(
        items,
        (buffer.position + written) % capacity,
        jnp.minimum(buffer.size + written, capacity),
    )


def sample(key: Array, buffer: Buffer, num_items: int) -> PyTree:
    """Draws items uniformly and with replacement.

    Args:
      key: of the draw.
      buffer: not empty. Where its size is known (outside of `jit`) an empty one is refused; inside,
        its zeros come out.
      num_items: static.

    Returns:
      Pytree of `[num_items, ...]`.

    Raises:
      ValueError: the buffer is known to be empty.
    """
    if not isinstance(buffer.size, jax.core.Tracer) and not jnp.all(buffer.size > 0):
        raise ValueError("the buffer is empty, so there is nothing to sample: add items first")
    slots = jax.random.randint(key, (num_items,), 0, jnp.maximum(buffer.size, 1))
    return jax.tree.map(lambda x: x.at[slots].get(mode="promise_in_bounds"), buffer.items)


def sample_blocks(keys: Array, buffers: Buffer, num_items: int) -> PyTree:
    """Draws as many items from each of several buffers.

    Args:
      keys: `[blocks]`, one of each buffer.
      buffers: every leaf has a leading axis `[blocks]`.
      num_items: of each buffer, static.

    Returns:
      Pytree of `[blocks num_items, ...]`, those of one buffer side by side.
    """
    drawn = jax.vmap(sample, in_axes=(0, 0, None))(keys, buffers, num_items)
    return jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), drawn)
