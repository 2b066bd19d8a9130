"""A policy head as a part of the environment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg_envs.action_map import MappedActions


def share_of_warehouse(raw, observation):
    """Both in units: a share of what is on hand to the only store, and an order from outside."""
    on_hand = observation["warehouses"][:, :, 0]
    return {
        "stores": (jax.nn.sigmoid(raw[:, :1]) * on_hand)[..., None],
        "warehouses": jax.nn.relu(raw[:, 1:]),
        "echelons": jnp.zeros((len(raw), 0)),
    }


@pytest.fixture(scope="module")
def mapped():
    env, params = jaxpg_envs.make("inventory/one-warehouse", num_stores=1)
    return MappedActions(env, share_of_warehouse, num_raw=2, low=-3.0, high=3.0), params


def test_the_wrapped_environment_obeys_the_interface(mapped):
    env, params = mapped
    jaxpg_envs.check(env, params, num_envs=2, num_steps=10)
    assert (env.name, env.num_actions) == ("Inventory", 2)
    assert env.action_space(params).shape == (2,)


def test_a_raw_action_is_what_the_head_makes_of_it(mapped):
    env, params = mapped
    _, state = env.reset(jax.random.key(0), params)
    state = state.replace(stock=state.stock.replace(warehouses=jnp.array([[6.0, 0.0, 0.0]])))
    found = env.step(jax.random.key(1), state, jnp.array([0.0, 2.0]), params)
    action = {
        "stores": jnp.array([[3.0]]),
        "warehouses": jnp.array([2.0]),
        "echelons": jnp.zeros(0),
    }
    expected = env.env.step(jax.random.key(1), state, action, params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_gradients_go_through_the_head_and_the_environment_behind(mapped):
    env, params = mapped
    assert env.supports_transition_gradients and not env.transition_gradients_enabled
    inside = env.with_transition_gradients()
    assert inside.transition_gradients_enabled and inside.env.transition_gradients_enabled
    _, state = env.reset(jax.random.key(0), params)

    def on_the_way(env, raw):
        return jnp.sum(env.step_env(jax.random.key(1), state, raw, params)[1].stock.warehouses)

    slope = jax.jit(jax.grad(on_the_way, argnums=1), static_argnums=0)
    slopes = [slope(e, jnp.array([0.0, 2.0])) for e in (env, inside)]
    np.testing.assert_array_equal(slopes, [[0.0, 0.0], [0.0, 1.0]])


def test_samples_of_an_unbounded_action_are_finite():
    env, params = jaxpg_envs.make("inventory/one-warehouse", num_stores=1)
    space = MappedActions(env, share_of_warehouse, num_raw=2).action_space(params)
    assert np.isfinite(space.sample(jax.random.key(0))).all()
    assert np.isinf(space.high).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(num_raw=0), "num_raw is 0"),
        (dict(num_raw=2, low=[0.0]), r"low has shape \(1,\)"),
        (dict(num_raw=2, low=1.0, high=1.0), "low is 1.0.*below high=1.0"),
    ],
)
def test_bounds_that_bound_nothing_are_refused(mapped, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        MappedActions(mapped[0].env, share_of_warehouse, **arguments)
    with pytest.raises(TypeError, match="action_of=3 is not callable"):
        MappedActions(mapped[0].env, 3, 1)
