"""Batches of scenarios."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg_envs.inventory import check_params, copies, from_traces, scenarios

NUMBER, PERIODS, HISTORY = 512, 12, 3


@pytest.fixture(scope="module")
def warehouse():
    return jaxpg_envs.make("inventory/one-warehouse", num_stores=3, history=HISTORY)


@pytest.fixture(scope="module")
def drawn(warehouse):
    env, params = warehouse
    return scenarios(env, params, jax.random.key(0), NUMBER, PERIODS)


def test_every_leaf_has_the_axis_of_the_scenarios(warehouse, drawn):
    assert {leaf.shape[0] for leaf in jax.tree.leaves(drawn)} == {NUMBER}
    check_params(warehouse[0].network, drawn, history=HISTORY)
    assert (drawn.max_steps_in_episode == PERIODS).all()


def test_traces_differ_and_have_history_before_the_first_period(warehouse, drawn):
    _, params = warehouse
    values = np.asarray(drawn.demand.values)
    assert values.shape == (NUMBER, HISTORY + PERIODS, 3)
    assert (drawn.demand.first == HISTORY).all()
    assert len(np.unique(values.sum(axis=(1, 2)))) == NUMBER
    np.testing.assert_allclose(values.mean(axis=(0, 1)), params.mean_demand, rtol=0.03)
    steps = np.corrcoef(values[:, 0, 0], values[:, 1, 0])[0, 1]
    stores = np.corrcoef(values[:, 0, 0], values[:, 0, 1])[0, 1]
    assert abs(steps) < 0.15 < 0.35 < stores < 0.65


def test_the_first_stock_is_scaled_by_the_mean_of_the_traces(drawn):
    scaled = np.asarray(drawn.initial_stock / drawn.demand.values.mean(axis=(0, 1))[:, None])
    assert scaled.shape == (NUMBER, 3, 3)
    assert scaled.min() >= 0 and scaled.max() <= 1
    np.testing.assert_allclose(scaled.mean(axis=0), 0.5, atol=0.06)


def test_a_stock_that_is_given_is_kept(warehouse):
    env, params = warehouse
    params = params.replace(initial_stock=jnp.arange(9.0).reshape(3, 3))
    found = scenarios(env, params, jax.random.key(0), 2, 1)
    np.testing.assert_array_equal(found.initial_stock, [params.initial_stock] * 2)


def test_the_same_key_draws_the_same_scenarios(warehouse, drawn):
    env, params = warehouse
    again = scenarios(env, params, jax.random.key(0), NUMBER, PERIODS)
    np.testing.assert_array_equal(again.demand.values, drawn.demand.values)


def test_resets_of_a_batch_draw_nothing(warehouse, drawn):
    env, _ = warehouse
    reset = jax.jit(jax.vmap(env.reset_env))
    stock = [
        reset(jax.random.split(jax.random.key(seed), NUMBER), drawn)[1].stock.stores
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(*stock)


def test_copies_draw_their_demand_as_time_passes(warehouse):
    env, params = warehouse
    batch = copies(params, 5)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(batch)} == {5}
    check_params(env.network, batch, history=HISTORY)


@pytest.mark.parametrize(
    ("sizes", "sentence"), [((0, 1), "num_scenarios is 0"), ((1, 0), "num_periods is 0")]
)
def test_empty_batches_are_refused(warehouse, sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        scenarios(*warehouse, jax.random.key(0), *sizes)


def test_demand_that_is_stored_is_not_drawn_again():
    env, params = jaxpg_envs.make("inventory/one-store-retail")
    with pytest.raises(ValueError, match="TraceDemand, which is stored already"):
        scenarios(env, params, jax.random.key(0), 2)


def test_ones_own_traces_become_scenarios(warehouse):
    env, params = warehouse
    values = np.random.default_rng(0).poisson(4.0, (2, 9, 3))
    found = from_traces(env, params, values, days_from_christmas=np.arange(9.0))
    check_params(env.network, found, history=HISTORY)
    np.testing.assert_array_equal(found.demand.values, values)
    np.testing.assert_allclose(found.mean_demand, values.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.demand_std, values.std(axis=1), rtol=1e-6)
    assert found.max_steps_in_episode.tolist() == [6, 6]
    first = jax.vmap(env.reset_env)(jax.random.split(jax.random.key(0), 2), found)[0]
    np.testing.assert_array_equal(first["past_demand"], values[:, :3])
    assert first["days_from_christmas"].tolist() == [3, 3]


def test_products_keep_what_differs_between_them(warehouse):
    env, params = warehouse
    batch = copies(params, 2).replace(underage_cost=jnp.array([[1.0] * 3, [2.0] * 3]))
    found = from_traces(env, batch, np.ones((2, 5, 3)), num_periods=1)
    assert found.underage_cost[:, 0].tolist() == [1, 2]
    assert found.max_steps_in_episode.tolist() == [1, 1]
    with pytest.raises(ValueError, match="params are of 2 scenarios, but values of 3"):
        from_traces(env, batch, np.ones((3, 5, 3)))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.ones((2, 9)), r"shape \(2, 9\).*num_periods, 3\]"),
        (np.ones((2, 9, 2)), r"shape \(2, 9, 2\).*num_periods, 3\]"),
        (np.ones((0, 9, 3)), r"shape \(0, 9, 3\)"),
        (np.ones((2, 3, 3)), "3 periods, but more than history=3"),
        (np.full((1, 4, 3), np.nan), r"values\[0, 0, 0\] is nan"),
        (-np.eye(12).reshape(1, 4, 36)[..., :3], r"values\[0, 0, 0\] is -1.0"),
        (np.full((1, 4, 3), "5"), "values has dtype <U1"),
    ],
)
def test_traces_that_are_no_demand_are_refused(warehouse, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_traces(*warehouse, values)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(days_from_christmas=[1, 2]), r"days_from_christmas has shape \(2,\), but \(5,\)"),
        (dict(num_periods=3), "max_steps_in_episode is 3, but.*only 2 periods"),
    ],
)
def test_traces_that_do_not_fit_are_refused(warehouse, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_traces(*warehouse, np.ones((1, 5, 3)), **options)
