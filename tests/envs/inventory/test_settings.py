"""The published problems: numbers as printed, and arguments that make no sense."""

import jax
import numpy as np
import pytest

from jaxpg_envs import list_envs, make
from jaxpg_envs.inventory import retail, settings, store_parameters

PRINTED = {
    "mean": "3.743 4.75 4.555 3.801 6.852 3.425 2.598 7.266 5.902 4.933",
    "std": "1.765 2.124 1.622 1.405 1.714 1.59 0.879 2.701 2.127 2.391",
    "holding_cost": "1.0856 1.0232 1.0071 1.0662 0.9958 0.8287 0.8464 1.0433 1.1636 0.8864",
    "underage_cost": "10.2367 9.3307 6.9748 8.447 10.5191 9.0594 7.2865 10.909 11.459 11.6148",
    "lead_time": "2 3 2 2 2 3 3 3 3 3",
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_first_ten_stores_are_the_published_ones(name):
    expected = np.array(PRINTED[name].split(), float)
    np.testing.assert_allclose(getattr(store_parameters(10), name), expected, atol=5e-5)
    np.testing.assert_allclose(getattr(store_parameters(50), name)[:10], expected, atol=5e-5)


def test_all_eight_are_registered():
    assert len([name for name in list_envs() if name.startswith("inventory/")]) == 8


def test_one_store_as_published():
    env, params = make("inventory/one-store-lost", lead_time=4, underage_cost=9)
    assert (env.network.num_warehouses, env.network.store_slots) == (0, 4)
    assert (params.underage_cost.item(), params.lead_time.item()) == (9.0, 4)
    assert params.lost_sales and not params.profit
    assert make("inventory/one-store-lost", lead_time=1)[0].network.store_slots == 2
    env, params = make("inventory/one-store-backlogged", lead_time=20)
    assert (env.network.store_slots, params.lost_sales) == (20, False)
    np.testing.assert_allclose(params.demand.factor, [[1.6]])


def test_the_serial_system_as_published():
    env, params = make("inventory/serial", store_lead_time=3)
    assert (env.network.num_echelons, env.network.num_warehouses) == (2, 1)
    assert params.echelon_lead_time.tolist() == [2, 4]
    assert (params.warehouse_lead_time.item(), params.lead_time.item()) == (3, 3)
    np.testing.assert_allclose(params.echelon_holding_cost, [0.1, 0.2])
    np.testing.assert_allclose([params.warehouse_holding_cost, params.holding_cost], [[0.5], [1]])


def test_transshipment_as_published():
    env, params = make(
        "inventory/transshipment", num_stores=5, correlation=0.5, store_lead_time=6, underage_cost=4
    )
    assert not env.network.keeps_stock
    assert (params.lead_time == 6).all() and env.network.store_slots == 6
    assert not params.demand.clip
    factor = np.asarray(params.demand.factor, float)
    std = store_parameters(5).std
    np.testing.assert_allclose(
        factor @ factor.T, std[:, None] * std * (0.5 + 0.5 * np.eye(5)), 1e-5
    )


def test_as_many_slots_for_any_number_of_stores():
    few, many = (make("inventory/one-warehouse", num_stores=n)[0].network for n in (1, 50))
    assert few.store_slots == many.store_slots == 3


def test_many_warehouses_as_published():
    env, params = make("inventory/many-warehouses")
    adjacency = env.network.adjacency
    assert np.flatnonzero(adjacency[:, 0]).tolist() == [2, 3, 4, 6, 7, 8]
    assert np.flatnonzero(~adjacency[:, 1]).tolist() == [6]
    np.testing.assert_allclose(params.warehouse_holding_cost, [0.3, 0.4])
    np.testing.assert_allclose(params.warehouse_order_cost, [0.5, 1.5])
    # The cheap warehouse is the slow one.
    both = adjacency.all(axis=1)
    assert (params.lead_time[both, 0] > params.lead_time[both, 1]).all()


def test_many_warehouses_with_sales_as_published():
    env, params = make("inventory/many-warehouses-retail")
    lacks = [np.flatnonzero(~column).tolist() for column in env.network.adjacency.T]
    assert lacks == [[3, 14], [5, 10, 11, 12, 13], [11]]
    assert params.lead_time[np.array([0, 4, 8, 18, 19, 20])].tolist() == [
        [6, 1, 5],
        [6, 1, 4],
        [5, 1, 5],
        [6, 1, 5],
        [5, 1, 4],
        [5, 2, 5],
    ]
    np.testing.assert_allclose(params.warehouse_holding_cost, [0.3, 0.4, 0.2])
    np.testing.assert_allclose(params.warehouse_order_cost, [0.5, 1.5, 0.7])
    assert (params.profit, params.max_steps_in_episode, env.history) == (True, 95, 16)
    assert not params.initial_stock.any()


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("one-store-lost", dict(lead_time=0), "lead_time is 0"),
        ("one-store-lost", dict(lead_time=2.5), "lead_time is 2.5"),
        ("one-store-lost", dict(mean=-1.0), "mean is -1.0"),
        ("one-store-lost", dict(mean=float("nan")), "mean is nan"),
        ("one-store-lost", dict(underage_cost=-9.0), r"underage_cost\[0\] is -9.0"),
        ("one-store-lost", dict(history=-1), "history is -1"),
        ("one-store-lost", dict(foresight=-1), "foresight is -1"),
        ("one-store-backlogged", dict(std=-1.0), "std is -1.0"),
        ("one-store-backlogged", dict(lead_time=4, store_slots=3), r"lead_time\[0, 0\] is 4"),
        ("serial", dict(store_lead_time=0), "store_lead_time is 0"),
        ("transshipment", dict(num_stores=0), "num_stores is 0"),
        ("transshipment", dict(num_stores=3, correlation=-0.9), "correlation is -0.9"),
        ("one-warehouse", dict(num_stores=2.0), "num_stores is 2.0"),
        ("many-warehouses", dict(correlation=2), "correlation is 2"),
        ("one-store-retail", dict(lead_time=7), r"lead_time\[0, 0\] is 7, but store_slots=6"),
        ("one-store-retail", dict(traces=np.ones((1, 9, 1))), "traces have 9 periods"),
        ("many-warehouses-retail", dict(traces=np.ones((1, 40, 2))), r"\(1, 40, 2\).*21"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_a_sentence(name, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(f"inventory/{name}", **arguments)


def test_a_number_in_place_of_an_array_is_refused_where_it_is_first_used():
    env, params = make("inventory/one-warehouse", warehouse_holding_cost=0.5)
    with pytest.raises(ValueError, match=r"warehouse_holding_cost has shape \(\), but.*\(1,\)"):
        env.reset(jax.random.key(0), params)


def test_an_unknown_argument_suggests_the_nearest():
    with pytest.raises(TypeError, match="did you mean 'underage_cost'"):
        make("inventory/one-store-lost", underage_cots=9)


def test_published_lead_times_fit_the_slots():
    assert settings.MANY_WAREHOUSES_LEAD_TIME.max() == retail.MANY_WAREHOUSES_LEAD_TIME.max() == 6
