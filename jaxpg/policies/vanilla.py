"""Policies that know nothing of the network's shape: one perceptron of all stock in slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxpg.policies import chain
from jaxpg.policies.heads import LARGEST_ORDER, share_of_upstream, softmax_allocation
from jaxpg.policies.perceptron import perceptron
from jaxpg.policies.policy import (
    Action,
    DeterministicPolicy,
    Observation,
    check_sizes,
    on_hand,
    orders,
)
from jaxpg.types import Array


def vanilla_one_store(network: Any, hidden: Sequence[int] = (32, 32, 32)) -> DeterministicPolicy:
    """A store that orders softplus(output + 1) from outside.

    Args:
      network: one store without warehouses; its slots are the inputs.
      hidden: widths.

    Returns:
      A `DeterministicPolicy` with one output.

    Raises:
      ValueError: another network.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    if network.num_warehouses or network.num_stores != 1:
        raise ValueError(
            f"network has {network.num_stores} stores and {network.num_warehouses} warehouses, but "
            f"vanilla_one_store is for one store that orders from outside"
        )

    def action(outputs: Array, observation: Observation) -> Action:
        del observation
        chex.assert_shape(outputs, (None, 1))
        return orders(jax.nn.softplus(outputs + 1.0)[:, :, None])

    return _of_all_slots(network, hidden, 1, action)


def vanilla_serial(network: Any, hidden: Sequence[int] = (32, 32)) -> DeterministicPolicy:
    """A serial system in which each location orders a share of what its supplier has on hand.

    The outermost one orders a share of 4 periods' mean demand. The share is a sigmoid of its
    output; outputs are those of the locations, outermost first.

    Args:
      network: one store, one warehouse and any number of echelons.
      hidden: widths.

    Returns:
      A `DeterministicPolicy` with an output for each location.

    Raises:
      ValueError: no serial system.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    number = chain.length(network)

    def action(outputs: Array, observation: Observation) -> Action:
        chex.assert_shape(outputs, (None, number))
        available = jnp.concatenate(
            [
                LARGEST_ORDER * observation["mean_demand"],
                chain.suppliers_on_hand(network, observation),
            ],
            axis=1,
        )
        return chain.orders_along(share_of_upstream(outputs, available))

    return _of_all_slots(network, hidden, number, action)


def vanilla_warehouse(network: Any, hidden: Sequence[int] = (512, 512, 512)) -> DeterministicPolicy:
    """Warehouses that split their stock among their stores by a softmax.

    What is kept back takes part with a logit of 1, unless the network keeps no stock. A warehouse
    orders a sigmoid of its output times 4 periods' mean demand of all stores. Outputs are the
    logits `[S, W]`, store by store, and then those of the warehouses' own orders.

    Args:
      network: with warehouses and without echelons.
      hidden: widths; the source takes (256, 256, 256) for a transshipment centre.

    Returns:
      A `DeterministicPolicy` with S W + W outputs.

    Raises:
      ValueError: another network.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    if not network.num_warehouses or network.num_echelons:
        raise ValueError(
            f"network has {network.num_warehouses} warehouses and {network.num_echelons} echelons, "
            f"but vanilla_warehouse is for warehouses that order from outside"
        )
    stores, warehouses = network.num_stores, network.num_warehouses

    def action(outputs: Array, observation: Observation) -> Action:
        check_sizes(network, observation)
        chex.assert_shape(outputs, (None, (stores + 1) * warehouses))
        logits, own = jnp.split(outputs, [stores * warehouses], axis=1)
        shipped = softmax_allocation(
            logits.reshape(-1, stores, warehouses),
            on_hand(observation["warehouses"]),
            network.adjacency,
            keeps_stock=network.keeps_stock,
        )
        largest = LARGEST_ORDER * jnp.sum(observation["mean_demand"], axis=1, keepdims=True)
        return orders(shipped, share_of_upstream(own, largest))

    return _of_all_slots(network, hidden, (stores + 1) * warehouses, action)


def _of_all_slots(
    network: Any, hidden: Sequence[int], num_outputs: int, action: Any
) -> DeterministicPolicy:
    sizes = (
        (network.num_stores, network.store_slots),
        (network.num_warehouses, network.warehouse_slots),
        (network.num_echelons, network.echelon_slots),
    )
    net = perceptron(sum(number * slots for number, slots in sizes), hidden, num_outputs)

    def outputs(params, observation):
        check_sizes(network, observation)
        slots = [observation[kind] for kind in ("stores", "warehouses", "echelons")]
        return net.apply(
            params, jnp.concatenate([x.reshape(x.shape[0], -1) for x in slots if x.size], axis=1)
        )

    return DeterministicPolicy(net.init, outputs, action, num_outputs)
