"""Base stock policies: the sentence of each, as a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import policies


def softplus(x):
    return np.log1p(np.exp(np.asarray(x, float)))


def inverse_softplus(x):
    return np.log(np.expm1(np.asarray(x, float)))


def test_a_base_stock_policy_orders_what_the_position_is_short_of(supply, observe, decide):
    network = supply(num_stores=2)
    seen = observe(network)
    policy = policies.base_stock(2)
    found = decide(policy, jnp.array([10.0, 7.0]), seen)
    expected = np.maximum(softplus([10.0, 7.0]) - seen["stores"].sum(-1), 0)
    assert (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose(found["stores"][..., 0], expected, rtol=1e-5, atol=1e-5)
    assert found["warehouses"].shape == found["echelons"].shape == (4, 0)
    assert policy.init(jax.random.key(0)).tolist() == [10.0, 10.0]


def test_a_cap_bounds_the_order_and_has_the_derivative_where_it_binds(supply, observe):
    seen = observe(supply())
    position = seen["stores"].sum(-1)[:, 0]
    policy = policies.capped_base_stock()
    params = jnp.array([inverse_softplus(14.0), inverse_softplus(5.0)], jnp.float32)
    apply = lambda params: policy.apply(params, seen)["stores"][:, 0, 0]
    found, slopes = jax.jit(lambda params: (apply(params), jax.jacobian(apply)(params)))(params)
    np.testing.assert_allclose(found, np.clip(14.0 - position, 0, 5.0), rtol=1e-4)
    binds = 14.0 - position > 5.0
    assert binds.any() and not binds.all()
    np.testing.assert_array_equal(slopes[:, 1] > 0, binds)
    np.testing.assert_array_equal(slopes[:, 0] > 0, ~binds & (position < 14.0))


def echelon_orders(levels, local, upstream):
    """Row by row; the outermost location comes first."""
    found = []
    for k, level in enumerate(levels):
        order = max(level - sum(local[k:]), 0.0)
        found.append(order if k == 0 else min(order, upstream[k - 1]))
    return found


@pytest.fixture(scope="module")
def serial(supply, observe):
    network = supply([[1]], num_echelons=2)
    return network, observe(network, rows=30)


def test_echelon_stock_follows_its_levels_and_what_suppliers_have(serial, decide):
    network, seen = serial
    policy = policies.echelon_stock(network)
    params = jnp.array([5.0, 1.0, -2.0, -1.0])
    steps = softplus(np.array(params) + 10.0)
    levels = [sum(steps[k:]) for k in range(4)]
    np.testing.assert_allclose(policies.echelon_levels(params), levels, rtol=1e-6)
    found = decide(policy, params, seen)
    kinds = [seen["echelons"][:, 0], seen["echelons"][:, 1], seen["warehouses"][:, 0]]
    local = np.array([x.sum(-1) for x in (*kinds, seen["stores"][:, 0])]).T
    upstream = np.array([x[:, 0] for x in kinds]).T
    expected = np.array([echelon_orders(levels, *x) for x in zip(local, upstream, strict=True)])
    bound = expected[:, 1:] == upstream
    assert bound.any() and not bound.all()
    row = [found["echelons"], found["warehouses"], found["stores"][..., 0]]
    np.testing.assert_allclose(np.concatenate(row, axis=1), expected, rtol=1e-4, atol=1e-4)


def test_the_heuristic_of_a_chain_is_an_echelon_stock_policy(serial, decide):
    network, seen = serial
    seen = seen | {"lead_time": np.full((30, 1, 1), 4.0, np.float32)}
    seen["warehouse_lead_time"] = np.full((30, 1), 3.0, np.float32)
    seen["echelon_lead_time"] = np.broadcast_to(np.float32([2.0, 1.0]), (30, 2))
    seen["mean_demand"] = np.full((30, 1), 2.0, np.float32)
    levels = np.array([55.0, 45.0, 33.0, 14.0])
    # Protection intervals from each location on: 2+1+3+4, 1+3+4, 3+4 and 4 periods, and one more.
    own = inverse_softplus(levels / 2.0) - [11.0, 9.0, 8.0, 5.0]
    steps = inverse_softplus(-np.diff(np.append(levels, 0.0))) - 10.0
    found = decide(policies.network_base_stock(network), jnp.float32(own), seen)
    expected = decide(policies.echelon_stock(network), jnp.float32(steps), seen)
    assert found["stores"].any() and found["warehouses"].any() and found["echelons"].any()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_the_heuristic_splits_over_warehouses_and_counts_every_unit_once(supply, observe, decide):
    network = supply([[1, 0], [1, 1], [0, 1]], warehouse_slots=3)
    seen = observe(network, rows=20)
    # Lead times of edges that do not exist are never read.
    seen["lead_time"][:, [0, 2], [1, 0]] = np.nan
    policy = policies.network_base_stock(network)
    assert policy.num_outputs == 2 + 3 + 6
    found = decide(policy, policy.init(jax.random.key(0)), seen)
    shares = np.array([[1, 0], [0.5, 0.5], [0, 1]])
    lead = np.nansum(shares * seen["lead_time"], axis=2)
    mean, stock = seen["mean_demand"], seen["stores"].sum(-1)
    wants = np.maximum(mean * softplus(lead + 1) - stock, 0)[:, :, None] * shares
    shipped = wants * np.minimum(1, seen["warehouses"][:, :, 0] / wants.sum(1))[:, None]
    np.testing.assert_allclose(found["stores"], shipped, rtol=1e-4, atol=1e-5)
    own_lead = seen["warehouse_lead_time"] + (lead @ shares) / shares.sum(0)
    level = (mean @ shares) * softplus(own_lead + 1)
    expected = np.maximum(level - seen["warehouses"].sum(-1) - stock @ shares, 0)
    np.testing.assert_allclose(found["warehouses"], expected, rtol=1e-4)


def test_what_does_not_fit_is_refused(supply, observe):
    with_warehouse = supply([[1]])
    with pytest.raises(ValueError, match="network has 1 stores and 0 warehouses, but a serial"):
        policies.echelon_stock(supply())
    with pytest.raises(ValueError, match=r"num_stores is 0, but it has to be at least 1"):
        policies.base_stock(0)
    policy = policies.base_stock()
    with pytest.raises(ValueError, match=r"observation\['warehouses'\] has shape \(4, 1, 4\)"):
        policy.apply(policy.init(None), observe(with_warehouse))
    with pytest.raises(ValueError, match=r"has shape \(4, 2, 3\), but \[B, 1, slots\] is needed"):
        policy.apply(policy.init(None), observe(supply(num_stores=2)))
    policy = policies.network_base_stock(with_warehouse)
    with pytest.raises(ValueError, match=r"observation\['warehouses'\] has shape \(4, 0, 4\)"):
        policy.apply(policy.init(None), observe(supply()))


def test_rounded_orders_are_whole_and_nearest(supply, observe):
    seen, policy = observe(supply()), policies.base_stock()
    params = policy.init(None)
    exact = policy.apply(params, seen)["stores"]
    whole = policies.rounded(policy).apply(params, seen)["stores"]
    np.testing.assert_array_equal(whole, np.round(exact))
