"""Builders of `Algorithm`."""

from jaxpg.algorithms import learner
from jaxpg.algorithms.learner import TrainState
from jaxpg.algorithms.on_policy import OnPolicyConfig, Policy, acting, on_policy
from jaxpg.algorithms.pathwise import PathwiseConfig, PathwiseState, pathwise
from jaxpg.algorithms.rlvr import RLVRConfig, plan, rlvr
from jaxpg.algorithms.warm_start import warm_start

__all__ = [
    "OnPolicyConfig",
    "PathwiseConfig",
    "PathwiseState",
    "Policy",
    "RLVRConfig",
    "TrainState",
    "acting",
    "learner",
    "on_policy",
    "pathwise",
    "plan",
    "rlvr",
    "warm_start",
]
