"""The four parts of a policy gradient, its aggregation, and its regularisers."""

from jaxpg.parts import (
    advantages,
    aggregates,
    curvature,
    down_sampling,
    entropy_control,
    likelihoods,
    references,
    regularisers,
    rewards,
    shadow_moments,
    stabilisers,
    trackers,
)

__all__ = [
    "advantages",
    "aggregates",
    "curvature",
    "down_sampling",
    "entropy_control",
    "likelihoods",
    "references",
    "regularisers",
    "rewards",
    "shadow_moments",
    "stabilisers",
    "trackers",
]
