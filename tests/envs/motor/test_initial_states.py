"""How an episode begins: bounds of gym-electric-motor, and the distributions within them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxpg_envs.motor import converters, loads, motors
from jaxpg_envs.motor.initial_states import (
    InitialStates,
    TruncatedNormal,
    Uniform,
    bounds,
    check_initial_states,
    largest_flux,
    truncated_normal,
)

KEYS = jax.random.split(jax.random.key(0), 4000)


def drive(motor, converter, load=None):
    load = loads.PolynomialStatic() if load is None else load
    return SimpleNamespace(
        motor=motor, converter=converter, load=load, nominal={**motor.nominal(), "u_sup": 420.0}
    )


SERIES = drive(motors.SeriesDc(), converters.Cont4QC())
PMSM = drive(motors.PMSM(), converters.ContB6())
SCIM = drive(motors.SCIM(), converters.ContB6())
DFIM = drive(motors.DFIM(), converters.Multi((converters.ContB6(), converters.ContB6())))


def drawn(initial, params):
    load, motor = jax.jit(jax.vmap(lambda key: initial.draw(key, params)))(KEYS)
    names = (*params.load.STATES, *params.motor.STATES)
    return {name: np.asarray(x) for name, x in zip(names, (*load, *motor), strict=True)}


def test_a_drive_begins_as_its_load_says_and_without_currents():
    params = drive(motors.PMSM(), converters.ContB6(), loads.ConstantSpeed(80.0))
    load, motor = InitialStates().draw(KEYS[0], params)
    assert (load, motor) == ((80.0,), (0.0, 0.0, 0.0))
    assert {x.dtype.name for x in (*load, *motor)} == {"float32"}
    load, motor = InitialStates({"i_sq": 5.0, "omega": -3.0}).draw(KEYS[0], params)
    assert (load, motor) == ((-3.0,), (0.0, 5.0, 0.0))


def test_bounds_are_the_nominal_values_of_both_signs_or_of_the_one_there_is():
    assert bounds(SERIES) == {"omega": (0.0, 300.0), "i": (-97.0, 97.0)}
    one_sign = drive(motors.SeriesDc(), converters.Cont1QC())
    assert bounds(one_sign)["i"] == (0.0, 97.0)
    found = bounds(PMSM)
    assert found["i_sd"] == found["i_sq"] == (-240.0, 240.0)
    np.testing.assert_allclose(found["omega"], [-100 * np.pi, 100 * np.pi])
    np.testing.assert_allclose(found["epsilon"], [-np.pi, np.pi])
    assert bounds(SCIM)["i_salpha"] == (-3.9, 3.9)


def test_uniform_states_fill_their_bounds_and_intervals():
    states = drawn(Uniform(interval={"i": (-500.0, 10.0)}), SERIES)
    for name, (low, high) in {"omega": (0.0, 300.0), "i": (-97.0, 10.0)}.items():
        assert scipy.stats.kstest(states[name], "uniform", (low, high - low)).pvalue > 1e-3
    assert abs(np.corrcoef(states["omega"], states["i"])[0, 1]) < 0.06
    states = drawn(Uniform(values={"i_sd": 3.0}, names=("i_sq",)), PMSM)
    assert (states["i_sd"] == 3.0).all()
    assert (states["omega"] == 0.0).all()
    assert states["i_sq"].std() > 100


def test_normal_states_are_cut_at_the_bounds_and_a_mean_of_0_is_the_middle():
    states = drawn(TruncatedNormal(std=80.0), SERIES)
    cut = scipy.stats.truncnorm(-150 / 80, 150 / 80, 150.0, 80.0)
    assert scipy.stats.kstest(states["omega"], cut.cdf).pvalue > 1e-3
    cut = scipy.stats.truncnorm(-97 / 80, 97 / 80, 0.0, 80.0)
    assert scipy.stats.kstest(states["i"], cut.cdf).pvalue > 1e-3
    same = drawn(TruncatedNormal(std=80.0, mean=0.0), SERIES)
    np.testing.assert_allclose(same["omega"], states["omega"], rtol=1e-4)


def test_a_cut_normal_is_scipys_also_in_its_tails():
    unit = np.array([0.0, 0.1, 0.5, 0.9])
    for mean, low, high in ((0.0, -1.0, 2.0), (0.0, 4.0, 6.0), (0.0, -7.0, -5.0), (3.0, 3.0, 3.0)):
        found = truncated_normal(jnp.array(unit), mean, 1.0, low, high)
        expected = np.full(4, low)
        if low < high:
            # On the right tail the numbers come in the other order.
            flips = low + high > 2 * mean
            expected = scipy.stats.truncnorm.ppf(1 - unit if flips else unit, low, high, mean)
        np.testing.assert_allclose(found, expected, rtol=2e-3)


# Speed, currents and field angle, with gym-electric-motor's limits.
FLUXES = [
    ("SCIM", 0.0, (0.0, 0.0), 0.3, (0.5355855192160428, 0.16567601585951347)),
    ("SCIM", 50.0, (1.0, 2.0), 0.3, (0.0, 0.0)),
    ("SCIM", -300.0, (1.0, 2.0), 2.0, (0.07550639455507811, 0.16498448203399818)),
    ("SCIM", -800.0, (3.0, -2.0), 0.5, (0.12115926849639345, 0.06618961004723208)),
    ("DFIM", -150.0, (3.0, 1.0), -1.0, (0.11275783375546584, 0.17560992130611577)),
    ("DFIM", -2000.0, (3.0, 1.0), 0.4, (0.015062106303633204, 0.006368156405089439)),
]


@pytest.mark.parametrize(("kind", "omega", "currents", "angle", "known"), FLUXES)
def test_the_largest_flux_is_gems(kind, omega, currents, angle, known):
    params = {"SCIM": SCIM, "DFIM": DFIM}[kind]
    with jax.enable_x64(True):
        found = largest_flux(params, jnp.asarray(omega), currents, angle)
    np.testing.assert_allclose(found, known, rtol=1e-9)


@pytest.mark.parametrize(("kind", "omega", "currents", "angle", "known"), FLUXES)
def test_the_known_fluxes_are_what_gem_gives(kind, omega, currents, angle, known):
    pytest.importorskip("gym_electric_motor")
    from gym_electric_motor.physical_systems import electric_motors

    names = {"SCIM": "SquirrelCageInductionMotor", "DFIM": "DoublyFedInductionMotor"}
    motor = getattr(electric_motors, names[kind])()
    motor._initial_states.update(zip(("i_salpha", "i_sbeta"), currents, strict=True))
    nominal = motor.nominal_values
    rotor = {} if kind == "SCIM" else {"u_rq_max": nominal["u_rq"]}
    found = motor._flux_limit(omega, angle, u_q_max=nominal["u_sq"], **rotor)
    np.testing.assert_allclose(np.abs(found), known, rtol=1e-12)


def test_fluxes_lie_within_what_the_speed_and_the_currents_allow():
    states = drawn(Uniform(), SCIM)
    flux = np.hypot(states["psi_ralpha"], states["psi_rbeta"])
    currents = np.hypot(states["i_salpha"], states["i_sbeta"])
    assert (flux <= 0.9 * SCIM.motor.l_m * currents * 1.0001).all()
    assert (flux[states["omega"] > 0] == 0).all()
    assert (flux[states["omega"] < -100] > 0).mean() > 0.3


def test_gradients_reach_the_bounds():
    def speed(scale):
        nominal = {name: value * scale for name, value in SCIM.nominal.items()}
        params = SimpleNamespace(
            motor=SCIM.motor, converter=SCIM.converter, load=SCIM.load, nominal=nominal
        )
        load, motor = Uniform().draw(KEYS[0], params)
        return load[0] + sum(motor)

    assert np.isfinite(jax.jit(jax.grad(speed))(1.0))
    # The median moves with both bounds alike, by their density over that of the middle.
    cut = jax.jit(jax.grad(lambda bounds, unit: truncated_normal(unit, 0.0, 1.0, *bounds)))
    np.testing.assert_allclose(cut((-1.0, 1.0), 0.5), [np.exp(-0.5) / 2] * 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("initial", "sentence"),
    [
        (InitialStates({"i_q": 1.0}), "values='i_q' is not one of .*did you mean 'i_sq'"),
        (InitialStates({"i_sq": 241.0}), r"values\['i_sq'\] is 241.0.* from -240 to 240"),
        (Uniform(names=("omg",)), "names='omg' .*did you mean 'omega'"),
        (Uniform(names="omega"), "names is 'omega', but a tuple"),
        (Uniform(interval={"i": (0.0, 1.0)}), "interval='i' is not one of"),
        (Uniform(interval={"i_sd": 3.0}), r"interval\['i_sd'\] is 3.0, but a pair"),
        (Uniform(interval={"i_sd": (250.0, 300.0)}), "no value is left"),
        (Uniform(interval={"i_sd": (5.0, -5.0)}), "no value is left"),
        (TruncatedNormal(std=0.0), "std is 0.0"),
    ],
)
def test_initial_states_that_cannot_be_are_refused(initial, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_initial_states(initial, PMSM)


def test_initial_states_that_can_be_are_accepted():
    for params in (SERIES, PMSM, SCIM, DFIM):
        for initial in (InitialStates(), Uniform(), TruncatedNormal(mean=1.0, std=2.0)):
            check_initial_states(initial, params)
    check_initial_states(InitialStates({"psi_ralpha": 0.5, "i_sbeta": 1.0}), SCIM)
