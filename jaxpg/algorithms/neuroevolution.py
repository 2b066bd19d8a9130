"""MAP-Elites over the weights of policies, alone and assisted by policy gradients.

PGA-MAP-Elites learns a critic from what all policies live through, DCG- and DCRL-MAP-Elites one
that is told descriptors, with a policy that learns to do what all elites do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from jaxpg import networks as networks_module
from jaxpg.algorithms.map_elites import map_elites
from jaxpg.algorithms.twin_delayed import TwinDelayedConfig, twin_delayed
from jaxpg.choices import at_least, replace_fields
from jaxpg.description import describe
from jaxpg.networks import DeterministicNetworks
from jaxpg.networks.mlp import lecun_uniform
from jaxpg.quality_diversity import cells as cells_module
from jaxpg.quality_diversity import descriptor_conditioned as conditioned
from jaxpg.quality_diversity import descriptor_scale, scoring
from jaxpg.quality_diversity.cells import Cells
from jaxpg.quality_diversity.descriptor_conditioned import ConditionedConfig
from jaxpg.quality_diversity.distilled import distilled
from jaxpg.quality_diversity.emitter import Emitter
from jaxpg.quality_diversity.genetic import genetic
from jaxpg.quality_diversity.policy_gradient import PolicyGradientConfig, policy_gradient
from jaxpg.types import Algorithm, Array, PyTree

CVT_SEED = 0
"""Cells that are not given are drawn from this seed, so that archives of all runs compare."""


@dataclasses.dataclass(frozen=True)
class PopulationConfig:
    """Policies as solutions.

    Attributes:
      num_initial: first policies, drawn anew.
      hidden: widths of a policy's layers.
      activation: see `networks.mlp.ACTIVATIONS`.
      num_steps: after which an episode is cut; None takes `max_steps_in_episode`.
      num_cells: of the archive where cells are not given.
      offset: added to the fitness of every elite in the QD score.
    """

    num_initial: int = 256
    hidden: Sequence[int] = (128, 128)
    activation: str = "relu"
    num_steps: int | None = None
    num_cells: int = 1024
    offset: float = 0.0


@dataclasses.dataclass(frozen=True)
class GeneticConfig(PopulationConfig):
    """MAP-Elites with genetic variation.

    Attributes:
      num_genetic: offspring of an update.
      sigma_iso: see `variation.iso_line`.
      sigma_line: likewise.
    """

    num_genetic: int = 256
    sigma_iso: float = 0.005
    sigma_line: float = 0.05


@dataclasses.dataclass(frozen=True)
class PGAConfig(PopulationConfig, PolicyGradientConfig, TwinDelayedConfig):
    """PGA-MAP-Elites: the fields of its parts.

    Attributes:
      critic_hidden: widths of a critic's layers.
      critics_follow: see `TwinDelayedConfig`, as are the rates.
    """

    critic_hidden: Sequence[int] = (256, 256)
    critics_follow: bool = True
    actor_learning_rate: Any = 3e-4
    critic_learning_rate: Any = 3e-4


@dataclasses.dataclass(frozen=True)
class DCGConfig(PGAConfig, ConditionedConfig):
    """DCG- and DCRL-MAP-Elites: the fields of their parts; the defaults are the first paper's.

    Attributes:
      actor_hidden: widths of the layers of the policy that is told descriptors.
      scale: `(low, high) -> Scale`, the units in which networks see descriptors.
      length_scale: of the similarity, in these units; None takes the first paper's, see
        `descriptor_conditioned.default_length_scale`.
    """

    actor_hidden: Sequence[int] = (256, 256)
    length_scale: Any = None
    scale: Callable[..., descriptor_scale.Scale] = descriptor_scale.by_high


DCG = DCGConfig()
"""As in the first paper (GECCO 2023)."""

DCG_LATER = DCGConfig(
    num_critic_steps=3000,
    num_active=64,
    actor_hidden=(128, 128),
    length_scale=0.1,
    scale=descriptor_scale.symmetric,
)
"""As in its authors' later program."""

