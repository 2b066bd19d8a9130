"""What controls a drive, learned or designed, and what it costs per step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg_envs
from experiments.method_runs import Context, MethodRun
from jaxpg import algorithms, estimators, exploration, networks, rollout
from jaxpg.choices import at_least
from jaxpg_envs import motor

Array = jax.Array
TEST_SEED = 2**20
"""Of the references that everything is tested on; no run trains with it."""
PICTURED = 400
"""Steps of the picture."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of all parts.

    Attributes:
      replayed: drives that are compared with gym-electric-motor.
      total_steps: environment steps of one seed of PPO.
      num_envs: drives side by side.
      num_steps: steps of each in one update of PPO.
      num_epochs: passes over each batch.
      num_minibatches: gradient steps in each pass.
      learning_rate: of PPO, falling linearly to 0.
      ddpg_steps: environment steps of one seed of DDPG.
      ddpg_envs: drives side by side.
      ddpg_gradient_steps: after each step of all of them.
      ddpg_learning_rate: of both networks.
      exploration: standard deviation of DDPG's noise, in units of half an action's range.
      current_discount: where a current or two are controlled.
      speed_discount: where the speed is.
      test_drives: of a test.
      test_steps: of each of them.
      recording: steps of the recording that a motor is identified from.
      identification_steps: gradient steps of it.
      tuning_steps: gradient steps of the gains.
    """

    replayed: int = 37
    total_steps: int = 1_000_000
    num_envs: int = 32
    num_steps: int = 64
    num_epochs: int = 10
    num_minibatches: int = 8
    learning_rate: float = 1e-3
    ddpg_steps: int = 500_000
    ddpg_envs: int = 32
    ddpg_gradient_steps: int = 4
    ddpg_learning_rate: float = 1e-3
    exploration: float = 0.3
    current_discount: float = 0.9
    speed_discount: float = 0.99
    test_drives: int = 32
    test_steps: int = 6000
    recording: int = 1000
    identification_steps: int = 300
    tuning_steps: int = 150

    def __post_init__(self):
        """Refuses sizes of which nothing comes."""
        for name in ("num_envs", "num_steps", "test_drives", "test_steps", "recording", "replayed"):
            at_least(name, getattr(self, name), 1)
        at_least("total_steps", self.total_steps, self.num_envs * self.num_steps)
        at_least("ddpg_steps", self.ddpg_steps, self.ddpg_envs)


@dataclasses.dataclass(frozen=True)
class Drive:
    """What is to be controlled.

    Attributes:
      name: id.
      field_coordinates: actions are voltages in field coordinates.
      discount: the field of the config that holds it.
      pictured: keep a stretch of its life for the picture.
    """

    name: str
    field_coordinates: bool = False
    discount: str = "current_discount"
    pictured: bool = False

    @functools.cached_property
    def made(self) -> tuple[motor.ElectricDrive, motor.DriveParams]:
        """The environment and its parameters."""
        processors = (motor.DqActions(),) if self.field_coordinates else ()
        return jaxpg_envs.make(self.name, processors=processors)


SERIES_CURRENT = Drive("Cont-CC-SeriesDc-v0", pictured=True)
SERIES_SPEED = Drive("Cont-SC-SeriesDc-v0", discount="speed_discount")
MAGNET_CURRENTS = Drive("Cont-CC-PMSM-v0", field_coordinates=True)
MAGNET_DIRECT = Drive("Cont-CC-PermExDc-v0")


def ppo(drive: Drive):
    """A method: PPO, tested by the mode of its policy.

    Args:
      drive: what it learns on.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        env, params = drive.made
        built = networks.actor_critic(
            env.observation_space(params), env.action_space(params), initial_log_std=-1.0
        )
        discount = getattr(config, drive.discount)
        num_updates = config.total_steps // (config.num_envs * config.num_steps)
        agent = algorithms.on_policy(
            env,
            params,
            estimators.ppo(0.2, discount=discount, entropy=0.0),
            networks=built,
            num_envs=config.num_envs,
            num_steps=config.num_steps,
            num_epochs=config.num_epochs,
            num_minibatches=config.num_minibatches,
            learning_rate=config.learning_rate,
            anneal_updates=num_updates,
            normalise_observations=True,
        )
        result = context.train(agent, seeds, num_updates, evaluate_every=None)
        act = functools.partial(algorithms.acting, built, deterministic=True)
        return _tested(drive, config, result, act, num_updates * agent.steps_per_update)

    return method


