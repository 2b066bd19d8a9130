"""A level: one grid world as arrays."""

from __future__ import annotations

import jax
from flax import struct
from gymnax.environments import environment

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
