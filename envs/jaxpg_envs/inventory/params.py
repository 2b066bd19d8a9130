"""Everything about an inventory network that a user may vary, and so that a batch may differ in."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment
from numpy.typing import ArrayLike

from jaxpg_envs.inventory.network import Network

Array = jax.Array


@struct.dataclass(kw_only=True)
class InventoryParams(environment.EnvParams):
    """Of one scenario; with a leading axis on every leaf it is a batch of scenarios.

    Costs are money for each unit and period, demand and stock are units.

    Attributes:
      demand: a model of the demand, see `demand`: `sample(key, time) -> [S]`,
        `history(length) -> [length, S]` and `days_from_christmas(time)`.
      mean_demand: `[S]` float, for each period; scales the first stock and policies.
      demand_std: `[S]` float, what a policy may know of the spread.
      holding_cost: `[S]` float, of stock left at a store.
      underage_cost: `[S]` float, of demand not met; the price of a unit in profit mode.
      warehouse_holding_cost: `[W]` float.
      warehouse_order_cost: `[W]` float, of each unit that a warehouse orders.
      echelon_holding_cost: `[E]` float.
      lead_time: `[S, max(W, 1)]` int32 in `[1, P]`, of each edge; not read where there is none.
      warehouse_lead_time: `[W]` int32.
      echelon_lead_time: `[E]` int32.
      lost_sales: bool, demand that is not met is lost; else it is backlogged.
      profit: bool, stores earn the underage cost for what they sell, instead of paying it for
        what they miss.
      initial_stock: `[S, P]` float, or None: drawn at each reset.
      initial_stock_scale: float, every slot begins with up to this many times the mean demand,
        uniformly, where `initial_stock` is None.
      max_steps_in_episode: periods of an episode.
    """

    demand: Any
    mean_demand: Array
    demand_std: Array
    holding_cost: Array
    underage_cost: Array
    warehouse_holding_cost: Array
    warehouse_order_cost: Array
    echelon_holding_cost: Array
    lead_time: Array
    warehouse_lead_time: Array
    echelon_lead_time: Array
    lost_sales: Any
    profit: Any
    initial_stock: Array | None = None
    initial_stock_scale: Any = 1.0
    max_steps_in_episode: Any = 50


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Shape of each array of one scenario's parameters, by name.

    Args:
      network: static.

    Returns:
      A dict; `initial_stock` is in it although it may be None.
    """
    stores, suppliers = network.num_stores, network.num_suppliers
    warehouses, echelons = network.num_warehouses, network.num_echelons
    return {
        "mean_demand": (stores,),
        "demand_std": (stores,),
        "holding_cost": (stores,),
        "underage_cost": (stores,),
        "warehouse_holding_cost": (warehouses,),
        "warehouse_order_cost": (warehouses,),
        "echelon_holding_cost": (echelons,),
        "lead_time": (stores, suppliers),
        "warehouse_lead_time": (warehouses,),
        "echelon_lead_time": (echelons,),
        "initial_stock": (stores, network.store_slots),
        "lost_sales": (),
        "profit": (),
        "initial_stock_scale": (),
        "max_steps_in_episode": (),
    }


def inventory_params(
    network: Network,
    demand: Any,
    *,
    mean_demand: ArrayLike,
    demand_std: ArrayLike,
    holding_cost: ArrayLike = 1.0,
    underage_cost: ArrayLike = 9.0,
    lead_time: ArrayLike = 1,
    warehouse_holding_cost: ArrayLike = 0.0,
    warehouse_order_cost: ArrayLike = 0.0,
    warehouse_lead_time: ArrayLike = 1,
    echelon_holding_cost: ArrayLike = 0.0,
    echelon_lead_time: ArrayLike = 1,
    lost_sales: bool = True,
    profit: bool = False,
    initial_stock: ArrayLike | None = None,
    initial_stock_scale: float = 1.0,
    max_steps_in_episode: int = 50,
) -> InventoryParams:
    """Parameters of one scenario, where one number may stand for all places of a kind.

    Args:
      network: static.
      demand: a model of the demand, see `demand`.
      mean_demand: `[S]` or a number, and so on: the other arguments are the fields of
        `InventoryParams`, each an array of the shape given there or a number.
      demand_std: see there, and so on.
      holding_cost: of the stores.
      underage_cost: of the stores.
      lead_time: of the stores, for each supplier.
      warehouse_holding_cost: not read without warehouses.
      warehouse_order_cost: likewise.
      warehouse_lead_time: likewise.
      echelon_holding_cost: not read without echelons.
      echelon_lead_time: likewise.
      lost_sales: demand that is not met is lost; else it is backlogged.
      profit: stores earn the underage cost for what they sell.
      initial_stock: `[S, P]`, a number, or None.
      initial_stock_scale: where that is None.
      max_steps_in_episode: periods.

    Returns:
      `InventoryParams`. Their values are checked where an environment is built of them.

    Raises:
      ValueError: an array of another shape.
    """
    wanted = shapes(network)

    def filled(name: str, value: ArrayLike, dtype: Any = float) -> Array:
        if np.shape(value) not in ((), wanted[name]):
            raise ValueError(
                f"{name} has shape {np.shape(value)}, but a number or {wanted[name]} is needed"
            )
        return jnp.asarray(np.broadcast_to(value, wanted[name]), dtype)

    return InventoryParams(
        demand=demand,
        mean_demand=filled("mean_demand", mean_demand),
        demand_std=filled("demand_std", demand_std),
        holding_cost=filled("holding_cost", holding_cost),
        underage_cost=filled("underage_cost", underage_cost),
        warehouse_holding_cost=filled("warehouse_holding_cost", warehouse_holding_cost),
        warehouse_order_cost=filled("warehouse_order_cost", warehouse_order_cost),
        echelon_holding_cost=filled("echelon_holding_cost", echelon_holding_cost),
        lead_time=filled("lead_time", lead_time, jnp.int32),
        warehouse_lead_time=filled("warehouse_lead_time", warehouse_lead_time, jnp.int32),
        echelon_lead_time=filled("echelon_lead_time", echelon_lead_time, jnp.int32),
        lost_sales=lost_sales,
        profit=profit,
        initial_stock=None if initial_stock is None else filled("initial_stock", initial_stock),
        initial_stock_scale=initial_stock_scale,
        max_steps_in_episode=max_steps_in_episode,
    )
