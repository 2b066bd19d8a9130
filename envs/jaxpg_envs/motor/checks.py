"""Do the pieces make a drive? On the host, one sentence for the first fault."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxpg_envs.choices import refusal
from jaxpg_envs.motor import drive
from jaxpg_envs.motor.constraints import check_constraints
from jaxpg_envs.motor.converters import check_converter
from jaxpg_envs.motor.initial_states import check_initial_states
from jaxpg_envs.motor.loads import check_load
from jaxpg_envs.motor.motors import check_motor
from jaxpg_envs.motor.references import check_reference
from jaxpg_envs.motor.rewards import WeightedSumOfErrors, check_reward
from jaxpg_envs.motor.supplies import check_supply


def check_drive(params: Any, state_filter: tuple[str, ...] | None = None) -> None:
    """Check all pieces of a drive and whether they fit together.

    Args:
      params: `DriveParams` of one drive, or of a batch with a leading axis on its leaves.
      state_filter: names of what is to be shown.

    Raises:
      ValueError: a number that no drive can have; a converter with other signals than the motor's;
        a quantity without a limit; a reference, constraint or filter that names what is not
        measured.
    """
    _positive("tau", params.tau)
    check_motor(params.motor)
    check_load(params.load, params.motor.j_rotor)
    check_supply(params.supply, params.tau)
    # The legs of bridges keep a period of their own, which counts only where they interlock.
    check_converter(params.converter, params.tau, same_tau=_interlocks(params.converter))
    _fits(params)
    names = drive.names(params)
    for argument in ("limits", "nominal"):
        given = getattr(params, argument)
        for name in names:
            if name not in given:
                raise ValueError(f"{argument} has no entry {name!r}, which the drive measures")
            _positive(f"{argument}[{name!r}]", given[name])
        for name in given:
            if name not in names:
                raise ValueError(refusal(argument, name, names))
    for processor in params.processors:
        processor.check(params, names)
        names = processor.names(names)
    check_reference(params.reference, names)
    check_initial_states(params.initial, params)
    check_constraints(params.constraints, names, params.merge)
    if isinstance(params.reward, WeightedSumOfErrors):
        check_reward(params.reward, names)
    for name in state_filter or ():
        if name not in names:
            raise ValueError(refusal("state_filter", name, names))


def _positive(argument: str, value: Any) -> None:
    array = np.asarray(value)
    if not np.all(array > 0):
        raise ValueError(f"{argument} is {value!r}, but it has to be above 0")


def _fits(params: Any) -> None:
    motor, converter, supply = params.motor, params.converter, params.supply
    if supply.NUM_VOLTAGES != 1:
        raise ValueError(
            f"supply is {type(supply).__name__} with {supply.NUM_VOLTAGES} voltages, but a "
            f"converter takes one: use a supply of one voltage"
        )
    needed = motor.NUM_SIGNALS
    if converter.NUM_SIGNALS != needed:
        raise ValueError(
            f"converter is {type(converter).__name__} with {converter.NUM_SIGNALS} outputs, but "
            f"{type(motor).__name__} needs {needed}"
        )


def _interlocks(converter: Any) -> bool:
    parts = getattr(converter, "parts", (converter,))
    return any(np.any(np.asarray(part.interlocking_time) > 0) for part in parts)
