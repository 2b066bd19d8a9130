"""Descriptor-conditioned assistance: a critic and a policy that are told which descriptor to reach.

Networks see an observation as a pair of what the environment shows and the descriptor that is asked
for, in the units of `Scale`. The one policy learns to do what all elites of the archive do.
"""

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
from jaxpg.losses import descriptor_conditioned as losses
from jaxpg.networks import DeterministicNetworks
from jaxpg.networks.deterministic import with_fixed_inputs
from jaxpg.quality_diversity import archive as archives
from jaxpg.quality_diversity import experience, genetic
from jaxpg.quality_diversity.archive import Archive
from jaxpg.quality_diversity.descriptor_scale import Scale
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
from jaxpg.quality_diversity.policy_gradient import PolicyGradientConfig, check_sizes, transitions
from jaxpg.quality_diversity.scoring import Scores, Scoring
from jaxpg.types import Array, Metrics, PyTree


@dataclasses.dataclass(frozen=True)
class ConditionedConfig(PolicyGradientConfig):
    """How a population and a critic that is told descriptors work together.

    Attributes:
      num_injected: offspring that are the policy itself, told the descriptor of an elite.
      num_active: episodes of the policy in an update, each told a descriptor near that of an elite.
        They are learned from, but neither enter the archive nor count as its evaluations.
      active_noise: standard deviation of what is added to these descriptors, in sides of the box.
      intended: offspring by gradient and by injection are learned from with the descriptor that
        they were made for; otherwise, like those by iso+line, with the one that they reached.
      length_scale: of the similarity, in the networks' units.
    """

    num_injected: int = 0
    num_active: int = 256
    active_noise: Any = 0.0004
    intended: bool = False
    length_scale: Any = 0.1


def descriptor_conditioned(
    agent: Agent,
    policies: DeterministicNetworks,
    rollouts: Scoring,
    scale: Scale,
    config: ConditionedConfig | None = None,
) -> Emitter:
    """The emitter of DCG-MAP-Elites and of DCRL-MAP-Elites.

    Offspring are varied by iso+line, climb the first critic that is told their parent's descriptor,
    or are the agent's policy held at the descriptor of an elite. Rewards count as far as the
    descriptor that was asked for was reached, and truncated steps do not enter the critics' loss.

    Args:
      agent: `algorithms.twin_delayed` on networks that see pairs of observation and descriptor.
      policies: networks of the genotypes, which see observations alone.
      rollouts: `(key, params of the agent's policy, asked [N, D]) -> Scores`, such as
        `scoring.conditioned_episodes`; `asked` in the units of the box.
      scale: from those units to the networks'.
      config: see `ConditionedConfig`.

    Returns:
      An `Emitter`; its shared state is the agent's. Metrics are the agent's; its evaluation asks
      the policy for the descriptor of every elite: `actor_qd_score` (the sum of fitness and
      offset), `actor_descriptor_error` (mean distance to the descriptor, in units of the box).

    Raises:
      ValueError: counts that are too small, a length scale that is not positive, or, with
        injections, a policy that turns into no genotype.

    Source: DCG-MAP-Elites, Faldor et al. 2023 (arXiv 2303.03832); DCRL-MAP-Elites, Faldor et al.
    2024 (arXiv 2401.08632).
    """
    config = config or ConditionedConfig()
    parts = {
        "genetic": config.num_genetic,
        "gradient": config.num_gradient,
        "injected": config.num_injected,
    }
    operators = used(parts)
    check_sizes(config)
    at_least("num_active", config.num_active, 0)
    known = not isinstance(config.length_scale, jax.core.Tracer)
    if known and not config.length_scale > 0:
        raise ValueError(f"length_scale is {config.length_scale!r}, but it has to be positive")
    num_dimensions = scale.width.shape[0]
    if config.num_injected:
        _check_injection(agent.networks, policies, num_dimensions)
    num_blocks = blocks_of(batch_size=config.batch_size, active=config.num_active, **operators)
    return Emitter(
        operators=operators,
        num_blocks=num_blocks,
        num_rollouts=config.num_active,
        settings={
            **dict(agent.settings),
            **describe(config),
            "scale": describe(scale._asdict()),
        },
        **_Conditioned(agent, policies, rollouts, scale, config, num_blocks).functions,
    )


