"""The graph policy: the card's loops, symmetries, and who hears of whom."""

import jax
import numpy as np
import pytest

from jaxpg import policies

WIDTH = 6


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def layer(tree, x):
    return x @ np.asarray(tree["kernel"]) + np.asarray(tree["bias"])


def module_of(tree, x):
    return elu(layer(tree["Dense_1"], elu(layer(tree["Dense_0"], x))))


def edges_by_hand(network):
    """Kind, source, target and place of the lead time, in the order of the source."""
    echelons, warehouses, stores = (
        network.num_echelons,
        network.num_warehouses,
        network.num_stores,
    )
    first_store, found = echelons + warehouses, []
    for source in range(echelons + warehouses):
        for target in range(first_store + stores):
            if source < echelons - 1 and target == source + 1:
                found.append(("inner", source, target, ("echelon_lead_time", target)))
            if source == echelons - 1 and echelons <= target < first_store:
                at = ("warehouse_lead_time", target - echelons)
                found.append(("inner", source, target, at))
            if echelons <= source and target >= first_store:
                w, s = source - echelons, target - first_store
                if network.supplies[s][w]:
                    found.append(("inner", source, target, ("lead_time", s, w)))
    if echelons:
        found.append(("supplier", None, 0, ("echelon_lead_time", 0)))
    elif warehouses:
        found += [("supplier", None, w, ("warehouse_lead_time", w)) for w in range(warehouses)]
    else:
        found += [("supplier", None, s, ("lead_time", s, 0)) for s in range(stores)]
    found += [("customer", first_store + s, None, None) for s in range(stores)]
    keepers = first_store if network.keeps_stock else echelons
    return found + [("self", node, node, None) for node in range(keepers)]


def node_features(network, seen, row, history):
    longest = max(
        network.store_slots,
        network.warehouse_slots if network.num_warehouses else 0,
        network.echelon_slots if network.num_echelons else 0,
    )
    features = []
    for j in range(network.num_echelons):
        features.append((seen["echelons"][row, j], [seen["echelon_holding_cost"][row, j]]))
    for w in range(network.num_warehouses):
        costs = [seen[f"warehouse_{kind}_cost"][row, w] for kind in ("holding", "order")]
        features.append((seen["warehouses"][row, w], costs))
    for s in range(network.num_stores):
        if history:
            known = [*seen["past_demand"][row, -history:, s], seen["days_from_christmas"][row]]
        else:
            known = [seen["mean_demand"][row, s], seen["demand_std"][row, s]]
        costs = [seen["holding_cost"][row, s], seen["underage_cost"][row, s]]
        features.append((seen["stores"][row, s], costs + known))
    width = max(4, history + 3)
    pad = lambda x, size: np.append(x, np.zeros(size - len(x)))
    return [np.append(pad(slots, longest), pad(static, width)) for slots, static in features]


