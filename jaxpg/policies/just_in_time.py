"""What could be reached if demand were known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.policies.heads import ration
from jaxpg.policies.policy import Action, DeterministicPolicy, Observation, check_sizes, orders
from jaxpg.types import Array


def just_in_time(network: Any) -> DeterministicPolicy:
    """Every unit is ordered so that it arrives in the period that asks for it.

    A store orders from its fastest warehouse (the first of several) the demand of the period in
    which the order arrives, a warehouse what its stores will order when its own order arrives, an
    echelon likewise. Stock that is there at first is not counted, and what a supplier does not
    have yet is rationed. Not admissible, a yardstick only.

    Args:
      network: has the attributes of `jaxpg_envs.inventory.network.Network`.

    Returns:
      A `DeterministicPolicy` without parameters and outputs (`[B, 0]`). It reads
      `future_demand [B, F, S]` from an environment with foresight F; orders are NaN where F is not
      larger than the lead time from outside to the store.

    Raises:
      ValueError: from its action, without `future_demand`.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """

    def outputs(params: Any, observation: Observation) -> Array:
        return jnp.zeros((observation["stores"].shape[0], 0))

    def action(outputs: Array, observation: Observation) -> Action:
        del outputs
        check_sizes(network, observation)
        if "future_demand" not in observation:
            raise ValueError(
                "observation has no 'future_demand', which just_in_time reads: build the "
                "environment with foresight larger than the longest lead time from outside"
            )
        future = observation["future_demand"]
        lead_time = jnp.where(network.adjacency, observation["lead_time"], jnp.inf)
        fastest = jax.nn.one_hot(jnp.argmin(lead_time, axis=2), lead_time.shape[2])
        delay = jnp.min(lead_time, axis=2)
        of_stores = fastest * _demand_after(future, delay)[:, :, None]
        if not network.num_warehouses:
            return orders(of_stores)
        own = observation["warehouse_lead_time"]
        delay = delay + jnp.sum(fastest * own[:, None], axis=2)
        of_warehouses = jnp.sum(fastest * _demand_after(future, delay)[:, :, None], axis=1)
        of_echelons = []
        for lead in jnp.flip(observation["echelon_lead_time"], axis=1).T:
            delay = delay + lead[:, None]
            of_echelons.insert(0, jnp.sum(_demand_after(future, delay), axis=1))
        if not of_echelons:
            return ration(network, observation, orders(of_stores, of_warehouses))
        wants = orders(of_stores, of_warehouses, jnp.stack(of_echelons, axis=1))
        return ration(network, observation, wants)

    return DeterministicPolicy(lambda key: (), outputs, action, 0)


def _demand_after(future: Array, delay: Array) -> Array:
    """`[B, S]`: the row of `[B, F, S]` that each store's delay `[B, S]` says, NaN beyond."""
    foresight = future.shape[1]
    rows = jax.nn.one_hot(delay.astype(int), foresight, axis=1)
    demand = jnp.sum(rows * future, axis=1)
    return jnp.where(delay < foresight, demand, jnp.nan)