def default_length_scale(low: Array, high: Array) -> float:
    """The similarity's length scale where none is given: 0.008 sides of the box.

    Args:
      low: `[D]`, lower corner of the box.
      high: `[D]`, upper corner.

    Returns:
      A number that the program of the paper takes as it is, whatever the units of its networks.

    Source: the program of Faldor et al. 2023 (arXiv 2303.03832).
    """
    return float(0.008 * jnp.mean(jnp.asarray(high) - jnp.asarray(low)))


def conditioned_transitions(items: Experience, length_scale: float | Array) -> replay.Transition:
    """What a critic learns from what was stored.

    Args:
      items: `[B]`, with descriptors in the networks' units.
      length_scale: see `losses.descriptor_conditioned.similarity`.

    Returns:
      `[B]` transitions: pairs instead of observations, rewards that count as far as the descriptor
      was met, and no weight for truncated steps.
    """
    plain = transitions(items)
    return plain._replace(
        observation=(plain.observation, items.asked),
        next_observation=(plain.next_observation, items.asked),
        reward=losses.scaled_reward(plain.reward, items.descriptor, items.asked, length_scale),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Conditioned:
    """The functions of one configuration."""

    agent: Agent
    policies: DeterministicNetworks
    rollouts: Scoring
    scale: Scale
    config: ConditionedConfig
    num_blocks: int

    @property
    def functions(self) -> dict[str, Any]:
        return {
            "init": self.init,
            "learn": self.learn,
            "emit": self.emit,
            "remember": self.remember,
            "evaluate": self.evaluate,
            "policy": lambda state: self.agent.policy(state.shared),
        }

    @property
    def num_each(self) -> int:
        """Items of a minibatch from each block."""
        return self.config.batch_size // self.num_blocks

    def init(self, key: Array, scores: Scores) -> EmitterState:
        num_dimensions = self.scale.width.shape[0]
        rows = experience.empty_blocks(
            scores, self.num_blocks, self.config.capacity, num_dimensions
        )
        return EmitterState(self.store(rows, scores, scores.descriptors), self.agent.init(key))

    def learn(
        self, key: Array, state: EmitterState, archive: Archive
    ) -> tuple[EmitterState, Metrics]:
        config = self.config
        key_active, key_learn = jax.random.split(key)
        rows = state.rows
        if config.num_active:
            scores, asked = self.active(key_active, state, archive)
            rows = self.store(rows, scores, asked)
        shared, metrics = experience.learn(
            self.agent,
            key_learn,
            state.shared,
            rows,
            config.num_critic_steps,
            self.num_each,
            lambda items: conditioned_transitions(items, config.length_scale),
        )
        return EmitterState(rows, shared), metrics

    def emit(self, key: Array, state: EmitterState, archive: Archive) -> Offspring:
        config = self.config
        key_genetic, key_gradient, key_injected = jax.random.split(key, 3)
        parts = []
        if config.num_genetic:
            varied = genetic.pairs(
                key_genetic, archive, config.num_genetic, config.sigma_iso, config.sigma_line
            )
            parts.append(genetic.unasked(varied, archive))
        if config.num_gradient:
            parts.append(self.by_gradient(key_gradient, state, archive))
        if config.num_injected:
            parts.append(self.injected(key_injected, state, archive))
        return in_blocks(parts, own_blocks(self.num_blocks))

    def by_gradient(self, key: Array, state: EmitterState, archive: Archive) -> Offspring:
        """Elites that climb the critic of their own descriptor."""
        config, networks = self.config, self.agent.networks
        key_parents, key_batches = jax.random.split(key)
        parents, descriptors, _ = archives.sample(key_parents, archive, config.num_gradient)
        parents, descriptors = parallel.own_share((parents, descriptors))
        seen = experience.observations(
            key_batches, state.rows, config.num_policy_steps, self.num_each
        )

        def value(policy: PyTree, observation: PyTree, asked: Array) -> Array:
            action = self.policies.actor(policy, observation)
            asked = jnp.broadcast_to(asked, (action.shape[0], *asked.shape))
            return networks.first_value(state.shared.critics, (observation, asked), action)

        optimiser = optax.adam(config.policy_learning_rate)
        climbed = climb(parents, self.scale.scaled(descriptors), seen, value, optimiser)
        return self.made_for(climbed, descriptors)

    def injected(self, key: Array, state: EmitterState, archive: Archive) -> Offspring:
        """The policy held at the descriptors of elites."""
        _, descriptors, _ = archives.sample(key, archive, self.config.num_injected)
        descriptors = parallel.own_share(descriptors)
        actor = self.agent.policy(state.shared)
        held = jax.vmap(with_fixed_inputs, in_axes=(None, 0))(actor, self.scale.scaled(descriptors))
        return self.made_for(held, descriptors)

    def made_for(self, genotypes: PyTree, descriptors: Array) -> Offspring:
        return Offspring(
            genotypes, descriptors, jnp.full(descriptors.shape[0], self.config.intended)
        )

    def remember(self, state: EmitterState, offspring: Offspring, scores: Scores) -> EmitterState:
        asked = jnp.where(offspring.intended[:, None], offspring.asked, scores.descriptors)
        return state.replace(rows=self.store(state.rows, scores, asked))

    def store(self, rows: replay.Buffer, scores: Scores, asked: Array) -> replay.Buffer:
        scaled = self.scale.scaled
        return experience.store(rows, scores, scaled(scores.descriptors), scaled(asked))

    def active(self, key: Array, state: EmitterState, archive: Archive) -> tuple[Scores, Array]:
        """Episodes of the policy, told descriptors near those of elites."""
        key_sample, key_noise, key_rollouts = jax.random.split(key, 3)
        _, descriptors, _ = archives.sample(key_sample, archive, self.config.num_active)
        sides = archive.cells.high - archive.cells.low
        noise = jax.random.normal(key_noise, descriptors.shape)
        asked = parallel.own_share(descriptors + self.config.active_noise * sides * noise)
        return self.rollouts(key_rollouts, self.agent.policy(state.shared), asked), asked

    def evaluate(self, key: Array, state: EmitterState, archive: Archive, offset: float) -> Metrics:
        """What the one policy does when it is told the descriptor of every elite."""
        occupied = archives.occupied(archive)
        asked = archive.descriptors
        scores = self.rollouts(key, self.agent.policy(state.shared), asked)
        error = jnp.linalg.norm(scores.descriptors - asked, axis=-1)
        count = jnp.maximum(jnp.sum(occupied), 1)
        return {
            "actor_qd_score": jnp.sum(jnp.where(occupied, scores.fitness + offset, 0.0)),
            "actor_descriptor_error": jnp.sum(jnp.where(occupied, error, 0.0)) / count,
        }


def _check_injection(
    conditioned: DeterministicNetworks, policies: DeterministicNetworks, num_dimensions: int
) -> None:
    """The policy has to turn into a genotype when the descriptor is fixed."""

    def held(key: Array) -> PyTree:
        return with_fixed_inputs(conditioned.init_actor(key), jnp.zeros(num_dimensions))

    key = jax.random.key(0)
    shapes = [
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (jax.eval_shape(held, key), jax.eval_shape(policies.init_actor, key))
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the policy that is told a descriptor turns into one with parameters {shapes[0]}, but "
            f"genotypes have {shapes[1]}: injected offspring need equal layers, otherwise set "
            f"num_injected to 0"
        )
