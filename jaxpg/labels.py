"""Where the labels of a picture go, so that none overlaps another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize


def spread(heights: Sequence[float], gap: float) -> np.ndarray:
    """Moves labels apart until none overlap, in their order and as little as it takes.

    Args:
      heights: `[n]`, where they want to be, in [0, 1], in any order.
      gap: smallest distance between two.

    Returns:
      `[n]`, the least-squares positions, in [0, 1] as long as they fit in there.

    >>> spread([0.5, 0.5], 0.2).tolist()
    [0.4, 0.6]
    """
    heights = np.asarray(heights, float)
    order = np.argsort(heights, kind="stable")
    offsets = gap * np.arange(len(heights))
    settled = optimize.isotonic_regression(heights[order] - offsets).x
    moved = np.empty_like(heights)
    moved[order] = np.clip(settled, 0.0, max(0.0, 1.0 - offsets[-1])) + offsets
    return moved
