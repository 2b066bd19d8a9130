"""A perceptron of everything that is seen, for demand whose distribution nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxpg.choices import at_least
from jaxpg.policies.heads import ration
from jaxpg.policies.perceptron import perceptron
from jaxpg.policies.policy import (
    Action,
    DeterministicPolicy,
    Observation,
    check_history,
    check_sizes,
    orders,
)
from jaxpg.types import Array, PyTree


def data_driven(
    network: Any, history: int = 16, hidden: Sequence[int] = (64, 64)
) -> DeterministicPolicy:
    """Orders are the positive part of a perceptron's outputs, rationed by the proportional rule.

    Inputs are the slots of stores and warehouses, past demand store by store, underage and holding
    costs of the stores, days from Christmas and all lead times. Outputs are the warehouses' orders
    and then the stores', `[S, max(W, 1)]` store by store, with a bias of 1 at first.

    Args:
      network: has the attributes of `jaxpg_envs.inventory.network.Network`; without echelons.
      history: periods of past demand that are seen.
      hidden: widths.

    Returns:
      A `DeterministicPolicy` with W + S max(W, 1) outputs.

    Raises:
      ValueError: a network with echelons, or a negative history.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    at_least("history", history, 0)
    if network.num_echelons:
        raise ValueError(
            f"network has {network.num_echelons} echelons, but data_driven is for stores and "
            f"warehouses alone: take gnn"
        )
    warehouses, edges = network.num_warehouses, network.num_stores * network.num_suppliers
    num_inputs = (
        network.num_stores * (network.store_slots + history + 2)
        + warehouses * (network.warehouse_slots + 1)
        + edges
        + 1
    )
    net = perceptron(num_inputs, hidden, warehouses + edges, output_bias=1.0)

    def outputs(params: PyTree, observation: Observation) -> Array:
        check_sizes(network, observation)
        check_history(observation, history)
        return net.apply(params, _inputs(network, observation, history))

    def action(outputs: Array, observation: Observation) -> Action:
        check_sizes(network, observation)
        chex.assert_shape(outputs, (None, warehouses + edges))
        own, of_stores = jnp.split(jax.nn.relu(outputs), [warehouses], axis=1)
        of_stores = of_stores.reshape(-1, network.num_stores, network.num_suppliers)
        return ration(network, observation, orders(of_stores, own))

    return DeterministicPolicy(net.init, outputs, action, warehouses + edges)


def _inputs(network: Any, observation: Observation, history: int) -> Array:
    past = observation["past_demand"]
    parts = [
        observation["stores"],
        observation["warehouses"],
        past[:, past.shape[1] - history :].swapaxes(1, 2),
        observation["underage_cost"],
        observation["holding_cost"],
        observation["days_from_christmas"],
        # Where there is no edge a lead time may be anything.
        jnp.where(network.adjacency, observation["lead_time"], 0.0),
        observation["warehouse_lead_time"],
    ]
    rows = past.shape[0]
    return jnp.concatenate([x.reshape(rows, -1) for x in parts if x.size], axis=1)
