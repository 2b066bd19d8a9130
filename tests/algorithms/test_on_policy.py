"""On-policy agents: first ratios, bootstraps, traced rates, recurrence, frozen evaluation."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnax.environments import environment, spaces

import jaxpg_envs
from jaxpg import estimators, methods, networks, normalisation, rollout, runner
from jaxpg.algorithms import Policy, acting, on_policy
from jaxpg.checkpoint import Checkpoints
from jaxpg.method import Method
from jaxpg_envs.spaces import MultiDiscrete

SMALL = {"num_envs": 4, "num_steps": 8, "num_epochs": 1, "num_minibatches": 1}


def cartpole(method=None, network=None, **config):
    env, params = jaxpg_envs.make("CartPole-v1", max_steps_in_episode=10)
    network = networks.actor_critic(
        env.observation_space(params), env.action_space(params), hidden=(8,), **(network or {})
    )
    return on_policy(env, params, method or estimators.ppo(), networks=network, **(SMALL | config))


def pendulum(**config):
    env, params = jaxpg_envs.make("Pendulum-v1", max_steps_in_episode=6)
    network = networks.actor_critic(
        env.observation_space(params), env.action_space(params), hidden=(8,), initial_log_std=2.0
    )
    return on_policy(env, params, estimators.ppo(), networks=network, **(SMALL | config))


@pytest.mark.parametrize(
    "agent",
    [
        cartpole(learning_rate=0.0, num_epochs=2, num_minibatches=2),
        cartpole(network={"recurrent": 5}, learning_rate=0.0, num_epochs=2, num_minibatches=2),
        pendulum(learning_rate=0.0, normalise_observations=True),
    ],
    ids=["feed-forward", "recurrent", "clipped actions and normalised observations"],
)
def test_all_ratios_are_one_before_anything_was_learned(agent):
    result = runner.train(agent, key=jax.random.key(0), num_updates=3, chunk_length=3)
    # The normal policy's actions leave the box here: what is stored is what was scored.
    np.testing.assert_allclose(result.metrics["approximate_kl"], 0.0, atol=1e-6)
    assert (result.metrics["masked_share"] == 0).all()


def test_truncated_steps_bootstrap_from_the_final_observation(counting_env):
    params = counting_env.default_params
    network = networks.actor_critic(
        counting_env.observation_space(params), counting_env.action_space(params), hidden=(4,)
    )
    agent = on_policy(counting_env, params, estimators.ppo(), networks=network, **SMALL)
    seen = {}

    def override(seams):
        def select(trajectory, state):
            seen["trajectory"] = trajectory
            return trajectory

        return seams._replace(select=select)

    spy = on_policy(
        counting_env,
        params,
        Method("spy", estimators.ppo(normalise=False), override),
        networks=network,
        **SMALL,
    )
    state = spy.init(jax.random.key(0))
    spy.update(state)
    trajectory = seen["trajectory"]
    value = lambda time, draw: network.step(
        state.params, (), jnp.array([[time, draw]]), jnp.zeros(1, bool)
    )[2][0]
    draws = trajectory.observation[0, :, 1]
    for t in range(7):
        # Episodes of three steps: time 3 is the final observation, never the reset's time 0.
        expected = value(t % 3 + 1.0, draws[t])
        np.testing.assert_allclose(trajectory.extras["next_value"][0, t], expected, rtol=1e-5)
    assert "final_observation" not in trajectory.extras
    assert agent.steps_per_update == 32


def test_a_learning_rate_is_a_traced_number_and_sweeps_under_vmap():
    def after_two_updates(rate):
        agent = cartpole(learning_rate=rate)
        state = agent.init(jax.random.key(0))
        state, _ = agent.update(state)
        return agent.update(state)[0].params

    rates = jnp.array([0.0, 1e-3, 1e-2])
    swept = jax.jit(jax.vmap(after_two_updates))(rates)
    alone = jax.jit(after_two_updates)(1e-2)
    for all_rates, one in zip(jax.tree.leaves(swept), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(all_rates[2], one, atol=1e-5)
    assert any(np.any(leaf[0] != leaf[1]) for leaf in jax.tree.leaves(swept))


def test_entropy_clip_and_discount_may_be_traced_too():
    def loss(values):
        clip, discount, entropy = values
        estimator = estimators.ppo(clip, discount=discount, entropy=entropy)
        agent = cartpole(estimator)
        return agent.update(agent.init(jax.random.key(0)))[1]["loss"]

    losses = jax.jit(jax.vmap(loss))(jnp.array([[0.2, 0.99, 0.0], [0.1, 0.9, 0.1]]))
    assert np.isfinite(losses).all() and losses[0] != losses[1]


def test_a_small_target_kl_ends_the_update_early():
    free = cartpole(learning_rate=0.05, num_epochs=4, num_minibatches=2)
    bounded = cartpole(learning_rate=0.05, num_epochs=4, num_minibatches=2, target_kl=1e-4)
    metrics = jax.jit(lambda key: bounded.update(bounded.init(key))[1])(jax.random.key(0))
    assert 1 <= metrics["steps_taken"] < 8
    freely = jax.jit(lambda key: free.update(free.init(key))[1])(jax.random.key(0))
    assert freely["approximate_kl"] > metrics["approximate_kl"]


def test_the_adaptive_penalty_follows_the_rule_of_its_source():
    agent = cartpole(methods.ppo_adaptive_penalty(target_kl=1e-9), learning_rate=1e-2)
    result = runner.train(agent, key=jax.random.key(0), num_updates=4, chunk_length=4)
    # The first gradient step of an update has KL 0, so a single step halves the coefficient.
    coefficient, kl = result.metrics["penalty_coefficient"], result.metrics["behaviour_kl"]
    for before, after, at in zip(coefficient[:-1], coefficient[1:], kl[:-1], strict=True):
        expected = 2.0 if at > 1.5e-9 else 0.5 if at < 1e-9 / 1.5 else 1.0
        assert after == before * expected


def test_evaluation_leaves_state_and_statistics_alone():
    agent = pendulum(normalise_observations=True, normalise_rewards=True, eval_envs=2)
    state = jax.jit(lambda key: agent.update(agent.init(key))[0])(jax.random.key(0))
    before = jax.tree.map(
        lambda x: (
            np.array(jax.random.key_data(x))
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else np.array(x)
        ),
        state,
    )
    first = agent.evaluate(state, jax.random.key(7))
    again = agent.evaluate(state, jax.random.key(7))
    after = jax.tree.map(
        lambda x: (
            np.array(jax.random.key_data(x))
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else np.array(x)
        ),
        state,
    )
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first["eval_return"] == again["eval_return"]
    assert first["eval_length"] == 6.0 and first["eval_complete"] == 1.0


def test_the_policy_carries_the_statistics_it_was_trained_with():
    agent = pendulum(normalise_observations=True)
    state = jax.jit(lambda key: agent.update(agent.init(key))[0])(jax.random.key(0))
    policy = agent.policy(state)
    assert float(policy.observation_statistics.num_samples) == 32
    assert np.any(policy.observation_statistics.mean != 0)


def test_a_restored_policy_normalises_as_it_was_trained(tmp_path):
    data = jnp.array([[95.0, 105.0]]).T  # mean 100, variance 25
    statistics = normalisation.update_statistics(
        normalisation.initial_statistics(jnp.zeros(1)), data
    )
    folder = Checkpoints(tmp_path)
    folder.save(0, Policy({"w": jnp.ones(1)}, statistics), {})
    folder.wait()
    like = Policy({"w": jnp.zeros(1)}, normalisation.initial_statistics(jnp.zeros(1)))
    _, policy = Checkpoints(tmp_path).restore(like, {})
    seen = normalisation.normalise(policy.observation_statistics, jnp.array([105.0]))
    np.testing.assert_allclose(seen, 1.0, rtol=1e-6)


def test_a_policy_acts_outside_of_training():
    env, params = jaxpg_envs.make("CartPole-v1", max_steps_in_episode=10)
    network = networks.actor_critic(
        env.observation_space(params), env.action_space(params), hidden=(8,)
    )
    agent = on_policy(env, params, estimators.ppo(), networks=network, **SMALL)
    policy = agent.policy(jax.jit(agent.init)(jax.random.key(0)))
    act = acting(network, policy, deterministic=True)
    returns, _, complete = rollout.evaluate(env, params, act, jax.random.key(1), num_envs=3)
    assert returns.shape == (3, 1) and complete.all()


def test_a_budget_in_steps_is_rounded_up_to_whole_updates():
    env, params = jaxpg_envs.make("CartPole-v1")
    agent = on_policy(env, params, estimators.ppo(), num_envs=3, num_steps=128)
    # 1,000 steps asked, 384 an update: 3 updates of 1,152 steps, not 2 of 768.
    assert agent.updates_for(1000) == 3 and agent.updates_for(1152) == 3


def test_runs_with_other_seeds_differ_everywhere():
    agent = cartpole()
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    states = jax.jit(jax.vmap(agent.init))(keys)
    for leaf in (
        states.params["params"]["policy_torso"]["Dense_0"]["kernel"],
        states.world.rows.observation,
    ):
        assert np.any(leaf[0] != leaf[1]) and np.any(leaf[1] != leaf[2])
    after = jax.jit(jax.vmap(agent.update))(states)[1]
    assert len(set(after["loss"].tolist())) == 3


def test_an_update_uses_no_key_twice():
    agent = cartpole()
    with jax.debug_key_reuse(True):
        state = agent.init(jax.random.key(0))
        state, _ = agent.update(state)
        agent.evaluate(state, jax.random.key(1))


def assert_learns(agent):
    before = jax.jit(agent.init)(jax.random.key(0))
    after, metrics = jax.jit(agent.update)(before)
    assert np.isfinite(metrics["loss"])
    pairs = zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True)
    assert any(np.any(a != b) for a, b in pairs)


def test_other_optimisers_and_schedules_are_accepted():
    agent = cartpole(learning_rate=optax.linear_schedule(1e-3, 0.0, 10))
    assert_learns(agent)
    env, params = jaxpg_envs.make("CartPole-v1")
    agent = on_policy(env, params, estimators.a2c(), optimiser=optax.rmsprop(1e-3), **SMALL)
    assert_learns(agent)


@pytest.mark.parametrize("name", ["reinforce", "reinforce_with_baseline", "a2c", "impala"])
def test_one_update_rule_serves_every_estimator(name):
    agent = cartpole(estimators.CATALOGUE[name](), network={"critic": name != "reinforce"})
    _, metrics = jax.jit(lambda key: agent.update(agent.init(key)))(jax.random.key(0))
    assert np.isfinite(metrics["loss"])


def test_a_batch_of_different_environments_is_one_agent(counting_env):
    params = counting_env.default_params.replace(
        length=jnp.array([1, 2, 3, 4]), max_steps_in_episode=jnp.full(4, 9)
    )
    agent = on_policy(counting_env, params, estimators.ppo(), env_params_per_env=True, **SMALL)
    _, metrics = jax.jit(lambda key: agent.update(agent.init(key)))(jax.random.key(0))
    assert metrics["episode_count"] == 8 + 4 + 2 + 2


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"num_env": 4}, "'num_env' is no field of OnPolicyConfig; did you mean 'num_envs'"),
        ({"num_envs": 0}, "num_envs is 0, but it has to be at least 1"),
        (
            {"num_envs": 3, "num_steps": 128, "num_minibatches": 5},
            "num_envs=3 with num_steps=128 gives 384 decisions.*num_minibatches=5",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(config, sentence):
    env, params = jaxpg_envs.make("CartPole-v1")
    with pytest.raises((ValueError, TypeError), match=sentence):
        on_policy(env, params, estimators.ppo(), **config)


def test_recurrent_minibatches_are_rows():
    with pytest.raises(ValueError, match="num_envs=4 gives 4 rows.*num_minibatches=8"):
        cartpole(network={"recurrent": 4}, num_minibatches=8)


def test_a_missing_critic_is_named():
    with pytest.raises(ValueError, match="'ppo' needs values, but the networks have no critic"):
        cartpole(network={"critic": False})


def test_something_else_than_a_method_is_refused():
    env, params = jaxpg_envs.make("CartPole-v1")
    with pytest.raises(TypeError, match="an Estimator .* or a Method"):
        on_policy(env, params, "ppo")


@flax.struct.dataclass
class DoorState(environment.EnvState):
    """Time and what would be right now."""

    right: jax.Array


class Doors(environment.Environment):
    """Two choices at once, of 3 and of 2; it shows which are right and pays the share of them."""

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=4)

    def reset_env(self, key, params):
        return self._next(key, jnp.int32(0))

    def step_env(self, key, state, action, params):
        reward = jnp.mean(action == state.right, dtype=float)
        observation, state = self._next(key, state.time + 1)
        return observation, state, reward, jnp.zeros((), bool), {}

    def _next(self, key, time):
        right = self.action_space().sample(key)
        observation = jnp.concatenate([jax.nn.one_hot(right[k], n) for k, n in enumerate((3, 2))])
        return observation, DoorState(time, right)

    def action_space(self, params=None):
        return MultiDiscrete((3, 2))

    def observation_space(self, params=None):
        return spaces.Box(0.0, 1.0, (5,))


def test_proximal_policy_optimisation_learns_two_discrete_choices_at_once():
    env = Doors()
    params = env.default_params
    jaxpg_envs.check(env, params, num_envs=2, num_steps=10)
    network = networks.actor_critic(
        env.observation_space(params), env.action_space(params), hidden=(16,)
    )
    agent = on_policy(
        env,
        params,
        estimators.ppo(),
        networks=network,
        num_envs=16,
        num_steps=16,
        num_epochs=4,
        num_minibatches=2,
        learning_rate=2e-2,
        eval_envs=16,
    )
    result = runner.train(agent, key=jax.random.key(0), num_updates=30, chunk_length=30)
    returns = np.asarray(result.metrics["episode_return"])
    assert returns[0] < 2.5
    assert returns[-1] > 3.5
