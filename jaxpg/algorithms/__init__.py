"""Builders of `Algorithm`."""

from jaxpg.algorithms.on_policy import OnPolicyConfig, TrainState, on_policy

__all__ = ["OnPolicyConfig", "TrainState", "on_policy"]
