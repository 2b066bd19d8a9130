"""Whole drives against gym-electric-motor 3.0.3: the same actions, 300 steps, in float64.

Where it can be imported it is replayed here; what it said is also stored, some steps of each run.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg_envs import motor

STORED = pathlib.Path(__file__).parent / "recordings" / "replays.npz"
NUM_STEPS = 300
SHOWN = np.array([1, 2, 3, 10, 50, 100, 150, 200, 250, 300]) - 1


class Case(NamedTuple):
    """One drive.

    Attributes:
      name: id of the environment.
      ours: keyword arguments of ours.
      peers: `(gym_electric_motor) -> keyword arguments` of theirs.
      hold: steps for which each random action is held.
      scale: of continuous random actions.
      constrained: whether constraints end the run.
    """

    name: str
    ours: Callable[[], dict[str, Any]] = dict
    peers: Callable[[Any], dict[str, Any]] = lambda gem: {}
    hold: int = 5
    scale: float = 1.0
    constrained: bool = False


def profile(t):
    """A speed profile for both."""
    return 50.0 + 1e4 * t


CASES = {
    # Every motor, with a load of its own speed and a continuous converter, ...
    "series": Case("Cont-SC-SeriesDc-v0"),
    "shunt": Case("Cont-SC-ShuntDc-v0"),
    "permanent": Case("Cont-SC-PermExDc-v0"),
    "external": Case("Cont-SC-ExtExDc-v0"),
    "pmsm": Case("Cont-SC-PMSM-v0"),
    "synrm": Case("Cont-SC-SynRM-v0"),
    "scim": Case("Cont-SC-SCIM-v0"),
    "dfim": Case("Cont-SC-DFIM-v0"),
    "eesm": Case("Cont-SC-EESM-v0"),
    # ... and at constant speed with a finite one.
    "finite series": Case("Finite-CC-SeriesDc-v0"),
    "finite shunt": Case("Finite-CC-ShuntDc-v0"),
    "finite permanent": Case("Finite-CC-PermExDc-v0"),
    "finite external": Case("Finite-CC-ExtExDc-v0"),
    "finite pmsm": Case("Finite-CC-PMSM-v0"),
    "finite synrm": Case("Finite-CC-SynRM-v0"),
    "finite scim": Case("Finite-CC-SCIM-v0"),
    "finite dfim": Case("Finite-CC-DFIM-v0"),
    "finite eesm": Case("Finite-CC-EESM-v0"),
    # Supplies.
    "capacitor": Case(
        "Finite-CC-PermExDc-v0",
        lambda: {
            "converter": motor.converters.Finite2QC(),
            "supply": motor.supplies.RC(u_nominal=60.0, resistance=0.5, capacitance=1e-3),
        },
        lambda gem: {
            "converter": gem.physical_systems.FiniteTwoQuadrantConverter(),
            "supply": gem.physical_systems.RCVoltageSupply(60.0, {"R": 0.5, "C": 1e-3}),
        },
    ),
    "capacitor bridge": Case(
        "Cont-CC-PMSM-v0",
        lambda: {"supply": motor.supplies.RC(u_nominal=300.0, resistance=0.5, capacitance=1e-3)},
        lambda gem: {"supply": gem.physical_systems.RCVoltageSupply(300.0, {"R": 0.5, "C": 1e-3})},
    ),
    "alternating": Case(
        "Cont-CC-PermExDc-v0",
        lambda: {"supply": motor.supplies.ACOnePhase(u_nominal=40.0, frequency=50.0, phase=0.3)},
        lambda gem: {
            "supply": gem.physical_systems.AC1PhaseSupply(40.0, {"frequency": 50.0, "phase": 0.3})
        },
    ),
    # Converters.
    "one quadrant": Case(
        "Cont-CC-SeriesDc-v0",
        lambda: {"converter": motor.converters.Cont1QC()},
        lambda gem: {"converter": gem.physical_systems.ContOneQuadrantConverter()},
    ),
    "finite one quadrant": Case(
        "Finite-TC-SeriesDc-v0",
        lambda: {"converter": motor.converters.Finite1QC()},
        lambda gem: {"converter": gem.physical_systems.FiniteOneQuadrantConverter()},
    ),
    "two quadrants that interlock": Case(
        "Cont-CC-PermExDc-v0",
        lambda: {"converter": motor.converters.Cont2QC(interlocking_time=5e-6)},
        lambda gem: {
            "converter": gem.physical_systems.ContTwoQuadrantConverter(interlocking_time=5e-6)
        },
    ),
    # At a constant speed, whose currents have signs from the start: a leg that waits looks at them.
    "bridge that interlocks": Case(
        "Finite-CC-PMSM-v0",
        lambda: {
            "converter": motor.converters.FiniteB6(interlocking_time=2e-6, interlocks=True),
            "solver": motor.solvers.rk4(1),
        },
        lambda gem: {
            "converter": gem.physical_systems.FiniteB6BridgeConverter(interlocking_time=2e-6)
        },
        hold=2,
    ),
    "induction with a bridge that interlocks": Case(
        "Finite-TC-SCIM-v0",
        lambda: {
            "converter": motor.converters.FiniteB6(interlocking_time=2e-6, interlocks=True),
            "solver": motor.solvers.rk4(1),
        },
        lambda gem: {
            "converter": gem.physical_systems.FiniteB6BridgeConverter(interlocking_time=2e-6)
        },
        hold=2,
    ),
    # Loads.
    "driven": Case(
        "Cont-CC-PermExDc-v0",
        lambda: {"load": motor.loads.ExternalSpeed(profile=profile)},
        lambda gem: {"load": gem.physical_systems.ExternalSpeedLoad(profile)},
    ),
    "friction": Case(
        "Cont-SC-PermExDc-v0",
        lambda: {"load": motor.loads.PolynomialStatic(a=0.3, b=0.02, c=1e-3, j_load=5e-4)},
        lambda gem: {
            "load": gem.physical_systems.PolynomialStaticLoad(
                {"a": 0.3, "b": 0.02, "c": 1e-3, "j_load": 5e-4}
            )
        },
        hold=20,
    ),
    # What stands between.
    "late": Case(
        "Cont-CC-PMSM-v0",
        lambda: {"processors": (motor.DeadTime(2), motor.CosSin())},
        lambda gem: {
            "physical_system_wrappers": (
                gem.physical_system_wrappers.DeadTimeProcessor(2),
                gem.physical_system_wrappers.CosSinProcessor(),
            )
        },
    ),
    "field coordinates": Case(
        "Cont-CC-PMSM-v0",
        lambda: {"processors": (motor.DeadTime(1), motor.DqActions())},
        lambda gem: {
            "physical_system_wrappers": (
                gem.physical_system_wrappers.DeadTimeProcessor(1),
                gem.physical_system_wrappers.DqToAbcActionProcessor.make("PMSM"),
            )
        },
    ),
    "field of an induction motor": Case(
        "Cont-TC-SCIM-v0",
        lambda: {"processors": (motor.FluxObserver(), motor.DqActions())},
        lambda gem: {
            "physical_system_wrappers": (
                gem.physical_system_wrappers.FluxObserver(),
                gem.physical_system_wrappers.DqToAbcActionProcessor.make("SCIM"),
            )
        },
    ),
    "field of both sides": Case(
        "Cont-TC-DFIM-v0",
        lambda: {"processors": (motor.FluxObserver(), motor.DqActions())},
        lambda gem: {
            "physical_system_wrappers": (
                gem.physical_system_wrappers.FluxObserver(),
                gem.physical_system_wrappers.DqToAbcActionProcessor.make("DFIM"),
            )
        },
    ),
    "field of an excited rotor": Case(
        "Cont-TC-EESM-v0",
        lambda: {"processors": (motor.DqActions(),)},
        lambda gem: {
            "physical_system_wrappers": (
                gem.physical_system_wrappers.DqToAbcActionProcessor.make("EESM"),
            )
        },
    ),
    # Euler against Euler: the same arithmetic.
    "euler pmsm": Case(
        "Cont-SC-PMSM-v0",
        lambda: {"solver": motor.solvers.euler()},
        lambda gem: {"ode_solver": gem.physical_systems.EulerSolver()},
    ),
    "euler scim": Case(
        "Finite-SC-SCIM-v0",
        lambda: {"solver": motor.solvers.euler(4)},
        lambda gem: {"ode_solver": gem.physical_systems.EulerSolver(nsteps=4)},
    ),
    # Until a constraint ends it.
    "ends": Case("Cont-CC-SeriesDc-v0", hold=300, constrained=True),
    "ends as a circle": Case("Cont-TC-PMSM-v0", hold=20, constrained=True),
}


def random_actions(space: Any, case: Case, seed: int) -> np.ndarray:
    """`[NUM_STEPS, ...]`, from a generator whose stream is frozen."""
    random = np.random.RandomState(seed)
    blocks = -(-NUM_STEPS // case.hold)
    if hasattr(space, "n"):
        drawn = random.randint(space.n, size=blocks)
    elif hasattr(space, "nvec"):
        drawn = random.randint(np.asarray(space.nvec), size=(blocks, len(space.nvec)))
    else:
        low, high = (
            np.broadcast_to(space.low, space.shape),
            np.broadcast_to(space.high, space.shape),
        )
        drawn = case.scale * random.uniform(low, high, size=(blocks, *space.shape))
    return np.repeat(drawn, case.hold, axis=0)[:NUM_STEPS]


def level(index: int) -> float:
    """The constant reference of each referenced quantity."""
    return 0.1 + 0.05 * index


def play_theirs(gem: Any, case: Case) -> dict[str, np.ndarray]:
    """Observations `[NUM_STEPS, N]`, rewards and ends of gym-electric-motor."""
    references = gem.reference_generators
    options = dict(case.peers(gem), visualization=())
    if not case.constrained:
        options["constraints"] = ()
    env = gem.make(case.name, **options).unwrapped
    names = np.array(env.reference_generator.reference_names).reshape(-1)
    single = [
        references.ConstReferenceGenerator(reference_state=name, reference_value=level(index))
        for index, name in enumerate(names)
    ]
    for generator in single:
        generator._reference_names = [generator._reference_state]
    options["reference_generator"] = (
        single[0] if len(single) == 1 else references.MultipleReferenceGenerator(single)
    )
    options |= case.peers(gem)
    env = gem.make(case.name, **options).unwrapped
    (first, _), _ = env.reset(seed=0)
    seen, rewards, ended = [], [], []
    for action in random_actions(env.action_space, case, sum(map(ord, case.name))):
        (state, _), reward, terminated, _, _ = env.step(action)
        seen.append(state)
        rewards.append(reward)
        ended.append(terminated)
        if terminated:
            break
    return {
        "first": np.asarray(first),
        "seen": np.asarray(seen),
        "reward": np.asarray(rewards),
        "ended": np.asarray(ended),
    }


@functools.cache
def play_ours(name: str) -> dict[str, np.ndarray]:
    """The same of ours, with four steps of Runge and Kutta's method if nothing else is said."""
    case = CASES[name]
    options = {"solver": motor.solvers.rk4(4)} | case.ours()
    if not case.constrained:
        options["constraints"] = ()
    with jax.enable_x64(True):
        env, params = jaxpg_envs.make(case.name, **options)
        single = tuple(
            motor.references.Constant((quantity,), level(index))
            for index, quantity in enumerate(params.reference.names)
        )
        reference = single[0] if len(single) == 1 else motor.references.Multiple(single)
        params = params.replace(reference=reference)
        actions = random_actions(env.action_space(params), case, sum(map(ord, case.name)))

        def step(state, action):
            observation, state, reward, ended, _ = env.step_env(
                jax.random.key(0), state, action, params
            )
            return state, (observation[0], reward, ended)

        @jax.jit
        def play(actions):
            (first, _), state = env.reset_env(jax.random.key(0), params)
            return first, jax.lax.scan(step, state, actions)[1]

        first, (seen, reward, ended) = jax.tree.map(np.asarray, play(jnp.asarray(actions)))
    return {"first": first, "seen": seen, "reward": reward, "ended": ended}


