"""A point mass that pushes itself to any place in a box: the smallest task with descriptors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

Array = jax.Array


@struct.dataclass
class PointState(environment.EnvState):
    """State of an episode.

    Attributes:
      time: int32 scalar, steps taken.
      position: `[2]` float.
      velocity: `[2]` float.
    """

    position: Array
    velocity: Array


@struct.dataclass(kw_only=True)
class PointParams(environment.EnvParams):
    """The box and the dynamics.

    Attributes:
      max_steps_in_episode: T, the episode is truncated after so many steps.
      low: `[2]` float, where the box begins.
      high: `[2]` float, where it ends; not 0, because observations are divided by it.
      friction: share of the velocity that is left after a step.
      push: velocity that an action of 1 adds.
      control_cost: of an action of length 1.
    """

    max_steps_in_episode: int = 50
    low: Any
    high: Any
    friction: float = 0.9
    push: float = 0.02
    control_cost: float = 0.5


class PointOmni(environment.Environment[PointState, PointParams]):
    """Rest at the origin, push, and be judged by where the episode ends.

    `v' = 0.9 v + 0.02 a` and `x' = clip(x + v', low, high)`; the walls stop the position and leave
    the velocity as it is. The action `[2]` is clipped to [-1, 1]. The reward is
    `1 - 0.5 |a|^2`, never negative. Episodes do not terminate; they are truncated.

    The observation `[4]` is the position divided by `high`, which is the running descriptor, and
    the velocity. The descriptor of an episode is the position after its last step.

    >>> env = PointOmni()
    >>> observation, state = env.reset_env(jax.random.key(0), env.default_params)
    >>> observation, state, reward, *_ = env.step_env(
    ...     jax.random.key(1), state, jnp.array([1.0, 0.0]), env.default_params
    ... )
    >>> observation.tolist(), reward.item()
    ([0.02, 0.0, 0.02, 0.0], 0.5)
    """

    _supports_transition_gradients = True

    @property
    def default_params(self) -> PointParams:
        """The box [-1, 1]^2 and T = 50."""
        return PointParams(low=-jnp.ones(2), high=jnp.ones(2))

    @property
    def name(self) -> str:
        """Name of the environment."""
        return "locomotion/point-omni"

    @property
    def num_actions(self) -> int:
        """Number of components of an action."""
        return 2

    def reset_env(self, key: Array, params: PointParams) -> tuple[Array, PointState]:
        """Start at rest in the origin, whatever the key."""
        del key
        # Two arrays, not one twice: a state whose buffers are donated must not share them.
        state = PointState(
            time=jnp.zeros((), jnp.int32), position=jnp.zeros(2), velocity=jnp.zeros(2)
        )
        return self.get_obs(state, params), state

    def step_env(
        self, key: Array, state: PointState, action: Array, params: PointParams
    ) -> tuple[Array, PointState, Array, Array, dict[str, Any]]:
        """Push once; the dynamics are deterministic, so `key` is not used."""
        del key
        low, high = self.descriptor_bounds(params)
        action = jnp.clip(action, -1.0, 1.0)
        velocity = params.friction * state.velocity + params.push * action
        position = jnp.clip(state.position + velocity, low, high)
        reward = 1.0 - params.control_cost * jnp.sum(jnp.square(action))
        state = PointState(time=state.time + 1, position=position, velocity=velocity)
        observation, state = self._apply_transition_gradient_policy(
            self.get_obs(state, params), state
        )
        return observation, state, reward, self.is_terminated(state, params), {}

    def get_obs(self, state: PointState, params: PointParams, key: Array | None = None) -> Array:
        """Position divided by `high`, then velocity, `[4]`."""
        del key
        _, high = self.descriptor_bounds(params)
        return jnp.concatenate([state.position / high, state.velocity])

    def is_terminated(self, state: PointState, params: PointParams) -> Array:
        """Never: episodes are truncated."""
        return jnp.zeros((), bool)

    def descriptor_bounds(self, params: PointParams) -> tuple[Array, Array]:
        """Box of the descriptors, `(low [2], high [2])`."""
        return jnp.asarray(params.low, float), jnp.asarray(params.high, float)

    def descriptor_of(self, observation: Array, params: PointParams) -> Array:
        """Descriptor of the episode of which `observation [..., 4]` is the last, `[..., 2]`."""
        return observation[..., :2] * self.descriptor_bounds(params)[1]

    def action_space(self, params: PointParams | None = None) -> spaces.Box:
        """Box [-1, 1]^2."""
        return spaces.Box(-1.0, 1.0, (2,), jnp.float32)

    def observation_space(self, params: PointParams | None = None) -> spaces.Box:
        """Unbounded box of shape `[4]`."""
        return spaces.Box(-jnp.inf, jnp.inf, (4,), jnp.float32)
