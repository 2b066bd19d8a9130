"""Solvers against closed forms, their orders, and scipy's dopri5."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from jaxpg_envs.motor import motors, solvers


def error_of(solver):
    """Of `x' = x cos(time)` from time 0.5 for a duration of 1, whose solution is known."""
    found = solver(lambda time, x: x * np.cos(time), 1.0, 0.5, 1.0)
    return abs(found - np.exp(np.sin(1.5) - np.sin(0.5)))


@pytest.mark.parametrize("method, order", [(solvers.euler, 1), (solvers.rk4, 4)])
def test_errors_shrink_with_the_order_of_the_method(method, order):
    ratio = error_of(method(4)) / error_of(method(8))
    assert np.log2(ratio) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("method", [solvers.euler, solvers.rk4])
def test_many_steps_in_a_loop_are_as_many_written_out(method):
    derivative = lambda time, x: {"a": -x["b"] * jnp.cos(time), "b": x["a"]}
    with jax.enable_x64(True):
        looped = jax.jit(lambda x: method(12)(derivative, x, 0.5, 1.2))({"a": 1.0, "b": 0.0})
        states = {"a": 1.0, "b": 0.0}
        step = jax.jit(lambda x, time: method(1)(derivative, x, time, 0.1))
        for k in range(12):
            states = step(states, 0.5 + 0.1 * k)
        assert looped["a"] == pytest.approx(float(states["a"]), rel=1e-12)
        assert looped["b"] == pytest.approx(float(states["b"]), rel=1e-12)


@pytest.mark.parametrize("num_steps", [4, 12])
def test_fixed_steps_are_differentiable_backward(num_steps):
    solve = solvers.rk4(num_steps)
    final = lambda rate, x: solve(lambda time, x: -rate * x, x, 0.0, 0.5)
    slopes = jax.jit(jax.grad(final, argnums=(0, 1)))(2.0, 3.0)
    np.testing.assert_allclose(slopes, (-1.5 * np.exp(-1.0), np.exp(-1.0)), rtol=1e-3)


def rotor(speed, cos):
    """A PMSM whose speed swings, with a voltage that stays."""
    motor = motors.PMSM()
    return lambda time, states: motor.derivative(
        states, 100.0 + 1000.0 * cos(speed * time), (100.0, 50.0)
    )


@pytest.mark.parametrize("duration", [1e-4, 1e-2])
def test_dopri5_takes_the_steps_of_scipy(duration):
    peer = scipy.integrate.ode(lambda time, y: rotor(300.0, np.cos)(time, tuple(y)))
    peer.set_integrator("dopri5").set_initial_value([0.0, 0.0, 0.0], 0.01)
    expected = peer.integrate(0.01 + duration)
    with jax.enable_x64(True):
        solve = solvers.dopri5()
        found = jax.jit(
            lambda duration: solve(rotor(300.0, jnp.cos), (0.0, 0.0, 0.0), 0.01, duration)
        )(duration)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # Far closer together than to the solution that the tolerance allows.
    peer.set_integrator("dopri5", rtol=1e-11, nsteps=5000)
    peer.set_initial_value([0.0, 0.0, 0.0], 0.01)
    np.testing.assert_allclose(found, peer.integrate(0.01 + duration), rtol=1e-4)


def test_adaptive_steps_vmap_over_durations_and_zero_is_no_step():
    solve = solvers.dopri5(rtol=1e-4, atol=1e-4)
    durations = jnp.array([0.0, 0.5, 3.0])
    batched = jax.jit(jax.vmap(lambda t: solve(lambda time, x: (-x[0], x[0]), (1.0, 0.0), 0.0, t)))
    falling, rising = batched(durations)
    np.testing.assert_allclose(falling, np.exp(-durations), atol=1e-3)
    np.testing.assert_allclose(rising, 1.0 - np.exp(-durations), atol=1e-3)
    assert falling[0] == 1.0 and rising[0] == 0.0


def test_single_precision_reaches_the_end_with_the_default_tolerances():
    solve = solvers.dopri5()
    motor = motors.PMSM()

    @jax.jit
    def run(voltages):
        def step(states, u):
            derivative = lambda time, states: motor.derivative(states, 100.0, (u[0], u[1]))
            states = solve(derivative, states, 0.0, 1e-4)
            return states, states

        return jax.lax.scan(step, (jnp.zeros(()),) * 3, voltages)[1]

    voltages = np.random.default_rng(0).uniform(-150, 150, (100, 2)).astype(np.float32)
    # Voltages that hold a current of nothing, where everything is rounding.
    voltages[50:] = (0.0, motor.p * 100.0 * motor.psi_p)
    assert np.isfinite(run(voltages)).all()


def test_an_interval_that_takes_too_many_steps_is_no_number():
    solve = solvers.dopri5(max_steps=2)
    found = jax.jit(lambda x: solve(lambda time, x: -1e3 * x, x, 0.0, 1.0))(1.0)
    assert np.isnan(found)


def test_a_gradient_of_adaptive_steps_is_refused():
    final = lambda x: solvers.dopri5()(lambda time, x: -x, x, 0.0, 1.0)
    with pytest.raises(NotImplementedError, match=r"^dopri5 has no gradient, because .* rk4\(num"):
        jax.grad(final)(1.0)


def test_the_same_settings_are_the_same_solver():
    assert solvers.rk4(4) is solvers.rk4(4)
    assert solvers.dopri5(1e-6, 1e-12) is solvers.dopri5(1e-6, 1e-12)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: solvers.euler(0), r"^num_steps is 0, but a whole number of at least 1 is needed$"),
        (lambda: solvers.rk4(1.5), r"^num_steps is 1.5, but a whole number of at least 1"),
        (lambda: solvers.dopri5(rtol=0.0), r"^rtol is 0.0, but a number in \(0, 1\) is needed$"),
        (lambda: solvers.dopri5(atol=-1.0), r"^atol is -1.0, but a finite number of at least 0"),
        (lambda: solvers.dopri5(max_steps=0), r"^max_steps is 0, but a whole number of at least"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
