"""Losses of deterministic policies against numpy, rlax and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from jaxpg.losses import deterministic as losses

RANDOM = np.random.default_rng(0)
REWARD = RANDOM.normal(size=6).astype(np.float32)
TERMINATED = np.array([0, 1, 0, 0, 1, 0], bool)
NEXT_VALUES = RANDOM.normal(size=(2, 6)).astype(np.float32)
VALUES = RANDOM.normal(size=(2, 6)).astype(np.float32)


def test_the_target_is_the_one_of_the_paper():
    target = losses.td_target(REWARD, TERMINATED, NEXT_VALUES, 0.9)
    expected = REWARD + 0.9 * (1.0 - TERMINATED) * NEXT_VALUES.min(axis=0)
    np.testing.assert_allclose(target, expected, rtol=1e-6)


def test_with_one_critic_the_td_error_is_rlax_s():
    discounts = 0.9 * (1.0 - TERMINATED)
    error = jax.vmap(rlax.td_learning)(VALUES[0], REWARD, discounts, NEXT_VALUES[0])
    target = losses.td_target(REWARD, TERMINATED, NEXT_VALUES[:1], 0.9)
    np.testing.assert_allclose(target - VALUES[0], error, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.critics(VALUES[:1], target), error**2, rtol=1e-4, atol=1e-6)


def test_truncated_steps_bootstrap_and_terminated_ones_do_not():
    # Reward 1 and a value of 10 behind it: a step that is truncated is not terminated.
    target = losses.td_target(jnp.ones(2), jnp.array([False, True]), jnp.full((2, 2), 10.0), 0.9)
    np.testing.assert_allclose(target, [10.0, 1.0])


def test_nothing_that_follows_a_termination_enters_not_even_nan():
    target = losses.td_target(jnp.ones(1), jnp.array([True]), jnp.full((2, 1), jnp.nan), 0.9)
    assert target.tolist() == [1.0]


def test_the_target_is_a_constant():
    # Q(s) = Q(s') = theta = 2, r = 1, discount 0.9: 2 (theta - 2.8) when stopped.
    def loss(theta):
        values = jnp.full((1, 1), theta)
        target = losses.td_target(jnp.ones(1), jnp.zeros(1, bool), values, 0.9)
        return losses.critics(values, target)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(2.0), -1.6, rtol=1e-6)
    # As well for a target that was computed elsewhere.
    slope = jax.jit(jax.grad(lambda t: losses.critics(jnp.zeros((1, 1)), t).sum()))(jnp.ones(1))
    assert slope.tolist() == [0.0]


def test_the_critics_slope_is_the_finite_difference():
    target = REWARD

    def numpy_loss(values):
        return float(((values - target) ** 2).sum(axis=0).mean())

    slopes = jax.jit(jax.grad(lambda values: jnp.mean(losses.critics(values, target))))(VALUES)
    for index in np.ndindex(VALUES.shape):
        step = np.zeros(VALUES.shape)
        step[index] = 1e-5
        difference = (numpy_loss(VALUES + step) - numpy_loss(VALUES - step)) / 2e-5
        np.testing.assert_allclose(slopes[index], difference, rtol=1e-4, atol=1e-6)


def test_smoothing_is_clipped_twice():
    action = jnp.array([[0.0, 0.9, -0.95], [0.2, -0.2, 1.0]])
    noise = jnp.array([[0.7, 0.3, -2.0], [-0.1, 0.6, -0.5]])
    expected = np.clip(np.asarray(action) + np.clip(noise, -0.5, 0.5), -1, 1)
    np.testing.assert_allclose(losses.smoothed(action, noise, 0.5), expected, rtol=1e-6)


def test_the_actors_slope_is_the_critics_slope_times_the_policys():
    observation = RANDOM.normal(size=(5, 3)).astype(np.float32)
    theta = RANDOM.normal(size=(3, 2)).astype(np.float32)
    quadratic = RANDOM.normal(size=(2, 2)).astype(np.float32)

    policy = lambda theta: jnp.tanh(observation @ theta)
    critic = lambda action: jnp.einsum("bi,ij,bj->b", action, quadratic, action)
    slope = jax.jit(jax.grad(lambda theta: jnp.mean(losses.actor(critic(policy(theta))))))(theta)

    action = np.tanh(observation @ theta)
    by_action = action @ (quadratic + quadratic.T)
    by_theta = np.einsum("bi,bj->ij", observation, by_action * (1 - action**2)) / 5
    np.testing.assert_allclose(slope, -by_theta, rtol=1e-4, atol=1e-6)

    def of_rlax(theta):
        # Its loss is a mean over the two dimensions of an action.
        return 2 * jnp.mean(jax.vmap(rlax.dpg_loss)(policy(theta), by_action))

    np.testing.assert_allclose(slope, jax.jit(jax.grad(of_rlax))(theta), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.td_target(jnp.ones(3), jnp.zeros(3, bool), jnp.ones(3), 0.9),
        lambda: losses.td_target(jnp.ones(3), jnp.zeros(2, bool), jnp.ones((2, 3)), 0.9),
        lambda: losses.critics(jnp.ones((2, 3)), jnp.ones((3, 1))),
        lambda: losses.smoothed(jnp.ones((3, 2)), jnp.ones((3, 1)), 0.5),
        lambda: losses.actor(jnp.ones((3, 1))),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call):
    with pytest.raises(AssertionError):
        call()
