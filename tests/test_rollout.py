"""Rollouts: episode ends, statistics, resets, evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg import rollout


def stand_still(carry, observation, reset, keys):
    zeros = jnp.zeros(reset.shape, jnp.int32)
    return carry, zeros, zeros, jnp.zeros(reset.shape)


def play(env, params, num_rows, num_steps, seed=0, **start):
    rows = rollout.start(env, params, jax.random.key(seed), num_rows, **start)
    return jax.jit(
        lambda rows: rollout.rollout(
            env, params, stand_still, rows, jax.random.key(seed + 1), num_steps
        )
    )(rows)


def test_three_step_episodes_have_length_three_and_return_three(counting_env):
    _, steps, finished = play(counting_env, counting_env.default_params, 2, 9)
    assert steps.truncated[0].tolist() == [False, False, True] * 3
    assert not steps.terminated.any()
    assert finished.episodes.tolist() == [3, 3]
    assert finished.returns.tolist() == [9.0, 9.0] and finished.lengths.tolist() == [9, 9]


def test_partial_episodes_are_not_counted_and_count_in_full_once_they_end(counting_env):
    params = counting_env.default_params
    rows, _, finished = play(counting_env, params, 2, 4)
    assert finished.episodes.tolist() == [1, 1] and finished.lengths.tolist() == [3, 3]
    _, _, later = rollout.rollout(counting_env, params, stand_still, rows, jax.random.key(9), 2)
    assert later.episodes.tolist() == [1, 1] and later.lengths.tolist() == [3, 3]


def test_termination_wins_over_truncation_in_the_same_step(counting_env):
    params = counting_env.default_params.replace(length=3, max_steps_in_episode=3)
    _, steps, _ = play(counting_env, params, 1, 3)
    assert steps.terminated[0].tolist() == [False, False, True]
    assert not steps.truncated.any()


def test_the_final_observation_is_the_one_before_the_reset(counting_env):
    _, steps, _ = play(counting_env, counting_env.default_params, 1, 4)
    assert steps.final_observation[0, :, 0].tolist() == [1.0, 2.0, 3.0, 1.0]
    assert steps.observation[0, :, 0].tolist() == [0.0, 1.0, 2.0, 0.0]
    assert steps.reset[0].tolist() == [True, False, False, True]


@pytest.mark.parametrize("expensive", [False, True])
def test_every_reset_draws_a_fresh_start(counting_env, expensive):
    counting_env.reset_is_expensive = expensive
    _, steps, _ = play(counting_env, counting_env.default_params, 3, 18)
    starts = np.asarray(steps.observation[:, ::3, 1])
    assert len(np.unique(starts)) == starts.size
    _, other, _ = play(counting_env, counting_env.default_params, 3, 18, seed=5)
    assert not np.isin(np.asarray(other.observation[:, ::3, 1]), starts).any()


def test_chunked_resets_equal_inline_resets_and_gymnax_own_step(counting_env):
    params = counting_env.default_params
    keys = jax.random.split(jax.random.key(0), 40)
    _, state = jax.vmap(counting_env.reset_env, in_axes=(0, None))(keys, params)
    state = state.replace(time=jnp.arange(40) % 3)
    action = jnp.zeros(40, jnp.int32)
    inline = rollout.step_environments(counting_env, params, None, keys, state, action)
    counting_env.reset_is_expensive = True
    chunked = rollout.step_environments(counting_env, params, None, keys, state, action)
    obs, after, reward, terminated, truncated, info = jax.vmap(
        counting_env.step, in_axes=(0, 0, 0, None)
    )(keys, state, action, params)
    own = (obs, after, reward, terminated, truncated, info["final_observation"])
    for a, b, c in zip(*map(jax.tree.leaves, (inline, chunked, own)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_environments_may_have_parameters_of_their_own(counting_env):
    params = counting_env.default_params.replace(
        length=jnp.array([1, 2]), max_steps_in_episode=jnp.array([9, 9])
    )
    _, steps, _ = play(counting_env, params, 2, 4, params_per_row=True)
    assert steps.terminated.tolist() == [[True] * 4, [False, True, False, True]]


def test_apply_where_touches_only_what_was_chosen():
    chosen = jnp.array([False, True, True, False, True])
    result = rollout.apply_where(
        chosen, lambda x: x * 10, (jnp.arange(5.0),), -jnp.ones(5), chunk=2
    )
    assert result.tolist() == [-1.0, 10.0, 20.0, -1.0, 40.0]
    none = rollout.apply_where(chosen & False, lambda x: x * 10, (jnp.arange(5.0),), -jnp.ones(5))
    assert none.tolist() == [-1.0] * 5


def test_evaluation_waits_for_the_longest_episode(counting_env):
    # Counting the first episodes that finish would report short ones only.
    params = counting_env.default_params.replace(length=1000, max_steps_in_episode=7)
    returns, lengths, complete = rollout.evaluate(
        counting_env, params, stand_still, jax.random.key(0), num_envs=3, episodes_per_env=2
    )
    assert returns.shape == (3, 2)
    assert returns.tolist() == [[7.0, 7.0]] * 3 and lengths.tolist() == [[7, 7]] * 3
    assert complete.all()


def test_an_evaluation_that_gives_up_says_so(counting_env):
    _, lengths, complete = rollout.evaluate(
        counting_env,
        counting_env.default_params.replace(max_steps_in_episode=7),
        stand_still,
        jax.random.key(0),
        num_envs=1,
        max_steps=5,
    )
    assert lengths.tolist() == [[5]] and not complete.any()


def test_an_episode_without_a_bound_is_refused(counting_env):
    class Endless:
        length = 1000

    with pytest.raises(ValueError, match="max_steps is None and the parameters of CountingEnv"):
        rollout.evaluate(counting_env, Endless(), stand_still, jax.random.key(0), num_envs=1)


def test_no_key_is_used_twice(counting_env):
    with jax.debug_key_reuse(True):
        rows = rollout.start(counting_env, counting_env.default_params, jax.random.key(0), 4)

        def act(carry, observation, reset, keys):
            action = jax.vmap(lambda k: jax.random.randint(k, (), 0, 2))(keys)
            return carry, action, action, jnp.zeros(4)

        rollout.rollout(counting_env, counting_env.default_params, act, rows, jax.random.key(1), 4)


def test_starts_of_different_rows_are_uncorrelated():
    env, params = jaxpg_envs.make("CartPole-v1")
    rows = rollout.start(env, params, jax.random.key(0), 10_000)
    correlation = np.corrcoef(np.asarray(rows.observation).T) - np.eye(4)
    assert np.abs(correlation).max() < 0.05
