"""Losses that are no four-part estimator: divergences, value losses, deterministic policies."""

from jaxpg.losses import deterministic, divergences, values

__all__ = ["deterministic", "divergences", "values"]
