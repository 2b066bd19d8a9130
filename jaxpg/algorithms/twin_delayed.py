"""Deterministic policies: the update rule of TD3, and TD3 and DDPG as agents in environments.

`twin_delayed` is a pure function of a batch of transitions and knows nothing of environments or
buffers, so that whatever collects transitions (a population, say) trains its critics with it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from gymnax.environments.environment import Environment

from jaxpg import branches, parallel
from jaxpg import networks as networks_module
from jaxpg.agent import Agent
from jaxpg.algorithms.off_policy import OffPolicyConfig, off_policy
from jaxpg.choices import at_least, replace_fields
from jaxpg.description import describe
from jaxpg.losses import deterministic as losses
from jaxpg.networks import DeterministicNetworks
from jaxpg.replay import Transition
from jaxpg.types import Algorithm, Array, Metrics, PyTree

IMPROVED = ("actor", "target_actor", "target_critics", "actor_optimiser", "actor_loss")
"""Fields of the state that change at a step of the policy."""


@dataclasses.dataclass(frozen=True)
class TwinDelayedConfig:
    """How a deterministic policy learns from a batch. Numeric rates may be traced.

    Attributes:
      discount: in [0, 1].
      tau: share of the parameters that enters the target parameters at a step of the policy.
      num_critics: their least value is the target.
      policy_delay: gradient steps of the critics for one of the policy and of all targets.
      critics_follow: in each of their gradient steps the critics' targets move, as in many later
        programs; otherwise they move with the policy's, as in the paper.
      policy_noise: standard deviation of the target policy's noise, in units of half an action's
        range.
      noise_clip: largest size of that noise.
      actor_learning_rate: of Adam; a number, or an optax schedule in gradient steps of the critics.
      critic_learning_rate: likewise.
    """

    discount: Any = 0.99
    tau: Any = 0.005
    num_critics: int = 2
    policy_delay: int = 2
    critics_follow: bool = False
    policy_noise: Any = 0.2
    noise_clip: Any = 0.5
    actor_learning_rate: Any = 1e-3
    critic_learning_rate: Any = 1e-3


@dataclasses.dataclass(frozen=True)
class TD3Config(OffPolicyConfig, TwinDelayedConfig):
    """Collection and learning in one: the fields of `OffPolicyConfig` and `TwinDelayedConfig`."""


@struct.dataclass
class TwinDelayedState:
    """What learns.

    Attributes:
      actor: parameters of the policy.
      critics: of the critics, every leaf `[K, ...]`.
      target_actor: slowly following.
      target_critics: slowly following.
      actor_optimiser: state of Adam.
      critic_optimiser: state of Adam.
      actor_loss: `[]` float, at the policy's last step; 0 before the first.
      num_steps: int32, gradient steps of the critics.
    """

    actor: PyTree
    critics: PyTree
    target_actor: PyTree
    target_critics: PyTree
    actor_optimiser: PyTree
    critic_optimiser: PyTree
    actor_loss: Array
    num_steps: Array


def td3(
    env: Environment,
    env_params: PyTree,
    *,
    networks: DeterministicNetworks | None = None,
    config: TD3Config | None = None,
    **overrides: Any,
) -> Algorithm:
    """Twin delayed deep deterministic policy gradient.

    Args:
      env: in gymnax's interface, with a bounded box of actions.
      env_params: its parameters.
      networks: policy and critic; None builds two ReLU layers of 256 for each.
      config: see `OffPolicyConfig` and `TwinDelayedConfig`; rates and sizes are by default
        stable-baselines3's, the noise is the paper's.
      **overrides: fields of the config.

    Returns:
      An `Algorithm`, see `off_policy`; metrics are also `critic_loss`, `actor_loss` and `value`
      (mean of the critics' values of what was done).

    Raises:
      ValueError: an action space that is no bounded box, or sizes that do not fit together.
      TypeError: an unknown field.

    Source: Fujimoto et al. 2018, "Addressing function approximation error in actor-critic
    methods" (arXiv 1802.09477).
    """
    config = replace_fields(config or TD3Config(), overrides)
    return _in_environment("td3", env, env_params, networks, config)


def ddpg(
    env: Environment,
    env_params: PyTree,
    *,
    networks: DeterministicNetworks | None = None,
    config: TD3Config | None = None,
    **overrides: Any,
) -> Algorithm:
    """Deep deterministic policy gradient: one critic, no smoothing, no delay.

    Args:
      env: in gymnax's interface, with a bounded box of actions.
      env_params: its parameters.
      networks: policy and critic; None builds two ReLU layers of 256 for each.
      config: see `td3`; None takes `DDPG`.
      **overrides: fields of the config, such as `exploration=exploration.OrnsteinUhlenbeck()`.

    Returns:
      An `Algorithm`, as `td3`.

    Raises:
      ValueError: an action space that is no bounded box, or sizes that do not fit together.
      TypeError: an unknown field.

    Source: Lillicrap et al. 2015, "Continuous control with deep reinforcement learning" (arXiv
    1509.02971).
    """
    config = replace_fields(config or DDPG, overrides)
    return _in_environment("ddpg", env, env_params, networks, config)


DDPG = TD3Config(num_critics=1, policy_delay=1, policy_noise=0.0)
"""DDPG in TD3's terms, with the rates of stable-baselines3."""


def _in_environment(
    name: str,
    env: Environment,
    env_params: PyTree,
    networks: DeterministicNetworks | None,
    config: TD3Config,
) -> Algorithm:
    networks = networks or networks_module.deterministic(
        env.observation_space(env_params), env.action_space(env_params)
    )
    return off_policy(env, env_params, twin_delayed(networks, config, name=name), config)


def twin_delayed(
    networks: DeterministicNetworks,
    config: TwinDelayedConfig | None = None,
    *,
    name: str = "twin_delayed",
) -> Agent:
    """The learning of TD3 (and of DDPG) from batches of transitions.

    Args:
      networks: policy and critic.
      config: see `TwinDelayedConfig`.
      name: of the algorithm.

    Returns:
      An `Agent` whose state is a `TwinDelayedState`; it vmaps over states.

    Raises:
      ValueError: a count below 1.
    """
    config = config or TwinDelayedConfig()
    for count in ("num_critics", "policy_delay"):
        at_least(count, getattr(config, count), 1)
    rule = _Rule(networks, config)
    fields = [field.name for field in dataclasses.fields(TwinDelayedConfig)]
    return Agent(
        name=name,
        networks=networks,
        init=rule.init,
        update=rule.update,
        policy=lambda state: state.actor,
        settings={field: describe(getattr(config, field)) for field in fields},
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Rule:
    """The functions of one configuration."""

    networks: DeterministicNetworks
    config: TwinDelayedConfig

    @property
    def improved(self) -> tuple[str, ...]:
        """Fields of the state that change at a step of the policy only."""
        if not self.config.critics_follow:
            return IMPROVED
        return tuple(name for name in IMPROVED if name != "target_critics")

    @functools.cached_property
    def critic_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.critic_learning_rate)

    @functools.cached_property
    def actor_optimiser(self) -> optax.GradientTransformation:
        rate, delay = self.config.actor_learning_rate, self.config.policy_delay
        if not callable(rate):
            return optax.adam(rate)
        # Adam counts the policy's steps, the schedule is one in steps of the critics.
        return optax.adam(lambda step: rate(step * delay + delay - 1))

    def init(self, key: Array) -> TwinDelayedState:
        key_actor, key_critics = jax.random.split(key)
        actor = self.networks.init_actor(key_actor)
        critics = self.networks.init_critics(key_critics, self.config.num_critics)
        return TwinDelayedState(
            actor=actor,
            critics=critics,
            # Copies: a donated state must not hold one array twice.
            target_actor=jax.tree.map(jnp.copy, actor),
            target_critics=jax.tree.map(jnp.copy, critics),
            actor_optimiser=self.actor_optimiser.init(actor),
            critic_optimiser=self.critic_optimiser.init(critics),
            actor_loss=jnp.zeros(()),
            num_steps=jnp.zeros((), jnp.int32),
        )

    def update(
        self, state: TwinDelayedState, batch: Transition, key: Array
    ) -> tuple[TwinDelayedState, Metrics]:
        """One step of the critics and, where it is due, of the policy and the targets."""
        target = self.target(state, batch, key)

        def loss(critics: PyTree) -> tuple[Array, Array]:
            values = self.networks.values(critics, batch.observation, batch.action)
            errors = losses.critics(values, target)
            if batch.weight is not None:
                # What has no weight still counts in the mean.
                errors = batch.weight * errors
            return jnp.mean(errors), jnp.mean(values)

        (critic_loss, value), gradient = parallel.mean(
            jax.value_and_grad(loss, has_aux=True)(state.critics)
        )
        changes, optimiser = self.critic_optimiser.update(
            gradient, state.critic_optimiser, state.critics
        )
        state = state.replace(
            critics=optax.apply_updates(state.critics, changes),
            critic_optimiser=optimiser,
            num_steps=state.num_steps + 1,
        )
        if self.config.critics_follow:
            state = state.replace(target_critics=self.followed(state.critics, state.target_critics))
        due = state.num_steps % self.config.policy_delay == 0
        # What stays is kept out of the branch, which would copy it.
        before = {name: getattr(state, name) for name in self.improved}
        after = branches.only_where(due, lambda: self.improve(state, batch), before)
        state = state.replace(**after)
        metrics = {"critic_loss": critic_loss, "actor_loss": state.actor_loss, "value": value}
        return state, metrics

    def target(self, state: TwinDelayedState, batch: Transition, key: Array) -> Array:
        """`[B]`, what the critics learn."""
        config, networks = self.config, self.networks
        # Drawn for the whole batch, so that an item's noise is the same on one device and several.
        num_items = batch.reward.shape[0] * parallel.num_shards()
        normal = jax.random.normal(key, (num_items, networks.num_actions))
        noise = config.policy_noise * parallel.own_share(normal)
        action = networks.actor(state.target_actor, batch.next_observation)
        action = losses.smoothed(action, noise, config.noise_clip)
        values = networks.values(state.target_critics, batch.next_observation, action)
        return losses.td_target(batch.reward, batch.terminated, values, config.discount)

    def improve(self, state: TwinDelayedState, batch: Transition) -> dict[str, PyTree]:
        """One step of the policy along the first critic's slope, and of all targets."""
        networks = self.networks

        def loss(actor: PyTree) -> Array:
            action = networks.actor(actor, batch.observation)
            value = networks.first_value(state.critics, batch.observation, action)
            return jnp.mean(losses.actor(value))

        actor_loss, gradient = parallel.mean(jax.value_and_grad(loss)(state.actor))
        changes, optimiser = self.actor_optimiser.update(
            gradient, state.actor_optimiser, state.actor
        )
        actor = optax.apply_updates(state.actor, changes)
        improved = {
            "actor": actor,
            "target_actor": self.followed(actor, state.target_actor),
            "target_critics": self.followed(state.critics, state.target_critics),
            "actor_optimiser": optimiser,
            "actor_loss": actor_loss,
        }
        return {name: improved[name] for name in self.improved}

    def followed(self, params: PyTree, target: PyTree) -> PyTree:
        """A target after its step towards the parameters."""
        return optax.incremental_update(params, target, step_size=self.config.tau)
