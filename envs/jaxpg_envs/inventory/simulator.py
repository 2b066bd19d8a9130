"""One period of an inventory network: orders, demand, costs, and what arrives when.

Pure functions of one scenario, without a batch axis: `jax.vmap` gives one. Orders are not made
feasible here; a policy does that, or `rationing.proportional`.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.inventory.network import Network
from jaxpg_envs.inventory.params import InventoryParams

Array = jax.Array


@struct.dataclass
class Stock:
    """What is where and when, in units.

    Slot 0 is on hand (what arrives in this period included), slot k arrives k periods from now.

    Attributes:
      stores: `[S, P]` float.
      warehouses: `[W, P_w]` float.
      echelons: `[E, P_e]` float.
    """

    stores: Array
    warehouses: Array
    echelons: Array


@struct.dataclass
class Orders:
    """What is ordered in a period, all at once, in units.

    Attributes:
      stores: `[S, max(W, 1)]` float, of each store from each warehouse (or from outside).
      warehouses: `[W]` float, from the last echelon or from outside.
      echelons: `[E]` float, from the echelon before, the first one from outside.
    """

    stores: Array
    warehouses: Array
    echelons: Array


@struct.dataclass
class Costs:
    """What a period costs; in profit mode the stores' part is minus what they earn.

    Attributes:
      stores: `[S]` float.
      warehouses: `[W]` float.
      echelons: `[E]` float.
    """

    stores: Array
    warehouses: Array
    echelons: Array

    @property
    def total(self) -> Array:
        """Scalar, the sum over all locations."""
        return jnp.sum(self.stores) + jnp.sum(self.warehouses) + jnp.sum(self.echelons)


def period(
    network: Network, params: InventoryParams, stock: Stock, orders: Orders, demand: Array
) -> tuple[Stock, Costs]:
    """One period: suppliers ship what was ordered, demand is met, costs are paid, time passes.

    A supplier ships from what it has on hand in this period. An order of lead time L placed in
    period t can serve the demand of period t + L at the earliest. Nothing in transit is charged.
    What a store orders from a warehouse that does not supply it is not ordered.

    Args:
      network: static.
      params: costs, lead times and modes.
      stock: before the period.
      orders: decided before demand is known.
      demand: `[S]` float.

    Returns:
      `(stock of the next period, costs of this one)`.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), section 2 and its published simulator.
    """
    chex.assert_shape(stock.stores, (network.num_stores, network.store_slots))
    chex.assert_shape(orders.stores, (network.num_stores, network.num_suppliers))
    chex.assert_shape(orders.warehouses, (network.num_warehouses,))
    chex.assert_shape(orders.echelons, (network.num_echelons,))
    chex.assert_shape(demand, (network.num_stores,))
    store_orders = jnp.where(network.adjacency, orders.stores, 0.0)
    left, store_costs = _sell(params, stock.stores[:, 0], demand)
    stores = _next_slots(stock.stores, left, store_orders, params.lead_time)
    # Cut to the suppliers inside: none where stores, or warehouses, order from outside.
    from_warehouses = jnp.sum(store_orders, axis=0)[: network.num_warehouses]
    from_echelons = jnp.append(orders.echelons[1:], jnp.sum(orders.warehouses))
    from_echelons = from_echelons[: network.num_echelons]
    kept = stock.warehouses[:, 0] - from_warehouses
    kept_above = stock.echelons[:, 0] - from_echelons
    warehouses = _next_slots(
        stock.warehouses, kept, orders.warehouses[:, None], params.warehouse_lead_time[:, None]
    )
    echelons = _next_slots(
        stock.echelons, kept_above, orders.echelons[:, None], params.echelon_lead_time[:, None]
    )
    costs = Costs(
        stores=store_costs,
        warehouses=params.warehouse_holding_cost * jax.nn.relu(kept)
        + params.warehouse_order_cost * orders.warehouses,
        echelons=params.echelon_holding_cost * jax.nn.relu(kept_above),
    )
    return Stock(stores, warehouses, echelons), costs


def _sell(params: InventoryParams, on_hand: Array, demand: Array) -> tuple[Array, Array]:
    """`(what is left [S], costs [S])`; what is left is negative where demand is backlogged."""
    left = on_hand - demand
    short, over = jax.nn.relu(-left), jax.nn.relu(left)
    # on_hand - over is min(on_hand, demand), with the same derivative at a tie as the costs.
    sold_or_short = jnp.where(params.profit, -(on_hand - over), short)
    costs = params.underage_cost * sold_or_short + params.holding_cost * over
    return jnp.where(params.lost_sales, over, left), costs


def _next_slots(slots: Array, kept: Array, orders: Array, lead_time: Array) -> Array:
    """What is kept joins what arrives next, the rest comes a period nearer, orders are added.

    Slots are `[n, P]`, kept `[n]`, orders and lead times `[n, suppliers]`. Written without
    scatters and matrix products, which are slow in a small batch on a CPU.
    """
    arriving = kept + slots[:, 1]
    moved = jnp.concatenate([arriving[:, None], slots[:, 2:], jnp.zeros_like(slots[:, :1])], axis=1)
    lands = jax.nn.one_hot(lead_time - 1, slots.shape[1])
    return moved + jnp.sum(orders[..., None] * lands, axis=1)