DCRL = dataclasses.replace(DCG_LATER, num_gradient=64, num_injected=64, num_active=0, intended=True)
"""The policy joins the population, and no episodes are spent beside those of offspring."""


def genetic_map_elites(
    env: Environment,
    env_params: PyTree,
    *,
    cells: Cells | None = None,
    config: GeneticConfig | None = None,
    **overrides: Any,
) -> Algorithm:
    """MAP-Elites over the weights of policies, without gradients.

    Args:
      env: in gymnax's interface, with descriptors and a bounded box of actions.
      env_params: its parameters.
      cells: of the archive; None draws a tessellation of the environment's box.
      config: see `GeneticConfig`.
      **overrides: fields of the config.

    Returns:
      An `Algorithm`, see `map_elites`.

    Raises:
      ValueError: an environment without descriptors or box of actions, or sizes that do not fit.
      TypeError: an unknown field.

    Source: Mouret and Clune 2015 (arXiv 1504.04909), with the variation of Vassiliades and Mouret
    2018 (arXiv 1804.03906).
    """
    config = replace_fields(config or GeneticConfig(), overrides)
    task = _Task(env, env_params, config)
    emitter = genetic(config.num_genetic, sigma_iso=config.sigma_iso, sigma_line=config.sigma_line)
    return task.algorithm("map_elites", task.policies(), emitter, cells)


def pga_map_elites(
    env: Environment,
    env_params: PyTree,
    *,
    cells: Cells | None = None,
    config: PGAConfig | None = None,
    **overrides: Any,
) -> Algorithm:
    """Policy gradient assisted MAP-Elites.

    Args:
      env: as for `genetic_map_elites`.
      env_params: its parameters.
      cells: likewise.
      config: see `PGAConfig`.
      **overrides: fields of the config.

    Returns:
      An `Algorithm`, see `map_elites`; metrics are also `critic_loss`, `actor_loss` and `value`.

    Raises:
      ValueError, TypeError: as `genetic_map_elites`.

    Source: Nilsson and Cully 2021, "Policy gradient assisted MAP-Elites" (GECCO).
    """
    config = replace_fields(config or PGAConfig(), overrides)
    task = _Task(env, env_params, config)
    policies = task.policies(critic_hidden=config.critic_hidden)
    emitter = policy_gradient(twin_delayed(policies, config, name="pga_map_elites"), config)
    return task.algorithm("pga_map_elites", policies, emitter, cells)


def dcg_map_elites(
    env: Environment,
    env_params: PyTree,
    *,
    cells: Cells | None = None,
    config: DCGConfig | None = None,
    **overrides: Any,
) -> Algorithm:
    """MAP-Elites with descriptor-conditioned gradients, and the archive distilled into one policy.

    Args:
      env: as for `genetic_map_elites`. Rewards should not be negative, because they are multiplied
        by a similarity.
      env_params: its parameters.
      cells: likewise.
      config: see `DCGConfig`; None takes `DCG`, and `DCG_LATER` is its authors' later one.
      **overrides: fields of the config.

    Returns:
      An `Algorithm`, see `map_elites`; metrics are also those of `pga_map_elites`, evaluations also
      `actor_qd_score` and `actor_descriptor_error`, and the `actor` of its policy is a
      `DistilledPolicy`.

    Raises:
      ValueError, TypeError: as `genetic_map_elites`.

    Source: Faldor et al. 2023, "MAP-Elites with descriptor-conditioned gradients and archive
    distillation into a single policy" (arXiv 2303.03832).
    """
    config = replace_fields(config or DCG, overrides)
    return _conditioned("dcg_map_elites", env, env_params, cells, config)


