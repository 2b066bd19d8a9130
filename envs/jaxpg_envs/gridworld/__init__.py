"""Grid worlds whose objects pay, vanish, come back and may end the episode: levels for learning.

    env = gridworld.GridWorld(max_size=13, max_objects=5)      # plays every level up to this size
    level, lifetime = gridworld.sample(key, gridworld.ALL)      # a level is the env's parameters
    observation, state = env.reset(key, level)
    best = gridworld.optimal_return(level)

A level is a pytree of arrays, so that hundreds of different levels are one `vmap`. A few that are
made by hand have names: `jaxpg_envs.make("gridworld/dense")`.
"""

from jaxpg_envs.gridworld import handcrafted, levels, mazes, optimal, picture
from jaxpg_envs.gridworld.building import grid_params
from jaxpg_envs.gridworld.checks import check
from jaxpg_envs.gridworld.environment import OBSERVATIONS, GridState, GridWorld, move
from jaxpg_envs.gridworld.levels import ALL, ALL_SHORT_LIFE, SMALL, LevelDistribution, sample
from jaxpg_envs.gridworld.optimal import optimal_return
from jaxpg_envs.gridworld.params import GridParams

__all__ = [
    "ALL",
    "ALL_SHORT_LIFE",
    "OBSERVATIONS",
    "SMALL",
    "GridParams",
    "GridState",
    "GridWorld",
    "LevelDistribution",
    "check",
    "grid_params",
    "handcrafted",
    "levels",
    "mazes",
    "move",
    "optimal",
    "optimal_return",
    "picture",
    "sample",
]
