"""Nine motors against gym-electric-motor's numbers, closed forms and the conservation of energy."""

import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxpg_envs.motor import loads, motors, solvers

KINDS = {
    "SeriesDc": motors.SeriesDc,
    "ShuntDc": motors.ShuntDc,
    "PermExDc": motors.PermExDc,
    "ExtExDc": motors.ExtExDc,
    "PMSM": motors.PMSM,
    "SynRM": motors.SynRM,
    "EESM": motors.EESM,
    "SCIM": motors.SCIM,
    "DFIM": motors.DFIM,
}
THREE_PHASE = ("PMSM", "SynRM", "EESM", "SCIM", "DFIM")
CONVERTER_VOLTAGES = {
    "SeriesDc": ("u",),
    "ShuntDc": ("u",),
    "PermExDc": ("u",),
    "ExtExDc": ("u_a", "u_e"),
    "PMSM": ("u_a", "u_b", "u_c"),
    "SynRM": ("u_a", "u_b", "u_c"),
    "EESM": ("u_a", "u_b", "u_c", "u_e"),
    "SCIM": ("u_sa", "u_sb", "u_sc"),
    "DFIM": ("u_sa", "u_sb", "u_sc", "u_ra", "u_rb", "u_rc"),
}
RECORDING = pathlib.Path(__file__).parent / "recordings" / "motor_derivatives.json"
RECORDED = json.loads(RECORDING.read_text()) if RECORDING.exists() else {}


def record():
    """What gym-electric-motor 3.0.3 says of its nine motors.

    `cases`: derivative, torque, currents and torque limit of random parameters at random states.
    `step`: one control step of the continuous drive from a random state, its measurements in SI.
    """
    import gym_electric_motor as gem
    from gym_electric_motor.physical_systems import electric_motors as peers

    classes = {
        "SeriesDc": peers.DcSeriesMotor,
        "ShuntDc": peers.DcShuntMotor,
        "PermExDc": peers.DcPermanentlyExcitedMotor,
        "ExtExDc": peers.DcExternallyExcitedMotor,
        "PMSM": peers.PermanentMagnetSynchronousMotor,
        "SynRM": peers.SynchronousReluctanceMotor,
        "EESM": peers.ExternallyExcitedSynchronousMotor,
        "SCIM": peers.SquirrelCageInductionMotor,
        "DFIM": peers.DoublyFedInductionMotor,
    }
    rng = np.random.default_rng(0)
    found = {}
    for kind, peer in classes.items():
        cases = [record_case(rng, kind, peer) for _ in range(2)]
        env = gem.make(f"Cont-CC-{kind}-v0", visualization=())
        found[kind] = {"cases": cases, "step": record_step(rng, kind, env)}
    return found


def record_case(rng, kind, peer):
    ours = KINDS[kind]
    parameters = {
        field.name: int(rng.integers(1, 6)) if field.name == "p" else field.default * scale
        for field in dataclasses.fields(ours)
        for scale in [rng.uniform(0.8, 1.2)]
    }
    motor = peer(motor_parameter=dict(parameters))
    states = random_states(rng, ours)
    omega = rng.uniform(-300, 300)
    count = 4 if kind == "DFIM" else {"ExtExDc": 2, "EESM": 3}.get(kind, len(ours.STATES[:2]))
    voltages = rng.uniform(-50, 50, 1 if kind == "ShuntDc" else count)
    given = voltages.reshape(2, 2) if kind == "DFIM" else voltages
    return {
        "parameters": parameters,
        "states": states.tolist(),
        "omega": omega,
        "voltages": voltages.tolist(),
        "derivative": motor.electrical_ode(states, given, omega).ravel().tolist(),
        "torque": float(motor.torque(states)),
        "torque_limit": float(motor.limits["torque"]),
    }


