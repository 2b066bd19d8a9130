"""The problems of the HDPO paper with weekly retail sales, and their training and test weeks.

The published ones use sales of a supermarket chain that may not be passed on. They are built here
on `retail_series`, a stand-in with its statistics, or on a user's own sales, see `demand_table`.

Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), published settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxpg_envs.inventory.checks import check_traces
from jaxpg_envs.inventory.demand import trace_demand
from jaxpg_envs.inventory.environment import Inventory
from jaxpg_envs.inventory.network import Network, network
from jaxpg_envs.inventory.params import InventoryParams, inventory_params
from jaxpg_envs.inventory.published_stores import (
    legacy_integers,
    legacy_uniform,
    store_parameters,
)
from jaxpg_envs.inventory.retail_sales import retail_series
from jaxpg_envs.inventory.scenarios import copies, from_traces

HISTORY = 16
"""Weeks of sales that a policy sees."""

STORE_SLOTS = 6

WEEKS = {"train": (0, 111), "dev": (88, 141), "test": (118, 171)}
"""First week and the one after the last, of which the first `HISTORY` are only seen."""

# Of each store from three warehouses; 0 where a warehouse does not supply it.
MANY_WAREHOUSES_LEAD_TIME = np.array(
    [
        [6, 1, 5],
        [6, 1, 5],
        [6, 1, 5],
        [0, 1, 5],
        [6, 1, 4],
        [5, 0, 6],
        [5, 2, 5],
        [5, 2, 5],
        [5, 1, 5],
        [5, 2, 5],
        [5, 0, 5],
        [5, 0, 0],
        [5, 0, 5],
        [5, 0, 6],
        [0, 1, 5],
        [6, 1, 5],
        [6, 1, 5],
        [6, 1, 5],
        [6, 1, 5],
        [5, 1, 4],
        [5, 2, 5],
    ]
)


def one_store_retail(
    lead_time: int = 5,
    underage_cost: float = 9.0,
    holding_cost: float = 1.0,
    *,
    traces: ArrayLike | None = None,
    days_from_christmas: ArrayLike | None = None,
    seed: int = 0,
    history: int = HISTORY,
    foresight: int = 0,
    rationing: bool = False,
) -> Inventory:
    """Environment "inventory/one-store-retail": weekly sales of a product, lost when not met.

    A store earns `underage_cost` for each unit sold. Nothing is in stock at the start. `products`
    and `retail_scenarios` make the published batch of many products.

    Args:
      lead_time: in `[1, 6]`; published: 4, 5 or 6, drawn for each product.
      underage_cost: at least 0; published: U[6.3, 11.7], drawn for each product.
      holding_cost: at least 0.
      traces: `[N, history + T, 1]` float, at least 0; the default parameters are those of the first
        product. None draws one with `retail_series` and takes its training weeks.
      days_from_christmas: `[history + T]`, with `traces`; None gives 0.
      seed: of the stand-in.
      history: see `Inventory`, and so on.
      foresight: see there.
      rationing: see there.

    Returns:
      The environment.

    Raises:
      ValueError: a value out of range.
    """
    store = network(num_stores=1, store_slots=STORE_SLOTS)
    params = _first_product(
        store,
        (traces, days_from_christmas, seed),
        history,
        lead_time=lead_time,
        underage_cost=underage_cost,
        holding_cost=holding_cost,
    )
    return Inventory(store, params, history, foresight, rationing=rationing)


def many_warehouses_retail(
    *,
    traces: ArrayLike | None = None,
    days_from_christmas: ArrayLike | None = None,
    seed: int = 0,
    history: int = HISTORY,
    foresight: int = 0,
    rationing: bool = False,
) -> Inventory:
    """Environment "inventory/many-warehouses-retail": 3 warehouses, 21 stores, weekly sales.

    As `one_store_retail`; holding costs and prices are drawn for each store, see
    `store_parameters`. Lead times are `MANY_WAREHOUSES_LEAD_TIME`, those of the warehouses 3, their
    holding costs 0.3, 0.4 and 0.2, and they pay 0.5, 1.5 and 0.7 for each unit ordered.

    Args:
      traces: `[N, history + T, 21]` float, at least 0; the default parameters are those of the
        first product. None draws one with `retail_series` and takes its training weeks.
      days_from_christmas: `[history + T]`, with `traces`; None gives 0.
      seed: of the stand-in.
      history: see `Inventory`, and so on.
      foresight: see there.
      rationing: see there.

    Returns:
      The environment.

    Raises:
      ValueError: a value out of range.
    """
    lead_time = MANY_WAREHOUSES_LEAD_TIME
    graph = network(lead_time > 0, store_slots=STORE_SLOTS, warehouse_slots=3)
    drawn = store_parameters(len(lead_time))
    params = _first_product(
        graph,
        (traces, days_from_christmas, seed),
        history,
        holding_cost=drawn.holding_cost,
        underage_cost=drawn.underage_cost,
        lead_time=lead_time,
        warehouse_holding_cost=[0.3, 0.4, 0.2],
        warehouse_order_cost=[0.5, 1.5, 0.7],
        warehouse_lead_time=3,
    )
    return Inventory(graph, params, history, foresight, rationing=rationing)


def _first_product(
    places: Network,
    sales: tuple[ArrayLike | None, ArrayLike | None, int],
    history: int,
    **values: ArrayLike,
) -> InventoryParams:
    """Parameters of a product's sales: `(traces, days_from_christmas, seed of the stand-in)`."""
    traces, days, seed = sales
    if traces is None:
        last = WEEKS["train"][1]
        series = retail_series(jax.random.key(seed), 1, places.num_stores, last)
        traces, days = series.values, series.days_from_christmas
    sold = check_traces(traces, places.num_stores)[0]
    if len(sold) <= history:
        raise ValueError(
            f"traces have {len(sold)} periods, but more than history={history} are needed"
        )
    return inventory_params(
        places,
        trace_demand(sold, history, days),
        mean_demand=sold.mean(axis=0),
        demand_std=sold.std(axis=0),
        profit=True,
        initial_stock=0.0,
        max_steps_in_episode=len(sold) - history,
        **values,
    )


