"""Orders that bring the stock up to a level."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxpg.choices import at_least
from jaxpg.policies import chain
from jaxpg.policies.heads import ration
from jaxpg.policies.policy import (
    Action,
    DeterministicPolicy,
    Observation,
    check_sizes,
    check_stores_only,
    orders,
)
from jaxpg.types import Array, PyTree

ECHELON_OFFSET = 10.0


def base_stock(num_stores: int = 1, initial: float = 10.0) -> DeterministicPolicy:
    """Every store orders what its stock, that on its way included, is short of a level.

    The parameters, and the raw outputs, are one number b for each store; the level is softplus(b),
    in units.

    Args:
      num_stores: S; they order from outside.
      initial: b at first, of every store.

    Returns:
      A `DeterministicPolicy` with S outputs.

    Raises:
      ValueError: no store.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246).

    >>> policy = base_stock()
    >>> seen = {"stores": jnp.array([[[3.0, 1.0]]]), "warehouses": jnp.zeros((1, 0, 2))}
    >>> float(policy.apply(policy.init(jax.random.key(0)), seen)["stores"][0, 0, 0])
    6.00005
    """
    at_least("num_stores", num_stores, 1)

    def action(outputs: Array, observation: Observation) -> Action:
        check_stores_only(observation, num_stores)
        chex.assert_shape(outputs, (None, num_stores))
        position = jnp.sum(observation["stores"], axis=-1)
        return orders(jax.nn.relu(jax.nn.softplus(outputs) - position)[:, :, None])

    return _constant(jnp.full(num_stores, initial, jnp.float32), action)


def capped_base_stock(
    num_stores: int = 1, initial: float = 10.0, initial_cap: float = 10.0
) -> DeterministicPolicy:
    """A base stock policy whose orders are bounded.

    Raw outputs are the numbers b of all stores' levels softplus(b), and then those of their caps
    softplus(b).

    Args:
      num_stores: S; they order from outside.
      initial: b of the level at first.
      initial_cap: b of the cap at first.

    Returns:
      A `DeterministicPolicy` with 2 S outputs.

    Raises:
      ValueError: no store.

    Source: Xin 2021, "Understanding the performance of capped base-stock policies"; HDPO, Alvo et
    al. 2023 (arXiv 2306.11246).
    """
    at_least("num_stores", num_stores, 1)

    def action(outputs: Array, observation: Observation) -> Action:
        check_stores_only(observation, num_stores)
        chex.assert_shape(outputs, (None, 2 * num_stores))
        level, cap = jnp.split(jax.nn.softplus(outputs), 2, axis=1)
        short = jax.nn.relu(level - jnp.sum(observation["stores"], axis=-1))
        return orders(_smaller(short, cap)[:, :, None])

    initial_outputs = jnp.repeat(jnp.array([initial, initial_cap], jnp.float32), num_stores)
    return _constant(initial_outputs, action)


def echelon_levels(outputs: Array) -> Array:
    """Levels of an echelon stock policy, in units.

    Args:
      outputs: `[..., K]` any numbers, outermost location first.

    Returns:
      `[..., K]`: the store's is softplus(b + 10), each of the others lies softplus(b + 10) above
      that of the location it supplies.
    """
    return _from_here_on(jax.nn.softplus(outputs + ECHELON_OFFSET))


def echelon_stock(network: Any) -> DeterministicPolicy:
    """Every location of a serial system keeps all stock from there on at a level.

    Its order is at most what its supplier has on hand; supply from outside is unlimited. The
    optimal policy with backlogged demand is of this form.

    Args:
      network: one store, one warehouse and any number of echelons.

    Returns:
      A `DeterministicPolicy` whose outputs `[B, K]` are those of `echelon_levels`, 0 at first.

    Raises:
      ValueError: no serial system.

    Source: Clark and Scarf 1960; HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    number = chain.length(network)

    def action(outputs: Array, observation: Observation) -> Action:
        chex.assert_shape(outputs, (None, number))
        stock = _from_here_on(chain.positions(network, observation))
        short = jax.nn.relu(echelon_levels(outputs) - stock)
        inner = _smaller(short[:, 1:], chain.suppliers_on_hand(network, observation))
        return chain.orders_along(jnp.concatenate([short[:, :1], inner], axis=1))

    return _constant(jnp.zeros(number), action)


