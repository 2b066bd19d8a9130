"""Whole drives against gym-electric-motor 3.0.3: the same actions, 300 steps, in float64.

Where it can be imported it is replayed here; what it said is also stored, some steps of each run.
"""

import functools

import jax
import numpy as np
import pytest

from experiments.electric_motor_replay import (
    CASES,
    PARTS,
    SHOWN,
    STORED,
    deviation,
    level,
    play,
    profile,
    random_actions,
    stored,
)
from jaxpg_envs import motor

# The same pieces by gym-electric-motor's names.
PEERS = {
    "capacitor": lambda gem: {
        "converter": gem.physical_systems.FiniteTwoQuadrantConverter(),
        "supply": gem.physical_systems.RCVoltageSupply(60.0, {"R": 0.5, "C": 1e-3}),
    },
    "capacitor bridge": lambda gem: {
        "supply": gem.physical_systems.RCVoltageSupply(300.0, {"R": 0.5, "C": 1e-3})
    },
    "alternating": lambda gem: {
        "supply": gem.physical_systems.AC1PhaseSupply(40.0, {"frequency": 50.0, "phase": 0.3})
    },
    "one quadrant": lambda gem: {"converter": gem.physical_systems.ContOneQuadrantConverter()},
    "finite one quadrant": lambda gem: {
        "converter": gem.physical_systems.FiniteOneQuadrantConverter()
    },
    "two quadrants that interlock": lambda gem: {
        "converter": gem.physical_systems.ContTwoQuadrantConverter(interlocking_time=5e-6)
    },
    "bridge that interlocks": lambda gem: {
        "converter": gem.physical_systems.FiniteB6BridgeConverter(interlocking_time=2e-6)
    },
    "induction with a bridge that interlocks": lambda gem: {
        "converter": gem.physical_systems.FiniteB6BridgeConverter(interlocking_time=2e-6)
    },
    "driven": lambda gem: {"load": gem.physical_systems.ExternalSpeedLoad(profile)},
    "friction": lambda gem: {
        "load": gem.physical_systems.PolynomialStaticLoad(
            {"a": 0.3, "b": 0.02, "c": 1e-3, "j_load": 5e-4}
        )
    },
    "late": lambda gem: {
        "physical_system_wrappers": (
            gem.physical_system_wrappers.DeadTimeProcessor(2),
            gem.physical_system_wrappers.CosSinProcessor(),
        )
    },
    "field coordinates": lambda gem: {
        "physical_system_wrappers": (
            gem.physical_system_wrappers.DeadTimeProcessor(1),
            gem.physical_system_wrappers.DqToAbcActionProcessor.make("PMSM"),
        )
    },
    "field of an induction motor": lambda gem: {
        "physical_system_wrappers": (
            gem.physical_system_wrappers.FluxObserver(),
            gem.physical_system_wrappers.DqToAbcActionProcessor.make("SCIM"),
        )
    },
    "field of both sides": lambda gem: {
        "physical_system_wrappers": (
            gem.physical_system_wrappers.FluxObserver(),
            gem.physical_system_wrappers.DqToAbcActionProcessor.make("DFIM"),
        )
    },
    "field of an excited rotor": lambda gem: {
        "physical_system_wrappers": (
            gem.physical_system_wrappers.DqToAbcActionProcessor.make("EESM"),
        )
    },
    "euler pmsm": lambda gem: {"ode_solver": gem.physical_systems.EulerSolver()},
    "euler scim": lambda gem: {"ode_solver": gem.physical_systems.EulerSolver(nsteps=4)},
}


def play_theirs(gem, name):
    """The parts of `play` from gym-electric-motor, up to the end of the run."""
    case, references = CASES[name], gem.reference_generators
    options = {"visualization": (), **PEERS.get(name, lambda gem: {})(gem)}
    if not case.constrained:
        options["constraints"] = ()
    names = gem.make(case.name, **options).unwrapped.reference_generator.reference_names
    single = []
    for index, quantity in enumerate(names):
        generator = references.ConstReferenceGenerator(quantity, level(index))
        generator._reference_names = [quantity]  # a string there, of which several make no list
        single.append(generator)
    reference = single[0] if len(single) == 1 else references.MultipleReferenceGenerator(single)
    # Its pieces remember what they were part of, so that they are made again.
    options |= PEERS.get(name, lambda gem: {})(gem)
    env = gem.make(case.name, **options, reference_generator=reference).unwrapped
    (first, _), _ = env.reset(seed=0)
    seen, rewards, ended = [], [], []
    for action in random_actions(env.action_space, case):
        (state, _), reward, terminated, _, _ = env.step(action)
        seen.append(state)
        rewards.append(reward)
        ended.append(terminated)
        if terminated:
            break
    return dict(zip(PARTS, map(np.asarray, (first, seen, rewards, ended)), strict=True))


@functools.cache
def ours(name):
    """In float64, with four steps of Runge and Kutta's method if nothing else is said."""
    with jax.enable_x64(True):
        return play(CASES[name], solver=motor.solvers.rk4(4))


def compare(name, theirs, steps):
    case, found = CASES[name], ours(name)
    np.testing.assert_allclose(found["first"], theirs["first"], rtol=0, atol=1e-12)
    tolerance = 1e-10 if case.euler else 5e-5
    assert deviation(case, found["seen"][steps], theirs["seen"]) < tolerance
    np.testing.assert_allclose(
        found["reward"][steps], theirs["reward"], rtol=1e-10 if case.euler else 1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(found["ended"][steps], theirs["ended"])


@pytest.mark.parametrize("name", CASES)
def test_a_drive_does_what_gym_electric_motor_did(name):
    compare(name, *stored(name))


@pytest.mark.parametrize("name", CASES)
def test_a_drive_does_what_gym_electric_motor_does(name):
    gem = pytest.importorskip("gym_electric_motor")
    theirs = play_theirs(gem, name)
    compare(name, theirs, np.arange(len(theirs["seen"])))


def record():
    """Writes what gym-electric-motor says: `python -m tests.envs.motor.test_replay`."""
    import gym_electric_motor as gem

    files = {}
    for name in CASES:
        theirs = play_theirs(gem, name)
        steps = np.unique(np.minimum(SHOWN, len(theirs["seen"]) - 1))
        files[f"{name}/steps"] = steps
        files[f"{name}/first"] = theirs["first"]
        for part in PARTS[1:]:
            files[f"{name}/{part}"] = theirs[part][steps]
    STORED.parent.mkdir(exist_ok=True)
    np.savez_compressed(STORED, **files)


if __name__ == "__main__":
    record()
