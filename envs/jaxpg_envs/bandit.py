"""A bandit: one state, one decision."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces


@struct.dataclass
class EnvState(environment.EnvState):
    """State of a bandit: nothing but the time.

    Attributes:
      time: int32 scalar, 0 before the pull and 1 after it.
    """


@struct.dataclass(kw_only=True)
class EnvParams(environment.EnvParams):
    """A bandit with K arms of normally distributed rewards.

    Attributes:
      mean: `[K]` float, expected reward of each arm.
      std: `[K]` float, at least 0, standard deviation of each arm's reward.
    """

    mean: jax.Array
    std: jax.Array


class Bandit(environment.Environment[EnvState, EnvParams]):
    """A bandit with normally distributed rewards: one pull, then the episode terminates.

    The observation is `[1]`, the constant 1.
    """

    def __init__(self, num_arms: int = 10, *, mean: Any = None, std: Any = 1.0):
        """Build a bandit.

        Args:
          num_arms: at least 1; expected rewards are evenly spaced from 0 to 1. Not used where
            `mean` is given.
          mean: `[K]` floats, expected rewards.
          std: `[K]` floats or one for all arms, at least 0.

        Raises:
          ValueError: a number or shape out of range.
        """
        if num_arms < 1:
            raise ValueError(f"num_arms={num_arms} must be at least 1")
        mean = jnp.linspace(0.0, 1.0, num_arms) if mean is None else jnp.asarray(mean, jnp.float32)
        if mean.ndim != 1 or mean.size == 0:
            raise ValueError(f"mean has shape {mean.shape}; it must be [K] with K at least 1")
        std = jnp.asarray(std, jnp.float32)
        if std.shape not in ((), mean.shape) or bool(jnp.any(std < 0)):
            raise ValueError(f"std={std} must be one number or {mean.size} of them, all at least 0")
        self._default_params = EnvParams(mean=mean, std=jnp.broadcast_to(std, mean.shape))

    @property
    def default_params(self) -> EnvParams:
        """The arms given to the constructor."""
        return self._default_params

    @property
    def num_actions(self) -> int:
        """Number of arms."""
        return self._default_params.mean.shape[-1]

    def reset_env(self, key: jax.Array, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """Start an episode; nothing is drawn."""
        return jnp.ones(1), EnvState(time=jnp.zeros((), jnp.int32))

    def step_env(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, dict[str, Any]]:
        """Draw the reward of an arm and terminate."""
        reward = params.mean[action] + params.std[action] * jax.random.normal(key)
        info = {"discount": jnp.zeros(())}
        return jnp.ones(1), EnvState(time=state.time + 1), reward, jnp.array(True), info

    def is_terminated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Whether the arm is pulled."""
        return state.time >= 1

    def is_truncated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Never: the one pull terminates."""
        return jnp.array(False)

    def action_space(self, params: EnvParams | None = None) -> spaces.Discrete:
        """One of K arms."""
        params = self._default_params if params is None else params
        return spaces.Discrete(params.mean.shape[-1])

    def observation_space(self, params: EnvParams | None = None) -> spaces.Box:
        """Box [0, 1] of shape `[1]`."""
        return spaces.Box(0.0, 1.0, (1,), jnp.float32)
