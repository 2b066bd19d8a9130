"""Off-policy learning in vectorised environments: explore, remember, learn from what was stored."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments.environment import Environment

from jaxpg import branches, exploration, normalisation, replay, rollout
from jaxpg.agent import Agent
from jaxpg.algorithms.on_policy import Policy, normalised
from jaxpg.choices import at_least
from jaxpg.description import describe
from jaxpg.networks import DeterministicNetworks
from jaxpg.types import Algorithm, Array, Metrics, PyTree

GAUSSIAN = exploration.Gaussian(0.1)

COUNTS = ("num_envs", "num_steps", "num_gradient_steps", "batch_size")


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig:
    """How an off-policy agent collects, remembers and is evaluated.

    One update is `num_steps` steps of every environment and then `num_gradient_steps` gradient
    steps, each on a minibatch of its own.

    Attributes:
      num_envs: environments that step side by side, over all devices.
      num_steps: steps of each environment in one update.
      num_gradient_steps: in one update.
      batch_size: transitions of a minibatch, over all devices.
      capacity: transitions that the buffer holds, over all devices; rounded down to equal blocks
        (see `num_blocks`). The memory is taken at once.
      learning_starts: transitions that are collected with uniformly random actions before the
        first gradient step, rounded up to whole updates.
      exploration: noise of the actions, see `jaxpg.exploration`.
      normalise_observations: by running mean and variance; the buffer holds them as they were, and
        minibatches are normalised with the statistics of the moment.
      env_params_per_env: the environment's parameters have a leading axis `[num_envs]`.
      eval_envs: environments of an evaluation, where the policy acts without noise.
      eval_episodes: episodes of each of them.
      eval_max_steps: see `rollout.evaluate`.
    """

    num_envs: int = 1
    num_steps: int = 1
    num_gradient_steps: int = 1
    batch_size: int = 256
    capacity: int = 1_000_000
    learning_starts: int = 100
    exploration: exploration.Noise = GAUSSIAN
    normalise_observations: bool = False
    env_params_per_env: bool = False
    eval_envs: int = 16
    eval_episodes: int = 1
    eval_max_steps: int | None = None

    @property
    def num_blocks(self) -> int:
        """Independent ring buffers, each of as many environments and as many minibatch items.

        A device keeps whole blocks, so that the minibatches are the same on one device and on
        several: the number of devices has to divide this one.
        """
        return math.gcd(self.num_envs, self.batch_size)


@struct.dataclass
class OffPolicyRows:
    """What is split over devices.

    Attributes:
      environments: leading axis `[num_envs]`.
      buffers: leading axis `[num_blocks]`.
    """

    environments: rollout.Rows
    buffers: replay.Buffer


@struct.dataclass
class OffPolicyWorld:
    """What collection carries on.

    Attributes:
      rows: split over devices.
      shared: running statistics by name, replicated.
    """

    rows: OffPolicyRows
    shared: dict[str, normalisation.RunningStatistics]


@struct.dataclass
class OffPolicyState:
    """Everything that a run consists of.

    Attributes:
      agent: parameters, target parameters and optimisers.
      world: environments and replay buffers.
      key: of the updates to come.
      num_updates: int32, done so far.
    """

    agent: PyTree
    world: OffPolicyWorld
    key: Array
    num_updates: Array


def off_policy(
    env: Environment, env_params: PyTree, agent: Agent, config: OffPolicyConfig
) -> Algorithm:
    """An agent that explores with noise and learns from a replay buffer.

    A truncated step bootstraps from its true final observation, a terminated one from nothing.

    Args:
      env: in gymnax's interface, with a box of actions.
      env_params: its parameters.
      agent: what learns, such as `twin_delayed`.
      config: see `OffPolicyConfig`.

    Returns:
      An `Algorithm`; its state is an `OffPolicyState`, its policy a `Policy` for
      `deterministic_acting`. Metrics: those of the agent, averaged over the gradient steps of an
      update (0 before the first), `gradient_steps` (of this update), and `episode_return`,
      `episode_length` and `episode_count` of the episodes that ended, exploration included.

    Raises:
      ValueError: sizes that do not fit together.
    """
    _check(config)
    run = _Run(env, env_params, agent, config)
    return Algorithm(
        init=run.init,
        update=run.update,
        evaluate=run.evaluate,
        policy=run.policy,
        steps_per_update=config.num_envs * config.num_steps,
        world_size=config.num_blocks,
        description={
            "algorithm": agent.name,
            "environment": env.name,
            "env_params": describe(env_params),
            **dict(agent.settings),
            **describe(config),
        },
    )


def deterministic_acting(networks: DeterministicNetworks, policy: Policy) -> rollout.Act:
    """The acting function of a deterministic policy, without noise.

    Args:
      networks: that the policy was trained with.
      policy: parameters and frozen statistics (`Result.policy`, or what you restored).

    Returns:
      `(carry, observation, reset, keys [B]) -> (carry, action in [-1, 1], action, log_prob)`,
      leading axes `[B]`; the environment takes the second action, the log-probability is 0.
    """

    def act(carry: PyTree, observation: PyTree, reset: Array, keys: Array):
        del keys
        observation = normalised(policy.observation_statistics, observation)
        action = networks.actor(policy.params, observation)
        return carry, action, networks.to_environment(action), jnp.zeros(reset.shape)

    return act


def exploring(
    networks: DeterministicNetworks, policy: Policy, noise: exploration.Noise, at_random: Array
) -> rollout.Act:
    """The acting function of a policy that explores.

    Args:
      networks: of the policy.
      policy: parameters and statistics.
      noise: added to its actions, which stay in [-1, 1].
      at_random: `[]` bool, acts uniformly at random instead.

    Returns:
      As `deterministic_acting`; the carry is the noise's.
    """
    greedy = deterministic_acting(networks, policy)

    def act(carry: PyTree, observation: PyTree, reset: Array, keys: Array):
        keys = jax.vmap(jax.random.split)(keys)
        shape = (networks.num_actions,)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))
        _, action, _, log_prob = greedy((), observation, reset, keys)
        carry, added = noise.draw(carry, reset, keys[:, 0], networks.num_actions)
        action = jnp.clip(action + added, -1.0, 1.0)
        action = jnp.where(at_random, uniform(keys[:, 1]), action)
        return carry, action, networks.to_environment(action), log_prob

    return act


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """The functions of one configuration."""

    env: Environment
    env_params: PyTree
    agent: Agent
    config: OffPolicyConfig

    @property
    def random_updates(self) -> int:
        """Updates that only collect, at random."""
        return -(-self.config.learning_starts // (self.config.num_envs * self.config.num_steps))

    def init(self, key: Array) -> OffPolicyState:
        key_agent, key_world, key = jax.random.split(key, 3)
        return OffPolicyState(
            agent=self.agent.init(key_agent),
            world=self.initial_world(key_world),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
        )

    def initial_world(self, key: Array) -> OffPolicyWorld:
        config, num_actions = self.config, self.agent.networks.num_actions
        environments = rollout.start(
            self.env,
            self.env_params,
            key,
            config.num_envs,
            config.exploration.initial(config.num_envs, num_actions),
            params_per_row=config.env_params_per_env,
        )
        observation = jax.tree.map(lambda x: x[0], environments.observation)
        example = replay.Transition(
            observation=observation,
            action=jnp.zeros(num_actions),
            reward=jnp.zeros(()),
            terminated=jnp.zeros((), bool),
            next_observation=observation,
        )
        capacity = config.capacity // config.num_blocks
        buffers = jax.vmap(lambda _: replay.init(example, capacity))(jnp.arange(config.num_blocks))
        shared = {}
        if config.normalise_observations:
            shared["observation"] = normalisation.initial_statistics(observation)
        return OffPolicyWorld(OffPolicyRows(environments, buffers), shared)

    def policy(self, state: OffPolicyState) -> Policy:
        statistics = state.world.shared.get("observation", ())
        return Policy(self.agent.policy(state.agent), statistics)

    def update(self, state: OffPolicyState) -> tuple[OffPolicyState, Metrics]:
        key, key_collect, key_learn = jax.random.split(state.key, 3)
        at_random = state.num_updates < self.random_updates
        world, collected = self.collect(key_collect, self.policy(state), state.world, at_random)
        learn = functools.partial(self.learn, key_learn, state.agent, world)
        shapes = jax.eval_shape(learn)[1]
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        agent, learned = branches.only_where(~at_random, learn, (state.agent, nothing))
        state = OffPolicyState(agent, world, key, state.num_updates + 1)
        return state, collected | learned

    def collect(
        self, key: Array, policy: Policy, world: OffPolicyWorld, at_random: Array
    ) -> tuple[OffPolicyWorld, Metrics]:
        """Steps every environment and stores what happened."""
        config = self.config
        act = exploring(self.agent.networks, policy, config.exploration, at_random)
        environments, steps, finished = rollout.rollout(
            self.env, self.env_params, act, world.rows.environments, key, config.num_steps
        )
        shared = dict(world.shared)
        if "observation" in shared:
            shared["observation"] = normalisation.update_statistics(
                shared["observation"], steps.observation
            )
        transitions = replay.Transition(
            observation=steps.observation,
            action=steps.action,
            reward=steps.reward,
            terminated=steps.terminated,
            next_observation=steps.final_observation,
        )
        num_blocks = world.rows.buffers.size.shape[0]  # of this device

        def in_blocks(leaf: Array) -> Array:
            """`[E, T, ...]` to `[blocks, T E / blocks, ...]`, in the order of time."""
            shape = leaf.shape
            leaf = leaf.reshape((num_blocks, -1, *shape[1:])).swapaxes(1, 2)
            return leaf.reshape((num_blocks, -1, *shape[2:]))

        buffers = jax.vmap(replay.add)(world.rows.buffers, jax.tree.map(in_blocks, transitions))
        world = OffPolicyWorld(OffPolicyRows(environments, buffers), shared)
        return world, rollout.episode_metrics(finished)

    def learn(
        self, key: Array, agent_state: PyTree, world: OffPolicyWorld
    ) -> tuple[PyTree, Metrics]:
        """Gradient steps, each on a minibatch of its own."""
        number = self.config.num_gradient_steps

        def step(agent_state: PyTree, key: Array) -> tuple[PyTree, Metrics]:
            key_batch, key_update = jax.random.split(key)
            batch = self.minibatch(key_batch, world)
            return self.agent.update(agent_state, batch, key_update)

        agent_state, metrics = jax.lax.scan(step, agent_state, jax.random.split(key, number))
        means = jax.tree.map(jnp.mean, metrics)
        return agent_state, means | {"gradient_steps": jnp.float32(number)}

    def minibatch(self, key: Array, world: OffPolicyWorld) -> replay.Transition:
        """This device's share of a minibatch: as many items from each block."""
        buffers, statistics = world.rows.buffers, world.shared.get("observation", ())
        keys = rollout.row_keys(key, buffers.size.shape[0])
        each = self.config.batch_size // self.config.num_blocks
        batch = replay.sample_blocks(keys, buffers, each)
        return batch._replace(
            observation=normalised(statistics, batch.observation),
            next_observation=normalised(statistics, batch.next_observation),
        )

    def evaluate(self, state: OffPolicyState, key: Array) -> Metrics:
        """Plays whole episodes without noise, with frozen statistics."""
        config = self.config
        env_params = self.env_params
        if config.env_params_per_env:
            env_params = jax.tree.map(lambda x: x[0], env_params)
        played = rollout.evaluate(
            self.env,
            env_params,
            deterministic_acting(self.agent.networks, self.policy(state)),
            key,
            num_envs=config.eval_envs,
            episodes_per_env=config.eval_episodes,
            max_steps=config.eval_max_steps,
        )
        return rollout.evaluation_metrics(*played)


def _check(config: OffPolicyConfig) -> None:
    for name in COUNTS:
        at_least(name, getattr(config, name), 1)
    at_least("learning_starts", config.learning_starts, 0)
    collected = config.num_envs * config.num_steps
    if config.capacity // config.num_blocks < collected // config.num_blocks:
        raise ValueError(
            f"capacity is {config.capacity}, but one update collects {collected} transitions "
            f"(num_envs={config.num_envs} with num_steps={config.num_steps}): it needs at least "
            f"as many"
        )
