"""Off-policy agents: what is stored, when they learn, targets, a known optimum, the same bits."""

import itertools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

import jaxpg_envs
from jaxpg import algorithms, exploration, networks, parallel, replay, rollout, runner
from jaxpg.algorithms import TwinDelayedConfig

KEY = jax.random.key(0)
SMALL = {
    "num_envs": 8,
    "num_steps": 2,
    "num_gradient_steps": 3,
    "batch_size": 12,  # four blocks of two environments
    "capacity": 80,
    "learning_starts": 40,
    "actor_learning_rate": 1e-2,
    "critic_learning_rate": 1e-2,
    "eval_envs": 2,
}


def leaves(tree):
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def assert_same(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def differs(a, b):
    return any(np.any(x != y) for x, y in zip(leaves(a), leaves(b), strict=True))


def pendulum_network():
    env, params = jaxpg_envs.make("Pendulum-v1")
    return networks.deterministic(
        env.observation_space(params), env.action_space(params), hidden=()
    )


def pendulum(**config):
    env, params = jaxpg_envs.make("Pendulum-v1")
    return algorithms.td3(env, params, networks=pendulum_network(), **(SMALL | config))


@flax.struct.dataclass
class LinearState:
    """State of the regulator."""

    time: jax.Array
    position: jax.Array


@flax.struct.dataclass
class LinearParams:
    """Episodes terminate after `length` steps and are truncated after `max_steps_in_episode`."""

    length: int = 1000
    max_steps_in_episode: int = 3


class Regulator(Environment):
    """x' = (x + u) / 2, reward -(x^2 + u^2 / 2), u in [-3, 5]; observes a pair with a dict."""

    @property
    def default_params(self):
        return LinearParams()

    def reset_env(self, key, params):
        start = jax.random.uniform(key, minval=-1.0, maxval=1.0)
        state = LinearState(jnp.zeros((), jnp.int32), start)
        return self._observe(state), state

    def step_env(self, key, state, action, params):
        push = action[0, 0]
        reward = -(state.position**2 + 0.5 * push**2)
        state = LinearState(state.time + 1, (state.position + push) / 2)
        return self._observe(state), state, reward, state.time >= params.length, {}

    def _observe(self, state):
        return {"x": state.position}, state.time

    def action_space(self, params):
        return spaces.Box(-3.0, 5.0, (1, 1), jnp.float32)

    def observation_space(self, params):
        return spaces.Tuple(
            (spaces.Dict({"x": spaces.Box(-9.0, 9.0, (), jnp.float32)}), spaces.Discrete(4))
        )


def quadratic():
    """The exact form of the regulator's solution: u = -gain x, Q = -w [x^2, x u, u^2]."""
    box = networks.deterministic(
        Regulator().observation_space(None), Regulator().action_space(None), hidden=()
    )

    def actor(params, observation):
        push = -params["gain"] * observation[0]["x"]
        return jnp.clip((push[:, None] - 1.0) / 4.0, -1.0, 1.0)

    def critic(params, observation, action):
        x, u = observation[0]["x"], 1.0 + 4.0 * action[:, 0]
        return -(jnp.stack([x * x, x * u, u * u], axis=-1) @ params["w"])

    return networks.DeterministicNetworks(
        init_actor=lambda key: {"gain": 0.1 * jax.random.uniform(key)},
        actor=actor,
        init_critic=lambda key: {"w": jax.random.uniform(key, (3,))},
        critic=critic,
        to_environment=box.to_environment,
        num_actions=1,
    )


@pytest.fixture(scope="module")
def agent():
    """Learns the regulator; all tests that run it share one program."""
    env = Regulator()
    return algorithms.td3(
        env,
        env.default_params,
        networks=quadratic(),
        num_envs=8,
        num_gradient_steps=10,
        batch_size=64,
        capacity=1024,
        learning_starts=20,
        discount=0.9,
        tau=0.05,
        policy_noise=0.0,  # Smoothing changes the problem that is solved.
        actor_learning_rate=optax.linear_schedule(0.02, 0.0, 2000),
        critic_learning_rate=optax.linear_schedule(0.1, 0.0, 2000),
        eval_envs=2,
    )


@pytest.fixture(scope="module")
def undisturbed(agent):
    return runner.train(agent, key=KEY, num_updates=10, chunk_length=10)


def test_the_optimal_gain_of_a_linear_quadratic_problem_is_learned(agent):
    value = 1.0
    for _ in range(100):  # Riccati: discount 0.9, of which a step keeps a quarter in x^2
        next_value = 0.9 * value / 4
        gain = next_value / (0.5 + next_value)
        value = 1.0 + 0.5 * gain
    result = runner.train(agent, key=KEY, num_updates=200, chunk_length=10)
    # Every episode is cut after three steps: only bootstraps there give this gain.
    np.testing.assert_allclose(result.policy.params["gain"], gain, rtol=1e-4)
    expected = [1.0 + next_value, 2 * next_value, 0.5 + next_value]
    for critic in result.state.agent.critics["w"]:
        np.testing.assert_allclose(critic, expected, rtol=1e-4)


@jax.jit
def after_two_updates(length):
    """The world of an agent that normalises, and minibatches with and without."""
    agent = algorithms.td3(
        Regulator(),
        LinearParams(length),
        networks=quadratic(),
        normalise_observations=True,
        **SMALL,
    )
    state = agent.update(agent.update(agent.init(KEY))[0])[0]
    minibatch = lambda world: agent.update.__self__.minibatch(jax.random.key(5), world)
    raw = minibatch(state.world.replace(shared={}))
    return state.world, minibatch(state.world), raw, agent.policy(state)


@pytest.mark.parametrize(("length", "terminates"), [(1000, False), (3, True)])
def test_the_buffer_holds_the_true_final_observation_and_which_end_it_was(length, terminates):
    buffers = after_two_updates(length)[0].rows.buffers
    assert buffers.size.tolist() == [8] * 4 and buffers.items.action.shape[1] == 20
    items = jax.tree.map(lambda x: np.asarray(x[:, :8]), buffers.items)
    # Four steps of two environments in each block, in the order of time: 0 1 2 | 0.
    time, next_time = items.observation[1], items.next_observation[1]
    np.testing.assert_array_equal(time, np.tile([0, 0, 1, 1, 2, 2, 0, 0], (4, 1)))
    np.testing.assert_array_equal(next_time, time + 1)
    push = 1.0 + 4.0 * items.action[..., 0]
    x = items.observation[0]["x"]
    np.testing.assert_allclose(items.next_observation[0]["x"], (x + push) / 2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(items.reward, -(x**2 + push**2 / 2), rtol=1e-4)
    np.testing.assert_array_equal(items.terminated, terminates & (time == 2))


def test_minibatches_are_normalised_with_the_statistics_of_the_moment():
    world, batch, raw, policy = after_two_updates(1000)
    statistics = world.shared["observation"]
    assert statistics.num_samples == 32  # every step, once
    seen = np.asarray(world.rows.buffers.items.observation[0]["x"][:, :8])
    np.testing.assert_allclose(statistics.mean[0]["x"], seen.mean(), rtol=1e-4)
    np.testing.assert_allclose(statistics.variance[0]["x"], seen.var(), rtol=1e-4)
    for name in ("observation", "next_observation"):
        expected = (getattr(raw, name)[0]["x"] - seen.mean()) / seen.std()
        np.testing.assert_allclose(getattr(batch, name)[0]["x"], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(getattr(batch, name)[1], getattr(raw, name)[1])
    assert_same(policy.observation_statistics, statistics)
    # The blocks draw slots of their own, here known by their times.
    assert len(np.unique(raw.observation[1].reshape(4, 3), axis=0)) > 2


def test_before_learning_starts_actions_are_uniform_and_nothing_is_learned(agent):
    # 20 transitions are asked for, 8 come with an update: three updates are random.
    states = [jax.jit(agent.init)(KEY)]
    for number in range(1, 6):
        result = runner.train(agent, key=KEY, num_updates=number, chunk_length=10)
        states.append(result.state)
        assert states[-1].agent.num_steps == 10 * max(0, number - 3)
    assert result.metrics["gradient_steps"].tolist() == [0, 0, 0, 10, 10]
    assert (result.metrics["critic_loss"][:3] == 0).all() and result.metrics["critic_loss"][3] > 0
    assert_same(states[3].agent, states[0].agent)
    for before, after in itertools.pairwise(states[3:]):
        assert differs(before.agent.actor, after.agent.actor)
        assert differs(before.agent.critics, after.agent.critics)
    items = states[5].world.rows.buffers.items
    actions = np.asarray(items.action)[..., 0]
    uniform = actions[:, :3]
    assert (np.abs(uniform) <= 1).all() and len(np.unique(uniform)) == 24
    assert abs(uniform.mean()) < 0.3 and 0.2 < uniform.var() < 0.46
    # Then they are the policy's, whose parameters are still the first ones, with noise.
    seen = jax.tree.map(lambda x: x[:, 3], items.observation)
    noise = actions[:, 3] - quadratic().actor(states[0].agent.actor, seen)[:, 0]
    assert np.abs(noise).max() < 0.4 and 0.03 < noise.std() < 0.2
    assert len(np.unique(noise)) == 8


def batch_of(number, seed=0):
    draw = np.random.default_rng(seed).normal
    return replay.Transition(
        observation=jnp.asarray(draw(size=(number, 3)), jnp.float32),
        action=jnp.asarray(np.tanh(draw(size=(number, 1))), jnp.float32),
        reward=jnp.asarray(draw(size=number), jnp.float32),
        terminated=jnp.arange(number) % 3 == 0,
        next_observation=jnp.asarray(draw(size=(number, 3)), jnp.float32),
    )


def test_one_gradient_step_is_the_formula():
    network = pendulum_network()
    config = TwinDelayedConfig(policy_delay=1, policy_noise=1.0, noise_clip=0.0, tau=0.1)
    learner = algorithms.twin_delayed(network, config)
    batch, key = batch_of(6), jax.random.key(3)

    def check():
        before = learner.init(KEY)
        # Targets of their own, so that they cannot be taken for the networks.
        before = before.replace(
            target_actor=network.init_actor(jax.random.key(1)),
            target_critics=network.init_critics(jax.random.key(2), 2),
        )
        action = network.actor(before.target_actor, batch.next_observation)
        following = network.values(before.target_critics, batch.next_observation, action)
        values = network.values(before.critics, batch.observation, batch.action)
        after, metrics = learner.update(before, batch, key)
        by_actor = network.values(
            after.critics, batch.observation, network.actor(before.actor, batch.observation)
        )
        return before, after, metrics, following, values, by_actor

    before, after, metrics, following, values, by_actor = jax.jit(check)()
    target = batch.reward + 0.99 * (1.0 - batch.terminated) * following.min(axis=0)
    expected = np.sum(np.mean((values - target) ** 2, axis=1))
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["value"], values.mean(), rtol=1e-4)
    # The policy follows the first critic, as it is after its own step.
    np.testing.assert_allclose(metrics["actor_loss"], -by_actor[0].mean(), rtol=1e-4)
    for new, old, target in (
        (after.actor, before.target_actor, after.target_actor),
        (after.critics, before.target_critics, after.target_critics),
    ):
        for n, o, t in zip(leaves(new), leaves(old), leaves(target), strict=True):
            np.testing.assert_allclose(t, 0.9 * o + 0.1 * n, rtol=1e-5, atol=1e-6)


def test_target_noise_is_clipped_and_drawn_for_every_item():
    """The critic is the action itself, so that targets show the smoothed actions."""
    base = quadratic()
    network = networks.DeterministicNetworks(
        init_actor=base.init_actor,
        actor=lambda params, observation: jnp.zeros((observation.shape[0], 1)),
        init_critic=lambda key: jnp.zeros(()),
        critic=lambda params, observation, action: action[:, 0] + params,
        to_environment=base.to_environment,
        num_actions=1,
    )
    learner = algorithms.twin_delayed(network, TwinDelayedConfig(policy_noise=0.4, discount=1.0))
    rule = learner.update.__self__
    batch = batch_of(2000)._replace(reward=jnp.zeros(2000), terminated=jnp.zeros(2000, bool))
    noise = jax.jit(lambda: rule.target(learner.init(KEY), batch, jax.random.key(1)))()
    assert np.abs(noise).max() == 0.5 and abs(noise.mean()) < 0.03
    inside = noise[np.abs(noise) < 0.5]
    assert len(np.unique(inside)) > 0.99 * len(inside)
    # Beyond 1.25 standard deviations on both sides: 21%.
    assert 0.18 < 1.0 - len(inside) / 2000 < 0.25
    # Four devices draw for their shares what one draws for the whole batch.
    shares = jax.tree.map(lambda x: x.reshape((4, 500, *x.shape[1:])), batch)
    on_four = jax.pmap(
        lambda share: rule.target(learner.init(KEY), share, jax.random.key(1)),
        axis_name=parallel.AXIS,
    )(shares)
    np.testing.assert_allclose(on_four.reshape(-1), noise, atol=1e-6)


DELAY = 3
LEARNER = algorithms.twin_delayed(
    pendulum_network(),
    # A rate that is positive only at the critics' third step.
    TwinDelayedConfig(
        policy_delay=DELAY, actor_learning_rate=lambda step: jnp.where(step == 2, 1.0, 0.0)
    ),
)
learner_init, learner_update = jax.jit(LEARNER.init), jax.jit(LEARNER.update)


def test_the_policy_waits_for_its_delay_and_its_schedule_counts_the_critics_steps():
    state, moved = learner_init(KEY), []
    for number in range(1, 8):
        before = state
        state, _ = learner_update(state, batch_of(6, number), jax.random.fold_in(KEY, number))
        assert differs(state.critics, before.critics)
        assert differs(state.target_critics, before.target_critics) == (number % DELAY == 0)
        if differs(state.actor, before.actor):
            moved.append(number)
        counts = [x for x in jax.tree.leaves(state.actor_optimiser) if x.dtype == jnp.int32]
        assert len(counts) > 0 and all(count == number // DELAY for count in counts)
    assert moved == [3]


def test_the_rule_learns_from_any_batch_and_vmaps_over_a_population():
    keys, batch = jax.random.split(KEY, 3), batch_of(6)
    members = [learner_init(key) for key in keys]
    # One of the three is ahead, so that the policies' delays fall apart.
    members[1] = members[1].replace(num_steps=jnp.int32(2))
    states = jax.tree.map(lambda *x: np.stack(x), *members)
    after, metrics = jax.jit(jax.vmap(LEARNER.update, in_axes=(0, None, 0)))(states, batch, keys)
    for index, member in enumerate(members):
        alone, _ = learner_update(member, batch, keys[index])
        for a, b in zip(leaves(after), leaves(alone), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-4, atol=1e-5)
        assert differs(member.actor, alone.actor) == (index == 1)
    assert len(set(metrics["critic_loss"].tolist())) == 3


def test_seeds_on_two_devices_equal_seeds_alone_on_one_and_differ(agent):
    run = {"key": KEY, "num_updates": 6, "chunk_length": 10}
    together = runner.train(agent, num_seeds=2, num_devices=2, **run)
    alone = runner.train(agent, **(run | {"key": jax.random.fold_in(KEY, 1)}))
    # Also the buffers' contents: a device keeps those of its environments.
    for name in ("agent", "world"):
        pair = (leaves(getattr(x.state, name)) for x in (together, alone))
        for both, one in zip(*pair, strict=True):
            np.testing.assert_allclose(both[1], one, atol=1e-4)
    assert len(set(together.metrics["critic_loss"][-1].tolist())) == 2
    actions = together.state.world.rows.buffers.items.action
    assert np.all(np.any(actions[0] != actions[1], axis=(1, 2)))


def test_a_resumed_run_ends_in_the_same_bits_with_its_buffer(agent, undisturbed, tmp_path):
    run = {"key": KEY, "chunk_length": 10, "out": tmp_path}
    runner.train(agent, num_updates=4, **run)
    resumed = runner.train(agent, num_updates=10, resume=True, **run)
    assert_same(resumed.state, undisturbed.state)


def test_after_the_first_chunk_nothing_is_compiled(agent, undisturbed, compilations):
    runner.train(agent, key=jax.random.key(5), num_updates=7, chunk_length=10)
    before = len(compilations)
    runner.train(agent, key=jax.random.key(6), num_updates=13, chunk_length=10)
    assert len(compilations) == before


def test_evaluation_changes_nothing_and_is_without_noise(agent, undisturbed):
    state = undisturbed.state
    before = [np.array(x) for x in leaves(state)]
    evaluate = jax.jit(agent.evaluate)
    first, again = (evaluate(state, jax.random.key(7)) for _ in range(2))
    for a, b in zip(before, leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first["eval_return"] == again["eval_return"]
    assert first["eval_length"] == 3.0 and first["eval_complete"] == 1.0
    env, params = Regulator(), LinearParams()
    act = algorithms.deterministic_acting(quadratic(), undisturbed.policy)
    returns, _, _ = jax.jit(lambda key: rollout.evaluate(env, params, act, key, num_envs=2))(
        jax.random.key(7)
    )
    np.testing.assert_allclose(returns.mean(), first["eval_return"], rtol=1e-5)


def test_exploration_is_drawn_for_every_environment_and_stays_in_the_box():
    network = quadratic()
    policy = algorithms.Policy({"gain": jnp.float32(0.0)}, ())
    observation = ({"x": jnp.zeros(400)}, jnp.zeros(400, jnp.int32))

    def actions(scale, at_random):
        act = algorithms.exploring(network, policy, exploration.Gaussian(scale), at_random)
        keys = rollout.row_keys(KEY, 400)
        return act((), observation, jnp.zeros(400, bool), keys)[1:3]

    explored, _ = jax.jit(actions)(0.1, False)
    # The push 0 is -0.25 in an action of [-3, 5].
    assert abs(explored.mean() + 0.25) < 0.02 and 0.08 < explored.std() < 0.12
    assert len(np.unique(explored)) == 400
    wide, pushed = jax.jit(actions)(5.0, False)
    assert np.abs(wide).max() == 1.0 and pushed.min() == -3.0 and pushed.max() == 5.0
    uniform, _ = jax.jit(actions)(0.1, True)
    assert abs(uniform.mean()) < 0.1 and 0.28 < uniform.var() < 0.39


def test_noise_with_a_memory_follows_its_formula_and_forgets_at_a_reset():
    noise = exploration.OrnsteinUhlenbeck(scale=0.3, return_rate=0.2, step=0.25)
    keys = jax.random.split(KEY, 3)
    carry = jnp.array([[1.0, -1.0], [2.0, 0.5], [4.0, 4.0]])
    reset = jnp.array([False, False, True])
    after, drawn = jax.jit(lambda: noise.draw(carry, reset, keys, 2))()
    _, normal = jax.jit(lambda: exploration.Gaussian(1.0).draw((), reset, keys, 2))()
    before = np.where(reset[:, None], 0.0, carry)
    np.testing.assert_allclose(drawn, 0.95 * before + 0.15 * normal, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after, drawn)
    assert len(np.unique(normal)) == 6
    assert noise.initial(3, 2).tolist() == [[0.0, 0.0]] * 3


def test_ddpg_in_environments_of_their_own_explores_and_uses_no_key_twice():
    config = {"num_steps": 4, "learning_starts": 0, "env_params_per_env": True}
    agent = algorithms.ddpg(
        Regulator(),
        LinearParams(jnp.arange(1, 9), jnp.full(8, 9)),
        networks=quadratic(),
        exploration=exploration.OrnsteinUhlenbeck(),
        **(SMALL | config),
    )
    with jax.debug_key_reuse(True):
        state, metrics = jax.jit(lambda key: agent.update(agent.init(key)))(KEY)
    assert metrics["episode_count"] == 4 + 2 + 1 + 1 and metrics["gradient_steps"] == 3
    carry = state.world.rows.environments.carry
    assert carry.shape == (8, 1) and len(np.unique(carry)) == 8
    assert state.agent.critics["w"].shape == (1, 3)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"num_env": 4}, "'num_env' is no field of TD3Config; did you mean 'num_envs'"),
        ({"batch_size": 0}, "batch_size is 0, but it has to be at least 1"),
        ({"policy_delay": 0}, "policy_delay is 0, but it has to be at least 1"),
        ({"learning_starts": -1}, "learning_starts is -1, but it has to be at least 0"),
        ({"capacity": 15}, "capacity is 15, but one update collects 16 transitions"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(config, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        pendulum(**config)


def test_discrete_actions_are_refused_and_blocks_have_to_divide():
    env, params = jaxpg_envs.make("CartPole-v1")
    with pytest.raises(ValueError, match="Discrete, but a deterministic policy needs a box"):
        algorithms.td3(env, params)
    with pytest.raises(ValueError, match="num_devices is 4, which does not divide"):
        runner.train(pendulum(num_envs=3), key=KEY, num_updates=1, num_devices=4)


def test_a_budget_in_steps_and_the_description_are_those_of_the_run(agent):
    assert agent.steps_per_update == 8 and agent.updates_for(1001) == 126
    assert agent.description["algorithm"] == "td3" and agent.description["tau"] == 0.05
    assert agent.description["exploration"] == {"scale": 0.1}
    assert pendulum(tau=0.01).description != pendulum().description
