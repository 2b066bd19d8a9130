"""Descriptors over brax, on a robot without physics that goes where it is told."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from jaxpg_envs import check, list_envs, make
from jaxpg_envs.locomotion import check_descriptors, described_robot, names
from jaxpg_envs.locomotion.descriptors import (
    DescribedBrax,
    DescribedParams,
    Descriptor,
    torso_position,
)

with warnings.catch_warnings():
    # A dependency of brax announces that it is retired.
    warnings.simplefilter("ignore", DeprecationWarning)
    from brax.base import Transform
    from brax.envs.base import Env, State


@struct.dataclass
class Pipeline:
    """What is read from brax's pipeline state."""

    x: Any


class Sledge(Env):
    """The torso is moved by the action; reward: the move along x, 1 for being, minus |a|^2."""

    backend = "spring"
    action_size = 2
    observation_size = 2

    def __init__(self, length=1000):
        self.length = length

    def reset(self, rng):
        torso = jax.random.uniform(rng, (3,))
        # The second link must not be mistaken for the torso.
        x = Transform(pos=jnp.stack([torso, 100 + torso]), rot=jnp.zeros((2, 4)))
        zero = jnp.zeros(())
        return State(Pipeline(x), torso[:1], zero, zero, {"forward": zero, "steps": zero})

    def step(self, state, action):
        x = state.pipeline_state.x
        x = x.replace(pos=x.pos.at[0, :2].add(action))
        steps = state.metrics["steps"] + 1
        return state.replace(
            pipeline_state=Pipeline(x),
            obs=x.pos[0, :1],
            reward=action[0] + 1 - jnp.sum(jnp.square(action)),
            done=(steps >= self.length).astype(jnp.float32),
            metrics={"forward": action[0], "steps": steps},
        )


def left_of_the_start() -> Descriptor:
    """A foot that stands while x and one that stands while y is negative."""
    return Descriptor(
        size=2,
        start=lambda pipeline_state: jnp.zeros(2),
        update=lambda carried, pipeline_state: carried + (pipeline_state.x.pos[0, :2] < 0),
        read=lambda carried, time: carried / jnp.maximum(time, 1),
    )


def sledge(descriptor=None, length=1000, horizon=5, width=4.0, shift=0.0, **options):
    params = DescribedParams(
        max_steps_in_episode=horizon,
        low=-jnp.full(2, width),
        high=jnp.full(2, width),
        reward_shift=shift,
    )
    env = DescribedBrax(Sledge(length), descriptor or torso_position(), params, **options)
    return env, params


@functools.partial(jax.jit, static_argnums=0)
def play(env, params, actions):
    """First observation and state, and the outputs of auto-resetting steps."""

    def step(state, action):
        observation, state, *outcome, info = env.step(jax.random.key(0), state, action, params)
        return state, (observation, state, *outcome, info)

    first, state = env.reset(jax.random.key(0), params)
    return first, state, jax.lax.scan(step, state, actions)[1]


ACTIONS = np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32)


def test_the_observation_begins_with_the_position_over_the_box_and_goes_on_with_brax():
    env, params = sledge()
    first, start, (_, _, _, _, _, info) = play(env, params, ACTIONS)
    begin = np.asarray(start.brax_state.pipeline_state.x.pos[0, :2])
    places = begin + np.cumsum(ACTIONS, axis=0)
    final = info["final_observation"]
    np.testing.assert_allclose(first, [*(begin / 4), begin[0]], rtol=1e-6)
    np.testing.assert_allclose(final[:, :2], places / 4, atol=1e-6)
    np.testing.assert_allclose(final[:, 2], places[:, 0], atol=1e-6)
    np.testing.assert_allclose(env.descriptor_of(final, params), places, atol=1e-6)


@pytest.mark.parametrize(("length", "end"), [(1000, "truncated"), (3, "terminated")])
def test_the_last_observation_of_an_episode_tells_where_it_ended(length, end):
    env, params = sledge(length=length)
    _, start, (observation, _, _, terminated, truncated, info) = play(env, params, ACTIONS)
    steps = min(length, 5)
    ended = {"terminated": terminated, "truncated": truncated}
    assert np.flatnonzero(ended[end])[0] == steps - 1
    begin = start.brax_state.pipeline_state.x.pos[0, :2]
    place = begin + ACTIONS[:steps].sum(0)
    final = info["final_observation"][steps - 1]
    np.testing.assert_allclose(env.descriptor_of(final, params), place, atol=1e-6)
    # What follows is the start of the next episode.
    np.testing.assert_allclose(env.descriptor_of(observation[steps - 1], params), begin, atol=1e-6)


