"""Finite Markov decision processes and bandits, against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs import make
from jaxpg_envs.tabular import EnvParams, TabularMDP, random_mdp


def rollout(env, params, key, actions):
    """Observations, rewards, terminated, truncated of one auto-resetting rollout."""

    def step(state, inputs):
        step_key, action = inputs
        observation, state, reward, terminated, truncated, info = env.step(
            step_key, state, action, params
        )
        return state, (info["final_observation"], observation, reward, terminated, truncated)

    reset_key, key = jax.random.split(key)
    first, state = env.reset(reset_key, params)
    _, outputs = jax.lax.scan(step, state, (jax.random.split(key, len(actions)), actions))
    return first, *outputs


def test_next_states_and_rewards_follow_the_arrays():
    params = random_mdp(jax.random.key(0), num_states=3, num_actions=2, horizon=5)
    env = TabularMDP(params)
    _, state = env.reset(jax.random.key(1), params)
    state = state.replace(state=jnp.int32(2))
    keys = jax.random.split(jax.random.key(2), 20_000)
    step = jax.jit(jax.vmap(env.step_env, in_axes=(0, None, None, None)))
    following, _, rewards, _, _ = step(keys, state, 1, params)
    assert jnp.all(rewards == params.reward[2, 1])
    np.testing.assert_allclose(following.mean(0), params.transition[2, 1], atol=0.02)


def test_first_states_follow_the_initial_distribution():
    env, params = make("tabular/random", num_states=4)
    observations, _ = jax.vmap(env.reset, in_axes=(0, None))(
        jax.random.split(jax.random.key(0), 20_000), params
    )
    np.testing.assert_allclose(observations.mean(0), params.initial, atol=0.02)


def test_the_horizon_truncates_and_does_not_terminate():
    env, params = make("tabular/random", horizon=3)
    *_, terminated, truncated = rollout(env, params, jax.random.key(0), jnp.zeros(9, int))
    assert not terminated.any()
    assert truncated.tolist() == [False, False, True] * 3


def test_the_horizon_terminates_where_it_is_the_end_of_the_problem():
    env, params = make("tabular/random", horizon=3, horizon_terminates=True)
    *_, terminated, truncated = rollout(env, params, jax.random.key(0), jnp.zeros(9, int))
    assert terminated.tolist() == [False, False, True] * 3
    assert not truncated.any()


def test_entering_a_terminal_state_terminates_even_at_the_horizon():
    params = make("tabular/chain", length=3)[1].replace(
        terminal=jnp.array([False, False, True]), max_steps_in_episode=1
    )
    *_, terminated, truncated = rollout(
        TabularMDP(params), params, jax.random.key(0), jnp.ones(4, int)
    )
    assert terminated.all()
    assert not truncated.any()


def test_observed_time_is_one_hot_and_starts_again_with_the_episode():
    env, params = make("tabular/chain", length=3, horizon=2, observe_time=True)
    first, final, following, *_ = rollout(env, params, jax.random.key(0), jnp.zeros(4, int))
    assert env.observation_space(params).shape == (5,)
    assert first[3:].tolist() == [1, 0]
    assert following[:, 3:].tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    assert final[:, 3:].tolist() == [[0, 1], [0, 0], [0, 1], [0, 0]]


def test_going_right_all_the_way_is_worth_eleven_on_the_chain_and_left_nine_thousandths():
    env, params = make("tabular/chain", length=5)
    horizon = params.max_steps_in_episode
    right = rollout(env, params, jax.random.key(0), jnp.ones(horizon, int))[3]
    left = rollout(env, params, jax.random.key(0), jnp.zeros(horizon, int))[3]
    assert right.sum() == 11.0
    assert left.sum() == pytest.approx(0.001 * (horizon - 1))


def test_a_batch_of_different_processes_is_one_vmap():
    keys = jax.random.split(jax.random.key(0), 6)
    batch = jax.vmap(lambda key: random_mdp(key, 3, 2, 4))(keys)
    env = TabularMDP(random_mdp(keys[0], 3, 2, 4))
    _, state = jax.vmap(env.reset)(keys, batch)
    _, _, rewards, *_ = jax.vmap(env.step)(keys, state, jnp.zeros(6, int), batch)
    np.testing.assert_array_equal(rewards, batch.reward[jnp.arange(6), state.state, 0])


def test_random_rows_are_uniform_on_the_simplex():
    transition = random_mdp(jax.random.key(0), 3, 5_000, 4).transition.reshape(-1, 3)
    np.testing.assert_allclose(transition.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(transition.mean(0), 1 / 3, atol=0.01)
    # The variance of a component of Dirichlet(1, 1, 1) is 1/18.
    np.testing.assert_allclose(transition.var(0), 1 / 18, atol=0.003)


def test_the_random_instance_depends_on_its_seed_alone():
    one, two = make("tabular/random", seed=1)[1], make("tabular/random", seed=2)[1]
    assert jnp.array_equal(one.reward, make("tabular/random", seed=1)[1].reward)
    assert not jnp.array_equal(one.reward, two.reward)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("transition", jnp.ones((3, 2)), r"transition has shape \(3, 2\)"),
        ("reward", jnp.ones((3, 3)), r"reward has shape \(3, 3\)"),
        ("transition", jnp.ones((3, 2, 3)), "transition has a row"),
        ("terminal", jnp.ones(3, bool), "initial gives probability to a terminal state"),
    ],
)
def test_arrays_that_are_no_process_are_refused(field, value, message):
    params = random_mdp(jax.random.key(0), 3, 2, 4)
    with pytest.raises(ValueError, match=message):
        TabularMDP(params.replace(**{field: value}))


def test_a_bandit_terminates_after_one_pull_and_is_never_truncated():
    env, params = make("bandit")
    *_, terminated, truncated = rollout(env, params, jax.random.key(0), jnp.arange(10))
    assert terminated.all()
    assert not truncated.any()


def test_bandit_rewards_have_the_mean_and_deviation_of_the_arm():
    env, params = make("bandit", mean=[0.0, 3.0], std=[1.0, 0.5])
    _, state = env.reset(jax.random.key(0), params)
    keys = jax.random.split(jax.random.key(1), 20_000)
    rewards = jax.vmap(env.step, in_axes=(0, None, None, None))(keys, state, 1, params)[2]
    assert rewards.mean() == pytest.approx(3.0, abs=0.02)
    assert rewards.std() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", ["tabular/random", "tabular/chain", "bandit"])
def test_no_key_is_used_twice(name):
    env, params = make(name)
    with jax.debug_key_reuse(True):
        rollout(env, params, jax.random.key(0), jnp.zeros(20, int))
        random_mdp(jax.random.key(0), 3, 2, 4)


def test_two_keys_give_two_different_sequences():
    env, params = make("tabular/random", num_states=50)
    rollouts = [rollout(env, params, jax.random.key(k), jnp.zeros(30, int))[1] for k in (0, 1)]
    assert not jnp.array_equal(*rollouts)


def test_params_need_every_array():
    with pytest.raises(TypeError, match="transition"):
        EnvParams(max_steps_in_episode=3)
