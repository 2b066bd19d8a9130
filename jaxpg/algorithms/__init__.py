"""Builders of `Algorithm`."""

from jaxpg.algorithms import learner
from jaxpg.algorithms.on_policy import OnPolicyConfig, Policy, TrainState, acting, on_policy

__all__ = ["OnPolicyConfig", "Policy", "TrainState", "acting", "learner", "on_policy"]