def compare(case: Case, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], steps) -> None:
    """Equal at `steps`, whose rows `theirs` holds."""
    euler = "euler" in str(case.ours().get("solver", ""))
    tolerance = 1e-10 if euler else 5e-5
    np.testing.assert_allclose(ours["first"], theirs["first"], rtol=0, atol=1e-12)
    # An angle may be wrapped to either end.
    difference = np.abs(ours["seen"][steps] - theirs["seen"])
    angles = [i for i, name in enumerate(shown(case)) if name in ("epsilon", "psi_angle")]
    difference[:, angles] = np.minimum(difference[:, angles], 2.0 - difference[:, angles])
    # Unconstrained, quantities go far beyond their limits: then relative to their size.
    assert np.max(difference / np.maximum(1.0, np.abs(theirs["seen"]))) < tolerance
    np.testing.assert_allclose(
        ours["reward"][steps], theirs["reward"], rtol=1e-10 if euler else 1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(ours["ended"][steps], theirs["ended"])


def shown(case: Case) -> tuple[str, ...]:
    return jaxpg_envs.make(case.name, **case.ours())[0].state_names


@pytest.mark.parametrize("name", CASES)
def test_a_drive_does_what_gym_electric_motor_did(name):
    stored = np.load(STORED, allow_pickle=False)
    theirs = {part: stored[f"{name}/{part}"] for part in ("first", "seen", "reward", "ended")}
    compare(CASES[name], play_ours(name), theirs, stored[f"{name}/steps"])


@pytest.mark.parametrize("name", CASES)
def test_a_drive_does_what_gym_electric_motor_does(name):
    gem = pytest.importorskip("gym_electric_motor")
    theirs = play_theirs(gem, CASES[name])
    steps = np.arange(len(theirs["seen"]))
    compare(CASES[name], play_ours(name), theirs, steps)


def record() -> None:
    """Writes what gym-electric-motor says: `python -m tests.envs.motor.test_replay`."""
    import gym_electric_motor as gem

    stored = {}
    for name, case in CASES.items():
        theirs = play_theirs(gem, case)
        steps = np.unique(np.minimum(SHOWN, len(theirs["seen"]) - 1))
        stored[f"{name}/steps"] = steps
        stored[f"{name}/first"] = theirs["first"]
        for part in ("seen", "reward", "ended"):
            stored[f"{name}/{part}"] = theirs[part][steps]
    np.savez_compressed(STORED, **stored)


if __name__ == "__main__":
    record()
