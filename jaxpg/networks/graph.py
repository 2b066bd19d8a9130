"""Message passing on a graph that is known beforehand, with weights shared by all its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpg.networks.mlp import lean_elu, uniform_by_fan_in
from jaxpg.types import Array

OUTSIDE = -1
"""As an end of an edge: no node. Its features are zeros, and it hears nothing."""


class GraphNetwork(nn.Module):
    """Features of nodes and directed edges that hear of one another in a number of rounds.

    Nodes and edges are embedded first, an edge from both of its ends and its own features. In a
    round each node sums its incoming and its outgoing edges, each sum divided by the square root of
    the number of edges, and adds a function of itself and the sums to itself; then each edge adds a
    function of itself and its (new) ends. The five functions have one hidden layer and ELU units,
    at their outputs too. The number of parameters does not depend on the graph, so what was learned
    on one graph runs on another.

    Arrays have their features first and the graphs of a batch last: then a layer is one matrix
    product over all nodes of all graphs, and what is sent and summed is contiguous.

    Attributes:
      senders: for each edge, the node where it begins, or `OUTSIDE`.
      receivers: for each edge, the node where it ends, or `OUTSIDE`.
      width: of all features inside.
      rounds: how often messages are passed, at least 0.
      read: indices of the edges whose features are asked for; None for all. The last round leaves
        the others out.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), version 3.
    """

    senders: Sequence[int]
    receivers: Sequence[int]
    width: int = 32
    rounds: int = 1
    read: Sequence[int] | None = None

    @nn.compact
    def __call__(self, nodes: Array, edges: Array) -> tuple[Array, Array]:
        """Passes messages.

        Args:
          nodes: `[F, N, B]` features of N nodes in B graphs.
          edges: `[G, E, B]` features of E edges; G may be 0.

        Returns:
          `(nodes [width, N, B], edges [width, R, B])`, R of them being read.

        Raises:
          ValueError: an end of an edge that is no node.
        """
        senders, receivers = np.array(self.senders, int), np.array(self.receivers, int)
        number = nodes.shape[1]
        chex.assert_shape(edges, (None, len(senders), nodes.shape[2]))
        chex.assert_equal_shape([senders, receivers])
        _check_ends(senders, receivers, number)
        node_update, edge_update = self._function("update_nodes"), self._function("update_edges")
        nodes = self._function("embed_nodes")([nodes])
        ends = [_Sent(nodes, senders), _Sent(nodes, receivers)]
        edges = self._function("embed_edges")([*ends, edges])
        read = np.arange(len(senders)) if self.read is None else np.array(self.read, int)
        for remaining in reversed(range(self.rounds)):
            heard = [_sums(edges, ends, number) for ends in (receivers, senders)]
            nodes = nodes + node_update([nodes, *heard])
            if not remaining:
                edges = _taken(edges, read)
                senders, receivers = senders[read], receivers[read]
            edges = edges + edge_update([edges, _Sent(nodes, senders), _Sent(nodes, receivers)])
        return nodes, edges if self.rounds else _taken(edges, read)

    def _function(self, name: str) -> JoinedLayers:
        return JoinedLayers(self.width, name=name)


class _Sent(NamedTuple):
    """Features of nodes `[F, N, B]` as they are read at one end of each edge."""

    nodes: Array
    ends: np.ndarray


class JoinedLayers(nn.Module):
    """Two layers with ELU of several features joined, features first.

    Attributes:
      width: of both layers.
    """

    width: int

    @nn.compact
    def __call__(self, parts: Sequence[Array | _Sent]) -> Array:
        """Maps parts `[F_i, N, B]`, N alike but for those that are sent, to `[width, N, B]`."""
        hidden = lean_elu(JoinedDense(self.width, name="Dense_0")(parts))
        return lean_elu(JoinedDense(self.width, name="Dense_1")([hidden]))


class JoinedDense(nn.Module):
    """A linear layer of several features joined: the sum of their products, nothing is copied.

    What nodes send along edges is multiplied before it is sent, since there are fewer nodes.

    Attributes:
      features: number of outputs.
    """

    features: int

    @nn.compact
    def __call__(self, parts: Sequence[Array | _Sent]) -> Array:
        """Maps parts `[F_i, N, B]` to `[features, N, B]`."""
        arrays = [part.nodes if isinstance(part, _Sent) else part for part in parts]
        sizes = [array.shape[0] for array in arrays]
        draw_kernel, draw_bias = uniform_by_fan_in(sum(sizes))
        kernel = self.param("kernel", draw_kernel, (sum(sizes), self.features))
        total = self.param("bias", draw_bias, (self.features,))[:, None, None]
        pieces = jnp.split(kernel, np.cumsum(sizes)[:-1])
        for part, array, piece in zip(parts, arrays, pieces, strict=True):
            product = piece.T @ array.reshape(array.shape[0], -1)
            product = product.reshape(self.features, *array.shape[1:])
            total = total + (_taken(product, part.ends) if isinstance(part, _Sent) else product)
        return total


def _check_ends(senders: np.ndarray, receivers: np.ndarray, num_nodes: int) -> None:
    for name, ends in (("senders", senders), ("receivers", receivers)):
        wrong = ends[(ends < OUTSIDE) | (ends >= num_nodes)]
        if wrong.size:
            raise ValueError(
                f"{name} has the entry {wrong[0]}, but with {num_nodes} nodes an edge ends in 0 to "
                f"{num_nodes - 1} or, outside, in {OUTSIDE}"
            )


def _taken(features: Array, index: np.ndarray) -> Array:
    """Columns `[F, E, B]` of `[F, N, B]`, zeros where the index is `OUTSIDE`.

    Slices, not a gather, whose derivative is a scatter and slow on a CPU.
    """
    nothing = jnp.zeros_like(features[:, :1])
    columns = [nothing if i == OUTSIDE else features[:, i : i + 1] for i in index]
    return jnp.concatenate(columns, axis=1) if columns else features[:, :0]


def _sums(edges: Array, ends: np.ndarray, num_nodes: int) -> Array:
    """`[F, N, B]`: the sum of each node's edges over the square root of their number."""
    columns = []
    for node in range(num_nodes):
        own = np.flatnonzero(ends == node)
        total = sum((edges[:, i : i + 1] for i in own), jnp.zeros_like(edges[:, :1]))
        columns.append(total / max(len(own), 1) ** 0.5)
    return jnp.concatenate(columns, axis=1)
