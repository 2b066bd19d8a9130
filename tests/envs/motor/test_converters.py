"""Converters against gym-electric-motor's own, their truth tables and the balance of power.

The recorded numbers are those of gym-electric-motor 3.0.3, fed with `sequence`; `record` makes them
anew where it is installed. All of them are fractions of a power of two, exact in any precision.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.motor import converters
from jaxpg_envs.motor.converters import (
    Cont1QC,
    Cont2QC,
    Cont4QC,
    ContB6,
    Finite1QC,
    Finite2QC,
    Finite4QC,
    FiniteB6,
    Multi,
    check_action,
    check_converter,
    converter,
    follow_tau,
    multi,
)

RECORDING = pathlib.Path(__file__).parent / "recordings" / "converters.json"
STEPS, RESET_AT = 300, 150
TAU, WAIT = 2.0**-13, 2.0**-17
WAITS = (0.0, WAIT)
CASES = [
    *converters.CONVERTERS,
    "Cont-1QC+Cont-2QC",
    "Cont-B6C+Cont-4QC",
    "Finite-2QC+Finite-1QC",
    "Finite-B6C+Finite-4QC",
]
SIGNALS = {"B6C": 3}
CHOICES = {"1QC": 2, "2QC": 3, "4QC": 4, "B6C": 8}
every = pytest.mark.parametrize("case", CASES)


def parts(case):
    return [tuple(name.split("-")) for name in case.split("+")]


def scale(case):
    return 2 if case.startswith("Finite") else 512


@functools.cache
def sequence(case):
    """Actions `[T, ...]` and currents `[T, 2, signals]`, the second ones for a split step."""
    raw = np.random.PCG64(CASES.index(case)).random_raw(STEPS * 20).reshape(STEPS, 20)
    kinds = [kind for _, kind in parts(case)]
    signals = sum(SIGNALS.get(kind, 1) for kind in kinds)
    currents = raw[:, : 2 * signals].astype(np.int64) % 9 - 4
    if case.startswith("Finite"):
        actions = raw[:, -len(kinds) :].astype(np.int64) % [CHOICES[kind] for kind in kinds]
        actions = actions if len(kinds) > 1 else actions[:, 0]
    else:
        # A little beyond both bounds, where duty cycles are clipped.
        low = [
            0 if kind in ("1QC", "2QC") else -16
            for kind in kinds
            for _ in range(SIGNALS.get(kind, 1))
        ]
        actions = raw[:, -signals:].astype(np.int64) % (20 - np.array(low)) + low
        actions = (actions - 2) / 16
    return actions, currents.reshape(STEPS, 2, signals).astype(float)


def record():
    """The same sequences through gym-electric-motor's converters."""
    from gym_electric_motor.physical_systems import converters as peers

    classes = {
        "1QC": "OneQuadrantConverter",
        "2QC": "TwoQuadrantConverter",
        "4QC": "FourQuadrantConverter",
        "B6C": "B6BridgeConverter",
    }

    def play(case, wait):
        pieces = [
            getattr(peers, kind + classes[shape])(tau=TAU, interlocking_time=wait)
            for kind, shape in parts(case)
        ]
        kind = parts(case)[0][0]
        several = getattr(peers, f"{kind}MultiConverter")
        peer = pieces[0] if len(pieces) == 1 else several(subconverters=pieces, tau=TAU)
        rest = [float(voltage) for voltage in peer.reset()]
        rows, split = [], []
        for step, (action, currents) in enumerate(zip(*sequence(case), strict=True)):
            if step == RESET_AT:
                peer.reset()
            start = step * TAU
            times = peer.set_action(action, start)
            for at, current in zip([start, *times], currents[: len(times)], strict=False):
                drawn = peer.i_sup(current)
                values = [drawn, *peer.convert(current.tolist(), at)]
                values = [float(np.squeeze(value)) * scale(case) for value in values]
                assert all(value == int(value) for value in values)
                rows.append([int(value) for value in values])
            split += [step] * (len(times) - 1)
        return {"rest": rest, "split": split, "rows": rows}

    return {case: [play(case, wait) for wait in WAITS] for case in CASES}


@functools.cache
def recorded():
    return json.loads(RECORDING.read_text())


def batch(case):
    """Two drives, of which one interlocks."""
    times = np.array(WAITS, np.float32)
    built = [
        converter(f"{kind}-{shape}", tau=TAU, interlocking_time=WAIT).replace(
            tau=np.full(2, TAU, np.float32), interlocking_time=times
        )
        for kind, shape in parts(case)
    ]
    return built[0] if len(built) == 1 else Multi(tuple(built))