def record_step(rng, kind, env):
    system = env.unwrapped.physical_system.unwrapped
    env.reset(seed=0)
    start = random_states(rng, KINDS[kind])
    system._ode_solver.set_initial_value(np.concatenate(([50.0], start)), 0.0)
    system._t = 0.0
    count = {"ExtExDc": 2, "EESM": 4, "DFIM": 6}.get(kind, 3 if kind in THREE_PHASE else 1)
    handed = []
    convert = system.converter.convert
    system.converter.convert = lambda i, t: (handed.append([float(x) for x in i]), convert(i, t))[1]
    values = system.simulate(rng.uniform(-1, 1, count)) * system.limits
    names = system.state_names
    return {
        "start": start.tolist(),
        "states": np.asarray(system._ode_solver.y)[1:].tolist(),
        "converter_currents": handed[-1],
        "names": list(names),
        "measured": values.tolist(),
        "limits": np.asarray(system.limits).tolist(),
        "nominal": np.asarray(system.nominal_state).tolist(),
    }


def random_states(rng, kind):
    scale = {"i": 0.3 * max(kind.LIMITS.get(kind.NAMES[0]), 1.0), "p": 0.3, "e": math.pi}
    return np.array([rng.uniform(-1, 1) * scale[name[0]] for name in kind.STATES])


def random_motor(rng, kind):
    """Parameters and a state of a motor, its speed, and voltages in its own coordinates."""
    parameters = {
        field.name: float(rng.integers(1, 6)) if field.name == "p" else field.default * scale
        for field in dataclasses.fields(KINDS[kind])
        for scale in [rng.uniform(0.8, 1.2)]
    }
    count = {"ExtExDc": 2, "EESM": 3, "DFIM": 4}.get(kind, 2 if kind in THREE_PHASE else 1)
    return (
        KINDS[kind](**parameters),
        tuple(random_states(rng, KINDS[kind]).tolist()),
        rng.uniform(-300.0, 300.0),
        tuple(rng.uniform(-50.0, 50.0, count).tolist()),
    )


def test_the_recording_is_what_gym_electric_motor_says():
    pytest.importorskip("gym_electric_motor")

    def compare(one, two):
        if isinstance(one, dict):
            assert one.keys() == two.keys()
            for key in one:
                compare(one[key], two[key])
        elif isinstance(one, list) and one and isinstance(one[0], dict):
            for x, y in zip(one, two, strict=True):
                compare(x, y)
        elif isinstance(one, list) and one and isinstance(one[0], str):
            assert one == two
        else:
            np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-10)

    compare(record(), RECORDED)


