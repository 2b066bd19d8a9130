"""The stores of the published problems, drawn as their authors drew them.

Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), published settings. They come from NumPy's legacy
generator with the published seeds, so that they are the published numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class StoreParameters(NamedTuple):
    """Of S stores, `[S]` each, drawn with the published seeds.

    Attributes:
      mean: of demand, U[2.5, 7.5], three decimals.
      std: of demand, the mean times U[0.25, 0.5], three decimals.
      holding_cost: U[0.7, 1.3].
      underage_cost: U[6.3, 11.7].
      lead_time: 2 or 3.
    """

    mean: np.ndarray
    std: np.ndarray
    holding_cost: np.ndarray
    underage_cost: np.ndarray
    lead_time: np.ndarray


def store_parameters(num_stores: int) -> StoreParameters:
    """The published parameters of the first S stores.

    Args:
      num_stores: S, at least 1.

    Returns:
      `StoreParameters`; the first stores are the same for every S.

    >>> store_parameters(3).mean
    array([3.743, 4.75 , 4.555])
    """
    mean = legacy_uniform(33, 2.5, 7.5, num_stores).round(3)
    variation = legacy_uniform(92, 0.25, 0.5, num_stores)
    return StoreParameters(
        mean=mean,
        std=(mean * variation).round(3),
        holding_cost=legacy_uniform(73, 0.7, 1.3, num_stores),
        underage_cost=legacy_uniform(28, 6.3, 11.7, num_stores),
        lead_time=legacy_integers(41, 2, 4, num_stores),
    )


def legacy_uniform(seed: int, low: float, high: float, size: int) -> np.ndarray:
    """`[size]` float64 of NumPy's legacy generator, which the published numbers come from."""
    return np.random.RandomState(seed).uniform(low, high, size)


def legacy_integers(seed: int, low: int, high: int, size: int) -> np.ndarray:
    """`[size]` whole numbers in `[low, high)` of NumPy's legacy generator."""
    return np.random.RandomState(seed).randint(low, high, size)
