"""A controller and a drive in a closed loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.choices import refusal
from jaxpg_envs.motor.environment import DriveParams, ElectricDrive

Array = jax.Array
Act = Callable[[Any, tuple[Array, Array]], tuple[Any, Array]]


@struct.dataclass
class ClosedLoop:
    """What T steps were like, everything normalised by the drive's limits.

    Attributes:
      states: `[T, N]`, after each step, in the order of `env.state_names`; also the last state of
        an episode.
      references: `[T, R]`, what `states` is compared with: they were shown before the step.
      actions: `[T, ...]`.
      rewards: `[T]`.
      terminated: `[T]` bool.
    """

    states: Array
    references: Array
    actions: Array
    rewards: Array
    terminated: Array


def policy(env: ElectricDrive, params: DriveParams, controller: Any) -> Act:
    """A controller as a function of observations.

    Args:
      env: says what is observed.
      params: whose limits observations are multiplied by.
      controller: of this package, or anything with its methods.

    Returns:
      `act(state, observation) -> (state, action)` for one drive. `controller.initial()` is the
      first state of an episode; observations are pairs `(state [N], reference [R])`, also of numpy.

    Raises:
      ValueError: the drive does not observe what the controller needs, or does not reference what
        it follows.
    """
    names, followed = env.state_names, env.reference_names
    for name in getattr(controller, "needs", ()):
        _has("observed", controller, "needs", name, names)
    for name in getattr(controller, "follows", ()):
        _has("referenced", controller, "follows", name, followed)
    limits = env.limits(params)

    def act(state: Any, observation: tuple[Array, Array]) -> tuple[Any, Array]:
        values, references = observation
        measured = {name: values[k] * limits[name] for k, name in enumerate(names)}
        wanted = {name: references[k] * limits[name] for k, name in enumerate(followed)}
        following, action = controller.act(state, measured, wanted)
        return jax.tree.map(_as_before, following, state), action

    return act


def closed_loop(
    env: ElectricDrive,
    params: DriveParams,
    controller: Any,
    key: Array,
    num_steps: int,
    *,
    reset: bool = True,
) -> ClosedLoop:
    """Run a controller on a drive.

    One scan: it can be jitted, and vmapped over `params`, `controller` and `key`. With
    `env.with_transition_gradients()` it is differentiable by `params` and by the controller's
    numbers, where both are continuous.

    Args:
      env: the drive.
      params: of the drive.
      controller: see `policy`.
      key: a PRNG key.
      num_steps: T, static.
      reset: whether an episode that ends is followed by a new one, at whose start the controller
        has its initial state; else the drive goes on beyond its limits.

    Returns:
      The record of all steps.

    Raises:
      ValueError: see `policy`.

    >>> from jaxpg_envs.motor import ids
    >>> from jaxpg_envs.motor.controllers import deadbeat
    >>> env = ids.electric_drive("Cont-CC-PermExDc-v0")
    >>> params = env.default_params
    >>> run = closed_loop(env, params, deadbeat(params), jax.random.key(0), 5)
    >>> run.states.shape, run.references.shape, run.rewards.shape
    ((5, 5), (5, 1), (5,))
    """
    act = policy(env, params, controller)
    first, keys = jax.random.split(key)
    observation, state = env.reset(first, params)
    begin = controller.initial()

    def step(carry: tuple, key: Array) -> tuple[tuple, ClosedLoop]:
        memory, observation, state = carry
        memory, action = act(memory, observation)
        _, references = observation
        if reset:
            observation, state, reward, terminated, truncated, info = env.step(
                key, state, action, params
            )
            (values, _), over = info["final_observation"], terminated | truncated
            memory = jax.tree.map(lambda new, old: jnp.where(over, new, old), begin, memory)
        else:
            observation, state, reward, terminated, _ = env.step_env(key, state, action, params)
            values, _ = observation
        record = ClosedLoop(values, references, action, reward, terminated)
        return (memory, observation, state), record

    keys = jax.random.split(keys, num_steps)
    return jax.lax.scan(step, (begin, observation, state), keys)[1]


def _as_before(new: Any, old: Any) -> Array:
    """With the type that it had: a scan carries no other."""
    return jnp.asarray(new, jnp.result_type(old))


def _has(what: str, controller: Any, verb: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        sentence = refusal(what, name, names)
        raise ValueError(f"{type(controller).__name__} {verb} {name!r}, but {sentence}")
