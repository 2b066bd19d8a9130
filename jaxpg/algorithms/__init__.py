"""Builders of `Algorithm`."""

from jaxpg.algorithms import learner
from jaxpg.algorithms.learner import TrainState
from jaxpg.algorithms.off_policy import (
    Agent,
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
    "DDPG",
    "Agent",
    "OffPolicyConfig",
    "OffPolicyState",
    "OnPolicyConfig",
    "PathwiseConfig",
    "PathwiseState",
    "Policy",
    "RLVRConfig",
    "TD3Config",
    "TrainState",
    "TwinDelayedConfig",
    "TwinDelayedState",
    "acting",
    "ddpg",
    "deterministic_acting",
    "exploring",
    "learner",
    "off_policy",
    "on_policy",
    "pathwise",
    "plan",
    "rlvr",
    "td3",
    "twin_delayed",
    "warm_start",
]