def by_hand(network, tree, seen, row, rounds, history):
    """Orders of one scenario: stores [S, max(W, 1)], warehouses, echelons."""
    graph, edges = tree["graph"], edges_by_hand(network)
    nodes = [module_of(graph["embed_nodes"], x) for x in node_features(network, seen, row, history)]
    zero = np.zeros(WIDTH)
    at = lambda node: zero if node is None else nodes[node]
    leads = [0.0 if place is None else seen[place[0]][(row, *place[1:])] for *_, place in edges]
    features = [
        module_of(graph["embed_edges"], np.concatenate([at(u), at(v), [lead]]))
        for (_, u, v, _), lead in zip(edges, leads, strict=True)
    ]
    for _ in range(rounds):
        updates = []
        for n in range(len(nodes)):
            into = [e for e, (_, _, v, _) in zip(features, edges, strict=True) if v == n]
            out_of = [e for e, (_, u, _, _) in zip(features, edges, strict=True) if u == n]
            sums = [sum(x, zero) / np.sqrt(max(len(x), 1)) for x in (into, out_of)]
            updates.append(module_of(graph["update_nodes"], np.concatenate([nodes[n], *sums])))
        nodes = [x + y for x, y in zip(nodes, updates, strict=True)]
        features = [
            e + module_of(graph["update_edges"], np.concatenate([e, at(u), at(v)]))
            for e, (_, u, v, _) in zip(features, edges, strict=True)
        ]
    head = [layer(tree["output"], elu(layer(tree["head"]["Dense_0"], e)))[0] for e in features]
    wants = np.log1p(np.exp(head))
    first_store = network.num_echelons + network.num_warehouses
    hand = [
        seen[kind][row, n, 0]
        for kind, number in (
            ("echelons", network.num_echelons),
            ("warehouses", network.num_warehouses),
        )
        for n in range(number)
    ]
    orders = np.zeros((len(nodes), max(first_store, 1)))
    for want, (kind, u, v, _) in zip(wants, edges, strict=True):
        if kind == "supplier":
            orders[v, 0] = want
        if kind == "inner":
            total = sum(w for w, edge in zip(wants, edges, strict=True) if edge[1] == u)
            scale = hand[u] / (total + 1e-10)
            always = not network.keeps_stock and u >= network.num_echelons
            orders[v, u] = want * (scale if always else min(1.0, scale))
    stores = orders[first_store:, network.num_echelons :] if first_store else orders
    above = orders[:first_store].sum(axis=1)
    return stores, above[network.num_echelons :], above[: network.num_echelons]