@pytest.mark.parametrize("kind", KINDS)
def test_equations_are_those_of_gym_electric_motor(kind):
    for case in RECORDED[kind]["cases"]:
        motor, states = KINDS[kind](**case["parameters"]), tuple(case["states"])
        found = motor.derivative(states, case["omega"], tuple(case["voltages"]))
        np.testing.assert_allclose(found, case["derivative"], rtol=1e-11)
        np.testing.assert_allclose(motor.torque(states), case["torque"], rtol=1e-12)
        np.testing.assert_allclose(motor.torque_limit(), case["torque_limit"], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_measurements_are_those_of_gym_electric_motor(kind):
    step, motor = RECORDED[kind]["step"], KINDS[kind]()
    start, states = tuple(step["start"]), tuple(step["states"])
    measured = dict(zip(step["names"], step["measured"], strict=True))
    voltages = tuple(measured[name] for name in CONVERTER_VOLTAGES[kind])
    with jax.enable_x64(True):
        found = jax.device_get(jax.jit(motor.measure)(start, states, voltages))
        currents = jax.device_get(jax.jit(motor.converter_currents)(start))
    names = [name for name in measured if name not in ("omega", "torque", "u_sup", "i_sum")]
    assert list(motor.NAMES) == names
    for name in names:
        np.testing.assert_allclose(found[name], measured[name], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(motor.torque(states), measured["torque"], rtol=1e-10)
    np.testing.assert_allclose(currents, step["converter_currents"], rtol=1e-10)
    assert len(currents) == len(voltages) == motor.NUM_SIGNALS


@pytest.mark.parametrize("kind", KINDS)
def test_limits_and_nominal_values_are_those_of_gym_electric_motor(kind):
    step, motor = RECORDED[kind]["step"], KINDS[kind]()
    for found, recorded in (
        (motor.limits(), step["limits"]),
        (motor.LIMITS, step["limits"]),
        (motor.nominal(), step["nominal"]),
        (motor.NOMINAL, step["nominal"]),
    ):
        assert list(found) == ["omega", "torque", *motor.NAMES]
        for name, value in found.items():
            index = step["names"].index(name)
            np.testing.assert_allclose(value, recorded[index], rtol=1e-12)


def stored_energy(kind, motor, states):
    """Magnetic energy of the currents; amplitude invariant vectors count one and a half times."""
    if kind == "SeriesDc":
        return 0.5 * (motor.l_a + motor.l_e) * states[0] ** 2
    if kind == "PermExDc":
        return 0.5 * motor.l_a * states[0] ** 2
    if kind in ("ShuntDc", "ExtExDc"):
        return 0.5 * (motor.l_a * states[0] ** 2 + motor.l_e * states[1] ** 2)
    if kind in ("PMSM", "SynRM"):
        return 0.75 * (motor.l_d * states[0] ** 2 + motor.l_q * states[1] ** 2)
    if kind == "EESM":
        i_d, i_q, i_e = states[:3]
        stator = 0.75 * (motor.l_d * i_d**2 + motor.l_q * i_q**2 + 2 * motor.l_m * i_d * i_e)
        return stator + 0.5 * motor.l_e * i_e**2
    i_s, psi_r, i_r = induction(motor, states)
    psi_s = (motor.l_m + motor.l_sigs) * i_s + motor.l_m * i_r
    return 0.75 * (psi_s @ i_s + psi_r @ i_r)


def induction(motor, states):
    i_s, psi_r = np.array(states[:2]), np.array(states[2:4])
    return i_s, psi_r, (psi_r - motor.l_m * i_s) / (motor.l_m + motor.l_sigr)


def powers(kind, motor, states, voltages):
    """`(electrical power in, copper losses)`."""
    squares, u = np.square(states), np.array(voltages)
    if kind == "SeriesDc":
        return u[0] * states[0], (motor.r_a + motor.r_e) * squares[0]
    if kind == "PermExDc":
        return u[0] * states[0], motor.r_a * squares[0]
    if kind in ("ShuntDc", "ExtExDc"):
        losses = motor.r_a * squares[0] + motor.r_e * squares[1]
        return u[0] * states[0] + u[-1] * states[1], losses
    if kind in ("PMSM", "SynRM"):
        return 1.5 * (u @ states[:2]), 1.5 * motor.r_s * sum(squares[:2])
    if kind == "EESM":
        losses = 1.5 * motor.r_s * sum(squares[:2]) + motor.r_e * squares[2]
        return 1.5 * (u[:2] @ states[:2]) + u[2] * states[2], losses
    i_s, _, i_r = induction(motor, states)
    power = 1.5 * (u[:2] @ i_s + (u[2:] @ i_r if kind == "DFIM" else 0.0))
    return power, 1.5 * (motor.r_s * i_s @ i_s + motor.r_r * i_r @ i_r)


@pytest.mark.parametrize("kind", KINDS)
def test_power_in_is_copper_losses_and_mechanical_power_and_change_of_magnetic_energy(kind):
    rng = np.random.default_rng(3)
    for _ in range(3):
        motor, states, omega, voltages = random_motor(rng, kind)
        slope = np.array(motor.derivative(states, omega, voltages))
        step = 1e-7
        ahead, behind = (
            stored_energy(kind, motor, np.array(states) + sign * step * slope) for sign in (1, -1)
        )
        change = (ahead - behind) / (2 * step)
        power, losses = powers(kind, motor, states, voltages)
        mechanical = motor.torque(states) * omega
        size = abs(power) + losses + abs(mechanical)
        assert abs(power - losses - mechanical - change) < 1e-6 * size


def integrate(motor, states, omega, voltages, duration, intervals=50):
    """At a constant speed, in plain numbers."""
    solve = solvers.rk4(4)
    for _ in range(intervals):
        states = solve(
            lambda time, states: motor.derivative(states, omega, voltages),
            states,
            0.0,
            duration / intervals,
        )
    return states


@pytest.mark.parametrize(
    "kind, resistances, inductances",
    [
        ("SeriesDc", [("r_a", "r_e")], [("l_a", "l_e")]),
        ("PermExDc", [("r_a",)], [("l_a",)]),
        ("ShuntDc", [("r_a",), ("r_e",)], [("l_a",), ("l_e",)]),
        ("ExtExDc", [("r_a",), ("r_e",)], [("l_a",), ("l_e",)]),
    ],
)
def test_currents_of_a_locked_direct_current_motor_are_exponentials(kind, resistances, inductances):
    motor = KINDS[kind]()
    voltages = (60.0, -20.0)[: motor.NUM_SIGNALS]
    duration, found = 2e-3, []
    expected = []
    for index, (resistance, inductance) in enumerate(zip(resistances, inductances, strict=True)):
        r, l = (sum(getattr(motor, name) for name in names) for names in (resistance, inductance))
        u = voltages[min(index, len(voltages) - 1)]
        expected.append(u / r + (5.0 - u / r) * math.exp(-duration * r / l))
    found = integrate(motor, (5.0,) * len(expected), 0.0, voltages, duration)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_a_permanently_excited_motor_settles_where_back_emf_and_resistance_take_the_voltage():
    motor = motors.PermExDc()
    (i,) = integrate(motor, (0.0,), 100.0, (60.0,), duration=30e-3)
    assert i == pytest.approx((60.0 - motor.psi_e * 100.0) / motor.r_a, rel=1e-9)


@pytest.mark.parametrize("kind", ["PMSM", "SynRM"])
def test_at_constant_speed_a_step_is_a_matrix_exponential(kind):
    motor, omega, (u_d, u_q), tau = KINDS[kind](), 150.0, (20.0, -10.0), 1e-4
    speed, psi = motor.p * omega, getattr(motor, "psi_p", 0.0)
    # [i_d, i_q, 1]' = matrix [i_d, i_q, 1]
    matrix = np.array(
        [
            [-motor.r_s / motor.l_d, speed * motor.l_q / motor.l_d, u_d / motor.l_d],
            [
                -speed * motor.l_d / motor.l_q,
                -motor.r_s / motor.l_q,
                (u_q - speed * psi) / motor.l_q,
            ],
            [0.0, 0.0, 0.0],
        ]
    )
    expected = scipy.linalg.expm(matrix * tau) @ [7.0, -3.0, 1.0]
    found = integrate(motor, (7.0, -3.0, 0.4), omega, (u_d, u_q), tau, intervals=1)
    np.testing.assert_allclose(found, [*expected[:2], 0.4 + speed * tau], rtol=1e-8)


@pytest.mark.parametrize(
    "kind, torque",
    [
        ("PMSM", 160.6123626),
        ("SynRM", 5.832),
        ("EESM", 129.4197674),
        ("SCIM", 6.266754685),
        ("DFIM", 33.27096741),
    ],
)
def test_torque_limits_have_the_published_values(kind, torque):
    motor = KINDS[kind]()
    assert float(motor.torque_limit()) == pytest.approx(torque, rel=1e-9)
    with jax.enable_x64(True):
        traced = jax.tree.map(jnp.asarray, motor)
        slopes = jax.grad(lambda motor: motor.torque_limit())(traced)
        assert float(traced.torque_limit()) == pytest.approx(torque, rel=1e-9)
        assert all(np.isfinite(x) for x in jax.tree.leaves(slopes))


@pytest.mark.parametrize("l_d", [0.37e-3, 1.2e-3, 3e-3])
def test_the_torque_limit_of_a_pmsm_is_the_largest_torque_of_its_current(l_d):
    motor = motors.PMSM(l_d=l_d)
    angles = np.linspace(0.0, np.pi, 20001)
    length = 400.0 if l_d == motor.l_q else 240.0
    torques = motor.torque((length * np.cos(angles), length * np.sin(angles)))
    assert float(motor.torque_limit()) == pytest.approx(torques.max(), rel=1e-6)


def test_a_torque_limit_follows_the_limits_that_are_given():
    limits = {**motors.SynRM.LIMITS, "i_sd": 9.0}
    assert motors.SynRM().torque_limit(limits) == pytest.approx(5.832 / 2)
    assert motors.SynRM(p=8.0).nominal()["torque"] == pytest.approx(2 * 5.832)


@pytest.mark.parametrize("kind", THREE_PHASE)
def test_a_whole_turn_of_the_angle_changes_nothing_but_the_angle(kind):
    motor = KINDS[kind]()
    rng = np.random.default_rng(5)
    states = tuple(random_states(rng, KINDS[kind]).tolist())
    turned = (*states[:-1], states[-1] + 2 * math.pi)
    voltages = tuple(rng.uniform(-100, 100, motor.NUM_SIGNALS).tolist())

    @jax.jit
    def everything(states):
        inside = motor.machine_voltages(states, voltages)
        derivative = motor.derivative(states, 100.0, inside)
        return derivative, motor.measure(states, states, voltages), motor.torque(states)

    with jax.enable_x64(True):
        one, two = jax.device_get((everything(states), everything(turned)))
    np.testing.assert_allclose(jax.tree.leaves(one), jax.tree.leaves(two), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["SeriesDc", "EESM", "DFIM"])
def test_a_batch_of_different_motors_is_one_vmap(kind):
    rng = np.random.default_rng(7)
    given = [random_motor(rng, kind) for _ in range(3)]
    batch = jax.tree.map(lambda *x: jnp.array(x), *given)
    found = jax.device_get(jax.jit(jax.vmap(KINDS[kind].derivative))(*batch))
    expected = [motor.derivative(*rest) for motor, *rest in given]
    for one, two in zip(found, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5 * np.abs(two).max())


@pytest.mark.parametrize("kind", ["PMSM", "SCIM", "DFIM"])
def test_gradients_are_finite_at_rest_without_flux(kind):
    motor = jax.tree.map(jnp.asarray, KINDS[kind]())
    rest = (jnp.zeros(()),) * len(motor.STATES)
    voltages = (jnp.full((), 10.0),) * motor.NUM_SIGNALS

    @jax.jit
    @jax.grad
    def slopes(given):
        motor, states = given
        inside = motor.machine_voltages(states, voltages)
        values = (
            motor.derivative(states, jnp.zeros(()), inside),
            motor.measure(states, states, voltages),
            motor.converter_currents(states),
        )
        return sum(jax.tree.leaves(values))

    assert all(np.isfinite(x) for x in jax.tree.leaves(slopes((motor, rest))))


@pytest.mark.parametrize("kind", ["SeriesDc", "PMSM", "DFIM"])
def test_the_gradient_of_fifty_steps_is_their_central_difference(kind):
    tau, solve = 1e-4, solvers.rk4(1)
    rng = np.random.default_rng(11)
    count = KINDS[kind].NUM_SIGNALS
    load = loads.PolynomialStatic(a=0.02, b=0.01, c=1e-4, j_load=1e-4)

    def total(given):
        motor, load, states, commands = given

        def step(carry, voltages):
            omega, states = carry
            voltages = tuple(voltages)
            inside = motor.machine_voltages(states, voltages)

            def derivative(time, values):
                omega, states = values
                torque = motor.torque(states)
                mechanical = load.derivative(time, omega, torque, motor.j_rotor)
                return mechanical, motor.derivative(states, omega[0], inside)

            after = solve(derivative, (omega, states), 0.0, tau)
            shown = motor.measure(states, after[1], voltages)
            return after, sum(shown[name] ** 2 for name in shown if name[0] == "i") + after[0][0]

        start = (jnp.full((), 20.0),), states
        return jnp.mean(jax.lax.scan(step, start, commands)[1])

    commands = rng.uniform(-50, 50, (50, count))
    states = tuple(random_states(rng, KINDS[kind]).tolist())
    given = jax.tree.map(np.asarray, (KINDS[kind](), load, states, commands))
    with jax.enable_x64(True):
        compiled = jax.jit(jax.value_and_grad(total)).lower(given).compile()
        slopes = jax.device_get(compiled(given)[1])
        for _ in range(3):
            # Relative to each number, as parameters differ by orders of magnitude.
            direction = jax.tree.map(lambda x: x * rng.normal(size=x.shape), given)
            ahead, behind = (
                float(compiled(jax.tree.map(lambda x, d, h=h: x + h * d, given, direction))[0])
                for h in (1e-5, -1e-5)
            )
            expected = sum(
                jax.tree.leaves(jax.tree.map(lambda x, d: np.sum(x * d), slopes, direction))
            )
            assert (ahead - behind) / 2e-5 == pytest.approx(expected, rel=1e-5)


class OneQuadrant:
    """Neither negative currents nor negative voltages on its first signal."""

    def currents_range(self):
        return ((0.0, 1.0), (-1.0, 1.0))

    voltages_range = currents_range


class TwoQuadrant(OneQuadrant):
    def currents_range(self):
        return ((-1.0, 1.0),)

    def voltages_range(self):
        return ((0.0, 1.0),)


def test_ranges_follow_the_signs_of_the_converter():
    two = TwoQuadrant()
    assert motors.SeriesDc().lowest(two) == {"omega": 0, "torque": 0, "i": -1, "u": 0}
    assert motors.PermExDc().lowest(two) == {"omega": 0, "torque": -1, "i": -1, "u": 0}
    assert motors.ShuntDc().lowest(two) == {"omega": 0, "torque": -1, "i_a": -1, "i_e": -1, "u": 0}
    assert motors.ExtExDc().lowest(OneQuadrant()) == {
        "omega": -1,
        "torque": -1,
        "i_a": 0,
        "i_e": -1,
        "u_a": 0,
        "u_e": -1,
    }
    assert motors.PMSM().lowest(two) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_default_motors_pass_their_check(kind):
    motors.check_motor(KINDS[kind]())


@pytest.mark.parametrize(
    "motor, sentence",
    [
        (motors.PMSM(l_q=0.0), r"^l_q is 0.0, but a finite inductance above 0 is needed$"),
        (motors.SCIM(l_sigr=-1e-3), r"^l_sigr is -0.001, but a finite inductance above 0"),
        (motors.SeriesDc(r_e=-0.1), r"^r_e is -0.1, but a finite resistance of at least 0"),
        (motors.PMSM(r_s=math.nan), r"^r_s is nan, but a finite resistance"),
        (motors.ShuntDc(j_rotor=0.0), r"^j_rotor is 0.0, but a finite moment of inertia above 0"),
        (motors.SynRM(p=2.5), r"^p is 2.5, but a whole number of pole pairs, at least 1, is"),
        (motors.DFIM(p=np.array([1.0, 0.0])), r"^p\[1\] is 0.0, but a whole number of pole pairs"),
        (motors.PMSM(psi_p=-1.0), r"^psi_p is -1.0, but a finite number of at least 0 is needed$"),
        (motors.EESM(k=0), r"^k is 0, but a finite number above 0 is needed$"),
        (motors.PermExDc(l_a="1"), r"^l_a has dtype <U1, but a finite inductance"),
        (
            motors.EESM(l_d=1.5e-3, l_m=1e-3, l_e=1e-3),
            r"^l_m is 0.001, but 1.5 l_m\^2 other than l_d l_e = 1.5e-06 is needed",
        ),
    ],
)
def test_motors_that_cannot_be_are_refused_in_one_sentence(motor, sentence):
    with pytest.raises(ValueError, match=sentence):
        motors.check_motor(motor)
