"""Supplies against gym-electric-motor's own and against the differential equation.

The recorded numbers are those of gym-electric-motor 3.0.3; `record` makes them anew where it is
installed.
"""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpg_envs.motor.supplies import RC, ACOnePhase, ACThreePhase, Ideal, check_supply

RECORDING = pathlib.Path(__file__).parent / "recordings" / "supplies.json"
TAU, STEPS = 1e-4, 300
SUPPLIES = {
    "ideal": Ideal(420.0),
    "rc": RC(60.0, 0.8, 5e-3),
    "one_phase": ACOnePhase(230.0, 50.0, 0.7),
    "three_phase": ACThreePhase(400.0, 60.0, 2.5),
}
every = pytest.mark.parametrize("name", SUPPLIES)


@functools.cache
def sequence():
    """Times at which a supply is asked, each third step twice, and the currents drawn."""
    steps = np.sort(np.concatenate([np.arange(0, STEPS, 3), np.arange(STEPS)]))[:STEPS]
    drawn = np.random.PCG64(0).random_raw(STEPS).astype(np.int64) % 401 - 200
    return steps * TAU, drawn / 4


def record():
    """The same sequence through gym-electric-motor's supplies, the voltage at a reset first."""
    from gym_electric_motor.physical_systems import voltage_supplies as peers

    alternating = {"frequency": 50.0, "phase": 0.7}
    built = {
        "ideal": peers.IdealVoltageSupply(420.0),
        "rc": peers.RCVoltageSupply(60.0, {"R": 0.8, "C": 5e-3}),
        "one_phase": peers.AC1PhaseSupply(230.0, alternating),
        "three_phase": peers.AC3PhaseSupply(400.0, {"frequency": 60.0, "phase": 2.5}),
    }
    # The others do not look at the current, and a part of the sequence says it all.
    number = {"ideal": 1, "rc": STEPS, "one_phase": 30, "three_phase": 30}
    found = {}
    for name, peer in built.items():
        rows = [np.asarray(peer.reset(), float).tolist()]
        for time, drawn in list(zip(*sequence(), strict=True))[: number[name]]:
            rows.append(np.asarray(peer.get_voltage(time, drawn), float).tolist())
        found[name] = {"range": [float(bound) for bound in peer.supply_range], "voltages": rows}
    return found


@functools.cache
def recorded():
    return json.loads(RECORDING.read_text())


def run(supply, key, times, drawn):
    """Voltages `[1 + T, ...]`, that at the reset first."""
    state = supply.initial(key)

    def step(state, given):
        return supply.voltage(state, *given)

    first = supply.initial_voltage(state)
    _, rest = jax.lax.scan(step, state, (times, drawn))
    return jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), first, rest)


@functools.cache
def played():
    with jax.enable_x64(True):
        times, drawn = sequence()
        all_four = jax.jit(
            lambda times, drawn: {
                name: run(supply, jax.random.key(0), times, drawn)
                for name, supply in SUPPLIES.items()
            }
        )
        return jax.tree.map(np.asarray, all_four(times, drawn))


@every
def test_every_supply_is_that_of_gym_electric_motor(name):
    expected = np.array(recorded()[name]["voltages"])
    ours = np.stack([*played()[name]], -1) if name == "three_phase" else played()[name][:, None]
    assert ours.dtype == np.float64
    assert expected.shape[1] == SUPPLIES[name].NUM_VOLTAGES
    np.testing.assert_allclose(ours[: len(expected)], expected, rtol=1e-11, atol=1e-11)


@every
def test_every_range_is_that_of_gym_electric_motor(name):
    found = SUPPLIES[name].voltage_range()
    np.testing.assert_allclose(found, recorded()[name]["range"], rtol=1e-12)
    if name != "rc":
        # A current that flows back charges a capacitor beyond its range.
        voltages = np.stack([*played()[name]])
        assert ((voltages >= found[0] - 1e-9) & (voltages <= found[1] + 1e-9)).all()


def test_the_recording_is_what_gym_electric_motor_says_today():
    pytest.importorskip("gym_electric_motor")
    assert record() == recorded()


