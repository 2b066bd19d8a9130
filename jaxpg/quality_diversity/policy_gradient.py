"""Policy gradient assistance: offspring that climb the critic of a TD3 that learns beside them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxpg import parallel, replay
from jaxpg.agent import Agent
from jaxpg.choices import at_least
from jaxpg.description import describe
from jaxpg.quality_diversity import archive as archives
from jaxpg.quality_diversity import experience, genetic
from jaxpg.quality_diversity.archive import Archive
from jaxpg.quality_diversity.emitter import (
    Emitter,
    EmitterState,
    Offspring,
    blocks_of,
    in_blocks,
    own_blocks,
    used,
)
from jaxpg.quality_diversity.experience import Experience
from jaxpg.quality_diversity.gradient_variation import climb
from jaxpg.quality_diversity.scoring import Scores
from jaxpg.types import Array, Metrics, PyTree


@dataclasses.dataclass(frozen=True)
class PolicyGradientConfig:
    """How a population and its critic work together. Numeric rates may be traced.

    Attributes:
      num_genetic: offspring of an update by iso+line.
      num_gradient: offspring by the critic's gradient.
      sigma_iso: see `variation.iso_line`.
      sigma_line: likewise.
      num_critic_steps: gradient steps of the critics in an update.
      num_policy_steps: of Adam for each of the offspring by gradient.
      policy_learning_rate: of that Adam.
      batch_size: steps of a minibatch, over all devices.
      capacity: steps that are remembered, over all devices. The memory is taken at once.
    """

    num_genetic: int = 128
    num_gradient: int = 128
    sigma_iso: Any = 0.005
    sigma_line: Any = 0.05
    num_critic_steps: int = 300
    num_policy_steps: int = 150
    policy_learning_rate: Any = 5e-3
    batch_size: int = 100
    capacity: int = 1_000_000


def policy_gradient(agent: Agent, config: PolicyGradientConfig | None = None) -> Emitter:
    """The emitter of PGA-MAP-Elites.

    Offspring are varied by iso+line, or climb the first critic; one of the latter is the agent's
    own policy instead, and counts as one of them. The critics learn from what all offspring lived
    through, and truncated steps do not enter their loss.

    Args:
      agent: `algorithms.twin_delayed`, whose policy has the networks of the genotypes.
      config: see `PolicyGradientConfig`.

    Returns:
      An `Emitter`; its shared state is the agent's. Metrics are the agent's.

    Raises:
      ValueError: counts that are too small.

    Source: Nilsson and Cully 2021, "Policy gradient assisted MAP-Elites"; rates and sizes are those
    of the comparison in Faldor et al. 2023 (arXiv 2303.03832).
    """
    config = config or PolicyGradientConfig()
    operators = used({"genetic": config.num_genetic, "gradient": config.num_gradient})
    check_sizes(config)
    num_blocks = blocks_of(batch_size=config.batch_size, **operators)
    num_each = config.batch_size // num_blocks
    optimiser = optax.adam(config.policy_learning_rate)
    networks = agent.networks

    def init(key: Array, scores: Scores) -> EmitterState:
        rows = experience.empty_blocks(scores, num_blocks, config.capacity)
        return EmitterState(experience.store(rows, scores), agent.init(key))

    def learn(key: Array, state: EmitterState, archive: Archive) -> tuple[EmitterState, Metrics]:
        del archive
        shared, metrics = experience.learn(
            agent, key, state.shared, state.rows, config.num_critic_steps, num_each, transitions
        )
        return state.replace(shared=shared), metrics

    def emit(key: Array, state: EmitterState, archive: Archive) -> Offspring:
        key_genetic, key_parents, key_batches = jax.random.split(key, 3)
        parts = []
        if config.num_genetic:
            parts.append(
                genetic.pairs(
                    key_genetic, archive, config.num_genetic, config.sigma_iso, config.sigma_line
                )
            )
        if config.num_gradient:
            parents, _, _ = archives.sample(key_parents, archive, config.num_gradient)
            seen = experience.observations(
                key_batches, state.rows, config.num_policy_steps, num_each
            )

            def value(policy: PyTree, observation: PyTree, asked: PyTree) -> Array:
                action = networks.actor(policy, observation)
                return networks.first_value(state.shared.critics, observation, action)

            climbed = climb(parallel.own_share(parents), (), seen, value, optimiser)
            parts.append(_first_replaced(climbed, agent.policy(state.shared)))
        return genetic.unasked(in_blocks(parts, own_blocks(num_blocks)), archive)

    def remember(state: EmitterState, offspring: Offspring, scores: Scores) -> EmitterState:
        del offspring
        return state.replace(rows=experience.store(state.rows, scores))

    return Emitter(
        init=init,
        learn=learn,
        emit=emit,
        remember=remember,
        operators=operators,
        num_blocks=num_blocks,
        policy=lambda state: agent.policy(state.shared),
        settings={**dict(agent.settings), **describe(config)},
    )


def transitions(items: Experience) -> replay.Transition:
    """What a critic learns from what was stored: truncated steps have no weight.

    Args:
      items: `[B]`.

    Returns:
      `[B]` transitions.
    """
    return replay.Transition(
        observation=items.observation,
        action=items.action,
        reward=items.reward,
        terminated=items.terminated,
        next_observation=items.next_observation,
        weight=1.0 - items.truncated,
    )


def check_sizes(config: PolicyGradientConfig) -> None:
    """Refuses counts that are too small.

    Args:
      config: any.

    Raises:
      ValueError: naming the field.
    """
    for name in ("num_critic_steps", "num_policy_steps", "batch_size", "capacity"):
        at_least(name, getattr(config, name), 1)


def _first_replaced(policies: PyTree, policy: PyTree) -> PyTree:
    """The first of all devices' policies becomes the given one."""
    number = jax.tree.leaves(policies)[0].shape[0]
    first = parallel.shard_index() * number + jnp.arange(number) == 0
    return jax.tree.map(
        lambda many, one: jnp.where(first.reshape((-1,) + (1,) * one.ndim), one, many),
        policies,
        policy,
    )
