"""The units in which networks and similarities see descriptors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxpg.types import Array


class Scale(NamedTuple):
    """An affine map of descriptors.

    Attributes:
      centre: `[D]`, becomes 0.
      width: `[D]`, the distance from it that becomes 1.
    """

    centre: np.ndarray
    width: np.ndarray

    def scaled(self, descriptors: Array) -> Array:
        """Maps descriptors `[..., D]` from the units of the box."""
        return (descriptors - self.centre) / self.width


def symmetric(low: np.ndarray, high: np.ndarray) -> Scale:
    """The box becomes [-1, 1].

    Args:
      low: `[D]`, lower corner of the box.
      high: `[D]`, upper corner.

    Returns:
      A `Scale`.

    >>> symmetric(np.array([0.0]), np.array([4.0])).scaled(np.array([0.0, 3.0])).tolist()
    [-1.0, 0.5]
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return Scale((low + high) / 2, (high - low) / 2)


def by_high(low: np.ndarray, high: np.ndarray) -> Scale:
    """The upper corner becomes 1, and 0 stays 0.

    Args:
      low: `[D]`, lower corner of the box.
      high: `[D]`, upper corner, positive.

    Returns:
      A `Scale`.

    Raises:
      ValueError: the upper corner is not positive.

    Source: the program of Faldor et al. 2023 (arXiv 2303.03832).
    """
    del low
    high = np.asarray(high, np.float32)
    if not np.all(high > 0):
        raise ValueError(
            f"high is {high.tolist()}, but descriptors are scaled by it, so it has to be positive: "
            f"take descriptor_scale.symmetric"
        )
    return Scale(np.zeros_like(high), high)