def run(one, actions, currents):
    """`split [T]` and `[T, 2, 1 + signals]`: current drawn and voltages in both parts of a step."""

    def step(switches, given):
        action, (first, second) = given
        first, second = tuple(first), tuple(second)
        states, split = one.switch(switches, action)
        rows = [
            (one.supply_current(before, action, now), *one.convert(states, action, now))
            for before, now in ((switches, first), (states, second))
        ]
        return states, (split, jnp.array(rows))

    currents = jnp.asarray(currents, float)
    return jax.lax.scan(step, one.initial_switches(), (jnp.asarray(actions), currents))[1]


@functools.cache
def played():
    """Every case with both interlocking times, in one program."""

    @jax.jit
    def all_cases(given):
        return {
            case: jax.vmap(run, in_axes=(0, None, None))(*drive) for case, drive in given.items()
        }

    return jax.tree.map(
        np.asarray, all_cases({case: (batch(case), *sequence(case)) for case in CASES})
    )


# Against gym-electric-motor


@every
@pytest.mark.parametrize("interlocking", [False, True])
def test_every_converter_is_that_of_gym_electric_motor(case, interlocking):
    expected = recorded()[case][interlocking]
    split, rows = (values[int(interlocking)] for values in played()[case])
    np.testing.assert_array_equal(np.flatnonzero(split), expected["split"])
    splits = interlocking and case.startswith("Finite") and case != "Finite-1QC"
    assert len(expected["split"]) > 30 if splits else not expected["split"]
    happened = np.stack([np.ones_like(split), split], axis=1)
    np.testing.assert_array_equal(rows[happened] * scale(case), expected["rows"])


@every
def test_a_reset_gives_the_voltages_of_gym_electric_motor(case):
    built = batch(case)
    assert list(built.initial_voltages()) == recorded()[case][0]["rest"]
    assert all(switch == 0 and switch.dtype == jnp.int32 for switch in built.initial_switches())


def test_the_recording_is_what_gym_electric_motor_says_today():
    pytest.importorskip("gym_electric_motor")
    assert record() == recorded()


# One drive, a batch, gradients


def test_a_converter_that_never_interlocks_is_one_without_interlocking_time():
    built = {
        case: (multi if "+" in case else lambda one: one)(
            *(converter(f"{kind}-{shape}", tau=TAU) for kind, shape in parts(case))
        )
        for case in ("Finite-2QC", "Finite-B6C+Finite-4QC", "Cont-B6C+Cont-4QC")
    }
    given = {case: (one, *sequence(case)) for case, one in built.items()}
    alone = jax.jit(lambda given: {case: run(*drive) for case, drive in given.items()})(given)
    for case, (split, rows) in alone.items():
        assert not built[case].interlocks and not split.any()
        np.testing.assert_array_equal(rows, played()[case][1][0])


def test_gradients_are_finite_at_every_edge():
    current = np.array([0.0, 2.0, -2.0])

    def total(one, action, currents):
        drawn = one.supply_current((), action, currents)
        return drawn + sum((2.0 + k) * u for k, u in enumerate(one.convert((), action, currents)))

    with jax.enable_x64(True):
        built = {
            size: one
            for size, one in ((1, Cont2QC()), (2, multi(Cont1QC(), Cont4QC())), (3, ContB6()))
        }
        built = {size: jax.tree.map(jnp.asarray, one) for size, one in built.items()}

        @jax.jit
        def slopes(values):
            def of(one, size):
                return jax.vmap(
                    jax.grad(lambda one, a, i: total(one, a, tuple(i)), argnums=(0, 1, 2)),
                    (None, 0, 0),
                )(one, values[:, :size], jnp.asarray(current[:, None] * np.ones(size)))

            return {size: of(one, size) for size, one in built.items()}

        found = slopes(np.array([[-1.0, 1.0, 1.0], [0.5, 0.25, -0.5], [0.0, -1.0, -1.0]]))
        for leaf in jax.tree.leaves(found):
            assert leaf.dtype == np.float64
            assert np.isfinite(leaf).all()
        # Half a supply voltage for each unit of a leg's action, and half its current.
        np.testing.assert_allclose(found[3][1][1], (0.5 * np.array([2.0, 3.0, 4.0]) + 1.0))


# Truth tables


