"""The point mass against NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs import check, make
from jaxpg_envs.locomotion import check_descriptors

ENV, PARAMS = make("locomotion/point-omni")


def play(actions, params=PARAMS):
    """Outputs of auto-resetting steps, and the first observation."""

    def step(state, action):
        observation, state, *outcome, info = ENV.step(jax.random.key(0), state, action, params)
        return state, (observation, *outcome, info["final_observation"])

    first, state = ENV.reset(jax.random.key(1), params)
    return first, jax.lax.scan(step, state, actions)[1]


def simulated(actions, low, high):
    """Positions, velocities and rewards in float64."""
    position, velocity, rows = np.zeros(2), np.zeros(2), []
    for action in np.clip(np.asarray(actions, np.float64), -1, 1):
        velocity = 0.9 * velocity + 0.02 * action
        position = np.minimum(np.maximum(position + velocity, low), high)
        rows.append((position, velocity, 1 - 0.5 * (action**2).sum()))
    return map(np.array, zip(*rows, strict=True))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.25, 0.5)])
def test_the_dynamics_are_those_of_the_task_also_at_the_walls(low, high):
    # A steady push on top, so that the walls are met; some components beyond the bounds.
    actions = 0.6 + np.random.default_rng(0).normal(size=(49, 2))
    params = PARAMS.replace(low=[low, low], high=[high, high])
    first, (observations, rewards, *_) = jax.jit(play)(actions.astype(np.float32), params)
    position, velocity, reward = simulated(actions, low, high)
    assert first.tolist() == [0.0] * 4
    assert (position == high).any()
    np.testing.assert_allclose(observations[:, :2] * high, position, atol=1e-5)
    np.testing.assert_allclose(observations[:, 2:], velocity, atol=1e-6)
    np.testing.assert_allclose(rewards, reward, atol=1e-6)
    np.testing.assert_allclose(ENV.descriptor_of(observations, params), position, atol=1e-5)
    assert (rewards >= 0).all()


def test_episodes_are_truncated_after_50_steps_and_all_begin_at_rest():
    _, (observations, _, terminated, truncated, final) = play(jnp.ones((101, 2)))
    assert not terminated.any()
    assert np.flatnonzero(truncated).tolist() == [49, 99]
    assert observations[49].tolist() == [0.0] * 4
    np.testing.assert_array_equal(final[49], final[99])
    # Full thrust for 50 steps ends beyond the corner, so at the corner.
    assert ENV.descriptor_of(final[49], PARAMS).tolist() == [1.0, 1.0]


def test_standing_still_earns_the_horizon_and_describes_the_origin():
    _, (_, rewards, _, _, final) = play(jnp.zeros((50, 2)))
    assert rewards.sum() == 50.0
    assert ENV.descriptor_of(final[-1], PARAMS).tolist() == [0.0, 0.0]


def test_the_gradient_of_the_last_place_by_the_first_push_is_a_geometric_sum():
    env = ENV.with_transition_gradients()

    def last_place(first):
        _, state = env.reset_env(jax.random.key(0), PARAMS)
        actions = jnp.zeros((10, 2)).at[0].set(first)

        def step(state, action):
            return env.step_env(jax.random.key(0), state, action, PARAMS)[1], None

        return jax.lax.scan(step, state, actions)[0].position

    expected = 0.02 * (1 - 0.9**10) / (1 - 0.9) * np.eye(2)
    np.testing.assert_allclose(jax.jacobian(last_place)(jnp.array([0.3, -0.2])), expected, 1e-5)


def test_the_contract_holds_and_the_environment_has_descriptors():
    check(ENV, PARAMS, num_envs=3, num_steps=60)
    check_descriptors(ENV, PARAMS)
    low, high = ENV.descriptor_bounds(PARAMS)
    assert (low.tolist(), high.tolist()) == ([-1.0, -1.0], [1.0, 1.0])


def test_different_boxes_and_frictions_are_one_vmap():
    rows = PARAMS.replace(
        low=-jnp.ones((2, 2)),
        high=jnp.array([[1.0, 1.0], [2.0, 2.0]]),
        friction=jnp.array([0.9, 0.0]),
        push=jnp.full(2, 0.02),
        control_cost=jnp.full(2, 0.5),
        max_steps_in_episode=jnp.full(2, 50),
    )

    def second_step(params):
        return play(jnp.ones((2, 2)), params)[1][0][1]

    observations = jax.vmap(second_step)(rows)
    np.testing.assert_allclose(observations[:, 2], [0.038, 0.02], atol=1e-6)
    np.testing.assert_allclose(observations[:, 0], [0.058, 0.04 / 2], atol=1e-6)
