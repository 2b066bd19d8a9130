"""The best return that any policy can expect on a level, exactly."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg_envs.gridworld.environment import NUM_ACTIONS, move
from jaxpg_envs.gridworld.params import GridParams

Array = jax.Array


@jax.jit
def optimal_return(params: GridParams) -> Array:
    """Undiscounted return of the best policy that knows level, time and which objects exist.

    Value iteration backwards over the steps of an episode, on all pairs of a cell and a set of
    objects. Objects come back independently of each other, so that the expectation over the `2^M`
    sets that may follow is M mixtures of two, one for each object: a step costs `O(M 2^M G^2)`.
    It is for levels whose objects have cells of their own (observations "index" and "one_hot"),
    and vmaps over levels, which then all take as many steps as the longest.

    Args:
      params: one level; G and M are those of its arrays.

    Returns:
      float32 scalar, what an episode from the start returns on average.

    >>> from jaxpg_envs.gridworld import grid_params
    >>> optimal_return(grid_params(3, 0, [(1, 2.0, 0.0, 0.0), (8, 1.0, 1.0, 0.0)], max_steps=4))
    Array(3., dtype=float32)
    """
    num_cells, max_objects = params.walls.shape[-1], params.object_cells.shape[-1]
    cells = jnp.arange(num_cells)
    after = jax.vmap(lambda action: move(params, cells, action))(jnp.arange(NUM_ACTIONS))
    # `[M, 2^M, G^2]`: whether object i is in that set; whether it is in that cell.
    members = (jnp.arange(2**max_objects) >> jnp.arange(max_objects)[:, None]) & 1
    here = (params.object_cells[:, None] == cells) & (
        jnp.arange(max_objects)[:, None] < params.num_objects
    )
    collected = (members[:, :, None] * here[:, None, :]).astype(jnp.float32)
    rewards = jnp.einsum("i,isc->sc", params.object_rewards, collected)
    goes_on = 1.0 - jnp.minimum(jnp.einsum("i,isc->sc", params.object_terminate, collected), 1.0)

    def step_back(_, values: Array) -> Array:
        """Values `[2^M, G^2]` with one more step to go."""
        expected = values
        for i in range(max_objects):
            parts = expected.reshape(-1, 2, 2**i, num_cells)
            absent, present = parts[:, 0], parts[:, 1]
            p_respawn = params.object_respawn[i]
            waits = (1.0 - p_respawn) * absent + p_respawn * present
            stays = jnp.where(here[i], absent, present)
            expected = jnp.stack([waits, stays], axis=1).reshape(values.shape)
        arrived = rewards + goes_on * expected
        return arrived[:, after].max(axis=1)

    values = jnp.zeros((2**max_objects, num_cells))
    values = jax.lax.fori_loop(0, params.max_steps_in_episode, step_back, values)
    all_objects = 2**params.num_objects - 1
    return values[all_objects, params.start]
