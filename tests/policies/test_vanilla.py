"""Perceptrons of all slots: the network by hand, and what each output stands for."""

import jax
import numpy as np
import pytest

from jaxpg import policies
from jaxpg.policies.perceptron import perceptron


def layers_of(params):
    tree = params["params"]
    torso = tree.get("MLP_0", {})
    return [*(torso[f"Dense_{i}"] for i in range(len(torso))), tree["Dense_0"]]


def by_hand(params, inputs):
    layers = layers_of(params)
    for number, layer in enumerate(layers):
        inputs = inputs @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        if number < len(layers) - 1:
            inputs = np.where(inputs > 0, inputs, np.expm1(np.minimum(inputs, 0)))
    return inputs


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_both_layouts_are_the_same_perceptron(backend, weights, monkeypatch):
    net = perceptron(5, (8, 7), 3)
    params = weights(net)
    inputs = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    np.testing.assert_allclose(net.apply(params, inputs), by_hand(params, inputs), atol=1e-6)


def test_it_is_initialised_as_torch_does():
    net = perceptron(100, (400, 25), 50)
    for fan_in, layer in zip(
        (100, 400, 25), layers_of(jax.jit(net.init)(jax.random.key(0))), strict=True
    ):
        bound = fan_in**-0.5
        for leaf in layer.values():
            assert np.abs(leaf).max() <= bound
        # A uniform distribution's standard deviation is its half width over the root of 3.
        np.testing.assert_allclose(np.std(layer["kernel"]), bound / 3**0.5, rtol=0.05)
        assert np.abs(layer["bias"]).max() > 0.8 * bound
    ones = jax.jit(perceptron(3, (), 2, output_bias=1.0).init)(jax.random.key(0))
    assert layers_of(ones)[-1]["bias"].tolist() == [1.0, 1.0]


def test_one_store_orders_a_softplus(supply, observe, weights, decide):
    network = supply()
    seen, policy = observe(network), policies.vanilla_one_store(network)
    params = weights(policy)
    assert [x["bias"].size for x in layers_of(params)] == [32, 32, 32, 1]
    out = by_hand(params, seen["stores"].reshape(4, 3))
    expected = np.log1p(np.exp(out + 1))
    found = decide(policy, params, seen)
    np.testing.assert_allclose(found["stores"][..., 0], expected, rtol=1e-5)


def test_a_chain_orders_shares_of_what_is_upstream(supply, observe, weights, decide):
    network = supply([[1]], num_echelons=2)
    seen, policy = observe(network), policies.vanilla_serial(network)
    params = weights(policy)
    kinds = [seen[kind].reshape(4, -1) for kind in ("stores", "warehouses", "echelons")]
    share = sigmoid(by_hand(params, np.concatenate(kinds, axis=1)))
    found = decide(policy, params, seen)
    first = share[:, 0] * 4 * seen["mean_demand"][:, 0]
    np.testing.assert_allclose(found["echelons"][:, 0], first, rtol=1e-5)
    second = share[:, 1] * seen["echelons"][:, 0, 0]
    np.testing.assert_allclose(found["echelons"][:, 1], second, rtol=1e-5)
    third = share[:, 2] * seen["echelons"][:, 1, 0]
    np.testing.assert_allclose(found["warehouses"][:, 0], third, rtol=1e-5)
    last = share[:, 3] * seen["warehouses"][:, 0, 0]
    np.testing.assert_allclose(found["stores"][:, 0, 0], last, rtol=1e-5)


