"""All eight problems against a replay in NumPy loops, over 500 periods in every mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg_envs.inventory import TraceDemand, copies

NAMES = (
    "many-warehouses",
    "many-warehouses-retail",
    "one-store-backlogged",
    "one-store-lost",
    "one-store-retail",
    "one-warehouse",
    "serial",
    "transshipment",
)
PERIODS = 500
LOST = np.array([False, True, False, True])
PROFIT = np.array([False, False, True, True])


def replay(network, params, stores, demand, orders):
    """Costs `[T]` and stock before each period, of one scenario, as the paper orders events."""
    x = {
        "stores": np.array(stores, float),
        "warehouses": np.zeros((network.num_warehouses, network.warehouse_slots)),
        "echelons": np.zeros((network.num_echelons, network.echelon_slots)),
    }
    costs, seen = [], {name: [] for name in x}
    for t in range(len(demand)):
        for name in x:
            seen[name].append(x[name].copy())
        cost, following = 0.0, {name: np.zeros_like(x[name]) for name in x}

        def carry(name, place, left, x=x, following=following):
            slots = len(x[name][place])
            following[name][place, 0] = left + x[name][place, 1]
            for k in range(1, slots - 1):
                following[name][place, k] = x[name][place, k + 1]

        for s in range(network.num_stores):
            on_hand, d = x["stores"][s, 0], demand[t, s]
            post = on_hand - d
            if params["profit"]:
                cost += -params["underage_cost"][s] * min(on_hand, d)
            else:
                cost += params["underage_cost"][s] * max(-post, 0)
            cost += params["holding_cost"][s] * max(post, 0)
            carry("stores", s, max(post, 0) if params["lost_sales"] else post)
            for w in range(network.num_suppliers):
                if network.supplies[s][w]:
                    slot = params["lead_time"][s, w] - 1
                    following["stores"][s, slot] += orders["stores"][t, s, w]
        for w in range(network.num_warehouses):
            shipped = sum(
                orders["stores"][t, s, w]
                for s in range(network.num_stores)
                if network.supplies[s][w]
            )
            left, ordered = x["warehouses"][w, 0] - shipped, orders["warehouses"][t, w]
            cost += params["warehouse_holding_cost"][w] * max(left, 0)
            cost += params["warehouse_order_cost"][w] * ordered
            carry("warehouses", w, left)
            following["warehouses"][w, params["warehouse_lead_time"][w] - 1] += ordered
        for e in range(network.num_echelons):
            last = e == network.num_echelons - 1
            shipped = orders["warehouses"][t].sum() if last else orders["echelons"][t, e + 1]
            left = x["echelons"][e, 0] - shipped
            cost += params["echelon_holding_cost"][e] * max(left, 0)
            carry("echelons", e, left)
            slot = params["echelon_lead_time"][e] - 1
            following["echelons"][e, slot] += orders["echelons"][t, e]
        costs.append(cost)
        x = following
    return np.array(costs), {name: np.array(seen[name]) for name in x}, x


def eighths(rng, high, shape):
    """Numbers whose sums are exact in float32."""
    return rng.integers(0, int(8 * high), shape) / 8.0


def random_scenarios(network, params, rng, number, periods):
    """Every mode, other costs and lead times in each scenario; nonsense where there is no edge."""
    stores, suppliers = network.num_stores, network.num_suppliers
    warehouses, echelons = network.num_warehouses, network.num_echelons
    lead_time = rng.integers(1, network.store_slots + 1, (number, stores, suppliers))
    lead_time = np.where(network.adjacency, lead_time, 99)
    modes = np.arange(number) % 4
    return copies(params.replace(demand=None, initial_stock=None), number).replace(
        demand=TraceDemand(
            values=jnp.asarray(eighths(rng, 10, (number, periods, stores)), float),
            first=jnp.zeros(number, jnp.int32),
            days=jnp.zeros((number, periods)),
        ),
        initial_stock=jnp.asarray(eighths(rng, 9, (number, stores, network.store_slots)), float),
        holding_cost=jnp.asarray(rng.uniform(0.5, 2, (number, stores)), float),
        underage_cost=jnp.asarray(rng.uniform(4, 9, (number, stores)), float),
        warehouse_holding_cost=jnp.asarray(rng.uniform(0.1, 0.5, (number, warehouses)), float),
        warehouse_order_cost=jnp.asarray(rng.uniform(0.1, 0.5, (number, warehouses)), float),
        echelon_holding_cost=jnp.asarray(rng.uniform(0.1, 0.5, (number, echelons)), float),
        lead_time=jnp.asarray(lead_time, jnp.int32),
        warehouse_lead_time=jnp.asarray(
            rng.integers(1, network.warehouse_slots + 1, (number, warehouses)), jnp.int32
        ),
        echelon_lead_time=jnp.asarray(
            rng.integers(1, network.echelon_slots + 1, (number, echelons)), jnp.int32
        ),
        lost_sales=jnp.asarray(LOST[modes]),
        profit=jnp.asarray(PROFIT[modes]),
        max_steps_in_episode=jnp.full(number, periods, jnp.int32),
    )


def random_orders(network, rng, number, periods):
    stores, warehouses = network.num_stores, network.num_warehouses
    suppliers = np.maximum(network.adjacency.sum(axis=1), 1)[:, None]
    shape = (number, periods, stores, network.num_suppliers)
    return {
        "stores": eighths(rng, 10, shape) / suppliers.clip(1, 2),
        "warehouses": eighths(rng, 10, (number, periods, warehouses)) * stores / 4,
        "echelons": eighths(rng, 10, (number, periods, network.num_echelons)) * stores,
    }


def run(env, params, orders):
    """Observed stock and costs of every period, and the last state, of a batch of scenarios."""

    def one(params, orders):
        def step(carry, action):
            observation, state = carry
            following, state, reward, terminated, info = env.step_env(
                jax.random.key(0), state, action, params
            )
            stock = {name: observation[name] for name in ("stores", "warehouses", "echelons")}
            return (following, state), (stock, info["cost"], reward, terminated)

        (_, state), outputs = jax.lax.scan(step, env.reset_env(jax.random.key(0), params), orders)
        return state, *outputs

    return jax.vmap(one)(params, jax.tree.map(lambda x: jnp.asarray(x, float), orders))


@functools.cache
def history_of(name):
    env, params = jaxpg_envs.make(f"inventory/{name}", history=0)
    rng = np.random.default_rng(0)
    params = random_scenarios(env.network, params, rng, 4, PERIODS)
    orders = random_orders(env.network, rng, 4, PERIODS)
    found = jax.jit(functools.partial(run, env))(params, orders)
    return env.network, jax.device_get(params), orders, jax.device_get(found)


def scenario(params, i):
    params = jax.tree.map(lambda x: x[i], params)
    return params, {name: getattr(params, name) for name in params.__dataclass_fields__}


@pytest.mark.parametrize("name", NAMES)
def test_stock_and_costs_are_those_of_the_replay(name):
    network, batch, orders, (state, stock, costs, rewards, terminated) = history_of(name)
    for i in range(4):
        params, values = scenario(batch, i)
        expected, seen, last = replay(
            network,
            values,
            params.initial_stock,
            params.demand.values,
            {key: value[i] for key, value in orders.items()},
        )
        for place, slots in seen.items():
            np.testing.assert_array_equal(stock[place][i], slots, err_msg=place)
            np.testing.assert_array_equal(getattr(state.stock, place)[i], last[place])
        np.testing.assert_allclose(costs[i], expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(rewards[i], -expected / network.num_stores, rtol=1e-5, atol=1e-4)
    assert not terminated.any()


@pytest.mark.parametrize("name", NAMES)
def test_no_unit_is_made_or_lost_but_by_demand(name):
    network, batch, orders, (state, stock, *_) = history_of(name)
    if network.num_echelons:
        outside = orders["echelons"][:, :, 0]
    elif network.num_warehouses:
        outside = orders["warehouses"].sum(axis=2)
    else:
        outside = orders["stores"].sum(axis=(2, 3))
    demand = np.asarray(batch.demand.values, float)
    sold = np.minimum(stock["stores"][..., 0], demand)
    served = np.where(batch.lost_sales[:, None, None], sold, demand).sum(axis=(1, 2))
    start = batch.initial_stock.sum(axis=(1, 2))
    last = sum(np.asarray(x, float).sum(axis=(1, 2)) for x in jax.tree.leaves(state.stock))
    np.testing.assert_allclose(start + outside.sum(axis=1) - served, last, rtol=1e-5)


def test_stores_that_lose_demand_never_owe_anything():
    _, _, _, (_, stock, *_) = history_of("many-warehouses")
    assert (stock["stores"][LOST] >= 0).all()
    assert (stock["stores"][~LOST] < 0).any()


@pytest.mark.parametrize("name", ["serial", "many-warehouses", "transshipment"])
def test_the_gradient_of_a_trace_is_its_central_difference(name):
    number, periods, step = 4, 12, 1e-5
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        env, params = jaxpg_envs.make(f"inventory/{name}")
        batch = random_scenarios(env.network, params, rng, number, periods)
        # Off the grid of eighths, where demand and stock tie.
        orders = jax.tree.map(
            lambda x: x + rng.uniform(0.01, 0.09, x.shape),
            random_orders(env.network, rng, number, periods),
        )
        env = env.with_transition_gradients()

        def total(orders):
            return jnp.sum(run(env, batch, orders)[2])

        slopes = jax.device_get(jax.jit(jax.grad(total))(orders))
        batch = jax.device_get(batch)

    def cost_by_replay(orders):
        total = 0.0
        for i in range(number):
            params, values = scenario(batch, i)
            mine = {key: value[i] for key, value in orders.items()}
            first, demand = params.initial_stock, params.demand.values
            total += replay(env.network, values, first, demand, mine)[0].sum()
        return total

    for _ in range(4):
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), orders)
        ahead, behind = (
            cost_by_replay(jax.tree.map(lambda x, d, h=h: x + h * d, orders, direction))
            for h in (step, -step)
        )
        slope = sum(np.vdot(slopes[key], direction[key]) for key in orders)
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)
