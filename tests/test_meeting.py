"""Where the packages meet: problems of the audit are environments, and agents learn in them."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg_envs
from jaxpg import diagnostics, distributions, estimators, networks, rollout, runner
from jaxpg.algorithms import on_policy


def tabular_network(logits):
    """A policy that looks its logits up; the observation is the one-hot state."""

    def step(params, carry, observation, reset):
        return carry, observation @ logits, None

    return networks.Networks(
        init=lambda key: (),
        initial_carry=lambda num_rows: (),
        step=step,
        unroll=None,
        distribution=distributions.categorical,
        to_environment=lambda action: action,
        recurrent=False,
        has_critic=False,
    )


def test_the_exact_return_of_the_audit_is_the_mean_return_of_the_environment():
    env, params = jaxpg_envs.make("tabular/random", num_states=3, horizon=4)
    problem = diagnostics.tabular_mdp(params, seed=1)
    network = tabular_network(problem.params)

    def act(carry, observation, reset, keys):
        _, logits, _ = network.step((), carry, observation, reset)
        action = jax.vmap(distributions.categorical.sample)(keys, logits)
        return carry, action, action, jnp.zeros(reset.shape)

    returns, lengths, _ = jax.jit(
        lambda key: rollout.evaluate(env, params, act, key, num_envs=20_000)
    )(jax.random.key(0))
    error = returns.std() / np.sqrt(returns.size)
    assert np.abs(returns.mean() - problem.expected_return(problem.params)) < 4 * error
    assert (lengths == 4).all()


def test_an_agent_finds_the_best_arm_of_a_bandit():
    env, params = jaxpg_envs.make("bandit", mean=jnp.array([0.0, 1.0, 0.2]), std=0.1)
    agent = on_policy(
        env,
        params,
        estimators.reinforce_with_baseline(),
        networks=networks.actor_critic(
            env.observation_space(params), env.action_space(params), hidden=()
        ),
        num_envs=32,
        num_steps=2,
        num_epochs=1,
        num_minibatches=1,
        learning_rate=0.1,
    )
    result = runner.train(agent, key=jax.random.key(0), num_updates=60, chunk_length=60)
    assert result.metrics["episode_return"][-1] > 0.9


def test_an_environment_of_ones_own_needs_no_registration(counting_env):
    params = counting_env.default_params
    jaxpg_envs.check(counting_env, params)
    agent = on_policy(
        counting_env, params, estimators.ppo(), num_envs=4, num_steps=4, num_minibatches=1
    )
    _, metrics = jax.jit(lambda key: agent.update(agent.init(key)))(jax.random.key(0))
    assert metrics["episode_return"] == 3.0
