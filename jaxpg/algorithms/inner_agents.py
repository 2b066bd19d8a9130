"""Tabular agents that live on one level each, and the two rules by which they learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments.environment import Environment

from jaxpg import rollout
from jaxpg.choices import replace_fields
from jaxpg.losses import learned_rule as losses
from jaxpg.networks.lpg import LearnedRule
from jaxpg.networks.tabular import look_up, table
from jaxpg.parts import advantages
from jaxpg.types import Array, PyTree

COEFFICIENTS = losses.MetaCoefficients()
"""Those of GROOVE."""


@dataclasses.dataclass(frozen=True)
class InnerConfig:
    """How an agent acts and takes its steps; the same for every rule.

    Attributes:
      num_workers: environments of an agent, all on its level.
      num_steps: steps of each in a rollout.
      actor_learning_rate: of plain gradient descent.
      critic_learning_rate: of the predictor, and of the value.
      max_gradient_norm: of the actor's gradient and of the critic's, each for itself.
      target_coefficient: of the predictor's divergence from its target.
      entropy: coefficient of the bonus of A2C.
      discount: of values.
      trace_decay: of the generalised advantage.
    """

    num_workers: int = 64
    num_steps: int = 20
    actor_learning_rate: float = 40.0
    critic_learning_rate: float = 4.0
    max_gradient_norm: float = 0.5
    target_coefficient: float = 0.5
    entropy: float = 0.01
    discount: float = 0.99
    trace_decay: float = 0.95


@struct.dataclass
class InnerAgent:
    """One agent; agents side by side have a leading axis.

    Attributes:
      actor: table of logits.
      predictor: table of the logits of a categorical target; `()` where the rule has none.
      value: table of values.
      rows: of `rollout.Rows`, its workers.
      num_updates: int32, so far.
    """

    actor: PyTree
    predictor: PyTree
    value: PyTree
    rows: rollout.Rows
    num_updates: Array


class Experience(NamedTuple):
    """What a rule learns from, `[N, T]`."""

    observation: PyTree
    action: Array
    reward: Array
    done: Array
    next_observation: PyTree


@dataclasses.dataclass(frozen=True)
class InnerAgents:
    """The functions of agents in one environment.

    Attributes:
      env: whose observations are `(index, time)`, see `networks.tabular.look_up`.
      num_states: S.
      num_actions: of the environment.
      config: see `InnerConfig`.
    """

    env: Environment
    num_states: int
    num_actions: int
    config: InnerConfig

    def init(self, key: Array, level: PyTree, num_targets: int = 0) -> InnerAgent:
        """A new agent.

        Args:
          key: of the starts of its workers.
          level: parameters of the environment.
          num_targets: M, of a rule with a predictor.

        Returns:
          An `InnerAgent` that acts uniformly.
        """
        return InnerAgent(
            actor=table(self.num_states, self.num_actions),
            predictor=table(self.num_states, num_targets) if num_targets else (),
            value=table(self.num_states, 1),
            rows=rollout.start(self.env, level, key, self.config.num_workers, first_row=0),
            num_updates=jnp.zeros((), jnp.int32),
        )

    def act(self, actor: PyTree) -> rollout.Act:
        """The acting function of a table of logits, for `rollout`."""

        def choose(carry: PyTree, observation: PyTree, reset: Array, keys: Array):
            del reset
            logits = look_up(actor, observation)
            action = jax.vmap(jax.random.categorical)(keys, logits)
            log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], axis=1)
            return carry, action, action, log_prob[:, 0]

        return choose

    def collect(
        self, key: Array, agent: InnerAgent, level: PyTree
    ) -> tuple[InnerAgent, Experience, rollout.Finished]:
        """One rollout, through which no gradient flows."""
        fixed = jax.lax.stop_gradient(agent)
        rows, steps, finished = rollout.rollout(
            self.env,
            level,
            self.act(fixed.actor),
            fixed.rows,
            key,
            self.config.num_steps,
            first_row=0,
        )
        experience = Experience(
            observation=steps.observation,
            action=steps.action,
            reward=steps.reward,
            done=(steps.terminated | steps.truncated).astype(jnp.float32),
            next_observation=steps.final_observation,
        )
        return agent.replace(rows=rows), jax.lax.stop_gradient(experience), finished

    def advantage(self, value: PyTree, experience: Experience) -> tuple[Array, Array]:
        """Generalised advantages and what values are to become, `[N, T]`; no gradient."""
        here = look_up(value, experience.observation)[..., 0]
        after = look_up(value, experience.next_observation)[..., 0]
        done = experience.done > 0
        advantage = advantages.generalised_advantage(
            experience.reward,
            here,
            after,
            done,
            jnp.zeros_like(done),
            discount=self.config.discount,
            trace_decay=self.config.trace_decay,
        )
        return jax.lax.stop_gradient((advantage, advantage + here))

    def fit_value(self, value: PyTree, experience: Experience) -> PyTree:
        """One step of the value towards its generalised targets."""
        _, targets = self.advantage(value, experience)

        def loss(value: PyTree) -> Array:
            errors = look_up(value, experience.observation)[..., 0] - targets
            return jnp.mean(errors**2)

        return self.stepped(value, jax.grad(loss)(value), self.config.critic_learning_rate)

    def stepped(self, params: PyTree, gradient: PyTree, learning_rate: float) -> PyTree:
        """Gradient descent with the gradient scaled down to the largest norm."""
        gradient = clipped(gradient, self.config.max_gradient_norm)
        return jax.tree.map(lambda x, g: x - learning_rate * g, params, gradient)

    def returns(self, key: Array, actor: PyTree, level: PyTree, num_episodes: int) -> Array:
        """Mean undiscounted return of whole episodes of the stochastic policy."""
        found, _, _ = rollout.evaluate(
            self.env, level, self.act(actor), key, num_envs=num_episodes, first_row=0
        )
        return jnp.mean(found)


def inner_agents(
    env: Environment, config: InnerConfig | None = None, **overrides: Any
) -> InnerAgents:
    """Tabular agents for an environment.

    Args:
      env: in gymnax's interface; its observations are `(index int32 in [0, S), time float)`, its
        actions discrete.
      config: see `InnerConfig`.
      **overrides: fields of the config.

    Returns:
      `InnerAgents`.

    Raises:
      ValueError: other observations or actions.
      TypeError: an unknown field.
    """
    config = replace_fields(config or InnerConfig(), overrides)
    space = env.observation_space(env.default_params)
    actions = env.action_space(env.default_params)
    parts = getattr(space, "spaces", ())
    if len(parts) != 2 or not hasattr(parts[0], "n") or not hasattr(actions, "n"):
        raise ValueError(
            f"observations of {env.name} are {type(space).__name__} and its actions "
            f"{type(actions).__name__}, but tabular agents need (index, time) and discrete actions"
        )
    return InnerAgents(env, int(parts[0].n), int(actions.n), config)


Update = Callable[[InnerAgent, Experience], tuple[InnerAgent, PyTree]]
"""`(agent, experience) -> (agent, what is said of it)`, one agent."""


def learned_update(
    agents: InnerAgents,
    rule: LearnedRule,
    params: PyTree,
    coefficients: losses.MetaCoefficients = COEFFICIENTS,
) -> Update:
    """Agents that learn by a rule.

    Args:
      agents: their functions.
      rule: see `networks.lpg.learned_rule`.
      params: of the rule; gradients flow to them through what agents become, and not through
        what the rule reads of the agents.
      coefficients: of what the update says.

    Returns:
      An `Update` that says what `losses.learned_rule.meta_regularisers` returns.

    Source: LPG, Oh et al. 2020 (arXiv 2007.08794); GROOVE, Jackson et al. 2023 (arXiv 2310.02782).
    """
    config = agents.config

    def update(agent: InnerAgent, experience: Experience) -> tuple[InnerAgent, PyTree]:
        seen, action = experience.observation, experience.action

        def outputs(actor: PyTree, predictor: PyTree) -> tuple[Array, Array]:
            return jax.nn.softmax(look_up(actor, seen)), jax.nn.softmax(look_up(predictor, seen))

        policies, targets = outputs(agent.actor, agent.predictor)
        following = jax.nn.softmax(look_up(agent.predictor, experience.next_observation))
        said = rule.apply(
            params,
            experience.reward,
            experience.done,
            taken(policies, action),
            targets,
            following,
        )

        def loss(actor: PyTree, predictor: PyTree) -> Array:
            policies, targets = outputs(actor, predictor)
            return losses.inner_loss(
                taken(policies, action),
                targets,
                *said,
                target_coefficient=config.target_coefficient,
            )[0]

        for_actor, for_predictor = jax.grad(loss, argnums=(0, 1))(agent.actor, agent.predictor)
        agent = agent.replace(
            actor=agents.stepped(agent.actor, for_actor, config.actor_learning_rate),
            predictor=agents.stepped(agent.predictor, for_predictor, config.critic_learning_rate),
        )
        became = outputs(agent.actor, agent.predictor)
        return agent, losses.meta_regularisers(*became, *said, coefficients=coefficients)

    return update


def a2c_update(agents: InnerAgents) -> Update:
    """Agents that learn by advantage actor-critic, the value first.

    Args:
      agents: their functions.

    Returns:
      An `Update` that says nothing.

    Source: Mnih et al. 2016 (arXiv 1602.01783), as the antagonist of GROOVE, Jackson et al. 2023
    (arXiv 2310.02782).
    """
    config = agents.config

    def update(agent: InnerAgent, experience: Experience) -> tuple[InnerAgent, tuple[()]]:
        value = agents.fit_value(agent.value, experience)
        advantage = losses.normalised(agents.advantage(value, experience)[0])

        def loss(actor: PyTree) -> Array:
            policies = jax.nn.softmax(look_up(actor, experience.observation))
            gain = losses.meta_policy_loss(taken(policies, experience.action), advantage)
            return gain - config.entropy * jnp.mean(losses.entropy(policies))

        actor = agents.stepped(agent.actor, jax.grad(loss)(agent.actor), config.actor_learning_rate)
        return agent.replace(actor=actor, value=value), ()

    return update


def taken(probabilities: Array, action: Array) -> Array:
    """`[..., A]` probabilities and `[...]` actions to `[...]`."""
    return jnp.take_along_axis(probabilities, action[..., None], axis=-1)[..., 0]


def clipped(gradient: PyTree, max_norm: float) -> PyTree:
    """Scales a gradient down to a global norm; may be differentiated, also where it is zero.

    Args:
      gradient: pytree.
      max_norm: positive.

    Returns:
      Pytree.
    """
    square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
    above = square > max_norm**2
    # The root of a zero that is not chosen would have an infinite slope.
    scale = jnp.where(above, max_norm / jnp.sqrt(jnp.where(above, square, 1.0)), 1.0)
    return jax.tree.map(lambda leaf: scale * leaf, gradient)
