"""The four parts of a policy gradient, its aggregation, and its regularisers."""

from jaxpg.parts import (
    advantages,
    aggregates,
    down_sampling,
    entropy_control,
    likelihoods,
    references,
    regularisers,
    rewards,
    stabilisers,
    trackers,
)

__all__ = [
    "advantages",
    "aggregates",
    "down_sampling",
    "entropy_control",
    "likelihoods",
    "references",
    "regularisers",
    "rewards",
    "stabilisers",
    "trackers",
]
