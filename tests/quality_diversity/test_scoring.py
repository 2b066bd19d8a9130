"""Episodes as scores: sums and descriptors up to the first end, and the same on several devices."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from jaxpg import parallel
from jaxpg.quality_diversity import scoring

KEY = jax.random.key(0)


@flax.struct.dataclass
class WalkState:
    """State of a walk."""

    time: jax.Array
    position: jax.Array
    start: jax.Array


@flax.struct.dataclass
class WalkParams:
    """A walk terminates beyond `limit` and is truncated after `max_steps_in_episode`."""

    limit: float = 3.0
    max_steps_in_episode: int = 4


class Walk(Environment):
    """x' = x + a from a start that is drawn; the reward is x', the descriptor too."""

    @property
    def default_params(self):
        return WalkParams()

    def reset_env(self, key, params):
        start = jax.random.uniform(key)
        state = WalkState(jnp.zeros((), jnp.int32), start, start)
        return self._observe(state), state

    def step_env(self, key, state, action, params):
        position = state.position + action[0]
        state = WalkState(state.time + 1, position, state.start)
        return self._observe(state), state, position, position > params.limit, {}

    def _observe(self, state):
        return jnp.stack([state.position / 10.0, state.start])

    def descriptor_bounds(self, params):
        return jnp.zeros(1), jnp.full(1, 10.0)

    def descriptor_of(self, observation, params):
        return 10.0 * observation[..., :1]

    def action_space(self, params):
        return spaces.Box(0.0, 2.0, (1,), jnp.float32)

    def observation_space(self, params):
        return spaces.Box(0.0, 10.0, (2,), jnp.float32)


ENV, PARAMS = Walk(), WalkParams()
SPEEDS = jnp.array([0.1, 1.0, 1.4, 3.5, 0.9, 0.2, 2.0, 0.5])


def at_speed(speed, observation):
    """The walk's step is the genotype; its first entry of an action is in [-1, 1]."""
    return jnp.broadcast_to(jnp.asarray(speed) - 1.0, (*observation.shape[:-1], 1))


def to_walk(action):
    return action + 1.0


def walked(speed, start, num_steps):
    """Positions after each step of the first episode, and whether it terminated."""
    positions = []
    for _ in range(num_steps):
        positions.append((positions[-1] if positions else start) + speed)
        if positions[-1] > 3.0:
            return positions, True
    return positions, False


@pytest.fixture(scope="module")
def scores():
    score = scoring.episodes(ENV, PARAMS, at_speed, to_environment=to_walk)
    return jax.jit(score)(KEY, SPEEDS)


def test_fitness_and_descriptor_are_those_of_the_first_episode(scores):
    steps = scores.steps
    assert steps.reward.shape == (8, 4) and steps.observation.shape == (8, 4, 2)
    starts = np.asarray(steps.observation[:, 0, 1])
    assert len(np.unique(starts)) == 8
    lengths = []
    for row, speed in enumerate(SPEEDS.tolist()):
        positions, terminated = walked(speed, starts[row], 4)
        length = len(positions)
        lengths.append(length)
        np.testing.assert_allclose(scores.fitness[row], sum(positions), rtol=1e-5)
        np.testing.assert_allclose(scores.descriptors[row], positions[-1:], rtol=1e-5)
        np.testing.assert_array_equal(steps.mask[row], np.arange(4) < length)
        ends = np.arange(length) == length - 1
        np.testing.assert_array_equal(steps.terminated[row, :length], ends & terminated)
        np.testing.assert_array_equal(steps.truncated[row, :length], ends & (not terminated))
    assert sorted(set(lengths)) == [1, 2, 3, 4]


def test_steps_hold_the_policys_action_and_the_true_final_observation(scores):
    steps = scores.steps
    real = np.asarray(steps.mask) > 0
    actions = np.broadcast_to((SPEEDS - 1.0)[:, None, None], steps.action.shape)
    np.testing.assert_allclose(steps.action[real], actions[real], rtol=1e-6)
    moved = 10.0 * (steps.next_observation[..., 0] - steps.observation[..., 0])
    speeds = np.broadcast_to(SPEEDS[:, None], moved.shape)
    np.testing.assert_allclose(moved[real], speeds[real], atol=1e-5)
    # Also at an end: the start in it is still the first episode's.
    starts = np.broadcast_to(steps.observation[:, :1, 1], real.shape)
    np.testing.assert_array_equal(steps.next_observation[..., 1][real], starts[real])


def test_an_episode_that_is_cut_is_truncated():
    score = scoring.episodes(ENV, PARAMS, at_speed, num_steps=2, to_environment=to_walk)
    scores = jax.jit(score)(KEY, SPEEDS[:2])
    assert scores.steps.truncated.tolist() == [[False, True]] * 2
    np.testing.assert_allclose(scores.fitness, scores.steps.reward.sum(axis=1), rtol=1e-6)


def test_devices_score_their_shares_as_one_scores_all(scores):
    score = scoring.episodes(ENV, PARAMS, at_speed, to_environment=to_walk)
    shares = jax.pmap(lambda speeds: score(KEY, speeds), axis_name=parallel.AXIS)(
        SPEEDS.reshape(4, 2)
    )
    for whole, cut in zip(jax.tree.leaves(scores), jax.tree.leaves(shares), strict=True):
        np.testing.assert_allclose(cut.reshape(whole.shape), whole, rtol=1e-6)


def test_one_policy_that_is_told_what_to_do_is_scored_like_many():
    def told(params, observation, asked):
        return at_speed(params * asked, observation)

    score = scoring.conditioned_episodes(ENV, PARAMS, told, to_environment=to_walk)
    many = scoring.episodes(ENV, PARAMS, at_speed, to_environment=to_walk)

    def both(key):
        return score(key, jnp.float32(2.0), SPEEDS[:, None] / 2.0), many(key, SPEEDS)

    for one, other in zip(*map(jax.tree.leaves, jax.jit(both)(KEY)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_scored_is_one_sentence(counting_env):
    params = counting_env.default_params
    with pytest.raises(ValueError, match="which has no descriptor_bounds: quality-diversity needs"):
        scoring.episodes(counting_env, params, at_speed)
    with pytest.raises(ValueError, match="which has no descriptor_bounds"):
        scoring.descriptor_bounds(counting_env, params)
    with pytest.raises(ValueError, match="num_steps is 0, but it has to be at least 1"):
        scoring.episodes(ENV, PARAMS, at_speed, num_steps=0)
    with pytest.raises(ValueError, match="have no max_steps_in_episode, so an episode may never"):
        scoring.episodes(ENV, object(), at_speed)
