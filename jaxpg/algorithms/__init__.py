"""Builders of `Algorithm`."""

from jaxpg.agent import Agent
from jaxpg.algorithms import learner
from jaxpg.algorithms.inner_agents import InnerAgents, InnerConfig, inner_agents
from jaxpg.algorithms.inner_lives import meta_test
from jaxpg.algorithms.learner import TrainState
from jaxpg.algorithms.map_elites import Elites, MapElitesState, map_elites
from jaxpg.algorithms.meta import MetaConfig, MetaState, meta
from jaxpg.algorithms.meta_evolution import (
    MetaEvolutionConfig,
    MetaEvolutionState,
    meta_evolution,
)
from jaxpg.algorithms.neuroevolution import (
    DCG,
    DCG_LATER,
    DCRL,
    DCGConfig,
    GeneticConfig,
    PGAConfig,
    dcg_map_elites,
    dcrl_map_elites,
    genetic_map_elites,
    pga_map_elites,
)
from jaxpg.algorithms.off_policy import (
    OffPolicyConfig,
    OffPolicyState,
    deterministic_acting,
    exploring,
    off_policy,
)
from jaxpg.algorithms.on_policy import OnPolicyConfig, Policy, acting, on_policy
from jaxpg.algorithms.pathwise import PathwiseConfig, PathwiseState, pathwise
from jaxpg.algorithms.rlvr import RLVRConfig, plan, rlvr
from jaxpg.algorithms.twin_delayed import (
    DDPG,
    TD3Config,
    TwinDelayedConfig,
    TwinDelayedState,
    ddpg,
    td3,
    twin_delayed,
)
from jaxpg.algorithms.warm_start import warm_start

__all__ = [
    "DCG",
    "DCG_LATER",
    "DCRL",
    "DDPG",
    "Agent",
    "DCGConfig",
    "Elites",
    "GeneticConfig",
    "InnerAgents",
    "InnerConfig",
    "MapElitesState",
    "MetaConfig",
    "MetaEvolutionConfig",
    "MetaEvolutionState",
    "MetaState",
    "OffPolicyConfig",
    "OffPolicyState",
    "OnPolicyConfig",
    "PGAConfig",
    "PathwiseConfig",
    "PathwiseState",
    "Policy",
    "RLVRConfig",
    "TD3Config",
    "TrainState",
    "TwinDelayedConfig",
    "TwinDelayedState",
    "acting",
    "dcg_map_elites",
    "dcrl_map_elites",
    "ddpg",
    "deterministic_acting",
    "exploring",
    "genetic_map_elites",
    "inner_agents",
    "learner",
    "map_elites",
    "meta",
    "meta_evolution",
    "meta_test",
    "off_policy",
    "on_policy",
    "pathwise",
    "pga_map_elites",
    "plan",
    "rlvr",
    "td3",
    "twin_delayed",
    "warm_start",
]