def test_a_capacitor_follows_its_differential_equation():
    supply, current = RC(60.0, 1.0, 4e-3), 10.0
    times = np.arange(2000) * 1e-5
    with jax.enable_x64(True):
        drawn = np.full(len(times), current)
        found = np.asarray(jax.jit(run)(supply, jax.random.key(0), times, drawn))
    expected = 60.0 - current * (1 - np.exp(-times / 4e-3))
    np.testing.assert_allclose(found[1:], expected, atol=0.01)
    assert found[0] == found[1] == 60.0


def test_the_later_part_of_a_step_has_the_voltage_of_the_first():
    times, _ = sequence()
    again = np.flatnonzero(np.diff(times) == 0)
    voltages = played()["rc"][1:]
    assert len(again) > 50
    np.testing.assert_array_equal(voltages[again], voltages[again + 1])


@pytest.mark.parametrize("kind", [ACOnePhase, ACThreePhase])
def test_a_phase_that_is_not_given_is_drawn_at_a_reset(kind):
    keys = jax.random.split(jax.random.key(0), 2000)
    phases = np.asarray(jax.jit(jax.vmap(kind().initial))(keys))
    assert stats.kstest(phases, stats.uniform(0, 2 * math.pi).cdf).pvalue > 1e-3
    assert ((phases >= 0) & (phases < 2 * math.pi)).all()


def test_three_phases_are_a_third_apart_and_add_up_to_nothing():
    a, b, c = played()["three_phase"]
    np.testing.assert_allclose(a + b + c, 0.0, atol=1e-9)
    line = a - b
    np.testing.assert_allclose(np.abs(line).max(), 400.0 * math.sqrt(2), rtol=1e-3)


def test_a_batch_of_supplies_is_each_of_them_and_gradients_are_finite():
    batch = RC(np.array([60.0, 48.0], np.float32), np.ones(2, np.float32), np.full(2, 4e-3, "f"))
    times, drawn = (np.asarray(values[:20], np.float32) for values in sequence())
    key = jax.random.key(0)

    @jax.jit
    def both(batch):
        apart = [run(jax.tree.map(lambda x: x[i], batch), key, times, drawn) for i in range(2)]
        return jax.vmap(run, (0, None, None, None))(batch, key, times, drawn), jnp.stack(apart)

    together, apart = both(batch)
    np.testing.assert_allclose(together, apart, rtol=1e-6)
    assert together.dtype == jnp.float32
    np.testing.assert_allclose(together[0], run(RC(60.0), key, times, drawn), rtol=1e-6)

    @jax.jit
    def slopes(supplies, drawn):
        def last(supplies, drawn):
            ends = [run(supply, key, times, drawn) for supply in supplies]
            return sum(leaf[-1] for leaf in jax.tree.leaves(ends))

        return jax.grad(last, argnums=(0, 1))(supplies, drawn)

    supplies = jax.tree.map(jnp.asarray, [SUPPLIES[name] for name in SUPPLIES])
    for leaf in jax.tree.leaves(slopes(supplies, drawn)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    ("supply", "tau", "sentence"),
    [
        (Ideal(0.0), None, "u_nominal is 0.0, but it has to be positive and finite"),
        (Ideal(np.array([60.0, np.nan])), None, "u_nominal is nan"),
        (RC(60.0, resistance=-1.0), None, "resistance is -1.0, but .*positive"),
        (RC(60.0, capacitance=0.0), None, "capacitance is 0.0, but .*positive"),
        (RC(60.0, 1.0, 4e-5), 1e-4, "tau is 0.0001, but the explicit step.* capacitance = 8e-05"),
        (ACOnePhase(frequency=np.inf), None, "frequency is inf, but .*finite"),
        (ACThreePhase(phase=-0.1), None, "phase is -0.1, but it has to be at least 0 and below 2"),
    ],
)
def test_a_supply_that_cannot_be_is_refused_in_one_sentence(supply, tau, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_supply(supply, tau)


@every
def test_what_can_be_is_accepted(name):
    check_supply(SUPPLIES[name], 1e-4)
    check_supply(type(SUPPLIES[name])(), np.array([1e-4, 1e-5]))
