"""The 54 drives of gym-electric-motor 3.0.3 by their ids, each piece replaceable.

`{Cont|Finite}-{CC|SC|TC}-{motor}-v0`: a continuous or finite converter, control of currents, of
the speed or of the torque, and nine motors.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from jaxpg_envs.choices import refusal
from jaxpg_envs.motor import constraints as limiting
from jaxpg_envs.motor import converters, loads, motors, references, rewards, supplies
from jaxpg_envs.motor.drive import Solve
from jaxpg_envs.motor.environment import NO_TIME_LIMIT, DriveParams, ElectricDrive
from jaxpg_envs.motor.initial_states import InitialStates
from jaxpg_envs.motor.processors import CurrentSum

KINDS = ("Cont", "Finite")
TASKS = ("CC", "SC", "TC")

_DIRECT = ("SeriesDc", "ShuntDc", "PermExDc", "ExtExDc")
_CURRENTS = {
    "SeriesDc": ("i",),
    "ShuntDc": ("i_a", "i_e"),
    "PermExDc": ("i",),
    "ExtExDc": ("i_a", "i_e"),
    "PMSM": ("i_sd", "i_sq"),
    "SynRM": ("i_sd", "i_sq"),
    "SCIM": ("i_sd", "i_sq"),
    "DFIM": ("i_sd", "i_sq"),
    "EESM": ("i_sd", "i_sq", "i_e"),
}
MOTORS = tuple(_CURRENTS)

# What is controlled in CC where it is not every current.
_CONTROLLED = {"ShuntDc": ("i_a",)}

_VOLTAGE = {"direct": 60.0, "three-phase": 420.0}
_OTHER_VOLTAGE = {
    "Finite-CC-SeriesDc": 420.0,
    "Finite-TC-SeriesDc": 420.0,
    "Cont-CC-PMSM": 300.0,
    "Cont-CC-EESM": 300.0,
}

_SPEED = 100.0
_OTHER_SPEED = {"Cont-TC-ShuntDc": 230.0}

# Coefficients a, b and the inertia of the load whose speed is controlled.
_LOAD = {
    "SeriesDc": (0.01, 0.05, 1e-4),
    "ShuntDc": (0.05, 0.01, 1e-4),
    "PermExDc": (0.0, 0.0, 1e-4),
    "ExtExDc": (0.0, 0.0, 1e-4),
}
_THREE_PHASE_LOAD = (0.01, 0.01, 1e-5)
_OTHER_LOAD = {
    "Finite-SC-SeriesDc": (0.15, 0.05, 1e-4),
    "Finite-SC-PermExDc": (0.0, 0.0, 1e-3),
    "Finite-SC-EESM": (0.0, 0.0, 1e-5),
}

# Range of the standard deviation of the reference's increments.
_SIGMA = (1e-3, 1e-1)
_OTHER_SIGMA = {
    "Cont-CC-PermExDc": (1e-2, 1e-1),
    "Finite-CC-PermExDc": (1e-2, 1e-1),
    "Cont-TC-PermExDc": (1e-2, 1e-1),
    "Finite-TC-PermExDc": (1e-2, 1e-1),
    "Cont-SC-SeriesDc": (1e-3, 2e-2),
    "Finite-SC-SeriesDc": (1e-3, 5e-3),
    "Cont-SC-ShuntDc": (1e-3, 3e-2),
    "Finite-SC-ShuntDc": (1e-3, 5e-3),
    "Cont-SC-PermExDc": (1e-3, 5e-2),
    "Finite-SC-PermExDc": (1e-3, 5e-3),
    "Cont-SC-SynRM": (1e-3, 1e-2),
    "Finite-SC-SynRM": (1e-3, 1e-2),
    "Cont-SC-SCIM": (1e-3, 1e-2),
    "Finite-SC-SCIM": (1e-3, 1e-2),
    "Cont-SC-DFIM": (1e-3, 1e-2),
    "Finite-SC-DFIM": (1e-3, 1e-2),
}

# How near to the limits references come, where it is not the share of nominal operation.
_MARGIN = {("Cont-TC-ShuntDc", "torque"): (0.0, 0.8), ("Cont-CC-EESM", "i_e"): (0.0, 1.0)}


def names() -> list[str]:
    """The 54 ids.

    >>> len(names()), names()[0]
    (54, 'Cont-CC-SeriesDc-v0')
    """
    return [f"{kind}-{task}-{motor}-v0" for kind in KINDS for task in TASKS for motor in MOTORS]


def factories() -> dict[str, Callable[..., ElectricDrive]]:
    """A constructor for each id, for the registry."""
    return {name: functools.partial(electric_drive, name) for name in names()}


def electric_drive(
    name: str,
    *,
    supply: Any = None,
    converter: Any = None,
    motor: Any = None,
    load: Any = None,
    reference: Any = None,
    reward: Any = None,
    constraints: tuple | None = None,
    processors: tuple = (),
    initial: Any = None,
    limits: Mapping[str, float] | None = None,
    nominal: Mapping[str, float] | None = None,
    tau: float | None = None,
    merge: str = "max",
    max_steps_in_episode: int = NO_TIME_LIMIT,
    solver: Solve | None = None,
    state_filter: tuple[str, ...] | None = None,
) -> ElectricDrive:
    """Build one of the 54 drives, with other pieces where they are given.

    A piece is given as a record that replaces it, or as a dict of fields that differ from the
    id's own: `motor={"r_s": 0.02}`.

    Args:
      name: one of `names()`.
      supply: see `supplies`.
      converter: see `converters`.
      motor: see `motors`.
      load: see `loads`.
      reference: see `references`.
      reward: see `rewards`.
      constraints: tuple of records, see `constraints`.
      processors: tuple of records, see `processors`, the innermost first.
      initial: see `initial_states`; None begins with zeros, and with the speed of the load.
      limits: limits that differ from the motor's, by name, in SI units.
      nominal: nominal values that differ from the motor's, by name, in SI units.
      tau: seconds of a step; None takes 1e-4 for a continuous and 1e-5 for a finite converter.
      merge: see `DriveParams`.
      max_steps_in_episode: see `DriveParams`.
      solver: see `solvers`.
      state_filter: names of the quantities that are shown.

    Returns:
      The environment.

    Raises:
      ValueError: pieces that do not fit together, see `checks`.
      TypeError: a field that a piece does not have.
    """
    if name not in names():
        raise ValueError(refusal("name", name, names(), "the 54 ids of motor.ids.names()"))
    kind, task, kind_of_motor, _ = name.split("-")
    key = name.removesuffix("-v0")
    direct = kind_of_motor in _DIRECT
    tau = (1e-4 if kind == "Cont" else 1e-5) if tau is None else tau
    volts = _OTHER_VOLTAGE.get(key, _VOLTAGE["direct" if direct else "three-phase"])
    supply = _piece("supply", supply, supplies.Ideal(u_nominal=volts))
    converter = _piece("converter", converter, _converter(kind, kind_of_motor))
    motor = _piece("motor", motor, getattr(motors, kind_of_motor)())
    load = _piece("load", load, _load(key, task, kind_of_motor))
    controlled = _controlled(task, kind_of_motor)
    if kind_of_motor == "ShuntDc":
        processors = (*processors, CurrentSum(("i_a", "i_e")))
    params = DriveParams(
        supply=supply,
        converter=converters.follow_tau(converter, tau),
        motor=motor,
        load=load,
        reference=_piece("reference", reference, _reference(key, controlled)),
        reward=_piece("reward", reward, rewards.WeightedSumOfErrors.equal(controlled)),
        constraints=_constraints(kind_of_motor) if constraints is None else tuple(constraints),
        processors=processors,
        limits={**load.LIMITS, **motor.limits(), "u_sup": supply.u_nominal, **(limits or {})},
        nominal={**load.LIMITS, **motor.nominal(), "u_sup": supply.u_nominal, **(nominal or {})},
        initial=InitialStates() if initial is None else initial,
        tau=tau,
        merge=merge,
        max_steps_in_episode=max_steps_in_episode,
    )
    return ElectricDrive(params, solver=solver, state_filter=state_filter, name=name)


def _piece(argument: str, given: Any, default: Any) -> Any:
    if given is None:
        return default
    if not isinstance(given, Mapping):
        if isinstance(given, type) or not dataclasses.is_dataclass(given):
            raise TypeError(
                f"{argument} is {given!r}, but a record such as {type(default).__name__}(...) is "
                f"needed, or a dict of its fields"
            )
        return given
    fields = [field.name for field in dataclasses.fields(default)]
    for name in given:
        if name not in fields:
            what = f"field of {argument} ({type(default).__name__})"
            raise TypeError(refusal(what, name, fields))
    return default.replace(**given)


def _controlled(task: str, motor: str) -> tuple[str, ...]:
    if task == "CC":
        return _CONTROLLED.get(motor, _CURRENTS[motor])
    return ("omega",) if task == "SC" else ("torque",)


def _converter(kind: str, motor: str) -> Any:
    four, bridge = (
        (converters.Cont4QC, converters.ContB6)
        if kind == "Cont"
        else (converters.Finite4QC, converters.FiniteB6)
    )
    several = {
        "ExtExDc": (four, four),
        "DFIM": (bridge, bridge),
        "EESM": (bridge, four),
    }
    if motor in several:
        return converters.Multi(tuple(part() for part in several[motor]))
    return four() if motor in _DIRECT else bridge()


def _load(key: str, task: str, motor: str) -> Any:
    if task != "SC":
        return loads.ConstantSpeed(omega_fixed=_OTHER_SPEED.get(key, _SPEED))
    a, b, j_load = _OTHER_LOAD.get(key, _LOAD.get(motor, _THREE_PHASE_LOAD))
    return loads.PolynomialStatic(a=a, b=b, c=0.0, j_load=j_load)


def _reference(key: str, controlled: tuple[str, ...]) -> Any:
    single = tuple(
        references.Wiener(
            (name,),
            sigma_range=_OTHER_SIGMA.get(key, _SIGMA),
            limit_margin=_MARGIN.get((key, name)),
        )
        for name in controlled
    )
    return single[0] if len(single) == 1 else references.Multiple(single)


def _constraints(motor: str) -> tuple:
    if motor in _DIRECT:
        return (limiting.LimitConstraint(_CURRENTS[motor]),)
    squared = (limiting.SquaredConstraint(("i_sq", "i_sd")),)
    return (*squared, limiting.LimitConstraint(("i_e",))) if motor == "EESM" else squared
