"""A supply chain as a graph."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpg.networks.graph import OUTSIDE


@dataclasses.dataclass(frozen=True)
class Topology:
    """Nodes and edges of a supply chain.

    Nodes are echelons, warehouses, stores. Edges are those between nodes, source by source; those
    from outside to the outermost nodes; those from the stores to their customers, outside; and
    one from each node that supplies others to itself, standing for what it keeps.

    Attributes:
      num_nodes: N.
      senders: `[num_edges]`, -1 outside.
      receivers: `[num_edges]`, -1 outside.
      decided: indices of all edges but the customers': those that carry an order.
      edges_of_stores: `[S, max(W, 1)]`, for each store and supplier the place of its edge in
        `decided`, or `len(decided)` where there is none.
      edges_of_warehouses: `[W]` likewise, of what they order.
      edges_of_echelons: `[E]` likewise.
      kept_by_warehouses: `[W]` likewise, of the edges to themselves.
      kept_by_echelons: `[E]` likewise.
      lead_times: `[num_edges]`, the entry of the stores' (store by store), the warehouses' and the
        echelons' lead times in one row that is each edge's, or one past the last where no order
        runs along it.
    """

    num_nodes: int
    senders: np.ndarray
    receivers: np.ndarray
    decided: np.ndarray
    edges_of_stores: np.ndarray
    edges_of_warehouses: np.ndarray
    edges_of_echelons: np.ndarray
    kept_by_warehouses: np.ndarray
    kept_by_echelons: np.ndarray
    lead_times: np.ndarray


def topology(network: Any) -> Topology:
    """The graph of a supply chain.

    Args:
      network: has the attributes of `jaxpg_envs.inventory.network.Network`.

    Returns:
      A `Topology`.
    """
    num_echelons, num_warehouses = network.num_echelons, network.num_warehouses
    echelons = range(num_echelons)
    warehouses = range(num_echelons, num_echelons + num_warehouses)
    stores = range(warehouses.stop, warehouses.stop + network.num_stores)
    inner = list(itertools.pairwise(echelons))
    inner += [(source, target) for source in echelons[-1:] for target in warehouses]
    if num_warehouses:
        inner += [(warehouses[w], stores[s]) for w, s in np.argwhere(network.adjacency.T)]
    outermost = echelons[:1] or warehouses or stores
    keepers = [*echelons, *(warehouses if network.keeps_stock else ())]
    edges = [*inner, *((OUTSIDE, node) for node in outermost)]
    first_customer = len(edges)
    edges += [(node, OUTSIDE) for node in stores]
    last_customer = len(edges)
    edges += [(node, node) for node in keepers]
    decided = [*range(first_customer), *range(last_customer, len(edges))]
    place = {edges[edge]: number for number, edge in enumerate(decided)}

    def places(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        return np.array([place.get(pair, len(decided)) for pair in pairs], int)

    suppliers = warehouses or (OUTSIDE,)
    of_stores = places([(w, s) for s in stores for w in suppliers])
    of_warehouses = places([(echelons[-1] if num_echelons else OUTSIDE, w) for w in warehouses])
    of_echelons = places(list(zip((OUTSIDE, *echelons), echelons, strict=False)))
    senders, receivers = np.array(edges, int).T
    return Topology(
        num_nodes=stores.stop,
        senders=senders,
        receivers=receivers,
        decided=np.array(decided, int),
        edges_of_stores=of_stores.reshape(len(stores), len(suppliers)),
        edges_of_warehouses=of_warehouses,
        edges_of_echelons=of_echelons,
        kept_by_warehouses=places([(w, w) for w in warehouses]),
        kept_by_echelons=places([(j, j) for j in echelons]),
        lead_times=_inverse(
            np.concatenate([of_stores, of_warehouses, of_echelons]), decided, len(edges)
        ),
    )


def _inverse(places: np.ndarray, decided: Sequence[int], num_edges: int) -> np.ndarray:
    """For each edge where in `places` it is, or one past the last."""
    entries = np.full(num_edges, len(places))
    for entry, place in enumerate(places):
        if place < len(decided):
            entries[decided[place]] = entry
    return entries