def products(params: InventoryParams, num_products: int) -> InventoryParams:
    """The published products of the one-store problem.

    Args:
      params: of "inventory/one-store-retail".
      num_products: N, at least 1; the first products are the same for every N.

    Returns:
      Parameters, every leaf `[N, ...]`, whose underage cost is U[6.3, 11.7] and whose lead time is
      4, 5 or 6 for each product. Their sales are still the same.
    """
    return copies(params, num_products).replace(
        underage_cost=jnp.asarray(legacy_uniform(28, 6.3, 11.7, num_products)[:, None], float),
        lead_time=jnp.asarray(legacy_integers(41, 4, 7, num_products)[:, None, None], jnp.int32),
    )


class Sales(Protocol):
    """What `retail_series` draws and what `demand_table` reads."""

    values: ArrayLike
    days_from_christmas: ArrayLike


class RetailScenarios(NamedTuple):
    """Parameters, every leaf `[N, ...]`, of the same products in three spans of weeks."""

    train: InventoryParams
    dev: InventoryParams
    test: InventoryParams


def retail_scenarios(
    env: Inventory,
    params: InventoryParams,
    sales: Sales,
    weeks: Mapping[str, tuple[int, int]] = WEEKS,
) -> RetailScenarios:
    """Cuts sales into weeks to train on, to choose by and to test on.

    Args:
      env: says what the network is and how much history is needed.
      params: of one product, or of N with a leading axis on every leaf, see `products`.
      sales: `values` `[N, T, S]` and `days_from_christmas` `[T]`.
      weeks: first week and the one after the last of "train", "dev" and "test"; the first weeks of
        each span, as many as the environment's history, are only seen.

    Returns:
      `RetailScenarios`. Mean and standard deviation of demand are those of the training weeks, the
      only ones that may be known.

    Raises:
      ValueError: weeks that are not there, or what `from_traces` refuses.

    >>> import jaxpg_envs
    >>> env, params = jaxpg_envs.make("inventory/one-store-retail")
    >>> sales = retail_series(jax.random.key(0), num_products=4, num_stores=1)
    >>> train, dev, test = retail_scenarios(env, products(params, 4), sales)
    >>> train.max_steps_in_episode[0].item(), test.max_steps_in_episode[0].item()
    (95, 37)
    """
    num_weeks = np.shape(sales.values)[1]
    found = {}
    for name in RetailScenarios._fields:
        first, last = weeks[name]
        if not 0 <= first < last <= num_weeks:
            raise ValueError(
                f"weeks[{name!r}] is {(first, last)}, but there are only the weeks 0 to {num_weeks}"
            )
        found[name] = from_traces(
            env,
            params,
            sales.values[:, first:last],
            days_from_christmas=sales.days_from_christmas[first:last],
        )
    known = {
        "mean_demand": found["train"].mean_demand,
        "demand_std": found["train"].demand_std,
    }
    return RetailScenarios(**{name: each.replace(**known) for name, each in found.items()})
