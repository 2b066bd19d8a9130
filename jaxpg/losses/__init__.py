"""Losses that are no four-part estimator: divergences, value losses."""

from jaxpg.losses import divergences, values

__all__ = ["divergences", "values"]
