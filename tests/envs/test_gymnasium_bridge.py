"""gymnax-style environments in gymnasium, against gymnasium's own semantics."""

import importlib
import sys
import warnings
from collections import Counter

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnax.environments import environment, spaces
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper

from jaxpg_envs import make, to_gymnasium, to_gymnasium_vector
from jaxpg_envs.gymnasium_spaces import convert
from jaxpg_envs.spaces import MultiDiscrete
from jaxpg_envs.tabular import EnvParams, TabularMDP, random_mdp

MODES = list(AutoresetMode)


def three_steps():
    """One state, reward 1, truncated after three steps."""
    params = EnvParams(
        transition=jnp.ones((1, 1, 1)),
        reward=jnp.ones((1, 1)),
        initial=jnp.ones(1),
        terminal=jnp.zeros(1, bool),
        max_steps_in_episode=3,
    )
    return TabularMDP(params), params


def random_three_steps():
    """A random process with a terminal state, truncated after three steps."""
    params = random_mdp(jax.random.key(0), num_states=6, num_actions=2, horizon=3)
    terminal = jnp.zeros(6, bool).at[5].set(True)
    initial = params.initial.at[5].set(0.0)
    params = params.replace(terminal=terminal, initial=initial / initial.sum())
    return TabularMDP(params), params


@struct.dataclass
class State(environment.EnvState):
    """Time and the last action."""

    last: jax.Array


class Nested(environment.Environment):
    """Observations and actions in a dictionary and a tuple; info is nested too."""

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=4)

    def reset_env(self, key, params):
        state = State(time=jnp.int32(0), last=jnp.int32(0))
        return {"last": state.last, "pair": (jax.random.uniform(key, (2,)), state.time)}, state

    def step_env(self, key, state, action, params):
        force, button = action["force"], action["buttons"][0]
        state = State(time=state.time + 1, last=button)
        observation = {"last": button, "pair": (jax.random.uniform(key, (2,)), state.time)}
        info = {"force": force, "nested": {"button": button}}
        return observation, state, force.sum(), jnp.array(False), info

    def action_space(self, params):
        force = spaces.Box(-1.0, 1.0, (2,), jnp.float32)
        return spaces.Dict({"force": force, "buttons": spaces.Tuple([spaces.Discrete(3)])})

    def observation_space(self, params):
        pair = spaces.Tuple([spaces.Box(0.0, 1.0, (2,)), spaces.Discrete(5)])
        return spaces.Dict({"last": spaces.Discrete(3), "pair": pair})


class Levers(Nested):
    """Three choices at once, which it shows again."""

    def reset_env(self, key, params):
        state = State(time=jnp.int32(0), last=jnp.zeros(3, jnp.int32))
        return {"last": state.last}, state

    def step_env(self, key, state, action, params):
        state = State(time=state.time + 1, last=action)
        reward = jnp.sum(action * jnp.array([1.0, 10.0, 100.0]))
        return {"last": state.last}, state, reward, jnp.array(False), {}

    def action_space(self, params):
        return MultiDiscrete((5, 2, 3))

    def observation_space(self, params):
        return spaces.Dict({"last": MultiDiscrete((5, 2, 3))})