def test_a_mean_over_the_episode_counts_every_step_once_and_starts_anew():
    env, params = sledge(left_of_the_start(), horizon=4, width=1.0)
    actions = jnp.array([[-1.0, 0.1]] * 2 + [[1.0, -1.0]] * 2)
    first, start, (observation, state, *_, info) = play(env, params, actions)
    places = start.brax_state.pipeline_state.x.pos[0, :2] + jnp.cumsum(actions, axis=0)
    running = jnp.cumsum(places < 0, axis=0) / jnp.arange(1, 5)[:, None]
    assert first[:2].tolist() == [0.0, 0.0]
    assert 0 < running[-1, 0] < 1
    np.testing.assert_allclose(info["final_observation"][:, :2], running, rtol=1e-6)
    np.testing.assert_allclose(
        env.descriptor_of(info["final_observation"][-1], params), running[-1], rtol=1e-6
    )
    assert observation[-1, :2].tolist() == [0.0, 0.0]
    assert state.carried[-1].tolist() == [0.0, 0.0]


def test_a_place_outside_the_box_counts_as_its_border():
    env, params = sledge(width=0.5)
    _, _, (*_, info) = play(env, params, jnp.ones((2, 2)))
    assert env.descriptor_of(info["final_observation"][1], params).tolist() == [0.5, 0.5]


def test_the_reward_is_shifted_without_its_forward_term_and_never_negative():
    cost = (ACTIONS**2).sum(-1)
    for shift in (0.0, -0.6):
        env, params = sledge(shift=shift, forward_metric="forward")
        _, _, (_, _, reward, *_) = play(env, params, ACTIONS)
        np.testing.assert_allclose(reward, np.maximum(1 - cost + shift, 0), atol=1e-6)
    assert (reward == 0).any()
    env, params = sledge(shift=0.2)
    _, _, (_, _, reward, *_) = play(env, params, ACTIONS)
    np.testing.assert_allclose(reward, np.maximum(ACTIONS[:, 0] + 1.2 - cost, 0), atol=1e-6)


def test_a_fixed_start_is_the_same_for_every_key_and_drawn_ones_differ():
    for start, distinct in (("fixed", 1), ("drawn", 4)):
        env, params = sledge(start=start)
        keys = jax.random.split(jax.random.key(3), 4)
        observations, _ = jax.vmap(env.reset, in_axes=(0, None))(keys, params)
        assert len(np.unique(np.asarray(observations), axis=0)) == distinct
        assert env.reset_is_expensive == (start == "drawn")


def test_the_contract_holds():
    env, params = sledge(left_of_the_start(), length=4)
    check(env, params, num_envs=2, num_steps=6)
    check_descriptors(env, params)


def test_transition_gradients_reach_the_action_where_they_are_asked_for():
    env, params = sledge(width=100.0)
    _, state = env.reset(jax.random.key(0), params)

    def place(action, env):
        observation, *_ = env.step(jax.random.key(1), state, action, params)
        return env.descriptor_of(observation, params)[0]

    action = 0.5 * jnp.ones(2)
    assert jax.grad(place)(action, env).tolist() == [0.0, 0.0]
    gradient = jax.grad(place)(action, env.with_transition_gradients())
    np.testing.assert_allclose(gradient, [1.0, 0.0], rtol=1e-6)


def test_the_tasks_are_listed():
    assert names() == [
        "locomotion/ant-omni",
        "locomotion/ant-uni",
        "locomotion/anttrap-omni",
        "locomotion/halfcheetah-uni",
        "locomotion/hopper-uni",
        "locomotion/humanoid-omni",
        "locomotion/point-omni",
        "locomotion/walker2d-uni",
    ]
    assert set(names()) <= set(list_envs())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "ant-omi"}, "task='ant-omi' is not one of .*did you mean 'ant-omni'"),
        ({"start": "fix"}, "start='fix' is not one of 'drawn', 'fixed'; did you mean 'fixed'"),
        ({"backend": "sprin"}, "backend='sprin' is not one of .*did you mean 'spring'"),
    ],
)
def test_other_options_are_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        described_robot(**{"task": "hopper-uni", **options})


def test_an_unknown_start_of_the_wrapper_is_refused():
    with pytest.raises(ValueError, match="start='cached' is not one of 'drawn', 'fixed'"):
        sledge(start="cached")


def test_an_environment_without_descriptors_is_refused():
    with pytest.raises(TypeError, match="env=CartPole-v1 has no descriptor_bounds and no descr"):
        check_descriptors(*make("CartPole-v1"))


def test_bounds_and_descriptors_of_the_wrong_shape_are_refused():
    env, params = sledge()
    with pytest.raises(ValueError, match="every low must be less than its high"):
        check_descriptors(env, params.replace(high=params.low))
    with pytest.raises(ValueError, match=r"shapes \[2\] and \[3\]; both must be \[D\]"):
        check_descriptors(env, params.replace(high=jnp.ones(3)))

    class Flat(DescribedBrax):
        def descriptor_of(self, observation, params):
            return observation[0]

    with pytest.raises(ValueError, match=r"into shape \[3\]; it must be \[1, 2\]"):
        check_descriptors(Flat(Sledge(), torso_position(), params), params)
