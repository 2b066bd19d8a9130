"""What a supplier ships when everybody wants more than there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg_envs.inventory import Orders, Stock, feasible, network, proportional

RNG = np.random.default_rng(0)


def test_scarcity_scales_every_want_alike_and_plenty_none():
    wants = jnp.array([[4.0, 1.0], [2.0, 3.0], [0.0, 1.0]])
    shipped = proportional(wants, jnp.array([3.0, 9.0]))
    np.testing.assert_allclose(shipped, [[2.0, 1.0], [1.0, 3.0], [0.0, 1.0]])


@pytest.mark.parametrize("keeps_stock", [True, False])
def test_the_rule_is_the_published_one(keeps_stock):
    wants, on_hand = RNG.uniform(0, 5, (20, 4, 2)), RNG.uniform(0, 20, (20, 2))
    share = on_hand / (wants.sum(axis=1) + 1e-10)
    share = np.minimum(1.0, share) if keeps_stock else share
    shipped = jax.vmap(lambda w, x: proportional(w, x, keeps_stock))(
        jnp.asarray(wants, float), jnp.asarray(on_hand, float)
    )
    np.testing.assert_allclose(shipped, wants * share[:, None], rtol=1e-5)


@pytest.mark.parametrize("keeps_stock", [True, False])
@pytest.mark.parametrize(("want", "on_hand"), [(0.0, 3.0), (0.0, 0.0), (2.0, 0.0), (2.0, 4.0)])
def test_derivatives_are_finite_where_nothing_is_wanted_or_there(keeps_stock, want, on_hand):
    total = lambda wants, on_hand: jnp.sum(proportional(wants, on_hand, keeps_stock) ** 2)
    slopes = jax.grad(total, argnums=(0, 1))(jnp.full((2, 1), want), jnp.full(1, on_hand))
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_a_centre_that_keeps_nothing_ships_all_even_if_nothing_is_wanted():
    graph = network([[1, 1], [0, 1]], keeps_stock=False)
    stock = Stock(jnp.zeros((2, 2)), jnp.array([[6.0, 0.0], [4.0, 0.0]]), jnp.zeros((0, 2)))
    wants = Orders(-jnp.ones((2, 2)), jnp.zeros(2), jnp.zeros(0))
    shipped = feasible(graph, stock, wants).stores
    assert shipped.tolist() == [[6.0, 2.0], [0.0, 2.0]]


@pytest.mark.parametrize("name", ["serial", "transshipment", "many-warehouses"])
def test_with_rationing_any_order_can_be_shipped(name):
    env, params = jaxpg_envs.make(f"inventory/{name}", rationing=True)
    keys = jax.random.split(jax.random.key(0), 8)

    @jax.jit
    @jax.vmap
    def play(key):
        def step(state, key):
            action = env.action_space(params).sample(key)
            # Twice what the space allows, and partly negative.
            action = {name: 2.0 * value - 3.0 for name, value in action.items()}
            _, state, *_ = env.step_env(key, state, action, params)
            return state, state.stock

        return jax.lax.scan(step, env.reset_env(key, params)[1], jax.random.split(key, 30))[1]

    stock = play(keys)
    for upstream in (stock.warehouses, stock.echelons):
        assert (upstream >= -1e-5 * upstream.max(initial=0.0)).all()
    if name == "transshipment":
        arrived = stock.warehouses[:, :-1, :, 1]
        np.testing.assert_allclose(stock.warehouses[:, 1:, :, 0], arrived, rtol=1e-5, atol=1e-4)
