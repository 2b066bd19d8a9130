"""One period, in examples small enough to do by hand, and long runs with a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxpg_envs
from jaxpg_envs.inventory import (
    Orders,
    PoissonDemand,
    Stock,
    inventory_params,
    network,
    period,
    scenarios,
)

NONE = jnp.zeros((0,))
STORE = network(num_stores=1, store_slots=2)


def params_of(places, **values):
    demand = PoissonDemand(jnp.ones(places.num_stores))
    return inventory_params(places, demand, mean_demand=1, demand_std=1, **values)


@pytest.fixture(scope="module")
def one_store_period():
    run = jax.jit(lambda *args: period(STORE, *args))

    def one(slots, order, demand, **values):
        stock = Stock(jnp.array([slots]), jnp.zeros((0, 2)), jnp.zeros((0, 2)))
        orders = Orders(jnp.array([[order]]), NONE, NONE)
        stock, costs = run(params_of(STORE, **values), stock, orders, jnp.array([demand]))
        return stock.stores[0].tolist(), float(costs.total)

    return one


@pytest.mark.parametrize(
    ("mode", "slots", "cost"),
    [
        ({"lost_sales": False}, [-1.0, 4.0], 18.0),
        ({"lost_sales": True}, [1.0, 4.0], 18.0),
        ({"lost_sales": True, "profit": True}, [1.0, 4.0], -27.0),
        ({"lost_sales": False, "lead_time": 1}, [3.0, 0.0], 18.0),
    ],
)
def test_three_on_hand_meet_a_demand_of_five(one_store_period, mode, slots, cost):
    found = one_store_period([3.0, 1.0], 4.0, 5.0, **{"lead_time": 2, **mode})
    assert found == (slots, cost)


def test_what_is_left_is_charged_and_what_is_under_way_is_not(one_store_period):
    _, cost = one_store_period([7.0, 100.0], 50.0, 5.0, holding_cost=1.5)
    assert cost == 3.0


def test_profit_is_the_cost_minus_the_price_of_all_demand(one_store_period):
    for lost_sales in (True, False):
        for demand in (0.0, 2.0, 3.0, 8.0):
            cost = one_store_period([3.0, 1.0], 0.0, demand, lost_sales=lost_sales)[1]
            minus_profit = one_store_period(
                [3.0, 1.0], 0.0, demand, lost_sales=lost_sales, profit=True
            )[1]
            assert minus_profit == cost - 9.0 * demand


def test_a_warehouse_pays_for_what_it_keeps_and_for_what_it_orders():
    tree = network([[1]], warehouse_slots=3)
    params = params_of(
        tree, warehouse_holding_cost=0.3, warehouse_order_cost=0.5, warehouse_lead_time=3
    )
    stock = Stock(jnp.zeros((1, 2)), jnp.array([[6.0, 2.0, 0.0]]), jnp.zeros((0, 2)))
    orders = Orders(jnp.array([[4.0]]), jnp.array([5.0]), NONE)
    stock, costs = period(tree, params, stock, orders, jnp.zeros(1))
    assert stock.warehouses.tolist() == [[4.0, 0.0, 5.0]]
    np.testing.assert_allclose(costs.warehouses, [3.1], rtol=1e-6)


def test_orders_of_two_warehouses_land_where_their_lead_times_say():
    graph = network([[1, 1], [0, 1]], store_slots=4)
    params = params_of(graph, lead_time=jnp.array([[4, 2], [1, 1]]))
    stock = Stock(jnp.zeros((2, 4)), jnp.zeros((2, 2)), jnp.zeros((0, 2)))
    # The second store is not supplied by the first warehouse: 7 is not ordered.
    orders = Orders(jnp.array([[3.0, 5.0], [7.0, 2.0]]), jnp.zeros(2), NONE)
    stock, _ = period(graph, params, stock, orders, jnp.zeros(2))
    assert stock.stores.tolist() == [[0, 5, 0, 3], [2, 0, 0, 0]]
    assert stock.warehouses[:, 0].tolist() == [-3, -7]


def test_base_stock_costs_what_the_newsvendor_pays():
    lead_time, level, number, periods = 2, 16.0, 1024, 20
    env, params = jaxpg_envs.make(
        "inventory/one-store-backlogged", lead_time=lead_time, underage_cost=4.0
    )
    env = env.with_transition_gradients()
    batch = scenarios(env, params, jax.random.key(0), number, periods)

    @jax.jit
    def cost_and_left(level):
        def one(params):
            def step(state, _):
                order = level - jnp.sum(state.stock.stores)
                action = {"stores": order[None, None], "warehouses": NONE, "echelons": NONE}
                left = state.stock.stores[0, 0] - params.demand.sample(None, state.time)[0]
                _, state, reward, *_ = env.step_env(jax.random.key(0), state, action, params)
                return state, (-reward, left)

            start = env.reset_env(jax.random.key(0), params)[1]
            # Nothing but what the level puts there: the first stock may be above it.
            empty = start.replace(stock=jax.tree.map(jnp.zeros_like, start.stock))
            costs, left = jax.lax.scan(step, empty, None, periods)[1]
            return jnp.mean(costs[lead_time:]), left

        costs, left = jax.vmap(one)(batch)
        return jnp.mean(costs), (costs, left)

    (cost, (costs, left)), slope = jax.value_and_grad(cost_and_left, has_aux=True)(level)
    traces = np.asarray(batch.demand.values[..., 0], float)
    windows = np.lib.stride_tricks.sliding_window_view(traces, lead_time + 1, axis=1).sum(axis=-1)
    np.testing.assert_allclose(left[:, lead_time:], level - windows, atol=1e-4)
    np.testing.assert_allclose(slope, 1.0 - 5.0 * np.mean(windows > level), rtol=1e-5)
    mean, deviation = 5.0 * (lead_time + 1), 1.6 * np.sqrt(lead_time + 1)
    z = (level - mean) / deviation
    expected = (level - mean) + 5.0 * deviation * (stats.norm.pdf(z) - z * stats.norm.sf(z))
    assert np.abs(cost - expected) < 4 * costs.std() / np.sqrt(number)
