"""One control step of a drive: supply, converter, motor and load as one differential equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.motor.transforms import wrap

Array = jax.Array
Values = dict[str, Array]
Solve = Callable[[Callable, Any, Any, Any], Any]

ANGLES = ("epsilon", "position")
"""States that are angles. They are wrapped after every step: a large float has no small digits."""


@struct.dataclass
class PlantState:
    """What the physics carries from step to step, in SI units.

    Attributes:
      load: tuple of scalars, named by the load's `STATES`.
      motor: tuple of scalars, named by the motor's `STATES`.
      supply: of the supply.
      switches: tuple of int32, what each leg of a finite converter did last.
    """

    load: tuple
    motor: tuple
    supply: Any
    switches: tuple


def names(plant: Any) -> tuple[str, ...]:
    """Names of the measured quantities, in the order in which they are observed.

    Args:
      plant: anything with the pieces `supply`, `converter`, `motor` and `load`.

    Returns:
      Those of the load, the torque, those of the motor, and the supply's voltage.
    """
    return (*plant.load.STATES, "torque", *plant.motor.NAMES, "u_sup")


def measure(plant: Any, start: tuple, state: PlantState, voltages: tuple, u_sup: Array) -> Values:
    """What can be measured of a plant.

    Args:
      plant: its pieces.
      start: the motor's states at the start of the last interval, whose angles some measurements
        use.
      state: now.
      voltages: of the converter in the last interval.
      u_sup: of the supply.

    Returns:
      Scalars in SI units by the names of `names`.
    """
    return {
        **plant.load.measure(state.load),
        "torque": plant.motor.torque(state.motor),
        **plant.motor.measure(start, state.motor, voltages),
        "u_sup": u_sup,
    }


def at_rest(plant: Any, load: tuple, motor: tuple, supply: Any) -> tuple[PlantState, Values]:
    """The plant before its first step.

    Args:
      plant: its pieces.
      load: states of the load.
      motor: states of the motor.
      supply: state of the supply.

    Returns:
      `(state, measured)`; the converter gives what it gives without a command.
    """
    state = PlantState(load, motor, supply, plant.converter.initial_switches())
    u_sup = plant.supply.initial_voltage(supply)
    voltages = tuple(share * u_sup for share in plant.converter.initial_voltages())
    return state, measure(plant, motor, state, voltages, u_sup)


def advance(
    plant: Any, solve: Solve, state: PlantState, action: Array, time: Array, tau: Array
) -> tuple[PlantState, Values]:
    """One control step.

    The converter takes the action, its voltages are held in the motor's coordinates, and the
    states are integrated. A step in which a leg of a converter has to wait before it switches is
    integrated in two intervals, the second from the currents and angles at its start.

    Args:
      plant: the pieces `supply`, `converter`, `motor` and `load`.
      solve: see `solvers`.
      state: at the start of the step.
      action: of the converter.
      time: at the start of the step, in seconds.
      tau: length of the step, in seconds.

    Returns:
      `(state, measured)` at its end.
    """
    converter = plant.converter
    switches, split = converter.switch(state.switches, action)
    if not converter.interlocks:
        return _interval(plant, solve, state, switches, action, time, (time, tau))
    wait = converter.interlocking_time
    first = jnp.where(split, wait, tau)
    held, measured = _interval(plant, solve, state, switches, action, time, (time, first))
    rest = (time + wait, tau - wait)
    following = _interval(plant, solve, held, switches, action, time, rest)
    return jax.tree.map(lambda one, two: jnp.where(split, two, one), (held, measured), following)


def _interval(
    plant: Any,
    solve: Solve,
    state: PlantState,
    switches: tuple,
    action: Array,
    step_time: Array,
    span: tuple[Array, Array],
) -> tuple[PlantState, Values]:
    """Integrates over `span = (start, duration)` with constant voltages."""
    motor, load, converter = plant.motor, plant.load, plant.converter
    currents = motor.converter_currents(state.motor)
    # The current drawn follows from what the converter did before, as in gym-electric-motor.
    drawn = converter.supply_current(state.switches, action, currents)
    supply, u_sup = plant.supply.voltage(state.supply, step_time, drawn)
    voltages = tuple(share * u_sup for share in converter.convert(switches, action, currents))
    inputs = motor.machine_voltages(state.motor, voltages)

    def derivative(time, states):
        mechanical, electrical = states
        torque = motor.torque(electrical)
        return (
            load.derivative(time, mechanical, torque, motor.j_rotor),
            motor.derivative(electrical, mechanical[0], inputs),
        )

    mechanical, electrical = solve(derivative, (state.load, state.motor), *span)
    following = PlantState(
        load=_wrapped(load.STATES, mechanical),
        motor=_wrapped(motor.STATES, electrical),
        supply=supply,
        switches=switches,
    )
    return following, measure(plant, state.motor, following, voltages, u_sup)


def _wrapped(names: tuple[str, ...], states: tuple) -> tuple:
    return tuple(
        wrap(value) if name in ANGLES else value for name, value in zip(names, states, strict=True)
    )
