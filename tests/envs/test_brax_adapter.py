"""brax behind gymnax's interface, on a small environment that counts and on real physics."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from jaxpg_envs import list_envs, make
from jaxpg_envs.brax_adapter import BACKENDS, BraxEnvironment
from jaxpg_envs.contract import check

with warnings.catch_warnings():
    # A dependency of brax announces that it is retired.
    warnings.simplefilter("ignore", DeprecationWarning)
    from brax.envs.base import Env, State
    from brax.envs.wrappers.training import AutoResetWrapper, EpisodeWrapper

PHYSICS = ("brax/inverted_pendulum", {"backend": "spring"})
BRAX_NAMES = [name for name in list_envs() if name.startswith("brax/")]


class Counter(Env):
    """Reward 1 and metric 1 in each of brax's steps; the start is drawn from U(0, 1)."""

    backend = "spring"
    action_size = 2
    observation_size = 3

    def __init__(self, length=1000):
        self.length = length

    def reset(self, rng):
        zero = jnp.zeros(())
        obs = jnp.array([jax.random.uniform(rng), 0.0, 0.0])
        return State(None, obs, zero, zero, {"ones": zero}, {"seen": zero})

    def step(self, state, action):
        obs = state.obs.at[1].add(1.0).at[2].set(action[0])
        state.metrics.update(ones=jnp.ones(()))
        state.info.update(seen=action.sum())
        done = (obs[1] >= self.length).astype(jnp.float32)
        return state.replace(obs=obs, reward=jnp.ones(()), done=done)


def play(env, params, key, num_steps, action=None):
    """Outputs of `num_steps` auto-resetting steps, and the first observation."""
    action = jnp.zeros(2) if action is None else action

    def step(state, step_key):
        observation, state, *outcome = env.step(step_key, state, action, params)
        return state, (observation, state.time, *outcome)

    reset_key, key = jax.random.split(key)
    first, state = env.reset(reset_key, params)
    return first, jax.lax.scan(step, state, jax.random.split(key, num_steps))[1]


def test_the_step_limit_truncates_and_does_not_terminate():
    env = BraxEnvironment(Counter())
    params = env.default_params.replace(max_steps_in_episode=3)
    _, (_, _, _, terminated, truncated, _) = play(env, params, jax.random.key(0), 9)
    assert not terminated.any()
    assert truncated.tolist() == [False, False, True] * 3


def test_done_of_brax_terminates_and_does_not_truncate():
    env = BraxEnvironment(Counter(length=3))
    _, (_, _, _, terminated, truncated, info) = play(env, env.default_params, jax.random.key(0), 9)
    assert terminated.tolist() == [False, False, True] * 3
    assert not truncated.any()
    assert info["discount"].tolist() == [1.0, 1.0, 0.0] * 3
    assert info["final_observation"][:, 1].tolist() == [1.0, 2.0, 3.0] * 3


def test_reward_metrics_and_counter_advance_by_the_action_repeat():
    env = BraxEnvironment(Counter(), action_repeat=4)
    params = env.default_params.replace(max_steps_in_episode=8)
    _, (_, time, reward, _, truncated, info) = play(env, params, jax.random.key(0), 4)
    assert reward.tolist() == [4.0] * 4
    assert info["metrics"]["ones"].tolist() == [4.0] * 4
    assert time.tolist() == [4, 0, 4, 0]
    assert truncated.tolist() == [False, True, False, True]


def test_nothing_is_collected_after_the_substep_that_terminates():
    env = BraxEnvironment(Counter(length=6), action_repeat=4)
    _, (_, _, reward, terminated, _, info) = play(env, env.default_params, jax.random.key(0), 2)
    assert reward.tolist() == [4.0, 2.0]
    assert info["metrics"]["ones"].tolist() == [4.0, 2.0]
    assert terminated.tolist() == [False, True]
    assert info["final_observation"][1, 1] == 6.0


@pytest.mark.parametrize("wrapper", [lambda env: EpisodeWrapper(env, 10, 1), AutoResetWrapper])
def test_an_environment_that_counts_or_resets_itself_is_refused(wrapper):
    with pytest.raises(ValueError, match="pass the environment without it"):
        BraxEnvironment(wrapper(Counter()))


def test_wrapping_twice_is_refused():
    with pytest.raises(TypeError, match="brax_env=BraxEnvironment is not a"):
        BraxEnvironment(BraxEnvironment(Counter()))


def starts(env, key, num_resets):
    """First observations after each of `num_resets` auto-resets."""
    params = env.default_params.replace(max_steps_in_episode=1)
    _, (observations, *_) = play(env, params, key, num_resets)
    return np.asarray(observations)


def test_five_fresh_auto_resets_give_five_distinct_starts():
    env = BraxEnvironment(Counter())
    assert env.reset_is_expensive
    assert env.num_starts is None
    assert len(np.unique(starts(env, jax.random.key(0), 5)[:, 0])) == 5