def act(one, actions, *currents):
    """Voltages and current drawn `[A, 1 + signals]` for each action from fresh switches."""
    rows = []
    for action in actions:
        switches, split = one.switch(one.initial_switches(), action)
        assert not split
        drawn = one.supply_current(switches, action, currents)
        rows.append([*map(float, one.convert(switches, action, currents)), float(drawn)])
    return np.array(rows)


@pytest.mark.parametrize("current", [-2.0, 0.0, 2.0])
def test_truth_tables_of_the_finite_converters(current):
    negative = current < 0
    one = act(Finite1QC(), range(2), current)
    np.testing.assert_array_equal(one[:, 0], [negative, 1])
    np.testing.assert_array_equal(one[:, 1], [0, current])
    two = act(Finite2QC(), range(3), current)
    np.testing.assert_array_equal(two[:, 0], [negative, 1, 0])
    np.testing.assert_array_equal(two[:, 1], [min(current, 0), current, 0])
    four = act(Finite4QC(), range(4), current)
    np.testing.assert_array_equal(four, [[0, 0], [1, current], [-1, -current], [0, 0]])
    three = act(FiniteB6(), range(8), current, 3.0, -5.0)
    bits = (np.arange(8)[:, None] >> np.array([2, 1, 0])) & 1
    np.testing.assert_array_equal(three[:, :3], bits - 0.5)
    np.testing.assert_array_equal(three[:, 3], bits @ [current, 3.0, -5.0])


def test_a_full_duty_cycle_is_a_switch_that_stays():
    currents = (2.0, 3.0, -4.0)
    np.testing.assert_array_equal(
        act(Cont1QC(), np.array([[0.0], [1.0]]), 2.0), act(Finite1QC(), range(2), 2.0)
    )
    for current in (2.0, -2.0):
        half = np.array([[1.0], [0.0]])
        np.testing.assert_array_equal(
            act(Cont2QC(), half, current), act(Finite2QC(), (1, 2), current)
        )
        full = np.array([[1.0], [-1.0]])
        np.testing.assert_array_equal(
            act(Cont4QC(), full, current), act(Finite4QC(), (1, 2), current)
        )
    corners = ((np.arange(8)[:, None] >> np.array([2, 1, 0])) & 1) * 2.0 - 1.0
    np.testing.assert_array_equal(
        act(ContB6(), corners, *currents), act(FiniteB6(), range(8), *currents)
    )


@pytest.mark.parametrize("case", ["Cont-4QC", "Cont-B6C", "Finite-B6C", "Cont-B6C+Cont-4QC"])
def test_without_interlocking_power_comes_out_as_it_went_in(case):
    # A bridge's voltages count from the middle of the supply, the power from its lower end.
    _, currents = sequence(case)
    split, rows = (values[0] for values in played()[case])
    drawn, voltages = rows[:, 1, 0], rows[:, 1, 1:]
    offset = np.concatenate(
        [np.full(SIGNALS.get(kind, 1), 0.5 * (kind == "B6C")) for _, kind in parts(case)]
    )
    np.testing.assert_allclose(drawn, ((voltages + offset) * currents[:, 1]).sum(-1), atol=1e-5)
    assert not split.any()


def test_a_leg_that_changes_sides_waits_for_a_whole_step():
    leg = converter("Finite-2QC", interlocking_time=1e-6)
    states = leg.initial_switches()
    seen = []
    for action in (1, 2, 2, 1, 0, 1):
        states, split = leg.switch(states, action)
        seen.append((int(states[0]), bool(split)))
    assert seen == [(1, False), (0, True), (2, False), (0, True), (0, False), (1, False)]


# Spaces


def test_actions_and_ranges_of_each_kind():
    spaces = {name: converter(name).action_space() for name in converters.CONVERTERS}
    assert [spaces[f"Finite-{kind}"].n for kind in CHOICES] == list(CHOICES.values())
    for kind, low in {"1QC": 0.0, "2QC": 0.0, "4QC": -1.0, "B6C": -1.0}.items():
        space = spaces[f"Cont-{kind}"]
        assert (space.low, space.high, space.shape) == (low, 1.0, (SIGNALS.get(kind, 1),))
        for name in (f"Cont-{kind}", f"Finite-{kind}"):
            one = converter(name)
            assert one.voltages_range() == ((low, 1.0),) * one.NUM_SIGNALS
            least = 0.0 if kind == "1QC" else -1.0
            assert one.currents_range() == ((least, 1.0),) * one.NUM_SIGNALS
    both = multi(ContB6(), Cont2QC())
    np.testing.assert_array_equal(both.action_space().low, [-1, -1, -1, 0])
    assert both.action_space().shape == (4,)
    assert both.voltages_range() == ((-1.0, 1.0),) * 3 + ((0.0, 1.0),)
    assert both.currents_range() == ((-1.0, 1.0),) * 4
    assert multi(FiniteB6(), Finite4QC()).action_space().nvec == (8, 4)


