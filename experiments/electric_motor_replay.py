"""Whole drives with given actions, and what gym-electric-motor 3.0.3 did with the same.

Its observations, rewards and ends are stored beside this file, some steps of each run of 300.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg_envs
from jaxpg_envs import motor

STORED = pathlib.Path(__file__).parent / "recordings" / "gym_electric_motor.npz"
NUM_STEPS = 300
SHOWN = np.array([1, 2, 3, 10, 50, 100, 150, 200, 250, 300]) - 1
"""Steps that are stored, as far as a run goes."""

PARTS = ("first", "seen", "reward", "ended")


class Case(NamedTuple):
    """One drive.

    Attributes:
      name: id of the environment.
      options: keyword arguments of it.
      hold: steps for which each random action is held.
      constrained: whether constraints end the run.
    """

    name: str
    options: Callable[[], dict[str, Any]] = dict
    hold: int = 5
    constrained: bool = False

    @property
    def euler(self) -> bool:
        """Whether both sides take Euler steps, which differ by rounding alone."""
        return "euler" in str(self.options().get("solver", ""))


def profile(t: Any) -> Any:
    """A speed profile, in rad/s."""
    return 50.0 + 1e4 * t


CASES: dict[str, Case] = {
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
    ),
    "capacitor bridge": Case(
        "Cont-CC-PMSM-v0",
        lambda: {"supply": motor.supplies.RC(u_nominal=300.0, resistance=0.5, capacitance=1e-3)},
    ),
    "alternating": Case(
        "Cont-CC-PermExDc-v0",
        lambda: {"supply": motor.supplies.ACOnePhase(u_nominal=40.0, frequency=50.0, phase=0.3)},
    ),
    # Converters.
    "one quadrant": Case(
        "Cont-CC-SeriesDc-v0",
        lambda: {"converter": motor.converters.Cont1QC()},
    ),
    "finite one quadrant": Case(
        "Finite-TC-SeriesDc-v0",
        lambda: {"converter": motor.converters.Finite1QC()},
    ),
    "two quadrants that interlock": Case(
        "Cont-CC-PermExDc-v0",
        lambda: {"converter": motor.converters.Cont2QC(interlocking_time=5e-6)},
    ),
    # At a constant speed, whose currents have signs from the start: a leg that waits looks at them.
    "bridge that interlocks": Case(
        "Finite-CC-PMSM-v0",
        lambda: {
            "converter": motor.converters.FiniteB6(interlocking_time=2e-6, interlocks=True),
            "solver": motor.solvers.rk4(1),
        },
        hold=2,
    ),
    "induction with a bridge that interlocks": Case(
        "Finite-TC-SCIM-v0",
        lambda: {
            "converter": motor.converters.FiniteB6(interlocking_time=2e-6, interlocks=True),
            "solver": motor.solvers.rk4(1),
        },
        hold=2,
    ),
    # Loads.
    "driven": Case(
        "Cont-CC-PermExDc-v0",
        lambda: {"load": motor.loads.ExternalSpeed(profile=profile)},
    ),
    "friction": Case(
        "Cont-SC-PermExDc-v0",
        lambda: {"load": motor.loads.PolynomialStatic(a=0.3, b=0.02, c=1e-3, j_load=5e-4)},
        hold=20,
    ),
    # What stands between.
    "late": Case(
        "Cont-CC-PMSM-v0",
        lambda: {"processors": (motor.DeadTime(2), motor.CosSin())},
    ),
    "field coordinates": Case(
        "Cont-CC-PMSM-v0",
        lambda: {"processors": (motor.DeadTime(1), motor.DqActions())},
    ),
    "field of an induction motor": Case(
        "Cont-TC-SCIM-v0",
        lambda: {"processors": (motor.FluxObserver(), motor.DqActions())},
    ),
    "field of both sides": Case(
        "Cont-TC-DFIM-v0",
        lambda: {"processors": (motor.FluxObserver(), motor.DqActions())},
    ),
    "field of an excited rotor": Case(
        "Cont-TC-EESM-v0",
        lambda: {"processors": (motor.DqActions(),)},
    ),
    # Euler against Euler: the same arithmetic.
    "euler pmsm": Case(
        "Cont-SC-PMSM-v0",
        lambda: {"solver": motor.solvers.euler()},
    ),
    "euler scim": Case(
        "Finite-SC-SCIM-v0",
        lambda: {"solver": motor.solvers.euler(4)},
    ),
    # Until a constraint ends it.
    "ends": Case("Cont-CC-SeriesDc-v0", hold=300, constrained=True),
    "ends as a circle": Case("Cont-TC-PMSM-v0", hold=20, constrained=True),
}


def random_actions(space: Any, case: Case) -> np.ndarray:
    """Actions of a case, from a generator whose stream is frozen.

    Args:
      space: gymnax's or gymnasium's: both have the same attributes.
      case: gives the seed and how long an action is held.

    Returns:
      `[NUM_STEPS, ...]`.
    """
    random = np.random.RandomState(sum(map(ord, case.name)))
    blocks = -(-NUM_STEPS // case.hold)
    if hasattr(space, "n"):
        drawn = random.randint(space.n, size=blocks)
    elif hasattr(space, "nvec"):
        drawn = random.randint(np.asarray(space.nvec), size=(blocks, len(space.nvec)))
    else:
        low, high = (np.broadcast_to(end, space.shape) for end in (space.low, space.high))
        drawn = random.uniform(low, high, size=(blocks, *space.shape))
    return np.repeat(drawn, case.hold, axis=0)[:NUM_STEPS]


def level(index: int) -> float:
    """The constant reference of each referenced quantity, by its place."""
    return 0.1 + 0.05 * index


def play(case: Case, **options: Any) -> dict[str, np.ndarray]:
    """Plays a case in the precision that is set.

    Args:
      case: of `CASES`.
      **options: of the environment, as far as the case does not give them.

    Returns:
      `first [N]`, the observation of the reset; `seen [NUM_STEPS, N]`, `reward [NUM_STEPS]` and
      `ended [NUM_STEPS]` after each step, also after an end.
    """
    options |= case.options()
    if not case.constrained:
        options["constraints"] = ()
    env, params = jaxpg_envs.make(case.name, **options)
    single = tuple(
        motor.references.Constant((name,), level(index))
        for index, name in enumerate(params.reference.names)
    )
    reference = single[0] if len(single) == 1 else motor.references.Multiple(single)
    params = params.replace(reference=reference)

    @jax.jit
    def all_steps(key: jax.Array, actions: jax.Array):
        def step(state, action):
            observation, state, reward, ended, _ = env.step_env(key, state, action, params)
            return state, (observation[0], reward, ended)

        (first, _), state = env.reset_env(key, params)
        return first, jax.lax.scan(step, state, actions)[1]

    actions = jnp.asarray(random_actions(env.action_space(params), case))
    first, (seen, reward, ended) = jax.tree.map(np.asarray, all_steps(jax.random.key(0), actions))
    return {"first": first, "seen": seen, "reward": reward, "ended": ended}


def stored(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What gym-electric-motor did.

    Args:
      name: of `CASES`.

    Returns:
      The parts of `play`, at some steps; and the numbers of these steps.
    """
    with np.load(STORED, allow_pickle=False) as files:
        return {part: files[f"{name}/{part}"] for part in PARTS}, files[f"{name}/steps"]


def deviation(case: Case, seen: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of observations.

    Args:
      case: of `CASES`.
      seen: `[T, N]`.
      theirs: `[T, N]`, of the same steps.

    Returns:
      In normalised units. Without constraints quantities go far beyond their limits: then relative
      to their size. An angle may be wrapped to either end of its range.
    """
    env, _ = jaxpg_envs.make(case.name, **case.options())
    difference = np.abs(seen - theirs)
    angles = [i for i, name in enumerate(env.state_names) if name in ("epsilon", "psi_angle")]
    difference[:, angles] = np.minimum(difference[:, angles], 2.0 - difference[:, angles])
    return float(np.max(difference / np.maximum(1.0, np.abs(theirs))))
