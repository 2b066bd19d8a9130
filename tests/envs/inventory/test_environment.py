"""The inventory environment; `test_contract` checks that each of the eight obeys the interface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg_envs.inventory import (
    Inventory,
    check_params,
    copies,
    inventory_params,
    network,
    trace_demand,
)


@pytest.fixture(scope="module")
def traced():
    """One store with lead time 1, that knows two past and three future demands."""
    store = network(num_stores=1)
    values = np.array([[2.0], [3.0], [5.0], [7.0], [11.0]])
    params = inventory_params(
        store,
        trace_demand(values, 2, [-14, -7, 0, 7, 14]),
        mean_demand=5.0,
        demand_std=1.0,
        initial_stock=[[4.0, 1.0]],
        max_steps_in_episode=3,
    )
    return Inventory(store, params, history=2, foresight=3), params


def order(amount):
    return {
        "stores": jnp.full((1, 1), amount),
        "warehouses": jnp.zeros(0),
        "echelons": jnp.zeros(0),
    }


def test_observations_have_the_shapes_of_the_network():
    env, params = jaxpg_envs.make("inventory/serial", history=3)
    observation, _ = jax.eval_shape(env.reset, jax.random.key(0), params)
    assert {name: leaf.shape for name, leaf in observation.items()} == {
        "stores": (1, 4),
        "warehouses": (1, 3),
        "echelons": (2, 4),
        "past_demand": (3, 1),
        "days_from_christmas": (),
        "holding_cost": (1,),
        "underage_cost": (1,),
        "warehouse_holding_cost": (1,),
        "warehouse_order_cost": (1,),
        "echelon_holding_cost": (2,),
        "lead_time": (1, 1),
        "warehouse_lead_time": (1,),
        "echelon_lead_time": (2,),
        "mean_demand": (1,),
        "demand_std": (1,),
    }
    assert {leaf.dtype for leaf in observation.values()} == {jnp.dtype("float32")}


def test_an_edge_that_is_not_there_has_lead_time_zero():
    env, params = jaxpg_envs.make("inventory/many-warehouses")
    observation, _ = env.reset(jax.random.key(0), params.replace(lead_time=params.lead_time + 1))
    assert ((observation["lead_time"] == 0) == ~env.network.adjacency).all()


def test_what_was_sold_is_seen_and_what_will_be_only_by_an_oracle(traced):
    env, params = traced
    observation, state = env.reset(jax.random.key(0), params)
    step = lambda state: env.step(jax.random.key(0), state, order(6.0), params)
    seen = [observation]
    infos, ends = [], []
    for _ in range(3):
        _, state, _, terminated, truncated, info = step(state)
        seen.append(info["final_observation"])
        infos.append(info)
        ends.append((bool(terminated), bool(truncated)))
    look = lambda name: [one[name].squeeze(-1).tolist() for one in seen]
    assert look("past_demand") == [[2, 3], [3, 5], [5, 7], [7, 11]]
    assert look("future_demand") == [[5, 7, 11], [7, 11, 0], [11, 0, 0], [0, 0, 0]]
    assert [float(one["days_from_christmas"]) for one in seen] == [0, 7, 14, 14]
    # 4 meet 5, and what arrives is 1 + 6; then 7 meet 7, and 6 meet 11.
    assert [one["stores"][0].tolist() for one in seen[:3]] == [[4, 1], [7, 0], [6, 0]]
    assert [float(info["cost"]) for info in infos] == [9.0, 0.0, 45.0]
    assert [info["demand"].tolist() for info in infos] == [[5], [7], [11]]
    assert ends == [(False, False), (False, False), (False, True)]
    # The episode began again.
    assert state.time == 0 and state.stock.stores.tolist() == [[4, 1]]


def test_reward_is_minus_the_cost_for_each_store():
    env, params = jaxpg_envs.make("inventory/transshipment", num_stores=5)
    _, state = env.reset(jax.random.key(0), params)
    action = {name: jnp.ones(box.shape) for name, box in env.action_space(params).spaces.items()}
    _, _, reward, _, _, info = env.step(jax.random.key(1), state, action, params)
    np.testing.assert_allclose(reward, -info["cost"] / 5, rtol=1e-6)


def test_the_first_stock_is_uniform_below_its_scale_times_the_mean():
    env, params = jaxpg_envs.make("inventory/one-store-lost", lead_time=3)
    params = params.replace(initial_stock_scale=2.0)
    stores = jax.jit(jax.vmap(lambda key: env.reset_env(key, params)[1].stock.stores))(
        jax.random.split(jax.random.key(0), 4000)
    )
    assert stores.shape == (4000, 1, 3)
    assert stores.min() >= 0 and stores.max() <= 10
    np.testing.assert_allclose(stores.mean(axis=(0, 1)), [5, 5, 5], atol=0.2)


def test_gradients_cross_periods_only_where_that_is_asked_for(traced):
    env, params = traced

    def later_cost(env):
        def cost(amount):
            state = env.reset_env(jax.random.key(0), params)[1]
            _, state, *_ = env.step_env(jax.random.key(0), state, order(amount), params)
            *_, reward, _, _ = env.step_env(jax.random.key(0), state, order(0.0), params)
            return -reward

        return jax.jit(jax.grad(cost))(4.0)

    assert env.supports_transition_gradients
    assert later_cost(env) == 0.0
    # 1 + 4 meet 7: one more is one less short.
    assert later_cost(env.with_transition_gradients()) == -9.0
    assert not env.transition_gradients_enabled


def test_an_oracle_needs_demand_that_is_stored():
    env, params = jaxpg_envs.make("inventory/one-store-lost", foresight=1)
    with pytest.raises(ValueError, match="foresight is 1, but demand is PoissonDemand"):
        env.reset(jax.random.key(0), params)


def test_a_batch_of_parameters_is_checked_as_one_is(traced):
    env, params = traced
    batch = copies(params, 4)
    check_params(env.network, batch, history=2)
    with pytest.raises(ValueError, match=r"lead_time\[2, 0, 0\] is 3, but store_slots=2 allows"):
        check_params(env.network, batch.replace(lead_time=batch.lead_time.at[2].set(3)))
    with pytest.raises(ValueError, match=r"holding_cost has shape \(3, 1\).*\(4, 1\)"):
        check_params(env.network, batch.replace(holding_cost=jnp.ones((3, 1))))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"holding_cost": jnp.array([-1.0])}, r"holding_cost\[0\] is -1.0, but at least 0"),
        ({"underage_cost": jnp.array([jnp.nan])}, r"underage_cost\[0\] is nan"),
        ({"holding_cost": jnp.ones(2)}, r"holding_cost has shape \(2,\).*\(1,\)"),
        ({"lead_time": jnp.array([[0]])}, r"lead_time\[0, 0\] is 0, but store_slots=2 allows 1"),
        ({"lead_time": jnp.array([[1.5]])}, "lead_time has dtype float32"),
        ({"initial_stock": jnp.full((1, 2), jnp.inf)}, r"initial_stock\[0, 0\] is inf"),
        ({"max_steps_in_episode": 0}, "max_steps_in_episode is 0"),
        ({"max_steps_in_episode": 4}, "max_steps_in_episode is 4, but.*only 3 periods"),
        ({"initial_stock_scale": -1.0}, "initial_stock_scale is -1.0"),
    ],
)
def test_parameters_that_describe_nothing_are_refused(traced, fields, sentence):
    env, params = traced
    with pytest.raises(ValueError, match=sentence):
        Inventory(env.network, params.replace(**fields), history=2)


def test_history_that_is_not_stored_is_refused(traced):
    env, params = traced
    with pytest.raises(ValueError, match="demand.first is 2, but history=3"):
        Inventory(env.network, params, history=3)


def test_an_array_of_another_shape_is_refused_where_parameters_are_made():
    with pytest.raises(ValueError, match=r"lead_time has shape \(2,\).*\(1, 1\)"):
        inventory_params(network(num_stores=1), None, mean_demand=1, demand_std=1, lead_time=[1, 2])