def test_the_period_of_the_system_reaches_what_has_no_legs():
    built = follow_tau(multi(Cont2QC(), Cont4QC(), Cont1QC(), ContB6()), 5e-5)
    assert [part.tau for part in built.parts] == [5e-5, 1e-4, 5e-5, 1e-4]
    assert [follow_tau(one(), 1e-3).tau for one in (Finite2QC, Finite4QC)] == [1e-3, 1e-5]


# Refusals


@pytest.mark.parametrize(
    ("build", "tau", "sentence"),
    [
        (lambda: ContB6(interlocking_time=-1e-6), 1e-4, "interlocking_time is -1e-06, but .*0 and"),
        (lambda: ContB6(interlocking_time=1e-4), 1e-4, "interlocking_time is 0.0001.* tau=0.0001"),
        (lambda: ContB6(interlocking_time=float("nan")), 1e-4, "interlocking_time is nan"),
        (
            lambda: FiniteB6(interlocking_time=np.array([0.0, 2e-5]), interlocks=True),
            1e-5,
            "interlocking_time is 2e-05",
        ),
        (lambda: FiniteB6(interlocking_time=1e-6), 1e-5, "interlocks is False, which leaves"),
        (lambda: Cont4QC(), 5e-5, "tau is 0.0001, but the system has tau=5e-05"),
        (
            lambda: multi(Cont4QC(), Cont4QC(tau=-1.0)),
            1e-4,
            r"parts\[1\].tau is -1.0, but .*positive",
        ),
        (lambda: Cont4QC(), 0.0, "tau is 0.0, but it has to be positive"),
        (
            lambda: multi(
                converter("Finite-B6C", interlocking_time=1e-6),
                converter("Finite-4QC", interlocking_time=2e-6),
            ),
            1e-5,
            r"parts\[1\].interlocking_time is 2e-06, but another part has 1e-06",
        ),
        (
            lambda: Multi((ContB6(), FiniteB6())),
            1e-4,
            "parts are ContB6, FiniteB6, but all have to",
        ),
    ],
)
def test_a_converter_that_no_drive_can_have_is_refused_in_one_sentence(build, tau, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_converter(build(), tau)


def test_the_caller_may_accept_legs_with_a_period_of_their_own():
    check_converter(Cont4QC(), 5e-5, same_tau=False)
    check_converter(Cont4QC(tau=np.float32(5e-5)), 5e-5)
    check_converter(multi(FiniteB6(), Finite4QC()), 1e-5)
    check_converter(converter("Finite-2QC", interlocking_time=1e-6), np.array([1e-5, 1e-5]))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "parts is empty"),
        ((ContB6(), Finite4QC()), "parts are ContB6, Finite4QC, but all"),
        ((Multi((ContB6(),)), Cont4QC()), "a Multi has no Multi inside"),
        ((ContB6(), "Cont-4QC"), "each has to be a converter"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        multi(*given)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="name='Cont-B6' is not one of .*did you mean 'Cont-B6C'"):
        converter("Cont-B6")


@pytest.mark.parametrize(
    ("one", "action", "sentence"),
    [
        (ContB6(), [0.0, 1.0], r"action has shape \(2,\), but ContB6 needs \(3,\)"),
        (ContB6(), [0.0, 1.0, 1.5], r"action\[2\] is 1.5, but ContB6 needs \[-1.0, 1.0\]"),
        (Cont2QC(), [-0.5], r"action\[0\] is -0.5, but Cont2QC needs \[0.0, 1.0\]"),
        (Cont2QC(), [np.nan], r"action\[0\] is nan"),
        (FiniteB6(), 8, r"action is 8, but FiniteB6 needs \[0, 7\]"),
        (FiniteB6(), 1.0, "action has dtype float64, but FiniteB6 needs whole numbers"),
        (multi(FiniteB6(), Finite4QC()), [7, 4], r"action\[1\] is 4, but Multi needs \[0, 3\]"),
    ],
)
def test_an_action_outside_its_space_is_refused_in_one_sentence(one, action, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_action(one, action)


@every
def test_every_sampled_action_is_one(case):
    built = jax.tree.map(lambda x: x[0], batch(case))
    for seed in range(3):
        check_action(built, built.action_space().sample(jax.random.key(seed)))
