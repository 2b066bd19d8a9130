"""Converters whose action is a vector of duty cycles: the average over a period of `tau`.

Interlocking takes the share `interlocking_time / tau` of the period off the voltage, against the
sign of the current; no step is split.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces

Array = jax.Array
Scalars = tuple[Any, ...]


def _leg_voltage(duty: Array, current: Array, lost: Array) -> Array:
    return jnp.clip(duty - jnp.sign(current) * lost, 0.0, 1.0)


def _leg_supply_current(duty: Array, current: Array, lost: Array) -> Array:
    # While both transistors are off, the upper diode conducts a negative current.
    return (duty + lost * (jnp.where(current < 0, 1.0, 0.0) - duty)) * current


def _half(action: Array) -> Array:
    """The duty cycle in [0, 1] of an action in [-1, 1]."""
    return jnp.clip(0.5 * (action + 1.0), 0.0, 1.0)


class _Continuous:
    """What all of them share; `_LOW` is the least action, the greatest is 1."""

    FINITE = False
    interlocks = False
    NUM_SIGNALS = 1
    _LOW = 0.0

    def action_space(self) -> spaces.Box:
        """Box `[NUM_SIGNALS]`."""
        dtype = jnp.result_type(float)
        return spaces.Box(self._LOW, 1.0, (self.NUM_SIGNALS,), dtype)

    def initial_switches(self) -> Scalars:
        """None: nothing is remembered."""
        return ()

    def initial_voltages(self) -> Scalars:
        """0 for each signal."""
        return (0.0,) * self.NUM_SIGNALS

    def switch(self, switches: Scalars, action: Array) -> tuple[Scalars, Array]:
        """No switches, and a step that is not split."""
        del action
        return switches, jnp.zeros((), bool)

    def voltages_range(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each signal."""
        return ((self._LOW, 1.0),) * self.NUM_SIGNALS

    def currents_range(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each signal."""
        return ((-1.0, 1.0),) * self.NUM_SIGNALS

    @property
    def _lost(self) -> Array:
        return self.interlocking_time / self.tau


@struct.dataclass
class Cont1QC(_Continuous):
    """One transistor and a diode: action `[1]` in [0, 1], the duty cycle.

    A negative current, which has no way but the diode, sees the full voltage.

    Attributes:
      tau: s, not read: there is nothing to interlock.
      interlocking_time: s, not read either.

    >>> Cont1QC().convert((), jnp.array([0.25]), (jnp.array(2.0),))
    (Array(0.25, dtype=float32),)
    """

    tau: Any = 1e-4
    interlocking_time: Any = 0.0

    def convert(self, switches: Scalars, action: Array, currents: Scalars) -> Scalars:
        """The duty cycle, or 1 where the current is negative."""
        del switches
        return (jnp.where(currents[0] >= 0, jnp.clip(action[0], 0.0, 1.0), 1.0),)

    def supply_current(self, switches: Scalars, action: Array, currents: Scalars) -> Array:
        """The duty cycle times the current, also a negative one."""
        del switches
        return jnp.clip(action[0], 0.0, 1.0) * currents[0]

    def currents_range(self) -> tuple[tuple[float, float], ...]:
        """No negative current."""
        return ((0.0, 1.0),)


@struct.dataclass
class Cont2QC(_Continuous):
    """A half bridge: action `[1]` in [0, 1], the duty cycle of the upper transistor.

    Attributes:
      tau: s, period of the duty cycle.
      interlocking_time: s in `[0, tau)`.

    >>> leg = Cont2QC(interlocking_time=1e-5)
    >>> leg.convert((), jnp.array([0.5]), (jnp.array(2.0),))
    (Array(0.4, dtype=float32),)
    """

    tau: Any = 1e-4
    interlocking_time: Any = 0.0

    def convert(self, switches: Scalars, action: Array, currents: Scalars) -> Scalars:
        """The duty cycle less what interlocking takes, in [0, 1]."""
        del switches
        return (_leg_voltage(jnp.clip(action[0], 0.0, 1.0), currents[0], self._lost),)

    def supply_current(self, switches: Scalars, action: Array, currents: Scalars) -> Array:
        """Average over the period."""
        del switches
        return _leg_supply_current(jnp.clip(action[0], 0.0, 1.0), currents[0], self._lost)


@struct.dataclass
class Cont4QC(_Continuous):
    """A full bridge, two half bridges of opposite duty: action `[1]` in [-1, 1].

    For the voltage both legs see the sign of the same current, so that what interlocking takes
    cancels except where a leg clips; for the supply's current the second leg carries its negative.

    Attributes:
      tau: s, period of the legs.
      interlocking_time: s in `[0, tau)`.

    >>> Cont4QC().convert((), jnp.array([-0.5]), (jnp.array(2.0),))
    (Array(-0.5, dtype=float32),)
    """

    _LOW = -1.0

    tau: Any = 1e-4
    interlocking_time: Any = 0.0

    def convert(self, switches: Scalars, action: Array, currents: Scalars) -> Scalars:
        """Difference of the legs."""
        del switches
        duty, current, lost = action[0], currents[0], self._lost
        first = _leg_voltage(_half(duty), current, lost)
        return (first - _leg_voltage(_half(-duty), current, lost),)

    def supply_current(self, switches: Scalars, action: Array, currents: Scalars) -> Array:
        """Sum of the legs."""
        del switches
        duty, current, lost = action[0], currents[0], self._lost
        first = _leg_supply_current(_half(duty), current, lost)
        return first + _leg_supply_current(_half(-duty), -current, lost)


@struct.dataclass
class ContB6(_Continuous):
    """A three-phase bridge of three half bridges: action `[3]` in [-1, 1], one for each.

    Attributes:
      tau: s, period of the legs.
      interlocking_time: s in `[0, tau)`.

    >>> u_a, u_b, u_c = ContB6().convert((), jnp.array([-1.0, 0.0, 0.5]), (0.0, 1.0, -1.0))
    >>> u_a.item(), u_b.item(), u_c.item()
    (-0.5, 0.0, 0.25)
    """

    NUM_SIGNALS = 3
    _LOW = -1.0

    tau: Any = 1e-4
    interlocking_time: Any = 0.0

    def initial_voltages(self) -> Scalars:
        """-1/2: every leg starts at the lower end."""
        return (-0.5, -0.5, -0.5)

    def convert(self, switches: Scalars, action: Array, currents: Scalars) -> Scalars:
        """Voltages of the legs around the middle of the supply, in [-1/2, 1/2]."""
        del switches
        lost = self._lost
        return tuple(_leg_voltage(_half(action[j]), currents[j], lost) - 0.5 for j in range(3))

    def supply_current(self, switches: Scalars, action: Array, currents: Scalars) -> Array:
        """Sum of the legs."""
        del switches
        lost = self._lost
        a, b, c = (_leg_supply_current(_half(action[j]), currents[j], lost) for j in range(3))
        return a + b + c
