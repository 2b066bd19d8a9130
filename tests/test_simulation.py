"""Scenarios of a linear system, whose costs and gradients a few lines of NumPy repeat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg import policies, simulation
from jaxpg_envs import inventory

STEPS, SCENARIOS = 6, 3
PUSHES = np.random.default_rng(0).normal(size=(SCENARIOS, STEPS))


@pytest.fixture
def scenarios(linear_system):
    return linear_system.scenarios(PUSHES)


def by_hand(gain, cut_every=0):
    """Costs `[T, N]` and the derivative of their mean with respect to the gain."""
    position, slope = np.ones(SCENARIOS), np.zeros(SCENARIOS)
    costs, slopes = [], []
    for time in range(STEPS):
        if cut_every and time % cut_every == 0:
            slope = np.zeros(SCENARIOS)
        action, action_slope = -gain * position, -position - gain * slope
        costs.append(position**2 + 0.5 * action**2)
        slopes.append(2 * position * slope + action * action_slope)
        position, slope = position + action + PUSHES[:, time], slope + action_slope
    return np.array(costs), np.mean(slopes)


def run(env, scenarios, gain, **options):
    keys = jax.random.split(jax.random.key(0), SCENARIOS)
    states = simulation.start(env, scenarios, keys)
    decide = lambda observations: -gain * observations
    return simulation.advance(env, decide, scenarios, states, keys, 0, STEPS, **options)[1]


@pytest.mark.parametrize(
    "options", [{}, {"remat": True}, {"unroll": 4}, {"cut_every": 1}, {"cut_every": 3}], ids=str
)
def test_costs_and_gradients_are_those_of_the_recursion(linear_system, options):
    env = linear_system.with_transition_gradients()
    with jax.enable_x64(True):
        scenarios = linear_system.scenarios(PUSHES)
        mean = lambda gain: (jnp.mean(costs := run(env, scenarios, gain, **options)), costs)
        (_, costs), slope = jax.jit(jax.value_and_grad(mean, has_aux=True))(0.4)
        expected, expected_slope = by_hand(0.4, options.get("cut_every", 0))
        np.testing.assert_allclose(costs, expected, rtol=1e-12)
        np.testing.assert_allclose(slope, expected_slope, rtol=1e-12)
        if not options.get("cut_every"):
            step = 1e-6
            central = (by_hand(0.4 + step)[0].mean() - by_hand(0.4 - step)[0].mean()) / (2 * step)
            np.testing.assert_allclose(slope, central, rtol=1e-8)


def test_a_detached_environment_gives_the_myopic_gradient_only(linear_system, scenarios):
    slope = jax.grad(lambda gain: jnp.mean(run(linear_system, scenarios, gain)))(0.4)
    np.testing.assert_allclose(slope, by_hand(0.4, cut_every=1)[1], rtol=1e-5)


def test_blocks_of_any_length_give_the_same_cost(linear_system, scenarios):
    expected = by_hand(0.4)[0][2:].mean(axis=0)
    for block in (1, 4, 100):
        report = simulation.simulate(
            linear_system,
            jax.tree_util.Partial(linear_system.decide, 0.4),
            scenarios,
            jax.random.key(1),
            STEPS,
            num_ignored=2,
            block=block,
        )
        np.testing.assert_allclose(report.costs, expected, rtol=1e-6)
    assert report.costs.dtype == np.float64
    assert report.mean == pytest.approx(expected.mean())
    assert report.standard_error == pytest.approx(expected.std(ddof=1) / SCENARIOS**0.5)


def test_what_does_not_fit_is_refused(linear_system, scenarios):
    with pytest.raises(ValueError, match="cut_every is 4, which does not divide num_steps=6"):
        run(linear_system, scenarios, 0.4, cut_every=4)
    with pytest.raises(ValueError, match=r"num_steps is 2, but it has to be at least 4"):
        simulation.simulate(
            linear_system, lambda x: x, scenarios, jax.random.key(0), 2, num_ignored=3
        )
    with pytest.raises(ValueError, match="scenarios have leaves with the leading axes"):
        simulation.num_scenarios({"a": jnp.zeros(3), "b": jnp.zeros((2, 3))})


def test_no_key_is_used_twice():
    """The check raises where one is; a Poisson demand draws in every step."""
    env, params = jaxpg_envs.make("inventory/one-store-lost", lead_time=2)
    policy = policies.base_stock()
    levels = policy.init(jax.random.key(0))
    with jax.debug_key_reuse(True):
        report = simulation.simulate(
            env,
            jax.tree_util.Partial(policy.apply, levels),
            inventory.copies(params, 3),
            jax.random.key(1),
            4,
            block=2,
        )
    assert np.isfinite(report.mean)