def test_two_keys_give_two_different_sequences_of_starts():
    env = BraxEnvironment(Counter())
    one, two = (starts(env, jax.random.key(k), 5)[:, 0] for k in (0, 1))
    assert not set(one) & set(two)


def test_cached_resets_are_opt_in_and_give_the_stated_number_of_starts():
    env = BraxEnvironment(Counter(), reset="cached", num_starts=3)
    assert env.num_starts == 3
    assert not env.reset_is_expensive
    drawn = starts(env, jax.random.key(0), 200)[:, 0]
    assert len(np.unique(drawn)) == 3
    assert min(np.unique(drawn, return_counts=True)[1]) > 40
    again = BraxEnvironment(Counter(), reset="cached", num_starts=3)
    np.testing.assert_array_equal(drawn, starts(again, jax.random.key(0), 200)[:, 0])


def test_actions_are_clipped_to_the_declared_box():
    env = BraxEnvironment(Counter())
    space = env.action_space(env.default_params)
    assert (space.low, space.high, space.shape) == (-1.0, 1.0, (2,))
    _, (observation, *_) = play(env, env.default_params, jax.random.key(0), 1, 5.0 * jnp.ones(2))
    assert observation[0, 2] == 1.0


def test_a_step_leaves_the_state_that_it_was_given_alone():
    env = BraxEnvironment(Counter())
    _, state = env.reset_env(jax.random.key(0), env.default_params)
    env.step_env(jax.random.key(1), state, jnp.zeros(2), env.default_params)
    assert state.brax_state.metrics["ones"] == 0.0


def test_other_names_from_step_than_from_reset_are_refused():
    class Growing(Counter):
        def step(self, state, action):
            state = super().step(state, action)
            return state.replace(metrics={**state.metrics, "more": jnp.zeros(())})

    env = BraxEnvironment(Growing())
    _, state = env.reset(jax.random.key(0), env.default_params)
    with pytest.raises(TypeError, match="other info, metrics or observation names from step"):
        env.step(jax.random.key(0), state, jnp.zeros(2), env.default_params)


def test_dictionary_observations_are_declared_as_a_dictionary():
    env, params = make("brax/fast", obs_mode="dict_pixels_state")
    space = env.observation_space(params)
    assert isinstance(space, spaces.Dict)
    assert space.spaces["pixels/view_0"].shape == (4, 4, 3)
    check(env, params, num_envs=2, num_steps=3)


@pytest.mark.parametrize("options", [{}, {"action_repeat": 3}, {"reset": "cached"}])
def test_the_contract_holds_and_no_key_is_used_twice(options):
    env = BraxEnvironment(Counter(length=7), **options)
    check(env)
    with jax.debug_key_reuse(True):
        play(env, env.default_params, jax.random.key(0), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_repeat": 0}, "action_repeat=0 must be at least 1"),
        ({"reset": "cache"}, "reset='cache' is not one of .*did you mean 'cached'"),
        ({"num_starts": 0}, "num_starts=0 must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BraxEnvironment(Counter(), **options)


def test_transition_gradients_reach_the_action_where_they_are_asked_for():
    env = BraxEnvironment(Counter())
    _, state = env.reset(jax.random.key(0), env.default_params)

    def last_component(action, env):
        return env.step(jax.random.key(1), state, action, env.default_params)[0][2]

    action = 0.5 * jnp.ones(2)
    assert jax.grad(last_component)(action, env).tolist() == [0.0, 0.0]
    differentiable = env.with_transition_gradients()
    assert jax.grad(last_component)(action, differentiable).tolist() == [1.0, 0.0]


def test_physics_keeps_the_contract():
    name, options = PHYSICS
    check(*make(name, **options), num_envs=4, num_steps=50)


def test_starting_positions_and_velocities_are_not_correlated():
    name, options = PHYSICS
    env, params = make(name, **options)
    keys = jax.random.split(jax.random.key(0), 10_000)
    observations, _ = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, params)
    correlations = np.corrcoef(np.asarray(observations).T) - np.eye(4)
    assert np.abs(correlations).max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", BRAX_NAMES)
def test_every_brax_environment_keeps_the_contract(name):
    backend = "generalized" if name == "brax/swimmer" else "spring"
    check(*make(name, backend=backend), num_envs=2, num_steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["brax/inverted_pendulum", "brax/hopper"])
def test_every_backend_keeps_the_contract(name, backend):
    check(*make(name, backend=backend), num_envs=2, num_steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["generalized", "positional", "spring"])
def test_gradients_through_a_step_are_finite_where_they_are_declared(backend):
    env, params = make("brax/inverted_pendulum", backend=backend)
    env = env.with_transition_gradients()
    _, state = env.reset(jax.random.key(0), params)

    def cart_position(action):
        return env.step_env(jax.random.key(1), state, action, params)[0][0]

    gradient = jax.grad(cart_position)(0.1 * jnp.ones(1))
    assert jnp.isfinite(gradient).all()
    assert gradient[0] != 0.0
