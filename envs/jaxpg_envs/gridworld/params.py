"""A level: one grid world as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment

from jaxpg_envs.gridworld.checks import check

Array = jax.Array


@struct.dataclass(kw_only=True)
class GridParams(environment.EnvParams):
    """A level. Every field is an array, so levels stacked along a leading axis are one `vmap`.

    G is the largest size and M the largest number of objects that the arrays have room for. Cells
    are numbered `row * size + column` with the level's own size, not with G. Walls beyond the grid
    and objects beyond `num_objects` do not count.

    Attributes:
      max_steps_in_episode: int32, at least 1, steps after which an episode is truncated.
      size: int32 in `[1, G]`, cells along a side.
      start: int32, cell in which every episode begins.
      walls: `[G * G]` bool.
      num_objects: int32 in `[0, M]`.
      object_cells: `[M]` int32.
      object_rewards: `[M]` float32, paid when the object is collected.
      object_terminate: `[M]` float32 in [0, 1], probability that collecting it ends the episode.
      object_respawn: `[M]` float32 in [0, 1], probability for each step of coming back.
    """

    max_steps_in_episode: Array
    size: Array
    start: Array
    walls: Array
    num_objects: Array
    object_cells: Array
    object_rewards: Array
    object_terminate: Array
    object_respawn: Array


def grid_params(
    size: int,
    start: int,
    objects: Sequence[tuple[int, float, float, float]],
    *,
    walls: Iterable[int] = (),
    max_steps: int = 100,
    max_size: int = 13,
    max_objects: int = 5,
) -> GridParams:
    """A level of one's own, checked.

    Args:
      size: cells along a side, in `[1, max_size]`.
      start: cell in which episodes begin; cells are numbered `row * size + column`.
      objects: at most `max_objects` of `(cell, reward, p_terminate, p_respawn)`.
      walls: cells that cannot be entered.
      max_steps: steps after which an episode is truncated.
      max_size: G, of the environment that will play the level.
      max_objects: M, of the same environment.

    Returns:
      The level.

    Raises:
      ValueError: the level is none, see `check`, or does not fit `max_size` and `max_objects`.

    >>> level = grid_params(3, 0, [(8, 1.0, 1.0, 0.0)], walls=[1, 4], max_size=4, max_objects=2)
    >>> level.num_objects, level.object_rewards
    (Array(1, dtype=int32), Array([1., 0.], dtype=float32))
    """
    if not 1 <= size <= max_size:
        raise ValueError(f"size={size} is outside 1 to max_size={max_size}")
    if len(objects) > max_objects:
        raise ValueError(f"objects has {len(objects)} entries; max_objects={max_objects}")
    cells = np.array(sorted(walls), np.int64)
    if (cells < 0).any() or (cells >= size**2).any():
        outside = cells[(cells < 0) | (cells >= size**2)][0]
        raise ValueError(f"walls holds {outside}, outside the {size} x {size} grid's cells")
    is_wall = np.zeros(max_size**2, bool)
    is_wall[cells] = True
    columns = np.zeros((max_objects, 4))
    columns[: len(objects)] = np.array(objects, float).reshape(len(objects), 4)
    level = GridParams(
        max_steps_in_episode=jnp.array(max_steps, jnp.int32),
        size=jnp.array(size, jnp.int32),
        start=jnp.array(start, jnp.int32),
        walls=jnp.array(is_wall),
        num_objects=jnp.array(len(objects), jnp.int32),
        object_cells=jnp.array(columns[:, 0], jnp.int32),
        object_rewards=jnp.array(columns[:, 1], jnp.float32),
        object_terminate=jnp.array(columns[:, 2], jnp.float32),
        object_respawn=jnp.array(columns[:, 3], jnp.float32),
    )
    check(level)
    return level