def ddpg(drive: Drive):
    """A method: DDPG, tested without noise.

    Args:
      drive: what it learns on.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        env, params = drive.made
        built = networks.deterministic(
            env.observation_space(params), env.action_space(params), hidden=(64, 64)
        )
        agent = algorithms.ddpg(
            env,
            params,
            networks=built,
            num_envs=config.ddpg_envs,
            num_gradient_steps=config.ddpg_gradient_steps,
            learning_starts=min(10_000, config.ddpg_steps // 2),
            capacity=min(200_000, config.ddpg_steps),
            discount=getattr(config, drive.discount),
            actor_learning_rate=config.ddpg_learning_rate,
            critic_learning_rate=config.ddpg_learning_rate,
            exploration=exploration.Gaussian(config.exploration),
            normalise_observations=True,
        )
        num_updates = config.ddpg_steps // agent.steps_per_update
        result = context.train(agent, seeds, num_updates, evaluate_every=None)
        act = functools.partial(algorithms.deterministic_acting, built)
        return _tested(drive, config, result, act, num_updates * agent.steps_per_update)

    return method


def _tested(
    drive: Drive,
    config: Config,
    result: Any,
    act_of: Callable[[Any], rollout.Act],
    steps: int,
) -> MethodRun:
    env, params = drive.made

    @jax.jit
    def costs(policies, key):
        def one(policy):
            act = act_of(policy)
            return -jnp.mean(
                played(env, params, act, key, config.test_drives, config.test_steps)[2]
            )

        return jax.lax.map(one, policies)

    values = np.asarray(costs(result.policy, jax.random.key(TEST_SEED)))
    numbers = {"steps": steps}
    if drive.pictured:
        first = jax.tree.map(lambda leaf: leaf[0], result.policy)
        numbers["trace"] = trace(drive, act_of(first))
    return MethodRun(values, numbers=numbers)


def designed(drive: Drive, controller: Callable[[motor.DriveParams], Any]):
    """A method: a controller that does not learn; one number for all seeds.

    Args:
      drive: what it controls.
      controller: builds it.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        del context
        _, params = drive.made
        built, numbers = controller(params), {}
        if drive.pictured:
            numbers["trace"] = trace(drive, by_controller(drive, built), built.initial())
        return MethodRun(np.full(len(seeds), cost_of(drive, built, config)), numbers=numbers)

    return method


def idle(drive: Drive):
    """A method: no voltage at all.

    Args:
      drive: what is left alone.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        del context
        env, params = drive.made
        size = env.action_space(params).shape

        def act(carry, observation, reset, keys):
            action = jnp.zeros((*reset.shape, *size))
            return carry, action, action, jnp.zeros(reset.shape)

        key = jax.random.key(TEST_SEED)
        reward = jax.jit(
            lambda key: played(env, params, act, key, config.test_drives, config.test_steps)[2]
        )(key)
        return MethodRun(np.full(len(seeds), -float(jnp.mean(reward))))

    return method


def cost_of(drive: Drive, controller: Any, config: Config) -> float:
    """Minus the mean reward of a step, on the references of the test.

    Args:
      drive: what is controlled.
      controller: see `motor.controllers`.
      config: sizes of the test.

    Returns:
      At least 0.
    """
    env, params = drive.made
    act, begin = by_controller(drive, controller), controller.initial()
    reward = jax.jit(
        lambda key: played(env, params, act, key, config.test_drives, config.test_steps, begin)[2]
    )(jax.random.key(TEST_SEED))
    return -float(jnp.mean(reward))


def by_controller(drive: Drive, controller: Any) -> rollout.Act:
    """A controller as an acting function of `rollout`; its memory is the carry."""
    env, params = drive.made
    one = jax.vmap(motor.controllers.policy(env, params, controller))

    def act(carry, observation, reset, keys):
        begin = controller.initial()

        def anew(first, now):
            spread = reset.reshape(reset.shape + (1,) * (now.ndim - 1))
            return jnp.where(spread, first, now)

        carry, action = one(jax.tree.map(anew, begin, carry), observation)
        return carry, action, action, jnp.zeros(reset.shape)

    return act


def played(
    env: motor.ElectricDrive,
    params: motor.DriveParams,
    act: rollout.Act,
    key: Array,
    num_drives: int,
    num_steps: int,
    begin: Any = (),
) -> tuple[Any, Array, Array]:
    """Many drives, with resets where an episode ends.

    Args:
      env: of the drive.
      params: of the drive.
      act: what controls them.
      key: of the references.
      num_drives: B.
      num_steps: T.
      begin: the controller's memory at the start of an episode, of one drive.

    Returns:
      `(observations [B, T, ...], actions [B, T, ...], rewards [B, T])`.
    """
    memory = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (num_drives, *jnp.shape(leaf))), begin
    )
    key_start, key_play = jax.random.split(key)
    rows = rollout.start(env, params, key_start, num_drives, memory)
    _, steps, _ = rollout.rollout(env, params, act, rows, key_play, num_steps)
    return steps.observation, steps.action, steps.reward


def trace(drive: Drive, act: rollout.Act, begin: Any = ()) -> dict[str, list[float]]:
    """A stretch of one drive's life, the same references for every controller.

    Args:
      drive: what is controlled.
      act: what controls it.
      begin: see `played`.

    Returns:
      For the first controlled quantity: `reference`, `value` and `action`, normalised, of the last
      steps.
    """
    env, params = drive.made
    key = jax.random.key(TEST_SEED + 1)
    (states, references), actions, _ = jax.jit(
        lambda key: played(env, params, act, key, 1, 2 * PICTURED, begin)
    )(key)
    index = env.state_names.index(env.reference_names[0])
    # A value is compared with the reference that was shown a step before.
    shown = {
        "reference": references[0, PICTURED - 1 : -1, 0],
        "value": states[0, PICTURED:, index],
        "action": actions[0, PICTURED:].reshape(PICTURED, -1)[:, 0],
    }
    return {name: np.asarray(series, float).round(4).tolist() for name, series in shown.items()}
