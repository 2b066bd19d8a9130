"""Episodes of brax with a descriptor: where the torso ended, or how often each foot stood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from jaxpg_envs import brax_adapter
from jaxpg_envs.choices import refusal

Array = jax.Array

# Starts that the argument of this name accepts.
STARTS = ("drawn", "fixed")

_METHODS = ("descriptor_bounds", "descriptor_of")


class Descriptor(NamedTuple):
    """How a descriptor grows along an episode.

    Attributes:
      size: D.
      start: brax's pipeline state at the start -> `[D]` float, what is carried.
      update: `(carried, pipeline state after a step) -> carried`.
      read: `(carried, steps taken) -> [D]`, the descriptor so far.
    """

    size: int
    start: Callable[[Any], Array]
    update: Callable[[Array, Any], Array]
    read: Callable[[Array, Array], Array]


def torso_position() -> Descriptor:
    """The place (x, y) of the first link, which is the torso of every walker of brax."""

    def position(pipeline_state: Any) -> Array:
        return pipeline_state.x.pos[0, :2]

    return Descriptor(
        size=2,
        start=position,
        update=lambda carried, pipeline_state: position(pipeline_state),
        read=lambda carried, time: carried,
    )


def foot_contacts(sys: Any, feet: Sequence[str], floor: str = "floor") -> Descriptor:
    """The share of steps after which each foot touches the ground; 0 before the first step.

    A foot touches where the distance of its geometry to the floor is not positive at the end of a
    step. The distances come from brax's own collision pass over the links' positions, which every
    backend knows. (A backend keeps no contacts itself unless it is told to debug, which would
    repeat this pass in every substep.)

    Args:
      sys: system of the brax environment.
      feet: names of the geometries, whose order is that of the descriptor.
      floor: name of the ground's geometry.

    Returns:
      A descriptor of D = `len(feet)`.

    Raises:
      ValueError: a name that the model does not have.
    """
    model = sys.mj_model
    names = [model.geom(index).name for index in range(model.ngeom)]
    for argument, given in [("floor", floor), *(("feet", foot) for foot in feet)]:
        if given not in names:
            raise ValueError(refusal(argument, given, filter(None, names)))
    floor_id = names.index(floor)
    foot_ids = np.array([names.index(foot) for foot in feet])

    def touching(pipeline_state: Any) -> Array:
        from brax import contact as collisions

        with brax_adapter.without_notices():
            contact = collisions.get(sys, pipeline_state.x)
        first, second = jnp.asarray(contact.geom1), jnp.asarray(contact.geom2)
        other = jnp.where(first == floor_id, second, jnp.where(second == floor_id, first, -1))
        touches = (other == foot_ids[:, None]) & (contact.dist <= 0)
        return jnp.any(touches, axis=-1).astype(jnp.float32)

    return Descriptor(
        size=len(feet),
        start=lambda pipeline_state: jnp.zeros(len(feet)),
        update=lambda carried, pipeline_state: carried + touching(pipeline_state),
        read=lambda carried, time: carried / jnp.maximum(time, 1),
    )


@struct.dataclass
class DescribedState(brax_adapter.EnvState):
    """State of an episode.

    Attributes:
      time: int32 scalar, steps taken.
      brax_state: brax's own `State`.
      carried: `[D]` float, what the descriptor is read from.
    """

    carried: Array


@struct.dataclass(kw_only=True)
class DescribedParams(brax_adapter.EnvParams):
    """Parameters of a task with descriptors.

    Attributes:
      max_steps_in_episode: T, the episode is truncated after so many steps.
      low: `[D]` float, where the box of the descriptors begins.
      high: `[D]` float, where it ends; not 0, because observations are divided by it.
      reward_shift: added to the reward of each step, before what is below 0 becomes 0.
    """

    low: Any
    high: Any
    reward_shift: float = 0.0


class DescribedBrax(brax_adapter.BraxEnvironment):
    """An environment of brax whose observation begins with the running descriptor.

    The observation `[D + n]` is the descriptor of the episode so far, clipped to its box and
    divided by `high`, and then what brax shows. `terminated` is brax's own `done`, `truncated` the
    step limit. The reward is brax's, without its forward term where one is named, plus
    `reward_shift`, and 0 where that is negative: rewards that are later multiplied by a similarity
    must not be.

    Attributes:
      descriptor: how the descriptor grows along an episode.
    """

    def __init__(
        self,
        brax_env: Any,
        descriptor: Descriptor,
        params: DescribedParams,
        *,
        forward_metric: str | None = None,
        start: str = "fixed",
        name: str | None = None,
    ):
        """Wrap an environment of brax.

        Args:
          brax_env: as for `BraxEnvironment`, with one array as observation.
          descriptor: how the descriptor grows along an episode.
          params: becomes `default_params`.
          forward_metric: name of brax's metric that is taken out of the reward.
          start: "fixed" draws one start, from a fixed seed, and begins every episode there;
            "drawn" runs brax's reset with the given key each time.
          name: shown as `env.name`; the class of `brax_env` by default.

        Raises:
          TypeError: `brax_env` is not a brax environment.
          ValueError: an argument is out of range.
        """
        if start not in STARTS:
            raise ValueError(refusal("start", start, STARTS))
        reset = "cached" if start == "fixed" else "fresh"
        super().__init__(brax_env, reset=reset, num_starts=1, name=name)
        self.descriptor = descriptor
        self._forward_metric = forward_metric
        self._default_params = params

    @property
    def default_params(self) -> DescribedParams:
        """The parameters given to the constructor."""
        return self._default_params

    def reset_env(self, key: Array, params: DescribedParams) -> tuple[Array, DescribedState]:
        """Start an episode; see `start` of the constructor."""
        _, start = super().reset_env(key, params)
        carried = self.descriptor.start(start.brax_state.pipeline_state)
        state = DescribedState(time=start.time, brax_state=start.brax_state, carried=carried)
        return self._observe(state, params), state

    def step_env(
        self, key: Array, state: DescribedState, action: Array, params: DescribedParams
    ) -> tuple[Array, DescribedState, Array, Array, dict[str, Any]]:
        """One step of brax; `info` holds its metrics, among them the forward term."""
        _, after, reward, terminated, info = super().step_env(key, state, action, params)
        carried = self.descriptor.update(state.carried, after.brax_state.pipeline_state)
        state = DescribedState(time=after.time, brax_state=after.brax_state, carried=carried)
        if self._forward_metric is not None:
            reward = reward - info["metrics"][self._forward_metric]
        reward = jnp.maximum(reward + params.reward_shift, 0.0)
        observation, state = self._apply_transition_gradient_policy(
            self._observe(state, params), state
        )
        return observation, state, reward, terminated, info

    def _observe(self, state: DescribedState, params: DescribedParams) -> Array:
        low, high = self.descriptor_bounds(params)
        descriptor = jnp.clip(self.descriptor.read(state.carried, state.time), low, high)
        return jnp.concatenate([descriptor / high, state.brax_state.obs])

    def descriptor_bounds(self, params: DescribedParams) -> tuple[Array, Array]:
        """Box of the descriptors, `(low [D], high [D])`."""
        return jnp.asarray(params.low, float), jnp.asarray(params.high, float)

    def descriptor_of(self, observation: Array, params: DescribedParams) -> Array:
        """Descriptor of the episode of which `observation [..., D + n]` is the last, `[..., D]`."""
        return observation[..., : self.descriptor.size] * self.descriptor_bounds(params)[1]

    def observation_space(self, params: DescribedParams | None = None) -> spaces.Box:
        """Unbounded box of shape `[D + n]`."""
        of_brax = super().observation_space(params)
        shape = (self.descriptor.size + of_brax.shape[0],)
        return spaces.Box(-jnp.inf, jnp.inf, shape, of_brax.dtype)


def check_descriptors(env: Any, params: Any = None) -> None:
    """Refuse an environment that does not say what its episodes did.

    It must have `descriptor_bounds(params) -> (low [D], high [D])` and
    `descriptor_of(observation, params) -> [D]`, which reads the descriptor of an episode from its
    last observation, leading axes free.

    Args:
      env: in gymnax's interface.
      params: its parameters; `env.default_params` by default.

    Raises:
      TypeError: `env` has no descriptors.
      ValueError: its bounds or its descriptors have the wrong shape, or the box is empty.

    >>> from jaxpg_envs import make
    >>> check_descriptors(*make("locomotion/point-omni"))
    """
    missing = [method for method in _METHODS if not callable(getattr(env, method, None))]
    if missing:
        raise TypeError(
            f"env={getattr(env, 'name', type(env).__name__)} has no {' and no '.join(missing)}; "
            "an environment with descriptors is needed, such as 'locomotion/point-omni'"
        )
    params = env.default_params if params is None else params
    low, high = (np.asarray(bound) for bound in env.descriptor_bounds(params))
    if low.ndim != 1 or low.shape != high.shape:
        raise ValueError(
            f"descriptor_bounds of {env.name} have shapes {list(low.shape)} and "
            f"{list(high.shape)}; both must be [D]"
        )
    if not (low < high).all():
        raise ValueError(
            f"descriptor_bounds of {env.name} are {low.tolist()} and {high.tolist()}; "
            "every low must be less than its high"
        )

    def described(key: Array) -> Array:
        observation, _ = env.reset_env(key, params)
        # With a leading axis, of which descriptor_of must know nothing.
        return env.descriptor_of(jax.tree.map(lambda leaf: leaf[None], observation), params)

    shape = jax.eval_shape(described, jax.random.key(0)).shape
    if shape != (1, *low.shape):
        raise ValueError(
            f"descriptor_of {env.name} turns one observation with a leading axis [1] into shape "
            f"{list(shape)}; it must be {[1, *low.shape]}"
        )
