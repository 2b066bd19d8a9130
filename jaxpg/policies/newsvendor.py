"""Base stock levels that are quantiles of forecast demand: generalised newsvendor policies.

The raw output of all of them is the logit of a probability for each store; the level is that
quantile of the demand of the protection interval, L + 1 periods, and the order is what the stock,
that on its way included, is short of it. The forecaster is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

from jaxpg.choices import at_least
from jaxpg.policies.forecaster import Forecaster, quantile_at
from jaxpg.policies.perceptron import perceptron
from jaxpg.policies.policy import (
    Action,
    DeterministicPolicy,
    Observation,
    check_history,
    check_stores_only,
    orders,
)
from jaxpg.types import Array, PyTree


def quantile_newsvendor(forecaster: Forecaster, num_stores: int = 1) -> DeterministicPolicy:
    """The quantile p / (p + h), optimal for a single period; nothing is learned.

    Args:
      forecaster: from `fit_forecaster`. A lead time that it does not know gives orders of NaN.
      num_stores: S; they order from outside.

    Returns:
      A `DeterministicPolicy` with S outputs and no parameters.

    Raises:
      ValueError: no store.

    Source: QuantileNV of HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    return _newsvendor(forecaster, num_stores, lambda key: (), _critical_logit)


def returns_newsvendor(forecaster: Forecaster, num_stores: int = 1) -> DeterministicPolicy:
    """The same quantile, with stock above the level sent back: orders may be negative.

    Not admissible, a yardstick only.

    Args:
      forecaster: see `quantile_newsvendor`.
      num_stores: S; they order from outside.

    Returns:
      A `DeterministicPolicy` with S outputs and no parameters.

    Raises:
      ValueError: no store.

    Source: ReturnsNV of HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    return _newsvendor(forecaster, num_stores, lambda key: (), _critical_logit, lambda x: x)


def fixed_quantile(
    forecaster: Forecaster, num_stores: int = 1, initial: float = 0.5
) -> DeterministicPolicy:
    """One quantile for all stores and costs; its logit is the only parameter.

    Args:
      forecaster: see `quantile_newsvendor`.
      num_stores: S; they order from outside.
      initial: the probability at first, in (0, 1).

    Returns:
      A `DeterministicPolicy` with S outputs.

    Raises:
      ValueError: no store, or no probability.

    Source: FixedQuantile of HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    if not 0.0 < initial < 1.0:
        raise ValueError(f"initial is {initial!r}, but it has to be between 0 and 1")
    logit = jnp.array(math.log(initial / (1.0 - initial)), jnp.float32)

    def outputs(params: PyTree, observation: Observation) -> Array:
        return jnp.broadcast_to(params, observation["underage_cost"].shape)

    return _newsvendor(forecaster, num_stores, lambda key: logit, outputs)


def transformed_newsvendor(
    forecaster: Forecaster, num_stores: int = 1, hidden: Sequence[int] = (32, 32)
) -> DeterministicPolicy:
    """The quantile is a learned function of p / (p + h).

    Args:
      forecaster: see `quantile_newsvendor`.
      num_stores: S; they order from outside and share the function.
      hidden: widths of its perceptron.

    Returns:
      A `DeterministicPolicy` with S outputs.

    Raises:
      ValueError: no store, or a width below 1.

    Source: TransformedNV of HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    net = perceptron(1, hidden, 1)

    def outputs(params: PyTree, observation: Observation) -> Array:
        underage = observation["underage_cost"]
        ratio = underage / (underage + observation["holding_cost"])
        return net.apply(params, ratio.reshape(-1, 1)).reshape(ratio.shape)

    return _newsvendor(forecaster, num_stores, net.init, outputs)


def levels(forecaster: Forecaster, probability: Array, observation: Observation) -> Array:
    """Quantiles of the demand of every store's protection interval.

    Args:
      forecaster: of L + 1 periods' demand.
      probability: `[B, S]` in [0, 1].
      observation: `past_demand [B, H, S]` with at least the forecaster's history, oldest first,
        `days_from_christmas [B]`, and `lead_time [B, S, 1]`, NaN results where the forecaster does
        not know it.

    Returns:
      `[B, S]`, in units.

    Raises:
      ValueError: too little past demand is seen.
    """
    check_history(observation, forecaster.history)
    chex.assert_rank([probability, observation["lead_time"]], [2, 3])
    rows, stores = probability.shape
    past = observation["past_demand"][:, -forecaster.history :].swapaxes(1, 2)
    days = jnp.repeat(observation["days_from_christmas"], stores)
    quantiles = forecaster.quantiles(past.reshape(rows * stores, -1), days)
    known = observation["lead_time"] == jnp.array(forecaster.lead_times, float)
    of_all = quantile_at(
        quantiles.reshape(rows, stores, *quantiles.shape[1:]),
        jnp.broadcast_to(probability[:, :, None], known.shape),
    )
    level = jnp.sum(jnp.where(known, of_all, 0.0), axis=2)
    # A forecast of another interval would be wrong and look right.
    return jnp.where(jnp.any(known, axis=2), level, jnp.nan)


def _newsvendor(
    forecaster: Forecaster,
    num_stores: int,
    init: Callable[[Array], PyTree],
    outputs: Callable[[PyTree, Observation], Array],
    admissible: Callable[[Array], Array] = jax.nn.relu,
) -> DeterministicPolicy:
    at_least("num_stores", num_stores, 1)

    def action(outputs: Array, observation: Observation) -> Action:
        check_stores_only(observation, num_stores)
        chex.assert_shape(outputs, (None, num_stores))
        level = levels(forecaster, jax.nn.sigmoid(outputs), observation)
        short = level - jnp.sum(observation["stores"], axis=-1)
        return orders(admissible(short)[:, :, None])

    return DeterministicPolicy(init, outputs, action, num_stores)


def _critical_logit(params: PyTree, observation: Observation) -> Array:
    """The logit of p / (p + h)."""
    del params
    return jnp.log(observation["underage_cost"]) - jnp.log(observation["holding_cost"])
