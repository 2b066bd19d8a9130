"""Through an inventory simulator a level finds the optimum that is known in closed form."""

import jax
import pytest

import jaxpg_envs
from jaxpg import policies, runner, simulation
from jaxpg.algorithms import pathwise
from jaxpg_envs import inventory
from jaxpg_envs.inventory import references


def test_a_base_stock_level_learns_the_optimum():
    env, params = jaxpg_envs.make("inventory/one-store-backlogged", lead_time=4, underage_cost=9.0)
    policy = policies.base_stock()
    train = inventory.scenarios(env, params, jax.random.key(0), 256, 50)
    agent = pathwise(
        env, policy, train, batch_size=64, num_epochs=10, num_steps=50, learning_rate=0.5
    )
    result = runner.train(agent, key=jax.random.key(1), num_updates=4)
    optimum = references.backlogged_base_stock(1.0, 9.0, 4, 5.0, 1.6)
    assert jax.nn.softplus(result.policy)[0] == pytest.approx(optimum.level, abs=1.0)
    report = simulation.simulate(
        env,
        jax.tree_util.Partial(policy.apply, result.policy),
        inventory.copies(params, 512),
        jax.random.key(2),
        300,
        num_ignored=50,
    )
    assert report.mean == pytest.approx(optimum.cost, rel=0.02)
    assert report.mean > optimum.cost - 3 * report.standard_error
