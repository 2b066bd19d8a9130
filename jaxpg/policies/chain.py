"""A serial system as one row of locations, outermost first: echelons, warehouse, store."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxpg.policies.policy import Action, Observation, check_sizes, on_hand, orders
from jaxpg.types import Array


def length(network: Any) -> int:
    """K, the number of locations.

    Args:
      network: has the attributes of `jaxpg_envs.inventory.network.Network`.

    Returns:
      The number of echelons and 2.

    Raises:
      ValueError: no chain.
    """
    if network.num_stores != 1 or network.num_warehouses != 1:
        raise ValueError(
            f"network has {network.num_stores} stores and {network.num_warehouses} warehouses, but "
            f"a serial system has one of each"
        )
    return network.num_echelons + 2


def positions(network: Any, observation: Observation) -> Array:
    """Stock at each location and on its way there.

    Args:
      network: a chain.
      observation: leading axis `[B]`.

    Returns:
      `[B, K]`, in units, negative for a backlog.
    """
    check_sizes(network, observation)
    kinds = [observation[kind] for kind in ("echelons", "warehouses", "stores")]
    return jnp.concatenate([jnp.sum(slots, axis=-1) for slots in kinds], axis=1)


def suppliers_on_hand(network: Any, observation: Observation) -> Array:
    """What the supplier of each location but the outermost can ship.

    Args:
      network: a chain.
      observation: leading axis `[B]`.

    Returns:
      `[B, K - 1]`, in units.
    """
    check_sizes(network, observation)
    return jnp.concatenate(
        [on_hand(observation[kind]) for kind in ("echelons", "warehouses")], axis=1
    )


def orders_along(row: Array) -> Action:
    """The action in which each location orders its entry.

    Args:
      row: `[B, K]`, in units.

    Returns:
      An `Action`.
    """
    return orders(row[:, -1:, None], row[:, -2:-1], row[:, :-2])
