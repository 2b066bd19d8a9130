"""On-policy learning in vectorised environments: REINFORCE, A2C, PPO, by the estimator given."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from gymnax.environments.environment import Environment

from jaxpg import networks as networks_module
from jaxpg import normalisation, rollout
from jaxpg.algorithms import learner
from jaxpg.choices import at_least, replace_fields
from jaxpg.description import describe
from jaxpg.estimator import Estimator
from jaxpg.method import Method, as_method
from jaxpg.networks import Networks
from jaxpg.types import Algorithm, Array, Evaluation, Metrics, PyTree, Trajectory

COLLECTED_ONLY = ("final_observation", "last_observation", "last_reset", "last_carry", "carries")
"""Extras that `score` reads and that no minibatch needs."""


@struct.dataclass
class World:
    """What collection carries on.

    Attributes:
      rows: of `rollout.Rows`, split over devices.
      shared: running statistics by name, replicated.
    """

    rows: rollout.Rows
    shared: dict[str, normalisation.RunningStatistics]


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig:
    """How an on-policy agent collects and learns. Numeric rates may be traced.

    Attributes:
      num_envs: environments that step side by side, over all devices.
      num_steps: steps of each environment in one update.
      num_epochs: passes over each batch.
      num_minibatches: gradient steps in each pass.
      learning_rate: a number, or an optax schedule in gradient steps.
      anneal_updates: the rate falls linearly to 0 over this many updates; 0 keeps it.
      max_gradient_norm: gradients are scaled down to this global norm.
      target_kl: ends an update early, see `learner.Passes`.
      normalise_observations: by running mean and variance.
      normalise_rewards: by the running standard deviation of the discounted return.
      reward_discount: of that return.
      env_params_per_env: the environment's parameters have a leading axis `[num_envs]`.
      eval_envs: environments of an evaluation.
      eval_episodes: episodes of each of them.
      eval_deterministic: take the mode of the policy instead of a sample.
      eval_max_steps: see `rollout.evaluate`.
    """

    num_envs: int = 64
    num_steps: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    learning_rate: Any = 2.5e-4
    anneal_updates: int = 0
    max_gradient_norm: float = 0.5
    target_kl: float | None = None
    normalise_observations: bool = False
    normalise_rewards: bool = False
    reward_discount: float = 0.99
    env_params_per_env: bool = False
    eval_envs: int = 16
    eval_episodes: int = 1
    eval_deterministic: bool = False
    eval_max_steps: int | None = None


@struct.dataclass
class Policy:
    """What acts: parameters and the frozen statistics of the observations it was trained on."""

    params: PyTree
    observation_statistics: Any


def on_policy(
    env: Environment,
    env_params: PyTree,
    method: Method | Estimator,
    *,
    networks: Networks | None = None,
    optimiser: optax.GradientTransformation | None = None,
    config: OnPolicyConfig | None = None,
    **overrides: Any,
) -> Algorithm:
    """An agent that collects with its current policy and learns from what it just collected.

    Args:
      env: in gymnax's interface.
      env_params: its parameters.
      method: an `Estimator`, or a `Method` that overrides seams.
      networks: policy and critic; None builds two tanh torsos of 64 x 64 for the environment's
        spaces.
      optimiser: None takes Adam (epsilon 1e-5) with the config's rate and gradient clip.
      config: see `OnPolicyConfig`.
      **overrides: fields of the config.

    Returns:
      An `Algorithm`; its state is a `learner.TrainState`, its policy a `Policy`.

    Raises:
      ValueError: sizes that do not fit together, or an estimator that needs a critic which the
        networks do not have.
      TypeError: an unknown field.
    """
    method = as_method(method)
    config = replace_fields(config or OnPolicyConfig(), overrides)
    networks = networks or networks_module.actor_critic(
        env.observation_space(env_params),
        env.action_space(env_params),
        critic=method.estimator.needs_critic,
    )
    passes = _passes(config, method, networks)
    rate = None
    if optimiser is None:
        rate = learner.learning_rate(config.learning_rate, passes, config.anneal_updates)
        optimiser = optax.chain(
            optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(rate, eps=1e-5)
        )
    agent = _Agent(env, env_params, networks, method.estimator, config)
    seams = method.seams(
        agent.collect,
        agent.prepare,
        agent.evaluate,
        learning_rate=learner.as_schedule(rate),
        steps_per_update=passes.num_steps,
    )

    def init(key: Array) -> learner.TrainState:
        key_params, key_world, key_method, key = jax.random.split(key, 4)
        params = networks.init(key_params)
        return learner.TrainState(
            params=params,
            optimiser=optimiser.init(params),
            method=seams.init(key_method, params),
            world=agent.initial_world(key_world),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
        )

    return Algorithm(
        init=init,
        update=lambda state: learner.one_update(seams, optimiser, passes, state),
        evaluate=agent.episodes,
        policy=lambda state: Policy(state.params, state.world.shared.get("observation", ())),
        steps_per_update=config.num_envs * config.num_steps,
        world_size=config.num_envs,
        description={
            "algorithm": "on_policy",
            "environment": env.name,
            "env_params": describe(env_params),
            "method": method.name,
            "estimator": describe(method.estimator.settings),
            "method_settings": describe(method.settings),
            **describe(config),
        },
    )


def acting(networks: Networks, policy: Policy, *, deterministic: bool = False) -> rollout.Act:
    """The acting function of a policy, for `rollout.rollout`, `rollout.evaluate` or your own loop.

    Args:
      networks: that the policy was trained with.
      policy: parameters and frozen statistics (`Result.policy`, or what you restored).
      deterministic: take the mode of the distribution.

    Returns:
      `(carry, observation, reset, keys [B]) -> (carry, raw action, action, log_prob)`, leading
      axes `[B]`; the environment takes `action`.
    """
    family, statistics = networks.distribution, policy.observation_statistics

    def act(carry: PyTree, observation: PyTree, reset: Array, keys: Array):
        observation = normalised(statistics, observation)
        carry, parameters, _ = networks.step(policy.params, carry, observation, reset)
        if deterministic:
            raw = family.mode(parameters)
        else:
            raw = jax.vmap(family.sample)(keys, parameters)
        return carry, raw, networks.to_environment(raw), family.log_prob(parameters, raw)

    return act


def normalised(statistics: Any, observation: PyTree) -> PyTree:
    """Normalises with statistics, or returns the observation where there are none (`()`)."""
    if isinstance(statistics, normalisation.RunningStatistics):
        return normalisation.normalise(statistics, observation)
    return observation


@dataclasses.dataclass(frozen=True)
class _Agent:
    """The default seams of an environment."""

    env: Environment
    env_params: PyTree
    networks: Networks
    estimator: Estimator
    config: OnPolicyConfig

    def initial_world(self, key: Array) -> World:
        config = self.config
        rows = rollout.start(
            self.env,
            self.env_params,
            key,
            config.num_envs,
            self.networks.initial_carry(config.num_envs),
            params_per_row=config.env_params_per_env,
        )
        shared = {}
        if config.normalise_observations:
            example = jax.tree.map(lambda x: x[0], rows.observation)
            shared["observation"] = normalisation.initial_statistics(example)
        if config.normalise_rewards:
            shared["return"] = normalisation.initial_statistics(jnp.zeros(()))
        return World(rows, shared)

    def collect(
        self, key: Array, params: PyTree, world: World, state: PyTree
    ) -> tuple[Trajectory, World, Metrics]:
        """One rollout. Stored observations are normalised as the policy saw them."""
        del state
        policy = Policy(params, world.shared.get("observation", ()))
        normalise = functools.partial(normalised, policy.observation_statistics)
        act = acting(self.networks, policy)
        rows, steps, finished = rollout.rollout(
            self.env, self.env_params, act, world.rows, key, self.config.num_steps
        )
        metrics = rollout.episode_metrics(finished)
        shared = dict(world.shared)
        if "observation" in shared:
            shared["observation"] = normalisation.update_statistics(
                shared["observation"], steps.observation
            )
        reward = steps.reward
        if "return" in shared:
            ended = steps.terminated | steps.truncated
            sums, last = normalisation.running_return(
                reward, ended, rows.scaled_return, self.config.reward_discount
            )
            rows = rows.replace(scaled_return=last)
            shared["return"] = normalisation.update_statistics(shared["return"], sums)
            reward = normalisation.scale_reward(shared["return"], reward)
        extras = {}
        if self.networks.recurrent:
            extras |= {"initial_carry": world.rows.carry, "reset": steps.reset}
        if self.networks.has_critic:
            extras |= {
                "final_observation": normalise(steps.final_observation),
                "last_observation": normalise(rows.observation),
                "last_reset": rows.reset,
                "last_carry": rows.carry,
                "carries": steps.carry,
            }
        index = jnp.arange(reward.shape[0])
        trajectory = Trajectory(
            observation=normalise(steps.observation),
            action=steps.action,
            log_prob=steps.log_prob,
            reward=reward,
            terminated=steps.terminated,
            truncated=steps.truncated,
            mask=jnp.ones_like(reward),
            group_ids=index,
            rollout_ids=index,
            source=jnp.zeros_like(index),
            extras=extras,
        )
        return trajectory, World(rows, shared), metrics

    def prepare(self, params: PyTree, trajectory: Trajectory) -> Trajectory:
        """Adds values, and the values that each step bootstraps from."""
        needs = self.estimator.required_extras
        if "value" in needs:
            evaluation = self.evaluate(params, trajectory)
            trajectory = trajectory.with_extras(
                value=evaluation.value,
                next_value=self._next_value(params, trajectory, evaluation.value),
            )
            if "current_log_prob" in needs:
                trajectory = trajectory.with_extras(current_log_prob=evaluation.log_prob)
        kept = {k: v for k, v in trajectory.extras.items() if k not in COLLECTED_ONLY}
        return trajectory.replace(extras=kept)

    def evaluate(self, params: PyTree, trajectory: Trajectory) -> Evaluation:
        """Runs the networks on a trajectory, from the hidden state that it began with."""
        recurrent = self.networks.recurrent
        carry = trajectory.extra("initial_carry") if recurrent else ()
        reset = trajectory.extra("reset") if recurrent else trajectory.mask > 0
        _, parameters, value = self.networks.unroll(params, carry, trajectory.observation, reset)
        family = self.networks.distribution
        return Evaluation(
            log_prob=family.log_prob(parameters, trajectory.action),
            entropy=family.entropy(parameters),
            value=value,
            distribution=parameters,
        )

    def _next_value(self, params: PyTree, trajectory: Trajectory, value: Array) -> Array:
        extra = trajectory.extra

        def value_of(carry, observation, reset):
            return self.networks.step(params, carry, observation, reset)[2]

        last = value_of(extra("last_carry"), extra("last_observation"), extra("last_reset"))
        following = jnp.concatenate([value[:, 1:], last[:, None]], axis=1)

        def flat(leaf):
            return leaf.reshape((trajectory.mask.size, *leaf.shape[2:]))

        # Truncations are rare: their final observations are valued in chunks, not all of them.
        return rollout.apply_where(
            flat(trajectory.truncated),
            lambda carry, observation: value_of(
                carry, observation, jnp.zeros(jax.tree.leaves(observation)[0].shape[0], bool)
            ),
            jax.tree.map(flat, (extra("carries"), extra("final_observation"))),
            flat(following),
            chunk=trajectory.num_rows,
        ).reshape(value.shape)

    def episodes(self, state: learner.TrainState, key: Array) -> Metrics:
        """Plays whole episodes with frozen statistics."""
        config = self.config
        policy = Policy(state.params, state.world.shared.get("observation", ()))
        act = acting(self.networks, policy, deterministic=config.eval_deterministic)
        env_params = self.env_params
        if config.env_params_per_env:
            env_params = jax.tree.map(lambda x: x[0], env_params)
        played = rollout.evaluate(
            self.env,
            env_params,
            act,
            key,
            num_envs=config.eval_envs,
            episodes_per_env=config.eval_episodes,
            initial_carry=self.networks.initial_carry,
            max_steps=config.eval_max_steps,
        )
        return rollout.evaluation_metrics(*played)


def _passes(config: OnPolicyConfig, method: Method, networks: Networks) -> learner.Passes:
    for name in ("num_envs", "num_steps", "num_epochs", "num_minibatches"):
        at_least(name, getattr(config, name), 1)
    estimator = method.estimator
    if estimator.needs_critic and not networks.has_critic:
        raise ValueError(
            f"method {method.name!r} needs values, but the networks have no critic: build them "
            f"with critic=True"
        )
    whole_rows = networks.recurrent or estimator.whole_rows
    items = config.num_envs if whole_rows else config.num_envs * config.num_steps
    source = f"num_envs={config.num_envs}"
    if not whole_rows:
        source += f" with num_steps={config.num_steps}"
    if estimator.smallest_group > 1:
        raise ValueError(
            f"method {method.name!r} compares the rows of a group, but every environment is a "
            f"group of its own here: take an estimator without groups"
        )
    learner.check_divisible(
        items,
        config.num_minibatches,
        (source, "num_minibatches"),
        "rows" if whole_rows else "decisions",
    )
    return learner.Passes(
        config.num_epochs,
        config.num_minibatches,
        whole_rows,
        drops_rows=method.drops_rows,
        target_kl=config.target_kl,
    )