def assert_same(one, two):
    """Equal trees of numpy arrays, numbers and None, in values, types and dtypes."""
    assert type(one) is type(two), (one, two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            assert_same(one[name], two[name])
    elif isinstance(one, tuple) or (isinstance(one, np.ndarray) and one.dtype == object):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    else:
        np.testing.assert_array_equal(one, two)
        assert np.asarray(one).dtype == np.asarray(two).dtype


@pytest.mark.parametrize(
    "build",
    [
        lambda: make("CartPole-v1"),
        lambda: make("FrozenLake-misc"),
        lambda: make("Breakout-MinAtar"),
        lambda: make("tabular/random"),
        lambda: (Nested(), Nested().default_params),
        lambda: (Levers(), Levers().default_params),
        lambda: (LogWrapper(make("CartPole-v1")[0]), make("CartPole-v1")[1]),
    ],
)
def test_the_checker_of_gymnasium_finds_nothing(build):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(to_gymnasium(*build()))


def test_the_same_seed_gives_the_same_episode_and_another_seed_another():
    env = to_gymnasium(*make("CartPole-v1"))

    def episode(seed):
        first = env.reset(seed=seed)[0]
        return np.stack([first] + [env.step(t % 2)[0] for t in range(5)])

    assert np.array_equal(episode(3), episode(3))
    assert not np.array_equal(episode(3), episode(4))


def test_resets_without_a_seed_give_different_starts():
    env = to_gymnasium(*make("CartPole-v1"))
    starts = [env.reset()[0] for _ in range(5)]
    assert len(np.unique(np.stack(starts), axis=0)) == 5


def test_outputs_are_plain_python_and_writable_numpy():
    env = to_gymnasium(*make("CartPole-v1"))
    observation, info = env.reset(seed=0)
    observation[:] = 0
    observation, reward, terminated, truncated, info = env.step(np.int64(1))
    observation[:] = 0
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert isinstance(info["discount"], np.ndarray)


@pytest.mark.parametrize("action", [1, np.int64(1), np.int32(1), np.array(1), jnp.array(1)])
def test_no_kind_of_action_compiles_the_step_again(action):
    env = to_gymnasium(*make("CartPole-v1"))
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.step(action)
    env.reset()
    env.step(action)
    assert env._jitted_step._cache_size() == 1


def test_several_choices_are_a_multi_discrete_space():
    levers = Levers()
    env = to_gymnasium(levers)
    assert env.action_space == gymnasium.spaces.MultiDiscrete([5, 2, 3])
    env.reset(seed=0)
    for action in ([4, 1, 2], np.array([4, 1, 2], np.int32), env.action_space.sample()):
        observation, reward, *_ = env.step(action)
        np.testing.assert_array_equal(observation["last"], action)
        assert observation["last"].dtype == np.int64
        assert reward == np.dot(action, [1.0, 10.0, 100.0])
        assert env.observation_space.contains(observation)
    assert env._jitted_step._cache_size() == 1
    with pytest.raises(ValueError, match=r"action has shape \(2,\)"):
        env.step([4, 1])
    with pytest.raises(TypeError, match="space=Space has no .*Box, Discrete, MultiDiscrete, Dict"):
        convert(spaces.Space())


def test_samples_of_several_choices_are_uniform_members():
    space = MultiDiscrete((5, 2, 3))
    assert (space.shape, space.dtype, space.nvec) == ((3,), jnp.int32, (5, 2, 3))
    samples = jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(0), 3000))
    assert samples.dtype == jnp.int32
    assert space.contains(samples)
    means = np.asarray(samples).mean(0)
    np.testing.assert_allclose(means, [2.0, 0.5, 1.0], atol=0.1)
    assert np.abs(np.corrcoef(np.asarray(samples).T) - np.eye(3)).max() < 0.07
    for stranger in ([5, 0, 0], [0, -1, 0]):
        assert not space.contains(jnp.array(stranger))


@pytest.mark.parametrize("nvec", [(), (3, 0), 3, (1.5, 2), ((3, 2),)])
def test_a_multi_discrete_space_without_alternatives_is_refused(nvec):
    with pytest.raises(ValueError, match="nvec is .*whole numbers of at least 1"):
        MultiDiscrete(nvec)


def test_an_action_of_the_wrong_shape_is_refused():
    env = to_gymnasium(*make("Pendulum-v1"))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action has shape \(2,\).*needs \(1,\)"):
        env.step(np.zeros(2))


def test_a_step_before_the_first_reset_is_refused():
    for env in (to_gymnasium(*make("CartPole-v1")), to_gymnasium_vector(*make("CartPole-v1"))):
        with pytest.raises(ResetNeeded, match="call reset first"):
            env.step(env.action_space.sample())


