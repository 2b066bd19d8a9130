"""Orders that a supplier can ship: what there is, shared in proportion to what is wanted."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxpg_envs.inventory.network import Network
from jaxpg_envs.inventory.simulator import Orders, Stock

Array = jax.Array


def proportional(wants: Array, on_hand: Array, keeps_stock: bool = True) -> Array:
    """Every supplier fills the same share of each want.

    Args:
      wants: `[S, W]` float, at least 0, of each store from each supplier.
      on_hand: `[W]` float, at least 0.
      keeps_stock: static. True: nobody gets more than wanted. False: everything is shipped, in
        equal parts where nothing is wanted.

    Returns:
      `[S, W]` float; each column sums to at most `on_hand`, or to it where nothing is kept.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), without the 1e-10 in the denominator.

    >>> proportional(jnp.array([[4.0], [2.0]]), jnp.array([3.0]))
    Array([[2.],
           [1.]], dtype=float32)
    """
    chex.assert_rank([wants, on_hand], [2, 1])
    chex.assert_equal(wants.shape[1], on_hand.shape[0])
    total = jnp.sum(wants, axis=0)
    if keeps_stock:
        scarce = total > on_hand
        # Division by 1 where it does not count, so that no derivative is infinite.
        share = jnp.where(scarce, on_hand / jnp.where(scarce, total, 1.0), 1.0)
        return wants * share
    wanted = total > 0
    in_proportion = wants * (on_hand / jnp.where(wanted, total, 1.0))
    return jnp.where(wanted, in_proportion, on_hand / wants.shape[0])


def feasible(network: Network, stock: Stock, wants: Orders) -> Orders:
    """The orders that are shipped: none is negative, and each supplier shares what it has.

    Args:
      network: static.
      stock: what there is.
      wants: any orders.

    Returns:
      Orders of the same shapes. Those from outside are only made non-negative.
    """
    stores = jnp.where(network.adjacency, jax.nn.relu(wants.stores), 0.0)
    warehouses, echelons = jax.nn.relu(wants.warehouses), jax.nn.relu(wants.echelons)
    if network.num_warehouses:
        on_hand = jax.nn.relu(stock.warehouses[:, 0])
        if network.keeps_stock:
            stores = proportional(stores, on_hand)
        else:
            stores = _ship_everything(network, stores, on_hand)
    if network.num_echelons:
        on_hand = jax.nn.relu(stock.echelons[:, 0])
        warehouses = proportional(warehouses[:, None], on_hand[-1:])[:, 0]
        echelons = jnp.append(echelons[:1], jnp.minimum(echelons[1:], on_hand[:-1]))
    return Orders(stores, warehouses, echelons)


def _ship_everything(network: Network, wants: Array, on_hand: Array) -> Array:
    """As `proportional`, but where nothing is wanted only the stores of a warehouse share."""
    connected = jnp.asarray(network.adjacency, wants.dtype)
    wants = jnp.where(jnp.sum(wants, axis=0) > 0, wants, connected)
    return proportional(wants, on_hand, keeps_stock=False)
