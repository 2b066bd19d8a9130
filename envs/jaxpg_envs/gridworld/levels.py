"""Random levels: the distributions on which update rules are meta-trained."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxpg_envs.gridworld.environment import GridWorld
from jaxpg_envs.gridworld.params import GridParams

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LevelDistribution:
    """Ranges from which a level and an agent's lifetime are drawn, all bounds included.

    Attributes:
      sizes: cells along a side, uniform.
      objects: number of objects, uniform.
      steps: steps of an episode.
      lifetimes: updates in an agent's life on the level.
      first_reward: of the first object, uniform, so that something is worth collecting.
      rewards: of each other object, uniform.
      terminate: probability that collecting an object ends the episode, log-uniform.
      respawn: probability for each step that an absent object comes back, log-uniform.
      num_walls: wall cells, drawn without replacement from the cells of the largest size. Those
        beyond a smaller level's grid do not count.
      log_uniform: whether steps and lifetimes are uniform on a logarithmic scale and rounded; if
        not, they are uniform integers.
    """

    sizes: tuple[int, int] = (4, 10)
    objects: tuple[int, int] = (1, 5)
    steps: tuple[int, int] = (20, 750)
    lifetimes: tuple[int, int] = (10, 250)
    first_reward: tuple[float, float] = (0.0, 1.0)
    rewards: tuple[float, float] = (-1.0, 1.0)
    terminate: tuple[float, float] = (0.01, 1.0)
    respawn: tuple[float, float] = (0.001, 0.1)
    num_walls: int = 15
    log_uniform: bool = True

    def __post_init__(self):
        for field in dataclasses.fields(self)[:-2]:
            low, high = getattr(self, field.name)
            if not low <= high:
                raise ValueError(f"{field.name}={(low, high)} must be (low, high), low first")
        for name, least in (("sizes", 2), ("objects", 0), ("steps", 1), ("lifetimes", 1)):
            if getattr(self, name)[0] < least:
                raise ValueError(f"{name}={getattr(self, name)} must begin at {least} or above")
        for name in ("terminate", "respawn"):
            low, high = getattr(self, name)
            if not (0 < low and high <= 1):
                raise ValueError(f"{name}={(low, high)} must lie in (0, 1], for its logarithm")
        if self.objects[1] + 1 > self.sizes[0] ** 2:
            raise ValueError(
                f"objects={self.objects} and a start need {self.objects[1] + 1} cells, but "
                f"sizes={self.sizes} has only {self.sizes[0] ** 2} in the smallest grid"
            )
        if not 0 <= self.num_walls <= self.sizes[1] ** 2:
            raise ValueError(
                f"num_walls={self.num_walls} is outside 0 to {self.sizes[1] ** 2}, the cells of "
                f"the largest grid"
            )


ALL = LevelDistribution()
"""GROOVE's "all" levels. Lifetimes are log-uniform in [10, 250], the wider of the two choices that
its experiments name for these levels."""

ALL_SHORT_LIFE = dataclasses.replace(ALL, lifetimes=(250, 250))
"""The same levels with lifetimes of 250 updates."""

SMALL = LevelDistribution(
    sizes=(4, 6), objects=(1, 3), steps=(20, 100), lifetimes=(50, 100), num_walls=7
)
"""Small enough for a processor."""


@functools.partial(jax.jit, static_argnames=("distribution", "max_size", "max_objects"))
def sample(
    key: Array, distribution: LevelDistribution, max_size: int = 13, max_objects: int = 5
) -> tuple[GridParams, Array]:
    """Draw one level and the lifetime of an agent on it; `vmap` over keys draws many.

    Start and objects are in distinct free cells, each set of which is equally probable. Walls may
    cut an object off, as in the source. Where walls leave fewer free cells than are needed, which
    the distributions here do less than once in a million levels, the start and the objects
    displace as many walls as they have to. An object's fields beyond `num_objects` are 0.

    Args:
      key: random key.
      distribution: static.
      max_size: G of the environment, at least the distribution's largest size.
      max_objects: M of the environment, at least the distribution's most objects.

    Returns:
      `(level, lifetime)`, the lifetime as an int32 scalar.

    Raises:
      ValueError: `max_size` or `max_objects` has no room for the distribution.

    Source: LPG, arXiv 2007.08794; GROOVE, arXiv 2310.02782 (and its public code for the ranges).
    """
    if max_size < distribution.sizes[1]:
        raise ValueError(
            f"max_size={max_size} is below {distribution.sizes[1]}, the distribution's largest size"
        )
    if max_objects < distribution.objects[1]:
        raise ValueError(
            f"max_objects={max_objects} is below {distribution.objects[1]}, the distribution's "
            f"most objects"
        )
    keys = jax.random.split(key, 9)
    size = _integer(keys[0], distribution.sizes)
    num_objects = _integer(keys[1], distribution.objects)
    steps, lifetime = (
        (_log_integer if distribution.log_uniform else _integer)(key, bounds)
        for key, bounds in ((keys[2], distribution.steps), (keys[3], distribution.lifetimes))
    )
    used = jnp.arange(max_objects) < num_objects
    # One draw in [0, 1), stretched to the first object's range and to the others'.
    shares = jax.random.uniform(keys[4], (max_objects,))
    first = _stretched(shares[:1], distribution.first_reward)
    rewards = jnp.concatenate([first, _stretched(shares[1:], distribution.rewards)])
    cells = jnp.arange(max_size**2)
    inside = cells < size**2
    wall_cells = jax.random.choice(
        keys[5], distribution.sizes[1] ** 2, (distribution.num_walls,), replace=False
    )
    walls = jnp.zeros(max_size**2, bool).at[wall_cells].set(True) & inside
    # Free cells in random order, then walls, then what is no cell of this level.
    order = jax.random.uniform(keys[6], cells.shape) + jnp.where(walls, 0.0, 1.0)
    places = jax.lax.top_k(jnp.where(inside, order, -1.0), min(max_objects + 1, max_size**2))[1]
    places = jnp.pad(places, (0, max_objects + 1 - len(places))).astype(jnp.int32)
    needed = jnp.concatenate([jnp.ones(1, bool), used])
    walls = walls.at[jnp.where(needed, places, max_size**2)].set(False, mode="drop")
    level = GridParams(
        max_steps_in_episode=steps,
        size=size,
        start=places[0],
        walls=walls,
        num_objects=num_objects,
        object_cells=jnp.where(used, places[1:], 0),
        object_rewards=jnp.where(used, rewards, 0.0),
        object_terminate=jnp.where(
            used, _log_uniform(keys[7], distribution.terminate, (max_objects,)), 0.0
        ),
        object_respawn=jnp.where(
            used, _log_uniform(keys[8], distribution.respawn, (max_objects,)), 0.0
        ),
    )
    return level, lifetime


def random_instance(
    seed: int = 0, *, max_size: int = 13, max_objects: int = 5, observation: str = "index"
) -> GridWorld:
    """Environment "gridworld/random": one fixed level of `ALL`.

    Args:
      seed: which level.
      max_size: see `GridWorld`, at least 10.
      max_objects: see `GridWorld`, at least 5.
      observation: see `GridWorld`.

    Returns:
      The environment; its default parameters are the level.
    """
    level, _ = sample(jax.random.key(seed), ALL, max_size, max_objects)
    return GridWorld(max_size, max_objects, observation, params=level)


def _integer(key: Array, bounds: tuple[int, int]) -> Array:
    return jax.random.randint(key, (), bounds[0], bounds[1] + 1, jnp.int32)


def _log_integer(key: Array, bounds: tuple[int, int]) -> Array:
    return jnp.round(_log_uniform(key, bounds, ())).astype(jnp.int32)


def _log_uniform(key: Array, bounds: tuple[float, float], shape: tuple[int, ...]) -> Array:
    low, high = jnp.log(jnp.array(bounds, jnp.float32))
    drawn = jnp.exp(jax.random.uniform(key, shape, minval=low, maxval=high))
    # The exponential of a logarithm may miss the bound by a rounding.
    return jnp.clip(drawn, *bounds)


def _stretched(shares: Array, bounds: tuple[float, float]) -> Array:
    return bounds[0] + (bounds[1] - bounds[0]) * shares
