"""Losses that are no four-part estimator: divergences, values, deterministic policies, rules."""

from jaxpg.losses import (
    descriptor_conditioned,
    deterministic,
    divergences,
    learned_rule,
    values,
)

__all__ = ["descriptor_conditioned", "deterministic", "divergences", "learned_rule", "values"]