def network_base_stock(network: Any) -> DeterministicPolicy:
    """Base stock levels at all locations and the proportional rule: the usual heuristic.

    A location counts its own stock and that of all locations below it, a store's in parts where it
    has several warehouses, and orders what is short of its level. A store splits its order over its
    warehouses by a softmax. A level is the mean demand of a period below the location times
    softplus(b + L + 1), L being the mean lead time from its supplier to the customer: at first
    (b = 0) a little more than the mean demand until an order of now is through. So a number of
    parameters is a good start in all scenarios, and lead times are read from each.

    Raw outputs are b of the echelons, the warehouses and the stores and, with several warehouses,
    the logits of the split, `[S, W]` store by store.

    Args:
      network: has the attributes of `jaxpg_envs.inventory.network.Network`.

    Returns:
      A `DeterministicPolicy`.

    Source: the heuristic baseline of HDPO, Alvo et al. 2023 (arXiv 2306.11246); which stock a
    warehouse counts, the split and the scale are ours.
    """
    echelons, warehouses, stores = (
        network.num_echelons,
        network.num_warehouses,
        network.num_stores,
    )
    locations = echelons + warehouses + stores
    split = stores * warehouses if warehouses > 1 else 0

    def action(outputs: Array, observation: Observation) -> Action:
        check_sizes(network, observation)
        chex.assert_shape(outputs, (None, locations + split))
        levels, logits = jnp.split(outputs, [locations], axis=1)
        shares = _shares(network, logits, observation["lead_time"])
        demand, position, lead_time = _below(network, observation, shares)
        level = demand * jax.nn.softplus(levels + lead_time + 1.0)
        short = jax.nn.relu(level - position)
        of_echelons, of_warehouses, of_stores = jnp.split(
            short, [echelons, echelons + warehouses], axis=1
        )
        wants = orders(of_stores[:, :, None] * shares, of_warehouses, of_echelons)
        return ration(network, observation, wants)

    return _constant(jnp.zeros(locations + split), action)


def _shares(network: Any, logits: Array, lead_time: Array) -> Array:
    """`[B, S, max(W, 1)]`, how stores split their orders; sums to 1 over warehouses."""
    if not logits.shape[1]:
        return jnp.ones_like(lead_time)
    logits = logits.reshape(lead_time.shape)
    return jax.nn.softmax(jnp.where(network.adjacency, logits, -jnp.inf), axis=2)


def _below(network: Any, observation: Observation, shares: Array) -> tuple[Array, Array, Array]:
    """Mean demand, stock and lead time from each location on, `[B, E + W + S]` each."""
    demand = observation["mean_demand"]
    position = jnp.sum(observation["stores"], axis=-1)
    # Where there is no edge a lead time may be anything, a NaN too.
    lead_time = jnp.where(network.adjacency, observation["lead_time"], 0.0)
    lead_time = jnp.sum(shares * lead_time, axis=2)
    rows = [(demand, position, lead_time)]
    if network.num_warehouses:
        weights = shares / jnp.sum(shares, axis=1, keepdims=True)
        of_warehouses = (
            jnp.einsum("bs,bsw->bw", demand, shares),
            jnp.einsum("bs,bsw->bw", position, shares)
            + jnp.sum(observation["warehouses"], axis=-1),
            jnp.einsum("bs,bsw->bw", lead_time, weights) + observation["warehouse_lead_time"],
        )
        rows.insert(0, of_warehouses)
    if network.num_echelons:
        own = jnp.sum(observation["echelons"], axis=-1)
        of_echelons = (
            jnp.broadcast_to(jnp.sum(demand, axis=1, keepdims=True), own.shape),
            jnp.sum(of_warehouses[1], axis=1, keepdims=True) + _from_here_on(own),
            jnp.mean(of_warehouses[2], axis=1, keepdims=True)
            + _from_here_on(observation["echelon_lead_time"]),
        )
        rows.insert(0, of_echelons)
    return tuple(jnp.concatenate(column, axis=1) for column in zip(*rows, strict=True))


def _from_here_on(row: Array) -> Array:
    """Sum of an entry and all later ones."""
    return jnp.flip(jnp.cumsum(jnp.flip(row, axis=-1), axis=-1), axis=-1)


def _smaller(value: Array, bound: Array) -> Array:
    """The minimum, with a derivative of 0 or 1 also in a tie."""
    return jnp.where(value < bound, value, bound)


def _constant(initial: Array, action: Any) -> DeterministicPolicy:
    """A policy whose raw outputs are its parameters, whatever it sees."""

    def outputs(params: PyTree, observation: Observation) -> Array:
        rows = observation["stores"].shape[0]
        return jnp.broadcast_to(params, (rows, *initial.shape))

    return DeterministicPolicy(
        init=lambda key: initial, outputs=outputs, action=action, num_outputs=initial.size
    )
