"""The synthetic benchmark problems of the HDPO paper, by name; `retail` has the others.

Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), published settings.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxpg_envs.inventory.demand import PoissonDemand, normal_demand
from jaxpg_envs.inventory.environment import Inventory
from jaxpg_envs.inventory.network import network
from jaxpg_envs.inventory.params import inventory_params
from jaxpg_envs.inventory.published_stores import store_parameters

# [w0, w1] of each store: the first warehouse is cheap and slow, the second dear and fast.
MANY_WAREHOUSES_LEAD_TIME = np.array(
    [[0, 2], [0, 1], [6, 2], [6, 2], [6, 1], [0, 2], [6, 0], [5, 2], [6, 2], [0, 2]]
)


def one_store_backlogged(
    lead_time: int = 4,
    underage_cost: float = 9.0,
    holding_cost: float = 1.0,
    mean: float = 5.0,
    std: float = 1.6,
    *,
    store_slots: int | None = None,
    history: int = 0,
    foresight: int = 0,
    rationing: bool = False,
) -> Inventory:
    """Environment "inventory/one-store-backlogged": one store, normal demand clipped at 0.

    Args:
      lead_time: L, at least 1; published: 1, 4, 7, 10, 15 and 20.
      underage_cost: at least 0; published: 4, 9, 19 and 39.
      holding_cost: at least 0.
      mean: of demand before clipping, above 0.
      std: likewise, at least 0.
      store_slots: at least the longest lead time of a batch; None takes `max(L, 2)`.
      history: see `Inventory`, and so on.
      foresight: see there.
      rationing: see there.

    Returns:
      The environment.

    Raises:
      ValueError: a value out of range.

    >>> one_store_backlogged(lead_time=7).network.store_slots
    7
    """
    _check_demand(mean, std)
    stores = network(num_stores=1, store_slots=_slots("lead_time", lead_time, store_slots))
    params = inventory_params(
        stores,
        normal_demand([mean], [std]),
        mean_demand=mean,
        demand_std=std,
        holding_cost=holding_cost,
        underage_cost=underage_cost,
        lead_time=lead_time,
        lost_sales=False,
    )
    return Inventory(stores, params, history, foresight, rationing=rationing)


def one_store_lost(
    lead_time: int = 4,
    underage_cost: float = 9.0,
    holding_cost: float = 1.0,
    mean: float = 5.0,
    *,
    store_slots: int | None = None,
    history: int = 0,
    foresight: int = 0,
    rationing: bool = False,
) -> Inventory:
    """Environment "inventory/one-store-lost": one store, Poisson demand, lost when not met.

    Args:
      lead_time: L, at least 1; published: 1, 2, 3 and 4.
      underage_cost: at least 0; published: 4, 9, 19 and 39.
      holding_cost: at least 0.
      mean: of demand, above 0.
      store_slots: at least the longest lead time of a batch; None takes `max(L, 2)`.
      history: see `Inventory`, and so on.
      foresight: see there.
      rationing: see there.

    Returns:
      The environment.

    Raises:
      ValueError: a value out of range.
    """
    _check_demand(mean)
    stores = network(num_stores=1, store_slots=_slots("lead_time", lead_time, store_slots))
    params = inventory_params(
        stores,
        PoissonDemand(jnp.full(1, mean, float)),
        mean_demand=mean,
        demand_std=mean**0.5,
        holding_cost=holding_cost,
        underage_cost=underage_cost,
        lead_time=lead_time,
    )
    return Inventory(stores, params, history, foresight, rationing=rationing)


def serial(
    store_lead_time: int = 4,
    underage_cost: float = 9.0,
    mean: float = 5.0,
    std: float = 2.0,
    *,
    store_slots: int | None = None,
    history: int = 0,
    foresight: int = 0,
    rationing: bool = False,
) -> Inventory:
    """Environment "inventory/serial": outside -> echelon -> echelon -> warehouse -> store.

    Lead times are 2, 4, 3 and L, holding costs 0.1, 0.2, 0.5 and 1; demand is normal, clipped at 0
    and backlogged.

    Args:
      store_lead_time: L, at least 1; published: 1, 2, 3 and 4.
      underage_cost: at least 0; published: 4, 9, 19 and 39.
      mean: of demand before clipping, above 0.
      std: likewise, at least 0.
      store_slots: at least the longest lead time of a batch; None takes `max(L, 2)`.
      history: see `Inventory`, and so on.
      foresight: see there.
      rationing: see there.

    Returns:
      The environment.

    Raises:
      ValueError: a value out of range.
    """
    _check_demand(mean, std)
    chain = network(
        [[1]],
        num_echelons=2,
        store_slots=_slots("store_lead_time", store_lead_time, store_slots),
        warehouse_slots=3,
        echelon_slots=4,
    )
    params = inventory_params(
        chain,
        normal_demand([mean], [std]),
        mean_demand=mean,
        demand_std=std,
        underage_cost=underage_cost,
        lead_time=store_lead_time,
        warehouse_holding_cost=0.5,
        warehouse_lead_time=3,
        echelon_holding_cost=[0.1, 0.2],
        echelon_lead_time=[2, 4],
        lost_sales=False,
    )
    return Inventory(chain, params, history, foresight, rationing=rationing)


def transshipment(
    num_stores: int = 3,
    underage_cost: float = 9.0,
    store_lead_time: int = 2,
    correlation: float = 0.5,
    *,
    store_slots: int | None = None,
    history: int = 0,
    foresight: int = 0,
    rationing: bool = False,
) -> Inventory:
    """Environment "inventory/transshipment": a centre that keeps nothing supplies S stores.

    Demand is normal, correlated, not clipped and backlogged; means and deviations are those of
    `store_parameters`. The centre's lead time is 3, its holding cost 0.5, which is never paid when
    everything is shipped.

    Args:
      num_stores: S, at least 1; published: 3, 5 and 10.
      underage_cost: at least 0; published: 4 and 9.
      store_lead_time: at least 1; published: 2 and 6.
      correlation: of the demand of every two stores; published: 0 and 0.5.
      store_slots: at least the longest lead time of a batch; None takes that of the stores.
      history: see `Inventory`, and so on.
      foresight: see there.
      rationing: see there.

    Returns:
      The environment.

    Raises:
      ValueError: a value out of range.
    """
    _check_count("num_stores", num_stores)
    centre = network(
        np.ones((num_stores, 1)),
        store_slots=_slots("store_lead_time", store_lead_time, store_slots),
        warehouse_slots=3,
        keeps_stock=False,
    )
    drawn = store_parameters(num_stores)
    params = inventory_params(
        centre,
        normal_demand(drawn.mean, drawn.std, correlation, clip=False),
        mean_demand=drawn.mean,
        demand_std=drawn.std,
        underage_cost=underage_cost,
        lead_time=store_lead_time,
        warehouse_holding_cost=0.5,
        warehouse_lead_time=3,
        lost_sales=False,
    )
    return Inventory(centre, params, history, foresight, rationing=rationing)


def one_warehouse(
    num_stores: int = 3,
    correlation: float = 0.5,
    *,
    history: int = 0,
    foresight: int = 0,
    rationing: bool = False,
) -> Inventory:
    """Environment "inventory/one-warehouse": a warehouse supplies S stores, demand is lost.

    Demand is normal, correlated and clipped at 0; the stores are those of `store_parameters`. The
    warehouse's lead time is 3, its holding cost 0.3.

    Args:
      num_stores: S, at least 1; published: 3, 5, 10, 20, 30 and 50.
      correlation: of the demand of every two stores before clipping.
      history: see `Inventory`, and so on.
      foresight: see there.
      rationing: see there.

    Returns:
      The environment.

    Raises:
      ValueError: a value out of range.
    """
    _check_count("num_stores", num_stores)
    # As many slots for every S: a network trained for some stores reads the others.
    tree = network(np.ones((num_stores, 1)), store_slots=3, warehouse_slots=3)
    drawn = store_parameters(num_stores)
    params = inventory_params(
        tree,
        normal_demand(drawn.mean, drawn.std, correlation),
        mean_demand=drawn.mean,
        demand_std=drawn.std,
        holding_cost=drawn.holding_cost,
        underage_cost=drawn.underage_cost,
        lead_time=drawn.lead_time[:, None],
        warehouse_holding_cost=0.3,
        warehouse_lead_time=3,
    )
    return Inventory(tree, params, history, foresight, rationing=rationing)


def many_warehouses(
    correlation: float = 0.5,
    *,
    history: int = 0,
    foresight: int = 0,
    rationing: bool = False,
) -> Inventory:
    """Environment "inventory/many-warehouses": 2 warehouses, 10 stores, not all connected.

    As `one_warehouse`, with lead times `MANY_WAREHOUSES_LEAD_TIME`, holding costs 0.3 and 0.4, and
    0.5 and 1.5 for each unit that a warehouse orders.

    Args:
      correlation: of the demand of every two stores before clipping.
      history: see `Inventory`, and so on.
      foresight: see there.
      rationing: see there.

    Returns:
      The environment.

    Raises:
      ValueError: a value out of range.
    """
    lead_time = MANY_WAREHOUSES_LEAD_TIME
    graph = network(lead_time > 0, store_slots=6, warehouse_slots=3)
    drawn = store_parameters(len(lead_time))
    params = inventory_params(
        graph,
        normal_demand(drawn.mean, drawn.std, correlation),
        mean_demand=drawn.mean,
        demand_std=drawn.std,
        holding_cost=drawn.holding_cost,
        underage_cost=drawn.underage_cost,
        lead_time=lead_time,
        warehouse_holding_cost=[0.3, 0.4],
        warehouse_order_cost=[0.5, 1.5],
        warehouse_lead_time=3,
    )
    return Inventory(graph, params, history, foresight, rationing=rationing)


def _slots(name: str, lead_time: int, store_slots: int | None) -> int:
    _check_count(name, lead_time)
    return max(lead_time, 2) if store_slots is None else store_slots


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}, but a whole number from 1 on is needed")


def _check_demand(mean: float, std: float = 0.0) -> None:
    if not mean > 0:
        raise ValueError(f"mean is {mean!r}, but demand has to be above 0")
    if not std >= 0:
        raise ValueError(f"std is {std!r}, but it has to be at least 0")
