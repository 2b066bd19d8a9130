"""The levels on which a learned rule is tested: five of LPG's, and mazes."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpg_envs.choices import refusal
from jaxpg_envs.gridworld import mazes
from jaxpg_envs.gridworld.building import grid_params
from jaxpg_envs.gridworld.environment import GridWorld
from jaxpg_envs.gridworld.params import GridParams

Array = jax.Array

PREFIX = "gridworld/"
"""What the names begin with in the registry."""

LIFETIME = 2500
"""Updates of an agent on any of them."""


class Design(NamedTuple):
    """What a level fixes; where start and objects are is drawn.

    Attributes:
      size: cells along a side.
      steps: of an episode.
      objects: `(reward, p_terminate, p_respawn)` of each.
      walls: cells.
    """

    size: int
    steps: int
    objects: tuple[tuple[float, float, float], ...]
    walls: tuple[int, ...] = ()


def _column(size: int, column: int, openings: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(row * size + column for row in range(size) if row not in openings)


def _row(size: int, row: int, openings: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(row * size + column for column in range(size) if column not in openings)


DESIGNS: dict[str, Design] = {
    "dense": Design(11, 500, (*[(1.0, 0.0, 0.05)] * 2, (-1.0, 0.5, 0.1), (-1.0, 0.0, 0.5))),
    "sparse": Design(13, 50, ((1.0, 1.0, 0.0), (-1.0, 1.0, 0.0))),
    "long": Design(11, 1000, (*[(1.0, 0.0, 0.01)] * 2, *[(-1.0, 0.5, 1.0)] * 2)),
    "longer": Design(
        9,
        2000,
        (*[(1.0, 0.1, 0.01)] * 2, *[(-1.0, 0.8, 1.0)] * 3),
        _column(9, 4, openings=(1, 7)),
    ),
    "long_dense": Design(
        11,
        2000,
        ((1.0, 0.0, 0.005),) * 4,
        (*_column(11, 5, openings=(0, 7)), *_row(11, 4, openings=(2, 8))),
    ),
}
"""LPG's tabular levels, "longer" with five objects in place of seven."""

MAZES = tuple(sorted(mazes.WALLS))
"""Names of the mazes."""


def names() -> list[str]:
    """Names of the levels.

    >>> names()[:3], len(names())
    (['dense', 'long', 'long_dense'], 9)
    """
    return sorted([*DESIGNS, *MAZES])


def level(
    name: str, seed: int = 0, max_size: int = 13, max_objects: int = 5
) -> tuple[GridParams, Array]:
    """A handcrafted level and the lifetime of an agent on it.

    Where start and objects are is not part of these levels: GROOVE draws the places anew for each
    agent. Here the seed gives them, the same on every machine and version. One seed is one fixed
    placement in distinct free cells, several are a test over placements. A maze has three objects
    of which the seed also draws the rewards, uniform in [0, 1], `p_terminate` and `p_respawn`,
    log-uniform in [0.01, 1] and [0.001, 0.1], and the steps, log-uniform from 25 to 50.

    Args:
      name: one of `names()`.
      seed: which placement.
      max_size: G of the environment.
      max_objects: M of the environment.

    Returns:
      `(level, lifetime)`, the lifetime as an int32 scalar, 2500 for all of them.

    Raises:
      ValueError: an unknown name, or a level that does not fit `max_size` and `max_objects`.

    Source: LPG, arXiv 2007.08794, appendix; GROOVE, arXiv 2310.02782, whose code has five objects
    in "longer" and takes 2500 updates. The mazes' walls are ours.
    """
    if name not in names():
        raise ValueError(refusal("name", name, names()))
    # Of Python's generators only `random` is promised to give the same numbers for ever.
    source = random.Random(seed)
    design = _maze(name, source) if name in MAZES else DESIGNS[name]
    if design.size > max_size or len(design.objects) > max_objects:
        raise ValueError(
            f"level {name!r} needs max_size={design.size} and max_objects={len(design.objects)}, "
            f"but they are {max_size} and {max_objects}"
        )
    free = sorted(set(range(design.size**2)) - set(design.walls))
    order = {cell: source.random() for cell in free}
    start, *cells = sorted(free, key=order.get)[: len(design.objects) + 1]
    params = grid_params(
        design.size,
        start,
        [(cell, *item) for cell, item in zip(cells, design.objects, strict=True)],
        walls=design.walls,
        max_steps=design.steps,
        max_size=max_size,
        max_objects=max_objects,
    )
    return params, jnp.array(LIFETIME, jnp.int32)


def _maze(name: str, source: random.Random) -> Design:
    def log_uniform(low: float, high: float) -> float:
        return math.exp(math.log(low) + math.log(high / low) * source.random())

    steps = round(log_uniform(25, 50))
    objects = tuple(
        (source.random(), log_uniform(0.01, 1.0), log_uniform(0.001, 0.1)) for _ in range(3)
    )
    return Design(13, steps, objects, tuple(mazes.wall_cells(name)))


def handcrafted(
    name: str,
    *,
    seed: int = 0,
    max_size: int = 13,
    max_objects: int = 5,
    observation: str = "index",
) -> GridWorld:
    """Environment "gridworld/<name>": one of the levels.

    Args:
      name: one of `names()`.
      seed: which placement.
      max_size: see `GridWorld`.
      max_objects: see `GridWorld`.
      observation: see `GridWorld`.

    Returns:
      The environment; its default parameters are the level.
    """
    params, _ = level(name, seed, max_size, max_objects)
    return GridWorld(max_size, max_objects, observation, params=params)


def factories() -> dict[str, Callable[..., GridWorld]]:
    """A constructor for each level, for the registry."""
    return {f"{PREFIX}{name}": functools.partial(handcrafted, name) for name in names()}
