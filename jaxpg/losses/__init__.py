"""Losses that are no four-part estimator: divergences, values, deterministic policies."""

from jaxpg.losses import descriptor_conditioned, deterministic, divergences, values

__all__ = ["descriptor_conditioned", "deterministic", "divergences", "values"]
