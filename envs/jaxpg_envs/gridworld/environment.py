"""The grid world: walk, collect objects that pay, vanish, come back and may end the episode."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from jaxpg_envs.choices import refusal
from jaxpg_envs.gridworld.building import grid_params
from jaxpg_envs.gridworld.checks import check, check_shapes
from jaxpg_envs.gridworld.params import GridParams

Array = jax.Array

OBSERVATIONS = ("index", "one_hot", "planes")
"""What an agent sees: see `GridWorld`."""

NUM_ACTIONS = 5
"""Up, down, left, right, stay."""

TIME_SCALE = 0.001
"""Of the time feature: one step adds so much."""


@struct.dataclass
class GridState(environment.EnvState):
    """State of an episode.

    Attributes:
      time: int32 scalar, steps taken.
      cell: int32 scalar, where the agent is.
      exists: `[M]` bool, objects that can be collected.
      object_cells: `[M]` int32, where they are, or will come back.
      terminated: bool scalar, whether an object ended the episode.
    """

    cell: Array
    exists: Array
    object_cells: Array
    terminated: Array


class GridWorld(environment.Environment[GridState, GridParams]):
    """Grid worlds of LPG, one for each level of parameters.

    The actions are up, down, left, right and stay; walls and the border block. A step, in order:
    the agent moves; an object that exists in the cell it is in now is collected, which pays its
    reward; every absent object comes back with its `p_respawn`, seen from the next step on; the
    collected object goes, and stays away for that step even where `p_respawn` is 1; the episode
    terminates with the collected object's `p_terminate`. After `max_steps_in_episode` steps it is
    truncated, unless that step terminated it. Episodes begin in the level's start cell with all
    its objects.

    What is observed is one of three. S is the number of states that a table needs,
    `num_states = G^2 * 2^M`, where G is `max_size` and M is `max_objects`.

    - "index": the tuple `(index, time)`. The index, int32 in `[0, S)`, is
      `cell + G^2 * sum_i 2^i exists_i`; the time is float32, 0.001 for each step taken. A table
      indexed by it plus a weight of the time is a linear function of "one_hot", without its cost.
    - "one_hot": `[S + 1]` float32, that index as a one-hot vector, then that time.
    - "planes": `[G^2 * (1 + M) + 1]` float32 for function approximation, `G x G` pictures of the
      agent and of each object where it exists, then the time. Every picture's rows have G columns,
      so that `observation[:-1].reshape(1 + M, G, G)` shows the level in the upper left. Here
      objects have no cells of their own: they start each episode, and come back, in cells drawn
      uniformly from those that are free of walls, the agent and the other objects (the tabular
      observation could not tell where they are). LPG calls these random grid worlds. Its public
      successor merges objects of one type in one picture; here each object has its own properties,
      and so its own picture. A level's `object_cells` are not used.

    Source: LPG, Oh et al. 2020 (arXiv 2007.08794), section 4 and appendix; GROOVE, Jackson et al.
    2023 (arXiv 2310.02782).

    >>> level = grid_params(2, 0, [(3, 1.0, 1.0, 0.0)], max_size=2, max_objects=1)
    >>> env = GridWorld(2, 1, params=level)
    >>> (index, time), state = env.reset(jax.random.key(0))
    >>> index.item(), env.num_states                 # in cell 0; the object exists
    (4, 8)
    >>> _, state, reward, *_ = env.step(jax.random.key(1), state, 3)
    >>> _, state, reward, terminated, *_ = env.step(jax.random.key(2), state, 1)
    >>> reward.item(), terminated.item()
    (1.0, True)
    """

    def __init__(
        self,
        max_size: int = 13,
        max_objects: int = 5,
        observation: str = "index",
        *,
        params: GridParams | None = None,
    ):
        """Build the environment of all levels up to a size.

        Args:
          max_size: G, at least 2, the largest grid.
          max_objects: M, at least 1, the most objects.
          observation: one of `OBSERVATIONS`.
          params: the level that becomes `default_params`. Without one it is the empty grid of
            the largest size, from the first to the last cell, where one object pays 1 and
            terminates.

        Raises:
          ValueError: an argument out of range, or a level that is none or does not fit.
        """
        if observation not in OBSERVATIONS:
            raise ValueError(refusal("observation", observation, OBSERVATIONS))
        for name, value, least in (("max_size", max_size, 2), ("max_objects", max_objects, 1)):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if max_size**2 * 2**max_objects >= 2**31:
            raise ValueError(
                f"max_size={max_size} and max_objects={max_objects} give more states than an int32 "
                f"counts; at most 2^31 - 1 are possible"
            )
        self.max_size = max_size
        self.max_objects = max_objects
        self.observation = observation
        if params is None:
            goal = [(max_size**2 - 1, 1.0, 1.0, 0.0)]
            params = grid_params(max_size, 0, goal, max_size=max_size, max_objects=max_objects)
        check_shapes(params, max_size, max_objects)
        check(params)
        self._default_params = params

    @property
    def default_params(self) -> GridParams:
        """The level given to the constructor."""
        return self._default_params

    @property
    def name(self) -> str:
        """Name of the environment."""
        return "gridworld"

    @property
    def num_actions(self) -> int:
        """Up, down, left, right, stay."""
        return NUM_ACTIONS

    @property
    def num_states(self) -> int:
        """S, the number of places of the agent times that of sets of objects."""
        return self.max_size**2 * 2**self.max_objects

    def reset_env(self, key: Array, params: GridParams) -> tuple[Any, GridState]:
        """All objects, the agent in the start cell; only "planes" draws anything."""
        check_shapes(params, self.max_size, self.max_objects)
        # Copies: a state whose buffers are donated must not share them with the level.
        start = jnp.array(params.start, jnp.int32, copy=True)
        used = jnp.arange(self.max_objects) < params.num_objects
        if self.observation == "planes":
            object_cells = self._free_cells(key, params, start[None])
        else:
            object_cells = jnp.array(params.object_cells, jnp.int32, copy=True)
        state = GridState(
            time=jnp.zeros((), jnp.int32),
            cell=start,
            exists=used,
            object_cells=object_cells,
            terminated=jnp.zeros((), bool),
        )
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: GridState, action: Array, params: GridParams
    ) -> tuple[Any, GridState, Array, Array, dict[str, Any]]:
        """Move, collect, draw who comes back and whether the episode ends."""
        check_shapes(params, self.max_size, self.max_objects)
        chance_key, place_key = key, None
        if self.observation == "planes":
            chance_key, place_key = jax.random.split(key)
        chances = jax.random.uniform(chance_key, (self.max_objects + 1,))
        used = jnp.arange(self.max_objects) < params.num_objects
        cell = move(params, state.cell, action)
        collected = state.exists & (state.object_cells == cell)
        appears = used & ~state.exists & (chances[1:] < params.object_respawn)
        exists = (state.exists | appears) & ~collected
        reward = jnp.sum(params.object_rewards * collected)
        terminated = chances[0] < jnp.sum(params.object_terminate * collected)
        object_cells = state.object_cells
        if self.observation == "planes":
            stays = jnp.where(exists & ~appears, object_cells, self.max_size**2)
            free = self._free_cells(place_key, params, jnp.append(stays, cell))
            rank = jnp.cumsum(appears) - 1
            object_cells = jnp.where(appears, free[rank], object_cells)
        state = GridState(
            time=state.time + 1,
            cell=cell,
            exists=exists,
            object_cells=object_cells,
            terminated=terminated,
        )
        info = {"discount": 1.0 - terminated.astype(jnp.float32)}
        return self.get_obs(state, params), state, reward, terminated, info

    def _free_cells(self, key: Array, params: GridParams, occupied: Array) -> Array:
        """Cells without wall that are not `occupied`, in random order, `[M]`.

        Where there are fewer than M, others follow. They are not used: a level leaves a free cell
        for the agent and each object. Occupied cells of `G^2` and above are no cells.
        """
        cells = jnp.arange(self.max_size**2)
        taken = params.walls | (cells >= params.size**2)
        taken = taken.at[occupied].set(True, mode="drop")
        order = jnp.where(taken, -1.0, jax.random.uniform(key, cells.shape))
        num_drawn = min(self.max_objects, self.max_size**2)
        free = jax.lax.top_k(order, num_drawn)[1].astype(jnp.int32)
        return jnp.pad(free, (0, self.max_objects - num_drawn))

    def get_obs(
        self, state: GridState, params: GridParams | None = None, key: Array | None = None
    ) -> Any:
        """What `GridWorld` says under the chosen observation."""
        del key
        params = self._default_params if params is None else params
        time = TIME_SCALE * state.time.astype(jnp.float32)
        if self.observation == "planes":
            return jnp.concatenate([self._planes(state, params), time[None]])
        powers = 2 ** jnp.arange(self.max_objects, dtype=jnp.int32)
        index = state.cell + self.max_size**2 * jnp.sum(powers * state.exists, dtype=jnp.int32)
        if self.observation == "index":
            return index, time
        one_hot = jax.nn.one_hot(index, self.num_states, dtype=jnp.float32)
        return jnp.concatenate([one_hot, time[None]])

    def _planes(self, state: GridState, params: GridParams) -> Array:
        cells = jnp.concatenate([state.cell[None], state.object_cells])
        shown = jnp.concatenate([jnp.ones(1, bool), state.exists])
        row, column = jnp.divmod(cells, params.size)
        planes = jax.nn.one_hot(row * self.max_size + column, self.max_size**2, dtype=jnp.float32)
        return (planes * shown[:, None]).reshape(-1)

    def is_terminated(self, state: GridState, params: GridParams) -> Array:
        """Whether a collected object ended the episode."""
        return state.terminated

    def is_truncated(self, state: GridState, params: GridParams) -> Array:
        """Whether the steps are used up in a step that did not terminate."""
        return (state.time >= params.max_steps_in_episode) & ~state.terminated

    def action_space(self, params: GridParams | None = None) -> spaces.Discrete:
        """Up, down, left, right, stay."""
        return spaces.Discrete(NUM_ACTIONS)

    def observation_space(self, params: GridParams | None = None) -> spaces.Tuple | spaces.Box:
        """See `GridWorld`; the time is not bounded above, so that one space fits every level."""
        if self.observation == "index":
            time = spaces.Box(0.0, jnp.inf, (), jnp.float32)
            return spaces.Tuple((spaces.Discrete(self.num_states), time))
        planes = self.max_size**2 * (1 + self.max_objects)
        width = self.num_states if self.observation == "one_hot" else planes
        return spaces.Box(0.0, jnp.inf, (width + 1,), jnp.float32)


def move(params: GridParams, cell: Array, action: Array) -> Array:
    """The cell after an action.

    Args:
      params: one level.
      cell: int32, any shape, cells of the level.
      action: int, the same shape or one that broadcasts, in `[0, 5)`: up, down, left, right, stay.

    Returns:
      int32, where the agent is; the same cell where a wall or the border blocks.
    """
    row, column = jnp.divmod(cell, params.size)
    row = jnp.clip(row + jnp.array([-1, 1, 0, 0, 0])[action], 0, params.size - 1)
    column = jnp.clip(column + jnp.array([0, 0, -1, 1, 0])[action], 0, params.size - 1)
    target = row * params.size + column
    return jnp.where(params.walls[target], cell, target).astype(jnp.int32)
