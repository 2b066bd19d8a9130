"""A bound from below for a centre that keeps nothing and supplies several stores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxpg_envs.inventory.references.backlogged import BaseStock, normal_newsvendor
from jaxpg_envs.inventory.references.checks import (
    check_costs,
    check_lead_time,
    check_not_negative,
)


def transshipment_bound(
    holding_cost: float,
    underage_cost: float,
    warehouse_lead_time: int,
    store_lead_time: int,
    mean: ArrayLike,
    std: ArrayLike,
    correlation: float = 0.0,
) -> BaseStock:
    """No policy of "inventory/transshipment" costs less than this.

    An order of the centre is shared L_w periods later and meets demand L_s periods after that. If
    the stores' positions could be shared anew in every period, with negative shipments too, all
    stores would be kept at the same fractile, and S stores would cost what one costs whose demand
    deviates by the sum of the stores' deviations. The whole is then a newsvendor with variance
    L_w V + (L_s + 1) (sum of std)^2, V the variance of the demand of all stores in a period.

    Args:
      holding_cost: h of every store, above 0.
      underage_cost: p of every store, above 0.
      warehouse_lead_time: L_w, a whole number from 1 on.
      store_lead_time: L_s of every store, a whole number from 1 on.
      mean: `[S]`, of the stores' normal demand, which is not clipped.
      std: `[S]`, of it, at least 0.
      correlation: of the demand of every two stores, from -1 / (S - 1) to 1.

    Returns:
      `BaseStock`: the cost is a lower bound, per period and store; the level is that of the
      positions of the centre and all stores together, with which the bound would be attained.

    Raises:
      ValueError: an argument out of range.

    Source: Eppen and Schrage 1981, Federgruen and Zipkin 1984; the numbers are those of the
    benchmark of HDPO, Alvo et al. 2023.

    >>> from jaxpg_envs.inventory.published_stores import store_parameters
    >>> stores = store_parameters(3)
    >>> round(transshipment_bound(1.0, 4.0, 3, 2, stores.mean, stores.std, 0.5).cost, 3)
    5.754
    """
    check_costs(holding_cost, underage_cost)
    check_lead_time("warehouse_lead_time", warehouse_lead_time)
    check_lead_time("store_lead_time", store_lead_time)
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    _check_stores(mean, std, correlation)
    stores_variance = std.sum() ** 2
    variance = (1.0 - correlation) * np.sum(std**2) + correlation * stores_variance
    # At the lowest correlation the variance is 0, up to rounding.
    before_sharing = warehouse_lead_time * max(variance, 0.0)
    after_sharing = (store_lead_time + 1) * stores_variance
    whole = normal_newsvendor(
        holding_cost,
        underage_cost,
        (warehouse_lead_time + store_lead_time + 1) * mean.sum(),
        (before_sharing + after_sharing) ** 0.5,
    )
    return BaseStock(whole.level, whole.cost / std.size)


def _check_stores(mean: np.ndarray, std: np.ndarray, correlation: float) -> None:
    if std.ndim != 1 or not std.size:
        raise ValueError(f"std has shape {std.shape}, but [S] with S from 1 on is needed")
    if mean.shape != std.shape:
        raise ValueError(f"mean has shape {mean.shape}, but {std.shape} is needed, as of std")
    for store in range(std.size):
        check_not_negative(f"std[{store}]", float(std[store]))
    if not np.isfinite(mean).all():
        store = int(np.argmin(np.isfinite(mean)))
        raise ValueError(f"mean[{store}] is {mean[store]}, but a finite number is needed")
    lowest = -1.0 / (std.size - 1) if std.size > 1 else -1.0
    if not lowest <= correlation <= 1:
        raise ValueError(
            f"correlation is {correlation!r}, but {std.size} stores need one from {lowest:.4g} to 1"
        )