@pytest.mark.parametrize("keeps_stock", [True, False])
def test_warehouses_split_their_stock(keeps_stock, supply, observe, weights, decide):
    network = supply([[1, 0], [1, 1], [0, 1]], keeps_stock=keeps_stock)
    seen, policy = observe(network), policies.vanilla_warehouse(network, hidden=(16,))
    params = weights(policy)
    inputs = np.concatenate(
        [seen[kind].reshape(4, -1) for kind in ("stores", "warehouses")], axis=1
    )
    out = by_hand(params, inputs)
    found = decide(policy, params, seen)
    # Outputs: store 0 at warehouse 0, store 0 at warehouse 1, store 1 at warehouse 0, ...
    columns = {0: [0, 2], 1: [3, 5]}
    for warehouse, stores in {0: [0, 1], 1: [1, 2]}.items():
        weights = np.exp(out[:, columns[warehouse]])
        total = weights.sum(axis=1) + (np.e if keeps_stock else 0.0)
        stock = seen["warehouses"][:, warehouse, 0]
        expected = weights * (stock / total)[:, None]
        np.testing.assert_allclose(found["stores"][:, stores, warehouse], expected, rtol=1e-4)
    assert not found["stores"][:, [0, 2], [1, 0]].any()
    own = sigmoid(out[:, 6:]) * 4 * seen["mean_demand"].sum(1, keepdims=True)
    np.testing.assert_allclose(found["warehouses"], own, rtol=1e-5)


def test_the_data_driven_net_reads_everything_and_rations(supply, observe, weights, decide):
    network = supply([[1, 0], [1, 1], [0, 1]])
    seen = observe(network, rows=60, history=5)
    policy = policies.data_driven(network, history=4, hidden=(16, 16))
    params = weights(policy)
    # Larger weights, so that some outputs are negative.
    params = jax.tree.map(lambda x: 3 * x, params)
    lead = seen["lead_time"] * network.adjacency
    parts = [
        seen["stores"],
        seen["warehouses"],
        seen["past_demand"][:, 1:].swapaxes(1, 2),
        seen["underage_cost"],
        seen["holding_cost"],
        seen["days_from_christmas"][:, None],
        lead,
        seen["warehouse_lead_time"],
    ]
    out = by_hand(params, np.concatenate([x.reshape(60, -1) for x in parts], axis=1))
    found = decide(policy, params, seen)
    np.testing.assert_allclose(found["warehouses"], np.maximum(out[:, :2], 0), rtol=1e-3, atol=1e-3)
    wants = np.maximum(out[:, 2:].reshape(60, 3, 2), 0) * network.adjacency
    total = wants.sum(axis=1)
    assert (wants == 0)[:, network.adjacency].any() and (total > 0).any()
    scale = np.minimum(1, seen["warehouses"][:, :, 0] / (total + 1e-10))
    np.testing.assert_allclose(found["stores"], wants * scale[:, None], rtol=1e-3, atol=1e-3)


def test_a_store_that_orders_from_outside_gets_what_the_net_says(supply, observe, weights, decide):
    network = supply(num_stores=2)
    seen, policy = observe(network, history=16), policies.data_driven(network, hidden=(8,))
    params = weights(policy)
    out = np.asarray(jax.jit(policy.outputs)(params, seen))
    found = decide(policy, params, seen)
    np.testing.assert_allclose(found["stores"][..., 0], np.maximum(out, 0), rtol=1e-5, atol=1e-5)


def test_networks_that_do_not_fit_are_refused(supply, observe, weights):
    chain, pair = supply([[1]], num_echelons=1), supply(num_stores=2)
    with pytest.raises(ValueError, match="network has 2 stores and 0 warehouses, but vanilla_one"):
        policies.vanilla_one_store(pair)
    with pytest.raises(ValueError, match="network has 2 stores and 0 warehouses, but a serial"):
        policies.vanilla_serial(pair)
    for network in (chain, pair):
        with pytest.raises(ValueError, match="but vanilla_warehouse is for warehouses that order"):
            policies.vanilla_warehouse(network)
    with pytest.raises(ValueError, match="network has 1 echelons, but data_driven is for stores"):
        policies.data_driven(chain)
    with pytest.raises(ValueError, match="hidden width is 0, but it has to be at least 1"):
        policies.vanilla_serial(chain, hidden=(0,))
    policy = policies.data_driven(pair, history=3)
    with pytest.raises(ValueError, match="the policy reads 3 periods: build the environment with"):
        policy.outputs(weights(policy), observe(pair, history=2))