CASES = {
    "warehouse": ({"adjacency": [[1], [1], [1]], "warehouse_slots": 3}, None, 0),
    "partial, with history": ({"adjacency": [[0, 1], [1, 1], [1, 0]]}, 2, 5),
    "transshipment": ({"adjacency": [[1], [1]], "keeps_stock": False}, None, 0),
    "serial": ({"adjacency": [[1]], "num_echelons": 2}, None, 0),
    "stores": ({"num_stores": 2}, None, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_loop_over_locations_and_edges(case, supply, observe, weights, decide):
    fields, rounds, history = CASES[case]
    network = supply(**fields)
    seen = observe(network, rows=2, history=history)
    # So much that some wants are met, so little that some are not.
    seen["warehouses"][1] += 20.0
    seen["echelons"][1] += 20.0
    policy = policies.gnn(network, WIDTH, rounds, history)
    params = weights(policy)
    found = decide(policy, params, seen)
    rounds = network.num_echelons + 1 if rounds is None else rounds
    for row in range(2):
        expected = by_hand(network, params["params"], seen, row, rounds, history)
        for name, value in zip(("stores", "warehouses", "echelons"), expected, strict=True):
            np.testing.assert_allclose(found[name][row], value, rtol=2e-4, atol=1e-4, err_msg=name)
    if not network.keeps_stock:
        left = seen["warehouses"][:, :, 0] - found["stores"].sum(axis=1)
        np.testing.assert_allclose(left, 0.0, atol=1e-5)


@pytest.fixture(scope="module")
def star(supply, weights):
    """Policy, parameters and one compiled program for a warehouse with any number of stores."""
    params = weights(policies.gnn(supply([[1]] * 3), WIDTH))

    def orders(seen):
        network = supply([[1]] * seen["stores"].shape[1])
        return policies.gnn(network, WIDTH).apply(params, seen)

    return jax.jit(orders)


OF_STORES = (
    "stores",
    "holding_cost",
    "underage_cost",
    "lead_time",
    "mean_demand",
    "demand_std",
)


def test_permuted_stores_get_permuted_orders(star, supply, observe):
    seen = observe(supply([[1]] * 3))
    order = np.array([2, 0, 1])
    permuted = seen | {name: seen[name][:, order] for name in OF_STORES}
    before, after = star(seen), star(permuted)
    np.testing.assert_allclose(after["stores"], before["stores"][:, order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["warehouses"], before["warehouses"], rtol=1e-5)


def test_the_same_weights_run_for_three_stores_and_for_fifty(star, supply, observe):
    seen = observe(supply([[1]] * 50))
    orders = star(seen)
    assert orders["stores"].shape == (4, 50, 1) and (orders["stores"] > 0).all()
    assert (orders["stores"].sum(axis=1) <= seen["warehouses"][:, :, 0] * (1 + 1e-6)).all()
    # Alike stores get alike orders, however many there are.
    alike = seen | {name: np.repeat(seen[name][:, :1], 50, axis=1) for name in OF_STORES}
    shipped = star(alike)["stores"]
    np.testing.assert_allclose(shipped, np.broadcast_to(shipped[:, :1], shipped.shape), rtol=1e-4)


def test_other_stores_hear_of_a_cost_through_messages_alone(supply, observe, weights):
    # Stores 0 and 1 share warehouse 0; store 2 has warehouse 1 for itself.
    network = supply([[1, 0], [1, 0], [0, 1]])
    seen = observe(network)
    dearer = seen["underage_cost"].copy()
    dearer[:, 0] += 2.0
    changed = {}
    for rounds in (0, 1):
        policy = policies.gnn(network, WIDTH, rounds)
        params, run = weights(policy), jax.jit(policy.outputs)
        outputs = [run(params, x) for x in (seen, seen | {"underage_cost": dearer})]
        changed[rounds] = np.abs(outputs[0] - outputs[1]).max(axis=0) > 1e-6
    # Edges: to stores 0, 1, 2; from outside to both warehouses; what both keep.
    assert changed[0].tolist() == [True, False, False, False, False, False, False]
    assert changed[1].tolist() == [True, True, False, True, False, True, False]


def test_lead_times_are_those_of_the_scenario_and_the_edge(supply, observe, weights):
    network = supply([[0, 1], [1, 1]])
    seen = observe(network, rows=3)
    seen["lead_time"][:, 0, 0] = np.nan  # No edge: anything may be there.
    policy = policies.gnn(network, WIDTH, rounds=0)
    params = weights(policy)
    outputs = jax.jit(lambda x: policy.outputs(params, x))
    before = outputs(seen)
    # Edges: warehouse 0 to store 1, warehouse 1 to stores 0 and 1, two from outside, two kept.
    for (name, place), edge in {
        ("lead_time", (2, 1, 0)): 0,
        ("lead_time", (2, 0, 1)): 1,
        ("lead_time", (2, 1, 1)): 2,
        ("warehouse_lead_time", (2, 1)): 4,
    }.items():
        slower = seen[name].copy()
        slower[place] += 1.0
        moved = np.abs(outputs(seen | {name: slower}) - before) > 1e-7
        assert np.argwhere(moved).tolist() == [[2, edge]]
    orders = policy.action(before, seen)
    assert not orders["stores"][:, 0, 0].any() and (orders["stores"][:, 0, 1] > 0).all()


def test_the_graph_of_a_chain_and_of_a_partly_connected_network(supply):
    chain = policies.topology(supply([[1]], num_echelons=2))
    assert chain.senders.tolist() == [0, 1, 2, -1, 3, 0, 1, 2]
    assert chain.receivers.tolist() == [1, 2, 3, 0, -1, 0, 1, 2]
    assert chain.decided.tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert chain.edges_of_echelons.tolist() == [3, 0]
    assert chain.edges_of_warehouses.tolist() == [1] and chain.edges_of_stores.tolist() == [[2]]
    partial = policies.topology(supply([[0, 1], [1, 1]], keeps_stock=False))
    assert partial.senders.tolist() == [0, 1, 1, -1, -1, 2, 3]
    assert partial.receivers.tolist() == [3, 2, 3, 0, 1, -1, -1]
    assert partial.edges_of_stores.tolist() == [[5, 1], [0, 2]]
    assert partial.edges_of_warehouses.tolist() == [3, 4]


def test_wants_begin_near_five(supply, observe):
    network = supply([[1]])
    policy = policies.gnn(network, WIDTH)
    params = jax.jit(policy.init)(jax.random.key(0))
    assert params["params"]["output"]["bias"].tolist() == [5.0]
    with pytest.raises(ValueError, match="rounds is -1, but it has to be at least 0"):
        policies.gnn(network, rounds=-1)
    with pytest.raises(ValueError, match="the policy reads 2 periods"):
        policy = policies.gnn(network, history=2)
        policy.outputs(params, observe(network, history=1))
