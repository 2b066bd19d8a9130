"""Learning by the derivative of the cost of fixed scenarios."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg_envs
from jaxpg import policies, runner, simulation
from jaxpg.algorithms import pathwise
from jaxpg_envs import inventory

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def pushes():
    return np.random.default_rng(1).normal(size=(8, 5))


@pytest.fixture(scope="module")
def agent(linear_system, pushes):
    return pathwise(
        linear_system,
        linear_system,
        linear_system.scenarios(pushes),
        dev=linear_system.scenarios(pushes[:4]),
        batch_size=4,
        num_steps=5,
        num_epochs=2,
        learning_rate=0.1,
    )


def gain_cost(env, scenarios, gain, num_steps=5):
    """Mean cost of a gain."""
    keys = jax.random.split(jax.random.key(0), simulation.num_scenarios(scenarios))
    states = simulation.start(env, scenarios, keys)
    decide = functools.partial(env.decide, gain)
    return jnp.mean(simulation.advance(env, decide, scenarios, states, keys, 0, num_steps)[1])


def test_one_step_is_the_optimiser_on_the_whole_gradient(linear_system, pushes):
    scenarios = linear_system.scenarios(pushes)
    agent = pathwise(linear_system, linear_system, scenarios, optax.sgd(0.1), num_steps=5)
    state = jax.jit(agent.init)(KEY)
    update = jax.jit(agent.update)
    after, metrics = update(state)
    update(after)
    assert update._cache_size() == 1
    env = linear_system.with_transition_gradients()
    cost, slope = jax.value_and_grad(functools.partial(gain_cost, env, scenarios))(state.params)
    np.testing.assert_allclose(after.params, state.params - 0.1 * slope, rtol=1e-6)
    np.testing.assert_allclose(metrics["cost"], cost, rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], abs(slope), rtol=1e-6)


def test_it_finds_the_best_gain(agent, linear_system, pushes):
    result = runner.train(agent, key=KEY, num_updates=60, num_seeds=2, evaluate_every=30)
    dev = linear_system.scenarios(pushes[:4])
    gains = np.linspace(0.2, 1.0, 401)
    costs = jax.jit(jax.vmap(functools.partial(gain_cost, linear_system, dev)))(gains)
    found = result.metrics["best_dev_cost"]
    # What trains on all eight scenarios is compared on four, and the cheapest there is kept.
    assert np.all(np.diff(found, axis=0) <= 0)
    np.testing.assert_allclose(found, np.minimum.accumulate(result.metrics["dev_cost"]))
    np.testing.assert_allclose(found[-1], np.min(costs), rtol=0.03)
    np.testing.assert_allclose(result.evaluations["eval_cost"][-1], found[-1], rtol=1e-6)
    kept = jax.vmap(functools.partial(gain_cost, linear_system, dev))(result.policy)
    np.testing.assert_allclose(kept, found[-1], rtol=1e-6)


def test_seeds_devices_and_pieces_give_the_same_numbers(agent, tmp_path):
    whole = runner.train(agent, key=KEY, num_updates=4, num_seeds=2, chunk_length=2)
    one = runner.train(agent, key=jax.random.fold_in(KEY, 1), num_updates=4, chunk_length=4)
    np.testing.assert_allclose(one.state.params, whole.state.params[1], rtol=1e-6)
    shared = runner.train(agent, key=KEY, num_updates=4, num_seeds=2, num_devices=4)
    np.testing.assert_allclose(shared.state.params, whole.state.params, rtol=1e-5)
    np.testing.assert_allclose(shared.metrics["dev_cost"], whole.metrics["dev_cost"], rtol=1e-5)
    runner.train(agent, key=KEY, num_updates=2, num_seeds=2, out=tmp_path, chunk_length=2)
    resumed = runner.train(
        agent, key=KEY, num_updates=4, num_seeds=2, out=tmp_path, chunk_length=2, resume=True
    )
    for ours, theirs in zip(
        jax.tree.leaves(resumed.state.replace(key=())),
        jax.tree.leaves(whole.state.replace(key=())),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_scenarios_are_arguments_of_one_program_for_all_seeds(linear_system):
    agent = pathwise(
        linear_system, linear_system, linear_system.scenarios(np.zeros((4096, 64))), num_steps=2
    )
    state = jax.jit(agent.init)(KEY)
    program = jax.jit(agent.update.func).lower(*agent.update.args, state).as_text()
    assert len(program) < 100_000
    assert max(leaf.size for leaf in jax.tree.leaves(state.replace(key=(), chosen=()))) == 1


def test_each_epoch_visits_every_scenario_once(linear_system):
    pushes = np.arange(6.0)[:, None]
    agent = pathwise(
        linear_system, linear_system, linear_system.scenarios(pushes), optax.sgd(0.0),
        num_steps=2, batch_size=2, num_epochs=3,
    )  # fmt: skip
    state, metrics = jax.jit(agent.update)(jax.jit(agent.init)(KEY))
    whole = gain_cost(linear_system, linear_system.scenarios(pushes), state.params, 2)
    np.testing.assert_allclose(metrics["cost"], whole, rtol=1e-6)


def test_a_seed_trains_on_scenarios_of_its_own(linear_system):
    pushes = np.arange(6.0)[:, None]
    agent = pathwise(
        linear_system, linear_system, linear_system.scenarios(pushes), optax.sgd(0.0),
        num_steps=2, subset=2, num_epochs=3,
    )  # fmt: skip
    states = jax.jit(jax.vmap(agent.init))(jax.random.split(KEY, 8))
    assert len({tuple(sorted(np.array(chosen))) for chosen in states.chosen}) > 1
    _, metrics = jax.jit(jax.vmap(agent.update))(states)
    for seed in range(8):
        own = linear_system.scenarios(pushes[np.array(states.chosen[seed])])
        expected = gain_cost(linear_system, own, states.params[seed], 2)
        np.testing.assert_allclose(metrics["cost"][seed], expected, rtol=1e-6)


def test_no_key_is_used_twice():
    """The check raises where one is; stock and demand are drawn by the scenarios' keys."""
    env, params = jaxpg_envs.make("inventory/one-store-lost", lead_time=2)
    policy = policies.base_stock()
    agent = pathwise(env, policy, inventory.copies(params, 4), num_steps=3, batch_size=2)
    with jax.debug_key_reuse(True):
        _, metrics = agent.update(agent.init(jax.random.key(0)))
    assert np.isfinite(metrics["cost"])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"batch_size": 3}, "batch_size is 3, which does not divide the 8 scenarios"),
        ({"num_ignored": 5}, "num_steps is 5, but it has to be at least 6"),
        ({"cut_every": 2}, "cut_every is 2, which does not divide num_steps=5"),
        ({"subset": 9}, "subset is 9, but there are 8 scenarios to draw from"),
        ({"num_epochs": 0}, "num_epochs is 0, but it has to be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(linear_system, pushes, overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        pathwise(
            linear_system,
            linear_system,
            linear_system.scenarios(pushes),
            **({"num_steps": 5} | overrides),
        )


def test_an_environment_without_gradients_is_refused(counting_env):
    with pytest.raises(ValueError, match="CountingEnv, which has no gradients"):
        pathwise(counting_env, None, {"x": jnp.zeros(3)})
