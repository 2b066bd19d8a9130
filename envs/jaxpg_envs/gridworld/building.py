"""Levels of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxpg_envs.gridworld.checks import check
from jaxpg_envs.gridworld.params import GridParams


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
