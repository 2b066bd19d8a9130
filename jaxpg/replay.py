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
    """

    observation: PyTree
    action: Array
    reward: Array
    terminated: Array
    next_observation: PyTree


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


def add(buffer: Buffer, batch: PyTree) -> Buffer:
    """Writes items over the oldest ones.

    Args:
      buffer: donate it, and it is changed in place.
      batch: items in the order of their age, pytree of `[N, ...]`, N at most the capacity.

    Returns:
      The buffer.

    Raises:
      ValueError: the batch is larger than the buffer.

    >>> buffer = add(init(jnp.int32(0), 4), jnp.arange(3))
    >>> buffer = add(buffer, jnp.arange(3, 6))
    >>> sorted(buffer.items.tolist()), buffer.size.item()
    ([2, 3, 4, 5], 4)
    """
    number, capacity = jax.tree.leaves(batch)[0].shape[0], buffer.capacity
    if number > capacity:
        raise ValueError(
            f"batch has {number} items, but the buffer holds {capacity}: it needs a capacity of at "
            f"least {number}"
        )
    slots = (buffer.position + jnp.arange(number, dtype=jnp.int32)) % capacity
    items = jax.tree.map(
        lambda old, new: old.at[slots].set(
            new.astype(old.dtype), mode="promise_in_bounds", unique_indices=True
        ),
        buffer.items,
        batch,
    )
    return Buffer(
        items,
        (buffer.position + number) % capacity,
        jnp.minimum(buffer.size + number, capacity),
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
