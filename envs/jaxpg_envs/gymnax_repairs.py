"""Environments of gymnax 1.0 whose declarations disagree with what they emit, put right.

Dynamics, observations and the size of rewards are gymnax's own. Only the declared observation space
is corrected, and integer rewards become float32.
"""

from typing import Any

import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.bsuite import catch, memory_chain, umbrella_chain
from gymnax.environments.misc import bernoulli_bandit, gaussian_bandit, meta_maze, rooms


class _FloatReward:
    def step_env(self, key, state, action, params):
        """Step as gymnax does, with a float32 reward."""
        observation, state, reward, *rest = super().step_env(key, state, action, params)
        return observation, state, reward.astype(jnp.float32), *rest


class BernoulliBandit(_FloatReward, bernoulli_bandit.BernoulliBandit):
    """gymnax's "BernoulliBandit-misc" with a float reward."""


class UmbrellaChain(_FloatReward, umbrella_chain.UmbrellaChain):
    """gymnax's "UmbrellaChain-bsuite": a float reward, and a time left that rounds below 0."""

    def observation_space(self, params: Any) -> spaces.Box:
        """Box [-eps, 1] of shape `[3 + n_distractor]`, with eps that of float32."""
        space = super().observation_space(params)
        return spaces.Box(-jnp.finfo(jnp.float32).eps, space.high, space.shape, space.dtype)


class Catch(catch.Catch):
    """gymnax's "Catch-bsuite", whose observation is float32, not int32."""

    def observation_space(self, params: Any) -> spaces.Box:
        """Box [0, 1] of shape `[rows, columns]`, float32."""
        return spaces.Box(0, 1, (self.rows, self.columns), jnp.float32)


class FourRooms(rooms.FourRooms):
    """gymnax's "FourRooms-misc", whose observation of coordinates is int32, not float32."""

    def observation_space(self, params: Any) -> spaces.Box:
        """Box of shape `[4]`, int32; `[13, 13, 2]`, float32, with `use_visual_obs`."""
        space = super().observation_space(params)
        dtype = space.dtype if self.use_visual_obs else jnp.int32
        return spaces.Box(space.low, space.high, space.shape, dtype)


class MemoryChain(memory_chain.MemoryChain):
    """gymnax's "MemoryChain-bsuite", which shows a context bit of 0 as -1."""

    def observation_space(self, params: Any) -> spaces.Box:
        """Box of shape `[num_bits + 2]` from -1."""
        space = super().observation_space(params)
        return spaces.Box(-1, space.high, space.shape, space.dtype)


class GaussianBandit(gaussian_bandit.GaussianBandit):
    """gymnax's "GaussianBandit-misc", whose observed last reward has no bounds."""

    def observation_space(self, params: Any) -> spaces.Box:
        """Box of shape `[4]`: last reward, last action one-hot, time."""
        return _with_reward_and_time(super().observation_space(params), reward=0)


class MetaMaze(meta_maze.MetaMaze):
    """gymnax's "MetaMaze-misc", whose observed last reward is a parameter, not at most 1."""

    def observation_space(self, params: Any) -> spaces.Box:
        """Box of gymnax's shape: surroundings, last action one-hot, last reward, time."""
        return _with_reward_and_time(super().observation_space(params), reward=-2)


def _with_reward_and_time(space: spaces.Box, reward: int) -> spaces.Box:
    # The time, last of all, is counted from -1 where it is normalised.
    low = space.low.at[reward].set(-jnp.inf).at[-1].set(-1.0)
    high = space.high.at[reward].set(jnp.inf)
    return spaces.Box(low, high, space.shape, space.dtype)


REPAIRED = {
    "BernoulliBandit-misc": BernoulliBandit,
    "Catch-bsuite": Catch,
    "FourRooms-misc": FourRooms,
    "GaussianBandit-misc": GaussianBandit,
    "MemoryChain-bsuite": MemoryChain,
    "MetaMaze-misc": MetaMaze,
    "UmbrellaChain-bsuite": UmbrellaChain,
}
"""gymnax's ids and the classes that `make` builds for them."""
