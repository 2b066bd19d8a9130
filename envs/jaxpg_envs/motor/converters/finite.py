"""Converters whose action is a choice of switches, which holds for the whole step.

A leg is in state 0 (both transistors off), 1 (upper on) or 2 (lower on). With interlocking, a leg
that is to change between 1 and 2 stays in state 0 for the whole step, not for the interlocking time
only, although the step is split there (the currents are read anew); the next step switches at once.
Source: gym-electric-motor 3.0.3, whose comparison of times never lets such a leg go on earlier.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces

Array = jax.Array
Scalars = tuple[Any, ...]


def _is_up(switch: Array, current: Array) -> Array:
    """Whether a leg's output lies at the upper end: transistor, or diode of a negative current."""
    return (switch == 1) | ((switch == 0) & (current < 0))


def _leg_voltage(switch: Array, current: Array) -> Array:
    return jnp.where(_is_up(switch, current), 1.0, 0.0)


def _leg_supply_current(switch: Array, current: Array) -> Array:
    return jnp.where(_is_up(switch, current), current, 0.0)


class _Finite:
    """What all of them share."""

    FINITE = True
    NUM_SIGNALS = 1
    _NUM_LEGS = 1
    _NUM_ACTIONS = 2
    _LOW = 0.0

    def action_space(self) -> spaces.Discrete:
        """Discrete."""
        return spaces.Discrete(self._NUM_ACTIONS)

    def initial_switches(self) -> Scalars:
        """0 for each leg, int32."""
        return tuple(jnp.zeros((), jnp.int32) for _ in range(self._NUM_LEGS))

    def initial_voltages(self) -> Scalars:
        """0 for each signal."""
        return (0.0,) * self.NUM_SIGNALS

    def switch(self, switches: Scalars, action: Array) -> tuple[Scalars, Array]:
        """States of the legs during this step, and whether the step is split."""
        commands = self._commands(jnp.asarray(action, jnp.int32))
        if not self.interlocks or not commands:
            return commands, jnp.zeros((), bool)
        waits = [
            (new != 0) & (old != 0) & (new != old) & (self.interlocking_time > 0)
            for old, new in zip(switches, commands, strict=True)
        ]
        states = tuple(jnp.where(wait, 0, new) for wait, new in zip(waits, commands, strict=True))
        return states, functools.reduce(operator.or_, waits)

    def voltages_range(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each signal."""
        return ((self._LOW, 1.0),) * self.NUM_SIGNALS

    def currents_range(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each signal."""
        return ((-1.0, 1.0),) * self.NUM_SIGNALS


@struct.dataclass
class Finite1QC(_Finite):
    """One transistor and a diode: action 0 is off, 1 is on.

    A negative current, which has no way but the diode, sees the full voltage.

    Attributes:
      tau: s, not read.
      interlocking_time: s, not read: there is nothing to interlock.

    >>> Finite1QC().convert((), jnp.array(0), (jnp.array(-2.0),))[0].item()
    1.0
    """

    interlocks = False
    _NUM_LEGS = 0

    tau: Any = 1e-5
    interlocking_time: Any = 0.0

    def convert(self, switches: Scalars, action: Array, currents: Scalars) -> Scalars:
        """1 if the transistor is on or the current is negative, else 0."""
        del switches
        return (_leg_voltage(action, currents[0]),)

    def supply_current(self, switches: Scalars, action: Array, currents: Scalars) -> Array:
        """The current while the transistor is on: a negative one of the diode does not count."""
        del switches
        return jnp.where(action == 1, currents[0], 0.0)

    def currents_range(self) -> tuple[tuple[float, float], ...]:
        """No negative current."""
        return ((0.0, 1.0),)

    def _commands(self, action: Array) -> Scalars:
        del action
        return ()


@struct.dataclass
class Finite2QC(_Finite):
    """A half bridge: action 0 is both off, 1 the upper transistor on, 2 the lower one.

    Attributes:
      tau: s, not read: what a leg does lasts a step.
      interlocking_time: s in `[0, tau)`, where a step is split.
      interlocks: static, whether there is an interlocking time.

    >>> leg = Finite2QC(interlocking_time=1e-6, interlocks=True)
    >>> states, split = leg.switch((jnp.array(1),), jnp.array(2))
    >>> states[0].item(), split.item()
    (0, True)
    """

    _NUM_ACTIONS = 3

    tau: Any = 1e-5
    interlocking_time: Any = 0.0
    interlocks: bool = struct.field(pytree_node=False, default=False)

    def convert(self, switches: Scalars, action: Array, currents: Scalars) -> Scalars:
        """0 or 1."""
        del action
        return (_leg_voltage(switches[0], currents[0]),)

    def supply_current(self, switches: Scalars, action: Array, currents: Scalars) -> Array:
        """The current while the output lies at the upper end."""
        del action
        return _leg_supply_current(switches[0], currents[0])

    def _commands(self, action: Array) -> Scalars:
        return (action,)


@struct.dataclass
class Finite4QC(_Finite):
    """A full bridge of two half bridges: actions 0 to 3 give 0, +1, -1 and 0.

    Attributes:
      tau: s, not read.
      interlocking_time: s in `[0, tau)`, where a step is split.
      interlocks: static, whether there is an interlocking time.

    >>> bridge, none = Finite4QC(), (0, 0)
    >>> def voltage(action):
    ...     return bridge.convert(bridge.switch(none, action)[0], action, (0.0,))[0].item()
    >>> [voltage(action) for action in range(4)]
    [0.0, 1.0, -1.0, 0.0]
    """

    _NUM_LEGS = 2
    _NUM_ACTIONS = 4
    _LOW = -1.0

    tau: Any = 1e-5
    interlocking_time: Any = 0.0
    interlocks: bool = struct.field(pytree_node=False, default=False)

    def convert(self, switches: Scalars, action: Array, currents: Scalars) -> Scalars:
        """-1, 0 or 1: the difference of the legs, the second with the negative current."""
        del action
        first, second = switches
        return (_leg_voltage(first, currents[0]) - _leg_voltage(second, -currents[0]),)

    def supply_current(self, switches: Scalars, action: Array, currents: Scalars) -> Array:
        """Sum of the legs, the second with the negative current."""
        del action
        first, second = switches
        current = currents[0]
        return _leg_supply_current(first, current) + _leg_supply_current(second, -current)

    def _commands(self, action: Array) -> Scalars:
        return 1 + (action >> 1), 1 + (action & 1)


@struct.dataclass
class FiniteB6(_Finite):
    """A three-phase bridge of three half bridges: the bits of action 0 to 7, phase a the highest.

    A bit 1 is the upper transistor, 0 the lower one.

    Attributes:
      tau: s, not read.
      interlocking_time: s in `[0, tau)`, where a step is split.
      interlocks: static, whether there is an interlocking time.

    >>> bridge = FiniteB6()
    >>> switches, _ = bridge.switch((0, 0, 0), 4)
    >>> [u.item() for u in bridge.convert(switches, 4, (0.0, 0.0, 0.0))]
    [0.5, -0.5, -0.5]
    """

    NUM_SIGNALS = 3
    _NUM_LEGS = 3
    _NUM_ACTIONS = 8
    _LOW = -1.0

    tau: Any = 1e-5
    interlocking_time: Any = 0.0
    interlocks: bool = struct.field(pytree_node=False, default=False)

    def initial_voltages(self) -> Scalars:
        """-1/2: every leg starts at the lower end."""
        return (-0.5, -0.5, -0.5)

    def convert(self, switches: Scalars, action: Array, currents: Scalars) -> Scalars:
        """-1/2 or 1/2 for each leg."""
        del action
        pairs = zip(switches, currents, strict=True)
        return tuple(_leg_voltage(switch, current) - 0.5 for switch, current in pairs)

    def supply_current(self, switches: Scalars, action: Array, currents: Scalars) -> Array:
        """Sum of the legs."""
        del action
        a, b, c = map(_leg_supply_current, switches, currents)
        return a + b + c

    def _commands(self, action: Array) -> Scalars:
        return 2 - ((action >> 2) & 1), 2 - ((action >> 1) & 1), 2 - (action & 1)
