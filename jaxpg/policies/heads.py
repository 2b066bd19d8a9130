"""From any numbers to orders that suppliers can fill.

Every head is feasible by construction: what a supplier ships is at most what it has on hand, and
exactly that (up to rounding) where it keeps no stock.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxpg.policies.policy import Action, Observation, on_hand, orders
from jaxpg.types import Array

LARGEST_ORDER = 4.0
"""Of a bounded order from outside, in periods of mean demand."""

TINY = 1e-10


def share_of_upstream(logits: Array, available: Array) -> Array:
    """Each customer has a supplier of its own and orders a share of what it has.

    Args:
      logits: `[...]` any numbers.
      available: `[...]` units, at least 0.

    Returns:
      `[...]`, between 0 and `available`.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), serial systems.

    >>> share_of_upstream(jnp.array([0.0]), jnp.array([6.0]))
    Array([3.], dtype=float32)
    """
    return jax.nn.sigmoid(logits) * available


def softmax_allocation(
    logits: Array, available: Array, connected: ArrayLike, *, keeps_stock: bool = True
) -> Array:
    """Each supplier splits its stock among its customers and, if it keeps stock, itself.

    Args:
      logits: `[..., N, K]` any numbers, of N customers at K suppliers.
      available: `[..., K]` units, at least 0.
      connected: `[N, K]` bool, whether a supplier has that customer; each has one.
      keeps_stock: what is kept back takes part in the split with a logit of 1.

    Returns:
      `[..., N, K]`, at least 0, 0 where not connected.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), one and many warehouses.

    >>> one = jnp.ones((2, 1))
    >>> softmax_allocation(one, jnp.array([6.0]), one)[:, 0]
    Array([2., 2.], dtype=float32)
    >>> softmax_allocation(one, jnp.array([6.0]), one, keeps_stock=False)[:, 0]
    Array([3., 3.], dtype=float32)
    """
    chex.assert_equal_shape_suffix([logits, connected], 2)
    logits = jnp.where(jnp.asarray(connected, bool), logits, -jnp.inf)
    if keeps_stock:
        kept = jnp.ones_like(logits[..., :1, :])
        logits = jnp.concatenate([logits, kept], axis=-2)
    shares = jax.nn.softmax(logits, axis=-2)
    return shares[..., : jnp.shape(connected)[0], :] * available[..., None, :]


def proportional(
    wants: Array,
    available: Array,
    connected: ArrayLike,
    *,
    kept: Array | None = None,
    keeps_stock: bool = True,
) -> Array:
    """Each supplier ships what is wanted, and scales all of it down where it has too little.

    Args:
      wants: `[..., N, K]` units, at least 0, of N customers from K suppliers.
      available: `[..., K]` units, at least 0.
      connected: `[N, K]` bool, whether a supplier has that customer; each has one.
      kept: `[..., K]` units, at least 0, that suppliers want to keep: one more customer each.
      keeps_stock: False scales up as well: everything is shipped, in equal parts where nothing is
        wanted.

    Returns:
      `[..., N, K]`, at least 0, 0 where not connected.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), the proportional rule.

    >>> wants, both = jnp.array([[2.0], [6.0]]), jnp.ones((2, 1))
    >>> proportional(wants, jnp.array([4.0]), both)[:, 0]
    Array([1., 3.], dtype=float32)
    >>> proportional(wants, jnp.array([16.0]), both)[:, 0]
    Array([2., 6.], dtype=float32)
    >>> proportional(wants, jnp.array([16.0]), both, keeps_stock=False)[:, 0]
    Array([ 4., 12.], dtype=float32)
    """
    chex.assert_equal_shape_suffix([wants, connected], 2)
    connected = jnp.asarray(connected, wants.dtype)
    wants = wants * connected
    # The tiny amount makes equal parts of no wants at all, and the shares sum to 1.
    shares = wants if keeps_stock else wants + TINY * connected / jnp.sum(connected, axis=0)
    total = jnp.sum(wants, axis=-2) + TINY
    if kept is not None:
        total = total + kept
    scale = available / total
    if keeps_stock:
        scale = jnp.where(scale < 1.0, scale, 1.0)
    return shares * scale[..., None, :]


def ration(
    network: Any,
    observation: Observation,
    wants: Action,
    kept: tuple[Array, Array] | None = None,
) -> Action:
    """Makes wishes feasible: every supplier of the network applies the proportional rule.

    Args:
      network: has the attributes of `jaxpg_envs.inventory.network.Network`.
      observation: leading axis `[B]`; what is on hand is read.
      wants: an action with orders of at least 0, however large.
      kept: `(warehouses [B, W], echelons [B, E])` units, at least 0, that suppliers want to keep;
        see `proportional`. Only warehouses of a network that keeps stock do.

    Returns:
      An `Action`. Orders from outside are those of `wants`.
    """
    if not network.num_warehouses:
        return wants
    kept_warehouses, kept_echelons = (None, None) if kept is None else kept
    stores = proportional(
        wants["stores"],
        on_hand(observation["warehouses"]),
        network.adjacency,
        kept=kept_warehouses if network.keeps_stock else None,
        keeps_stock=network.keeps_stock,
    )
    if not network.num_echelons:
        return orders(stores, wants["warehouses"])
    available, number = on_hand(observation["echelons"]), network.num_echelons
    warehouses = proportional(
        wants["warehouses"][:, :, None],
        available[:, -1:],
        jnp.ones((network.num_warehouses, 1)),
        kept=None if kept is None else kept_echelons[:, -1:],
    )[:, :, 0]
    inner = proportional(
        wants["echelons"][:, None, 1:],
        available[:, :-1],
        jnp.ones((1, number - 1)),
        kept=None if kept is None else kept_echelons[:, :-1],
    )[:, 0]
    echelons = jnp.concatenate([wants["echelons"][:, :1], inner], axis=1)
    return orders(stores, warehouses, echelons)
