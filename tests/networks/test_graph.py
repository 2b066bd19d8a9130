"""Message passing: the same as loops over nodes and edges, on any graph with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import networks

SENDERS, RECEIVERS = (0, 0, 1, -1, 2, 2, 3), (1, 2, 2, 0, 2, -1, -1)
NODES, WIDTH, BATCH = 5, 4, 2


def perceptron(tree, inputs):
    for layer in ("Dense_0", "Dense_1"):
        inputs = inputs @ np.asarray(tree[layer]["kernel"]) + np.asarray(tree[layer]["bias"])
        inputs = np.where(inputs > 0, inputs, np.expm1(np.minimum(inputs, 0)))
    return inputs


def by_hand(tree, nodes, edges, rounds):
    """One graph, node by node and edge by edge; -1 is outside."""
    nothing = np.zeros(WIDTH)
    nodes = [perceptron(tree["embed_nodes"], x) for x in nodes]
    at = lambda node: nothing if node < 0 else nodes[node]
    ends = list(zip(SENDERS, RECEIVERS, strict=True))
    edges = [
        perceptron(tree["embed_edges"], np.concatenate([at(s), at(r), x]))
        for (s, r), x in zip(ends, edges, strict=True)
    ]
    for _ in range(rounds):
        heard = []
        for node in range(len(nodes)):
            into = [edges[e] for e, (_, r) in enumerate(ends) if r == node]
            out_of = [edges[e] for e, (s, _) in enumerate(ends) if s == node]
            sums = [sum(x, nothing) / np.sqrt(max(len(x), 1)) for x in (into, out_of)]
            heard.append(np.concatenate([nodes[node], *sums]))
        nodes = [x + perceptron(tree["update_nodes"], y) for x, y in zip(nodes, heard, strict=True)]
        edges = [
            x + perceptron(tree["update_edges"], np.concatenate([x, at(s), at(r)]))
            for x, (s, r) in zip(edges, ends, strict=True)
        ]
    return np.array(nodes), np.array(edges)


@pytest.fixture(scope="module")
def features():
    draw = np.random.default_rng(0)
    shapes = (3, NODES, BATCH), (2, len(SENDERS), BATCH)
    return [draw.normal(size=shape).astype(np.float32) for shape in shapes]


def weights(module, features):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *features)
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda x: draw.uniform(-0.5, 0.5, x.shape).astype(np.float32), shapes)


@pytest.mark.parametrize(("rounds", "read"), [(0, (5, 1)), (1, None), (2, (5, 1))])
def test_it_is_the_loop_over_nodes_and_edges(rounds, read, features):
    module = networks.GraphNetwork(SENDERS, RECEIVERS, WIDTH, rounds, read)
    params = weights(module, features)
    nodes, edges = jax.jit(module.apply)(params, *features)
    for graph in range(BATCH):
        inputs = [x[..., graph].T for x in features]
        expected_nodes, expected_edges = by_hand(params["params"], *inputs, rounds)
        np.testing.assert_allclose(nodes[..., graph].T, expected_nodes, atol=1e-5)
        expected_edges = expected_edges[list(range(len(SENDERS)) if read is None else read)]
        np.testing.assert_allclose(edges[..., graph].T, expected_edges, atol=1e-5)


def test_weights_of_one_graph_run_on_another(features):
    shapes = [
        jax.eval_shape(
            networks.GraphNetwork(senders, receivers, WIDTH, rounds).init,
            jax.random.key(0),
            jnp.zeros((3, nodes, 1)),
            jnp.zeros((2, len(senders), 1)),
        )
        for senders, receivers, nodes, rounds in (
            (SENDERS, RECEIVERS, NODES, 1),
            (range(20), [-1] * 20, 20, 3),
        )
    ]
    assert shapes[0] == shapes[1]


def test_a_graph_in_a_batch_does_not_hear_of_others(features):
    module = networks.GraphNetwork(SENDERS, RECEIVERS, WIDTH)
    params = weights(module, features)
    apply = jax.jit(module.apply)
    both, alone = apply(params, *features), apply(params, *(x[..., 1:] for x in features))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[..., 1:], y, atol=1e-6), both, alone)


@pytest.mark.parametrize(
    ("senders", "receivers", "message"),
    [
        ((0, 5), (1, 1), "senders has the entry 5, but with 5 nodes an edge ends in 0 to 4 or"),
        ((0, 1), (1, -2), "receivers has the entry -2, but with 5 nodes"),
    ],
)
def test_an_edge_to_nowhere_is_named(senders, receivers, message, features):
    module = networks.GraphNetwork(senders, receivers)
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), features[0], features[1][:, :2])
