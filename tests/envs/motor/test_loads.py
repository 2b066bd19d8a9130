"""Loads against the formulas of their torques, closed forms and gym-electric-motor."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.motor import loads, solvers

SPEEDS = [-300.0, -1.0, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 2e-3, 1.0, 300.0]
COEFFICIENTS = [(0.0, 0.0, 0.0, 1e-5), (0.05, 0.01, 1e-4, 1e-4), (0.15, 0.0, 2e-3, 1e-3)]
J_ROTOR = 2.5e-3


def acceleration(a, b, c, j_load, omega, torque):
    """Static friction is a line up to `a / J` milliseconds, else constant."""
    inertia = j_load + J_ROTOR
    friction = np.sign(omega) * a if abs(omega) > a / inertia * 1e-3 else inertia / 1e-3 * omega
    return (torque - np.sign(omega) * c * omega**2 - b * omega - friction) / inertia


@pytest.mark.parametrize("coefficients", COEFFICIENTS)
def test_a_polynomial_load_takes_friction_and_drag(coefficients):
    load = loads.PolynomialStatic(*coefficients)

    @jax.jit
    def ours(omega):
        return load.derivative(0.0, (omega,), 0.7, J_ROTOR)[0]

    with jax.enable_x64(True):
        found = ours(jnp.array(SPEEDS))
    expected = [acceleration(*coefficients, omega, 0.7) for omega in SPEEDS]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_loads_are_those_of_gym_electric_motor():
    pytest.importorskip("gym_electric_motor")
    from gym_electric_motor.physical_systems import mechanical_loads as peers

    for coefficients in COEFFICIENTS:
        names = dict(zip("a b c j_load".split(), coefficients, strict=True))
        peer = peers.PolynomialStaticLoad(load_parameter=names)
        peer.set_j_rotor(J_ROTOR)
        for omega in SPEEDS:
            found = peer.mechanical_ode(0.0, np.array([omega]), 0.7)
            np.testing.assert_allclose(found, acceleration(*coefficients, omega, 0.7), rtol=1e-12)
    profile = lambda t: 10.0 * np.sin(300.0 * t)
    peer = peers.ExternalSpeedLoad(profile, tau=2e-4)
    found = loads.ExternalSpeed(profile, 2e-4).derivative(0.01, (3.0,), 0.0, 0.0)
    np.testing.assert_allclose(peer.mechanical_ode(0.01, np.array([3.0]))[0], found[0], rtol=1e-12)


@pytest.mark.parametrize("a", [0.0, 0.05])
def test_gradients_at_standstill_are_those_of_the_line_through_it(a):
    load = loads.PolynomialStatic(*(jnp.array(x) for x in (a, 0.01, 1e-4, 1e-4)))

    @jax.jit
    @jax.grad
    def slopes(given):
        load, omega, torque = given
        return load.derivative(0.0, (omega,), torque, J_ROTOR)[0]

    of_load, of_speed, of_torque = slopes((load, jnp.zeros(()), jnp.zeros(())))
    inertia = 1e-4 + J_ROTOR
    assert of_speed == pytest.approx(-0.01 / inertia - (1e3 if a else 0.0), rel=1e-5)
    assert of_torque == pytest.approx(1 / inertia, rel=1e-5)
    assert jax.tree.leaves(of_load) == [0.0, 0.0, 0.0, 0.0]


def test_a_drag_alone_stops_a_shaft_exponentially():
    load, omega = loads.PolynomialStatic(b=0.01, j_load=0.0), (100.0,)
    solve = solvers.rk4(4)
    for _ in range(25):
        derivative = lambda time, states: tuple(
            map(float, load.derivative(time, states, 0.0, J_ROTOR))
        )
        omega = solve(derivative, omega, 0.0, 0.01)
    assert omega[0] == pytest.approx(100.0 * math.exp(-0.25 * 0.01 / J_ROTOR), rel=1e-3)


def test_a_fixed_speed_stays():
    load = loads.ConstantSpeed(100.0)
    assert load.initial() == (100.0,)
    assert load.derivative(0.0, (100.0,), 50.0, J_ROTOR) == (0.0,)
    assert load.measure((100.0,)) == {"omega": 100.0}


def test_an_euler_step_of_its_own_length_is_on_the_profile_and_others_lag():
    profile = lambda time: 100.0 + 1000.0 * time
    load = loads.ExternalSpeed(profile, tau_l=1e-4)
    start = load.initial()
    assert start[0] == 100.0
    derivative = lambda time, states: load.derivative(time, states, 0.0, J_ROTOR)
    (exact,) = solvers.euler(1)(derivative, start, 0.0, 1e-4)
    assert float(exact) == pytest.approx(profile(1e-4), rel=1e-7)
    (late,) = solvers.rk4(4)(derivative, start, 0.0, 1e-4)
    # omega' = 1000 (1 + t / tau) - (omega - 100) / tau, from omega = 100: omega = 100 + 1000 t.
    assert float(late) == pytest.approx(profile(1e-4), rel=1e-6)


def test_a_profile_that_jumps_is_followed_with_a_lag():
    load = loads.ExternalSpeed(lambda time: 100.0 * (time >= 0.0), tau_l=1e-3)
    derivative = lambda time, states: load.derivative(time, states, 0.0, J_ROTOR)
    (omega,) = solvers.rk4(8)(derivative, (0.0,), 0.0, 2e-3)
    assert float(omega) == pytest.approx(100.0 * (1.0 - math.exp(-2.0)), rel=1e-4)


def test_a_position_is_the_integral_of_the_speed_and_wrapped_where_it_is_measured():
    load = loads.PositionalPolynomialStatic(b=0.1, j_load=1e-3)
    assert load.STATES == ("omega", "position") and load.initial() == (0.0, 0.0)
    slower, speed = load.derivative(0.0, (2.0, 30.0), 0.7, J_ROTOR)
    plain = loads.PolynomialStatic(b=0.1, j_load=1e-3).derivative(0.0, (2.0,), 0.7, J_ROTOR)
    assert (slower, speed) == (plain[0], 2.0)
    shown = load.measure((2.0, 4.0))
    assert shown["omega"] == 2.0
    assert float(shown["position"]) == pytest.approx(4.0 - 2 * math.pi, rel=1e-6)
    assert len(jax.tree.leaves(load)) == 4


def test_a_batch_of_loads_is_one_vmap():
    batch = loads.PolynomialStatic(*(jnp.array(x) for x in zip(*COEFFICIENTS, strict=True)))
    found = jax.jit(jax.vmap(lambda load: load.load_torque(5.0, J_ROTOR)))(batch)
    expected = [-acceleration(*x, 5.0, 0.0) * (x[3] + J_ROTOR) for x in COEFFICIENTS]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "load, sentence",
    [
        (loads.ConstantSpeed(math.inf), r"^omega_fixed is inf, but a finite number is needed$"),
        (loads.ExternalSpeed(jnp.sin, 0.0), r"^tau_l is 0.0, but a finite number above 0 is"),
        (loads.ExternalSpeed(3.0), r"^profile is 3.0, but a function of time is needed$"),
        (
            loads.ExternalSpeed(lambda time: jnp.stack([time, time])),
            r"^profile\(time\) gives ShapeDtypeStruct.*, but one speed is needed for a scalar time",
        ),
        (loads.PolynomialStatic(a=-1.0), r"^a is -1.0, but a finite number of at least 0"),
        (loads.PolynomialStatic(c=np.array([0.0, -1.0])), r"^c\[1\] is -1.0, but a finite"),
        (loads.PositionalPolynomialStatic(j_load=-1.0), r"^j_load is -1.0, but a finite number"),
        (loads.PolynomialStatic(j_load=0.0), r"^j_load \+ j_rotor is 0.0, but a finite number ab"),
    ],
)
def test_loads_that_cannot_be_are_refused_in_one_sentence(load, sentence):
    with pytest.raises(ValueError, match=sentence):
        loads.check_load(load)


def test_good_loads_pass_their_check():
    loads.check_load(loads.ConstantSpeed(-5.0))
    loads.check_load(loads.ExternalSpeed(jnp.sin))
    loads.check_load(loads.PolynomialStatic(0.1, 0.1, 0.1, 0.0), j_rotor=J_ROTOR)
