"""Batches of scenarios: parameters with a leading axis, each with its own demand to come."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxpg_envs.inventory.checks import check_params, check_shapes, check_traces
from jaxpg_envs.inventory.demand import TraceDemand
from jaxpg_envs.inventory.environment import Inventory
from jaxpg_envs.inventory.params import InventoryParams

Array = jax.Array


def scenarios(
    env: Inventory,
    params: InventoryParams,
    key: jax.Array,
    num_scenarios: int,
    num_periods: int | None = None,
) -> InventoryParams:
    """Draws demand and first stock once, so that they can be back-tested again and again.

    Every slot of a store begins with U[0, 1] times `initial_stock_scale` times the store's mean
    over the drawn demand, unless `params.initial_stock` says what there is. Scenarios that differ
    in more than that are made by replacing arrays of the result: `.replace(lead_time=[N, S, W])`.

    Args:
      env: says what the network is and how much history is needed.
      params: of one scenario, with a demand that is drawn.
      key: of the demand and the stock.
      num_scenarios: N, at least 1.
      num_periods: T, at least 1; None takes `params.max_steps_in_episode`.

    Returns:
      Parameters, every leaf `[N, ...]`, with a `TraceDemand` of H + T rows that begins at row H.

    Raises:
      ValueError: a size below 1, parameters of another shape, or demand that is stored already.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), published settings.

    >>> import jaxpg_envs
    >>> env, params = jaxpg_envs.make("inventory/one-store-lost", lead_time=2)
    >>> scenarios(env, params, jax.random.key(0), num_scenarios=3).demand.values.shape
    (3, 50, 1)
    """
    num_periods = int(params.max_steps_in_episode) if num_periods is None else num_periods
    for name, value in (("num_scenarios", num_scenarios), ("num_periods", num_periods)):
        if value < 1:
            raise ValueError(f"{name} is {value!r}, but it has to be at least 1")
    check_shapes(env.network, params)
    if isinstance(params.demand, TraceDemand):
        raise ValueError(
            "params.demand is a TraceDemand, which is stored already: use copies, or from_traces"
        )
    params = params.replace(max_steps_in_episode=num_periods)
    return _draw(params, key, env.network.store_slots, env.history, num_scenarios, num_periods)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _draw(
    params: InventoryParams,
    key: jax.Array,
    num_slots: int,
    history: int,
    num_scenarios: int,
    num_periods: int,
) -> InventoryParams:
    key_demand, key_stock = jax.random.split(key)
    times = jnp.arange(history + num_periods)

    def trace(key: jax.Array) -> Array:
        keys = jax.random.split(key, len(times))
        return jax.vmap(params.demand.sample)(keys, times - history)

    values = jax.vmap(trace)(jax.random.split(key_demand, num_scenarios))
    demand = TraceDemand(
        values=values,
        first=jnp.full(num_scenarios, history, jnp.int32),
        days=jnp.broadcast_to(
            jax.vmap(params.demand.days_from_christmas)(times - history),
            (num_scenarios, len(times)),
        ),
    )
    stock = params.initial_stock
    if stock is None:
        shape = (num_scenarios, values.shape[-1], num_slots)
        mean = jnp.mean(values, axis=(0, 1))
        stock = jax.random.uniform(key_stock, shape) * params.initial_stock_scale * mean[:, None]
    else:
        stock = jnp.broadcast_to(stock, (num_scenarios, *stock.shape))
    rest = copies(params.replace(demand=None, initial_stock=None), num_scenarios)
    return rest.replace(demand=demand, initial_stock=stock)


def copies(params: InventoryParams, num_scenarios: int) -> InventoryParams:
    """The same parameters N times; demand that is drawn is drawn as time passes.

    For long tests, whose demand does not fit in memory.

    Args:
      params: of one scenario.
      num_scenarios: N, at least 1.

    Returns:
      Parameters, every leaf `[N, ...]`.
    """
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_scenarios, *jnp.shape(x))), params)


def from_traces(
    env: Inventory,
    params: InventoryParams,
    values: ArrayLike,
    *,
    days_from_christmas: ArrayLike | None = None,
    num_periods: int | None = None,
) -> InventoryParams:
    """Scenarios of a user's own demand, one for each product.

    The first H rows are history, with H that of the environment. Mean and standard deviation of
    demand become those of each trace; to keep what was known from other periods, replace them.

    Args:
      env: says what the network is and how much history is needed.
      params: of one scenario, or of N with a leading axis on every leaf.
      values: `[N, H + T, S]` float, at least 0, product, period and store; or `[N, H + T]` where
        there is one store.
      days_from_christmas: `[H + T]`, see `demand.days_from_christmas`; None gives 0.
      num_periods: length of an episode, at most T; None takes T.

    Returns:
      Parameters, every leaf `[N, ...]`.

    Raises:
      ValueError: another rank or number of stores, demand that is negative or no number, or fewer
        periods than are needed.

    >>> import jaxpg_envs
    >>> env, params = jaxpg_envs.make("inventory/one-store-lost", lead_time=2)
    >>> from_traces(env, params, [[3.0, 0.0, 5.0]]).mean_demand
    Array([[2.666667]], dtype=float32)
    """
    values = check_traces(values, env.network.num_stores)
    num_scenarios, num_rows, _ = values.shape
    if num_rows <= env.history:
        raise ValueError(
            f"values has {num_rows} periods, but more than history={env.history} are needed"
        )
    num_periods = num_rows - env.history if num_periods is None else num_periods
    days = np.zeros(num_rows) if days_from_christmas is None else np.asarray(days_from_christmas)
    if days.shape != (num_rows,):
        raise ValueError(
            f"days_from_christmas has shape {days.shape}, but ({num_rows},) is needed: one number "
            f"for each period"
        )
    batched = np.ndim(params.mean_demand) == 2
    rest = params.replace(demand=None)
    rest = rest if batched else copies(rest, num_scenarios)
    if len(rest.mean_demand) != num_scenarios:
        raise ValueError(
            f"params are of {len(rest.mean_demand)} scenarios, but values of {num_scenarios}"
        )
    found = rest.replace(
        demand=TraceDemand(
            values=jnp.asarray(values, float),
            first=jnp.full(num_scenarios, env.history, jnp.int32),
            days=jnp.broadcast_to(jnp.asarray(days, float), (num_scenarios, num_rows)),
        ),
        mean_demand=jnp.asarray(values.mean(axis=1), float),
        demand_std=jnp.asarray(values.std(axis=1), float),
        max_steps_in_episode=jnp.full(num_scenarios, num_periods, jnp.int32),
    )
    check_params(env.network, found, history=env.history)
    return found
