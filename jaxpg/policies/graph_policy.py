"""A graph network whose graph is the supply chain: one set of weights for all its locations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from jaxpg.choices import at_least
from jaxpg.networks.graph import GraphNetwork
from jaxpg.networks.mlp import MLP, Dense, lean_elu, uniform_by_fan_in
from jaxpg.policies.heads import ration
from jaxpg.policies.policy import (
    Action,
    DeterministicPolicy,
    Observation,
    check_history,
    check_sizes,
    orders,
)
from jaxpg.policies.topology import topology
from jaxpg.types import Array, PyTree

NUM_STATICS = 4
"""Of a store without history; those of other locations are padded to as many."""


class GraphPolicyModule(nn.Module):
    """The Flax module behind `gnn`: a `GraphNetwork` and one output for each edge decided."""

    senders: Sequence[int]
    receivers: Sequence[int]
    decided: Sequence[int]
    width: int
    rounds: int

    @nn.compact
    def __call__(self, nodes: Array, edges: Array) -> Array:
        """Maps `[F, N, B]` and `[G, E, B]` to `[R, B]`."""
        messages = GraphNetwork(
            self.senders, self.receivers, self.width, self.rounds, self.decided, name="graph"
        )
        _, edges = messages(nodes, edges)
        hidden = MLP(
            (self.width,),
            lean_elu,
            dtype=None,
            features_first=True,
            initialisers=uniform_by_fan_in,
            name="head",
        )
        output = Dense(
            1,
            uniform_by_fan_in(self.width)[0],
            nn.initializers.constant(5.0),
            dtype=None,
            features_first=True,
            name="output",
        )
        return output(hidden(edges.reshape(self.width, -1))).reshape(edges.shape[1:])


def gnn(
    network: Any, width: int = 32, rounds: int | None = None, history: int = 0
) -> DeterministicPolicy:
    """A graph network on the supply chain; each edge says how much it wants to carry.

    A node's features are its stock in slots, padded to the longest of all locations, and then:
    holding cost (echelons); holding and order cost (warehouses); holding and underage cost and
    either mean and standard deviation of demand or, with `history`, past demand, oldest first, and
    the days from Christmas (stores). An edge's feature is its lead time, read from each scenario.
    Wants are the softplus of the outputs; each supplier applies the proportional rule to those of
    its customers and to what it wants to keep, and orders from outside are as wanted.

    The parameters know the longest number of slots, `width` and `history`, nothing else: networks
    that agree in these run with each other's, whatever their locations, edges and lead times.

    Args:
      network: has the attributes of `jaxpg_envs.inventory.network.Network`.
      width: of all features inside.
      rounds: how often messages are passed; None takes the number of echelons plus 1.
      history: periods of past demand that stores see instead of its mean and deviation.

    Returns:
      A `DeterministicPolicy` with an output for each edge that carries an order, in the order of
      `Topology.decided`.

    Raises:
      ValueError: a size below its minimum.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), version 3. The order cost of a warehouse is
    a feature in every network, 0 where it is free.
    """
    rounds = network.num_echelons + 1 if rounds is None else rounds
    for name, given, minimum in (
        ("width", width, 1),
        ("rounds", rounds, 0),
        ("history", history, 0),
    ):
        at_least(name, given, minimum)
    graph = topology(network)
    senders, receivers, decided = (
        tuple(x.tolist()) for x in (graph.senders, graph.receivers, graph.decided)
    )
    module = GraphPolicyModule(senders, receivers, decided, width, rounds)
    num_statics = max(NUM_STATICS, history + 3)
    num_features = _longest(network) + num_statics

    def init(key: Array) -> PyTree:
        nodes = jnp.zeros((num_features, graph.num_nodes, 1))
        return module.init(key, nodes, jnp.zeros((1, len(senders), 1)))

    def outputs(params: PyTree, observation: Observation) -> Array:
        check_sizes(network, observation)
        check_history(observation, history)
        nodes = _node_features(network, observation, num_statics, history)
        edges = _lead_times(observation, graph.lead_times)
        nodes, edges = nodes.transpose(2, 1, 0), edges.T[None]
        # Without the barrier XLA folds the transposition into slower products.
        return module.apply(params, *jax.lax.optimization_barrier((nodes, edges))).T

    def action(outputs: Array, observation: Observation) -> Action:
        chex.assert_shape(outputs, (None, len(decided)))
        wants = jnp.pad(jax.nn.softplus(outputs), ((0, 0), (0, 1)))
        of_stores, of_warehouses, of_echelons, kept_by_warehouses, kept_by_echelons = (
            wants[:, places]
            for places in (
                graph.edges_of_stores,
                graph.edges_of_warehouses,
                graph.edges_of_echelons,
                graph.kept_by_warehouses,
                graph.kept_by_echelons,
            )
        )
        wanted = orders(of_stores, of_warehouses, of_echelons)
        return ration(network, observation, wanted, (kept_by_warehouses, kept_by_echelons))

    return DeterministicPolicy(init, outputs, action, len(decided))


def _longest(network: Any) -> int:
    """Slots of the location that has most."""
    slots = [network.store_slots]
    if network.num_warehouses:
        slots.append(network.warehouse_slots)
    if network.num_echelons:
        slots.append(network.echelon_slots)
    return max(slots)


def _node_features(network: Any, observation: Observation, num_statics: int, history: int) -> Array:
    """`[B, N, F]`: slots and statics, each padded with zeros."""
    if history:
        past = observation["past_demand"][:, -history:].swapaxes(1, 2)
        days = observation["days_from_christmas"][:, None, None]
        seen = [past, jnp.broadcast_to(days, (*past.shape[:2], 1))]
    else:
        seen = [observation[name][:, :, None] for name in ("mean_demand", "demand_std")]
    statics = {
        "echelons": ("echelon_holding_cost",),
        "warehouses": ("warehouse_holding_cost", "warehouse_order_cost"),
        "stores": ("holding_cost", "underage_cost"),
    }
    rows = []
    for kind, names in statics.items():
        slots = observation[kind]
        if not slots.shape[1]:
            continue
        static = [observation[name][:, :, None] for name in names]
        static = jnp.concatenate([*static, *(seen if kind == "stores" else ())], axis=2)
        padded = (_padded(slots, _longest(network)), _padded(static, num_statics))
        rows.append(jnp.concatenate(padded, axis=2))
    return jnp.concatenate(rows, axis=1)


def _padded(features: Array, size: int) -> Array:
    return jnp.pad(features, ((0, 0), (0, 0), (0, size - features.shape[2])))


def _lead_times(observation: Observation, entries: ArrayLike) -> Array:
    """`[B, num_edges]`, 0 where no order runs."""
    of_stores = observation["lead_time"]
    of_stores = of_stores.reshape(of_stores.shape[0], -1)
    none = jnp.zeros_like(of_stores[:, :1])
    others = observation["warehouse_lead_time"], observation["echelon_lead_time"]
    return jnp.concatenate([of_stores, *others, none], axis=1)[:, entries]
