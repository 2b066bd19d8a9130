"""Policies in the simulator of `jaxpg_envs`: what theory says of them comes out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxpg_envs
from jaxpg import policies
from jaxpg_envs import inventory
from jaxpg_envs.action_map import MappedActions
from jaxpg_envs.inventory.network import network as build_network
from jaxpg_envs.inventory.params import InventoryParams
from jaxpg_envs.inventory.simulator import Orders, Stock, period


def build_params(network, **fields):
    stores, warehouses, echelons = (
        network.num_stores,
        network.num_warehouses,
        network.num_echelons,
    )
    params = InventoryParams(
        demand=None,
        mean_demand=jnp.full(stores, 5.0),
        demand_std=jnp.full(stores, 1.6),
        holding_cost=jnp.ones(stores),
        underage_cost=jnp.full(stores, 9.0),
        warehouse_holding_cost=jnp.full(warehouses, 0.3),
        warehouse_order_cost=jnp.zeros(warehouses),
        echelon_holding_cost=jnp.full(echelons, 0.1),
        lead_time=jnp.full((stores, network.num_suppliers), 4),
        warehouse_lead_time=jnp.full(warehouses, 3),
        echelon_lead_time=jnp.full(echelons, 2),
        lost_sales=False,
        profit=False,
    )
    return params.replace(**fields)


SEEN = (
    "mean_demand",
    "demand_std",
    "holding_cost",
    "underage_cost",
    "warehouse_holding_cost",
    "warehouse_order_cost",
    "echelon_holding_cost",
    "lead_time",
    "warehouse_lead_time",
    "echelon_lead_time",
)


def run(network, params, policy, weights, demand, foresight=0):
    """Demand `[B, T, S]`; stock at hand after demand `[T, B, S]`, stocks and costs."""
    demand = jnp.asarray(demand)
    rows, steps, _ = demand.shape
    zeros = lambda number, slots: jnp.zeros((rows, number, slots))
    stock = Stock(
        zeros(network.num_stores, network.store_slots),
        zeros(network.num_warehouses, network.warehouse_slots),
        zeros(network.num_echelons, network.echelon_slots),
    )
    constant = {name: jnp.asarray(getattr(params, name), float) for name in SEEN}
    constant = {name: jnp.broadcast_to(x, (rows, *x.shape)) for name, x in constant.items()}
    padded = jnp.pad(demand, ((0, 0), (0, foresight), (0, 0)))

    def step(stock, time):
        seen = constant | {
            "stores": stock.stores,
            "warehouses": stock.warehouses,
            "echelons": stock.echelons,
        }
        seen["future_demand"] = jax.lax.dynamic_slice_in_dim(padded, time, foresight, axis=1)
        orders = Orders(**policy.apply(weights, seen))
        now = demand[:, time]
        after, costs = jax.vmap(period, (None, None, 0, 0, 0))(network, params, stock, orders, now)
        return after, (stock.stores[:, :, 0] - now, orders, costs)

    return jax.lax.scan(step, stock, jnp.arange(steps))[1]


def test_backlogged_base_stock_is_the_newsvendor_of_the_protection_interval():
    network = build_network(num_stores=1, store_slots=4)
    params, policy = build_params(network), policies.base_stock()
    rows, steps, lead, level = 1000, 60, 4, 28.0
    demand = np.random.default_rng(0).normal(5.0, 1.6, (rows, steps, 1)).astype(np.float32)
    # Without shocks below zero the first period's order fills the position up, and every later one.
    demand = np.abs(demand)
    bias = jnp.array([np.log(np.expm1(level))], jnp.float32)

    def mean_cost(bias):
        left, _, costs = run(network, params, policy, bias, demand)
        return jnp.mean(costs.stores[lead:]), left

    (cost, left), slope = jax.jit(jax.value_and_grad(mean_cost, has_aux=True))(bias)
    sums = np.lib.stride_tricks.sliding_window_view(demand[:, :, 0], lead + 1, axis=1).sum(-1)
    # What is left in period t + L is S minus the demand of t to t + L.
    np.testing.assert_allclose(left[lead:, :, 0].T, level - sums, atol=1e-3)
    exact_slope = np.where(sums < level, 1.0, -9.0).mean() / (1 + np.exp(-bias[0]))
    np.testing.assert_allclose(slope[0], exact_slope, rtol=1e-4)
    deviation = 1.6 * np.sqrt(lead + 1.0)
    normal = stats.norm(5.0 * (lead + 1), deviation)
    short = deviation * stats.norm.pdf((level - 25.0) / deviation)
    short -= (level - 25.0) * normal.sf(level)
    newsvendor = (level - 25.0 + short) + 9.0 * short
    # Neighbouring sums overlap: about one independent sum in L + 1 of each row.
    error = np.maximum(level - sums, 9 * (sums - level)).std() / np.sqrt(sums.size / (lead + 1))
    assert abs(cost - newsvendor) < 4 * error
    slope_error = 10 * 0.5 / np.sqrt(sums.size / (lead + 1))
    assert abs(slope[0] - (1 - 10 * normal.sf(level))) < 4 * slope_error


NETWORKS = {
    "stores": dict(num_stores=2),
    "warehouses": dict(adjacency=[[1, 0], [1, 1], [0, 1]]),
    "serial": dict(adjacency=[[1]], num_echelons=2),
    "transshipment": dict(adjacency=[[1], [1]], keeps_stock=False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_just_in_time_leaves_nothing_over_and_nothing_short(name):
    network = build_network(**NETWORKS[name], store_slots=5, warehouse_slots=3)
    lead_time = jnp.array([[2, 9], [3, 1], [9, 4]])[: network.num_stores, : network.num_suppliers]
    if name == "warehouses":
        # Store 1 takes the faster one.
        assert lead_time[1].tolist() == [3, 1]
    params = build_params(
        network,
        lead_time=lead_time,
        warehouse_lead_time=jnp.array([3, 2])[: network.num_warehouses],
    )
    draw = np.random.default_rng(0)
    demand = draw.poisson(5.0, (2, 30, network.num_stores)).astype(np.float32)
    policy = policies.just_in_time(network)
    params = params.replace(lost_sales=True)
    left, orders, costs = jax.jit(
        lambda demand: run(network, params, policy, (), demand, foresight=12)
    )(demand)
    longest = 2 * network.num_echelons + 3 * (network.num_warehouses > 0) + 4
    np.testing.assert_allclose(left[longest:], 0.0, atol=1e-4)
    np.testing.assert_allclose(costs.stores[longest:], 0.0, atol=1e-3)
    np.testing.assert_allclose(costs.warehouses[longest:], 0.0, atol=1e-4)
    np.testing.assert_allclose(costs.echelons[longest:], 0.0, atol=1e-4)
    if name == "warehouses":
        assert not orders.stores[:, :, 1, 0].any() and orders.stores[:, :, 1, 1].any()


def test_just_in_time_does_not_guess_what_it_cannot_see(observe):
    network = build_network(num_stores=1, store_slots=3)
    policy = policies.just_in_time(network)
    seen = observe(network, lead_time=np.array([1, 2, 3, 2]).reshape(4, 1, 1))
    with pytest.raises(ValueError, match="observation has no 'future_demand', which just_in_time"):
        policy.apply((), seen)
    seen["future_demand"] = np.arange(12.0).reshape(4, 3, 1)
    found = policy.apply((), seen)["stores"][:, 0, 0]
    np.testing.assert_array_equal(found, [1.0, 5.0, np.nan, 11.0])


SUITED = {
    "one-store-lost": ("vanilla_one_store", "network_base_stock", "gnn"),
    "serial": ("vanilla_serial", "echelon_stock", "network_base_stock", "gnn"),
    "transshipment": ("vanilla_warehouse", "network_base_stock", "gnn"),
    "many-warehouses": ("vanilla_warehouse", "network_base_stock", "gnn", "data_driven"),
}


@pytest.mark.parametrize("name", SUITED)
def test_policies_act_in_the_environments_that_they_are_for(name):
    env, params = jaxpg_envs.make(f"inventory/{name}")
    env = inventory.Inventory(env.network, params, history=16)
    keys = jax.random.split(jax.random.key(0), 2)

    def step(policy):
        seen, states = jax.vmap(env.reset_env, (0, None))(keys, params)
        orders = policy.apply(policy.init(keys[0]), seen)
        again, states, cost, *_ = jax.vmap(env.step_env, (0, 0, 0, None))(
            keys, states, orders, params
        )
        return seen, again, cost

    for built in (getattr(policies, policy)(env.network) for policy in SUITED[name]):
        seen, again, cost = jax.eval_shape(lambda policy=built: step(policy))
        assert seen == again and cost.shape == (2,)


def test_a_head_becomes_a_part_of_the_environment():
    env, params = jaxpg_envs.make("inventory/one-warehouse", num_stores=3)
    policy = policies.vanilla_warehouse(env.network, hidden=(4,))
    mapped = MappedActions(env, policy.action, policy.num_outputs)

    @jax.jit
    def rewards(key):
        _, state = env.reset_env(key, params)
        state = state.replace(stock=state.stock.replace(warehouses=jnp.full((1, 3), 9.0)))
        raw = jax.random.normal(key, (policy.num_outputs,))
        orders = policy.action(
            raw[None], jax.tree.map(lambda x: x[None], env.get_obs(state, params))
        )
        direct = env.step_env(key, state, jax.tree.map(lambda x: x[0], orders), params)
        return direct[2], mapped.step_env(key, state, raw, params)[2]

    direct, through = rewards(jax.random.key(0))
    np.testing.assert_allclose(through, direct, rtol=1e-6)