def dcrl_map_elites(
    env: Environment,
    env_params: PyTree,
    *,
    cells: Cells | None = None,
    config: DCGConfig | None = None,
    **overrides: Any,
) -> Algorithm:
    """DCG-MAP-Elites whose policy also joins the population, held at descriptors of elites.

    Args:
      env: as for `dcg_map_elites`.
      env_params: its parameters.
      cells: likewise.
      config: see `DCGConfig`; None takes `DCRL`.
      **overrides: fields of the config.

    Returns:
      An `Algorithm`, as `dcg_map_elites`.

    Raises:
      ValueError, TypeError: as `dcg_map_elites`; layers of policy and genotypes that differ.

    Source: Faldor et al. 2024, "Synergizing quality-diversity with descriptor-conditioned
    reinforcement learning" (arXiv 2401.08632).
    """
    config = replace_fields(config or DCRL, overrides)
    return _conditioned("dcrl_map_elites", env, env_params, cells, config)


def _conditioned(
    name: str, env: Environment, env_params: PyTree, cells: Cells | None, config: DCGConfig
) -> Algorithm:
    task = _Task(env, env_params, config)
    low, high = task.bounds
    scale = config.scale(low, high)
    if config.length_scale is None:
        length_scale = conditioned.default_length_scale(low, high)
        config = dataclasses.replace(config, length_scale=length_scale)
        task = dataclasses.replace(task, config=config)
    pair = spaces.Tuple(
        (env.observation_space(env_params), spaces.Box(-1.0, 1.0, low.shape, jnp.float32))
    )
    told = networks_module.deterministic(
        pair,
        env.action_space(env_params),
        hidden=config.actor_hidden,
        critic_hidden=config.critic_hidden,
        activation=config.activation,
        initialisers=lecun_uniform,
    )
    rollouts = scoring.conditioned_episodes(
        env,
        env_params,
        lambda params, observation, asked: told.actor(params, (observation, scale.scaled(asked))),
        config.num_steps,
        to_environment=told.to_environment,
    )
    policies = task.policies()
    agent = twin_delayed(told, config, name=name)
    emitter = conditioned.descriptor_conditioned(agent, policies, rollouts, scale, config)
    return task.algorithm(
        name,
        policies,
        emitter,
        cells,
        lambda params: distilled(env, env_params, params, scale, config.activation),
    )


@dataclasses.dataclass(frozen=True)
class _Task:
    """Policies in an environment with descriptors."""

    env: Environment
    env_params: PyTree
    config: PopulationConfig

    @property
    def bounds(self) -> tuple[Any, Any]:
        return scoring.descriptor_bounds(self.env, self.env_params)

    def policies(self, critic_hidden: Sequence[int] = ()) -> DeterministicNetworks:
        return networks_module.deterministic(
            self.env.observation_space(self.env_params),
            self.env.action_space(self.env_params),
            hidden=self.config.hidden,
            critic_hidden=critic_hidden,
            activation=self.config.activation,
            initialisers=lecun_uniform,
        )

    def algorithm(
        self,
        name: str,
        policies: DeterministicNetworks,
        emitter: Emitter,
        cells: Cells | None,
        actor: Callable[[PyTree], PyTree] = lambda params: params,
    ) -> Algorithm:
        env, config = self.env, self.config
        at_least("num_initial", config.num_initial, 1)
        length = scoring.episode_length(env, self.env_params, config.num_steps)
        capacity = getattr(config, "capacity", None)
        largest = max(config.num_initial, emitter.batch_size, emitter.num_rollouts)
        if capacity is not None and capacity // emitter.num_blocks * emitter.num_blocks < (
            largest * length
        ):
            raise ValueError(
                f"capacity is {capacity}, but {largest} episodes of {length} steps are stored at "
                f"once: it needs at least {largest * length}"
            )
        if cells is None:
            low, high = self.bounds
            key = jax.random.key(CVT_SEED)
            cells = cells_module.centroidal(key, low, high, config.num_cells)

        def initial(key: Array) -> PyTree:
            return jax.vmap(policies.init_actor)(jax.random.split(key, config.num_initial))

        return map_elites(
            scoring.episodes(
                env,
                self.env_params,
                policies.actor,
                config.num_steps,
                to_environment=policies.to_environment,
            ),
            cells,
            emitter,
            initial,
            offset=config.offset,
            steps_per_evaluation=length,
            name=name,
            settings={
                "environment": env.name,
                "env_params": describe(self.env_params),
                **describe(config),
            },
            actor=actor,
        )