def test_a_wrapper_acts_and_the_last_observation_is_not_that_of_the_next_episode():
    env, params = make("Catch-bsuite")
    flat = to_gymnasium(FlattenObservationWrapper(env), params)
    plain = to_gymnasium(env, params)
    flat.reset(seed=0), plain.reset(seed=0)
    terminated = False
    while not terminated:
        observation, _, terminated, *_ = flat.step(0)
        assert observation.shape == (50,)
    # In the last frame of an episode the ball lies in the row of the paddle.
    assert observation.reshape(10, 5)[:9].sum() == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "build",
    [
        lambda: make("CartPole-v1"),
        lambda: (Nested(), None),
        lambda: (Levers(), None),
        random_three_steps,
    ],
)
def test_a_vector_is_bit_for_bit_the_sync_vector_of_its_environments(build, mode):
    env, params = build()
    ours = to_gymnasium_vector(env, params, num_envs=3, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: to_gymnasium(env, params)] * 3, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert_same(ours.reset(seed=7), theirs.reset(seed=7))
    ours.action_space.seed(0)
    for _ in range(14):
        action = ours.action_space.sample()
        mine, other = ours.step(action), theirs.step(action)
        assert_same(mine, other)
        ended = mine[2] | mine[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            mask = {"reset_mask": ended}
            assert_same(ours.reset(options=dict(mask)), theirs.reset(options=dict(mask)))
    assert_same(ours.reset(), theirs.reset())
    assert_same(ours.reset(seed=[1, 2, 3]), theirs.reset(seed=[1, 2, 3]))


def run(env, params, mode, num_calls, act):
    """Accepted transitions of one environment, its dummy calls, and its episodes."""
    vector = to_gymnasium_vector(env, params, num_envs=1, autoreset_mode=mode)
    observation, _ = vector.reset(seed=0)
    transitions, dummies, lengths, returns, rewards = [], 0, [], [], []
    ended = False
    for _ in range(num_calls):
        if mode is AutoresetMode.DISABLED and ended:
            observation, _ = vector.reset(options={"reset_mask": np.ones(1, bool)})
            ended = False
        dummy = mode is AutoresetMode.NEXT_STEP and ended
        action = act(observation)
        following, reward, terminated, truncated, info = vector.step(action)
        final = info["final_obs"][0] if "final_obs" in info else following[0]
        ended = bool(terminated[0] or truncated[0])
        if dummy:
            dummies += 1
            assert reward[0] == 0.0
            assert not ended
        else:
            rewards.append(float(reward[0]))
            outcome = (float(reward[0]), bool(terminated[0]), bool(truncated[0]))
            transitions.append((tuple(observation[0]), int(action[0]), *outcome, tuple(final)))
        if ended:
            lengths.append(len(rewards))
            returns.append(sum(rewards))
            rewards = []
        observation = following
    return transitions, dummies, lengths, returns


def first_action(observation):
    return np.zeros(len(observation), np.int32)


@pytest.mark.parametrize("mode", MODES)
def test_three_step_episodes_of_reward_one_have_length_and_return_three(mode):
    num_calls = 11 if mode is AutoresetMode.NEXT_STEP else 9
    _, _, lengths, returns = run(*three_steps(), mode, num_calls, first_action)
    assert lengths == [3, 3, 3]
    assert returns == [3.0, 3.0, 3.0]


def test_seven_next_step_calls_yield_six_transitions_and_one_dummy():
    transitions, dummies, *_ = run(*three_steps(), AutoresetMode.NEXT_STEP, 7, first_action)
    assert (len(transitions), dummies) == (6, 1)


def test_accepted_transitions_are_the_same_multiset_in_every_mode():
    def act(observation):
        return (observation.argmax(-1) % 2).astype(np.int32)

    accepted = []
    for mode in MODES:
        transitions = run(*random_three_steps(), mode, 60, act)[0]
        accepted.append(Counter(transitions[:30]))
    assert accepted[0] == accepted[1] == accepted[2]
    assert any(transition[3] for transition in accepted[0])
    assert any(transition[4] for transition in accepted[0])


def test_auto_resets_give_different_starts():
    env, params = make("CartPole-v1", max_steps_in_episode=1)
    vector = to_gymnasium_vector(env, params, num_envs=2, autoreset_mode="SameStep")
    vector.reset(seed=0)
    starts = [vector.step(np.zeros(2, np.int32))[0] for _ in range(5)]
    assert len(np.unique(np.concatenate(starts), axis=0)) == 10


def test_without_auto_reset_a_step_after_an_end_is_refused():
    vector = to_gymnasium_vector(*three_steps(), num_envs=2, autoreset_mode="Disabled")
    vector.reset(seed=0)
    for _ in range(3):
        vector.step(np.zeros(2, np.int32))
    with pytest.raises(ResetNeeded, match=r"environments \[0, 1\] have ended"):
        vector.step(np.zeros(2, np.int32))


def test_a_masked_reset_leaves_the_other_environments_alone():
    vector = to_gymnasium_vector(*make("CartPole-v1"), num_envs=3, autoreset_mode="Disabled")
    vector.reset(seed=0)
    before = vector.step(np.ones(3, np.int32))[0]
    mask = np.array([False, True, False])
    after, _ = vector.reset(seed=5, options={"reset_mask": mask})
    assert np.array_equal(before[~mask], after[~mask])
    alone = to_gymnasium(*make("CartPole-v1")).reset(seed=6)[0]
    assert np.array_equal(after[1], alone)


@pytest.mark.parametrize("mask", [np.ones(2, bool), np.zeros(3, bool), np.ones(3, int)])
def test_a_mask_that_selects_nothing_valid_is_refused(mask):
    vector = to_gymnasium_vector(*three_steps(), num_envs=3)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match="reset_mask of shape"):
        vector.reset(options={"reset_mask": mask})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs=0 must be at least 1"),
        ({"autoreset_mode": "nextstep"}, "autoreset_mode='nextstep' is .*did you mean 'NextStep'"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        to_gymnasium_vector(*three_steps(), **options)


def test_a_list_of_seeds_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="seed has 1 entries; num_envs=2"):
        to_gymnasium_vector(*three_steps(), num_envs=2).reset(seed=[1])


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        for mode in MODES:
            run(*random_three_steps(), mode, 5, first_action)


def test_brax_auto_resets_in_a_vector():
    env, params = make("brax/fast", max_steps_in_episode=2)
    vector = to_gymnasium_vector(env, params, num_envs=2)
    vector.reset(seed=0)
    flags = [vector.step(np.zeros((2, 1), np.float32))[3].tolist() for _ in range(3)]
    assert flags == [[False, False], [True, True], [False, False]]


def test_a_missing_gymnasium_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "jaxpg_envs.gymnasium_bridge")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r'pip install "jaxpg\[gymnasium\]"'):
        importlib.import_module("jaxpg_envs.gymnasium_bridge")


def test_the_bridge_is_found_by_attribute_and_by_module():
    bridge = importlib.import_module("jaxpg_envs.gymnasium_bridge")
    assert issubclass(bridge.BridgedEnv, gymnasium.Env)
    with pytest.raises(AttributeError, match="to_gymnasum"):
        importlib.import_module("jaxpg_envs").to_gymnasum  # noqa: B018
