"""Voltage supplies: what a converter has at its input.

Every supply is a pytree whose leaves are its numbers, and has these methods, of one drive:

  NUM_VOLTAGES: how many it puts out.
  initial(key) -> state, at a reset, of float scalars; `()` where nothing is remembered.
  initial_voltage(state) -> voltage, V, at a reset, which is time 0.
  voltage(state, time, i_sup) -> (state, voltage), V, where `time` is the START of the step, in s,
    also in the later part of a split step, and `i_sup` the current that the converter draws, in A.
  voltage_range() -> (low, high), V.

Source: gym-electric-motor 3.0.3.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import ArrayLike

Array = jax.Array
State = Any


@struct.dataclass
class Ideal:
    """The same voltage whatever is drawn.

    Attributes:
      u_nominal: V.

    >>> Ideal(60.0).voltage((), 0.0, 10.0)
    ((), 60.0)
    """

    NUM_VOLTAGES = 1

    u_nominal: Any = 600.0

    def initial(self, key: Array) -> State:
        """Nothing."""
        del key
        return ()

    def initial_voltage(self, state: State) -> Array:
        """V."""
        del state
        return self.u_nominal

    def voltage(self, state: State, time: Array, i_sup: Array) -> tuple[State, Array]:
        """V."""
        del time, i_sup
        return state, self.u_nominal

    def voltage_range(self) -> tuple[Array, Array]:
        """One voltage is both."""
        return self.u_nominal, self.u_nominal


@struct.dataclass
class RC:
    """An ideal source behind a resistor, with a capacitor at the terminals, charged at a reset.

    A call is one explicit Euler step from the last call's time to its own. As a step's time is its
    start, the first step sees the nominal voltage, every later one the charge that the current of
    its own start would have left over the step before, and the later part of a split step the
    voltage of the first.

    Attributes:
      u_nominal: V, of the source.
      resistance: Ohm.
      capacitance: F.

    >>> supply = RC(60.0)
    >>> state = supply.initial(jax.random.key(0))
    >>> supply.voltage(state, 1e-4, 10.0)[1]
    Array(59.75, dtype=float32)
    """

    NUM_VOLTAGES = 1

    u_nominal: Any = 600.0
    resistance: Any = 1.0
    capacitance: Any = 4e-3

    def initial(self, key: Array) -> State:
        """Voltage of the capacitor, V, and time of the last call, s."""
        del key
        return jnp.asarray(self.u_nominal, float), jnp.zeros((), float)

    def initial_voltage(self, state: State) -> Array:
        """V."""
        return state[0]

    def voltage(self, state: State, time: Array, i_sup: Array) -> tuple[State, Array]:
        """V, of the capacitor."""
        charge, last = state
        slope = (self.u_nominal - charge - self.resistance * i_sup) / (
            self.resistance * self.capacitance
        )
        charge = charge + (time - last) * slope
        return (charge, jnp.asarray(time, last.dtype)), charge

    def voltage_range(self) -> tuple[Array, Array]:
        """From an empty capacitor to a full one."""
        return 0.0, self.u_nominal


class _Alternating:
    """The clock of both kinds: the phase is drawn at a reset where none is given."""

    def initial(self, key: Array) -> State:
        """Phase, rad: the given one, or uniform in [0, 2 pi)."""
        if self.phase is None:
            return jax.random.uniform(key, (), float, maxval=2 * math.pi)
        return jnp.asarray(self.phase, float)

    def voltage_range(self) -> tuple[Array, Array]:
        """Both peaks; the nominal voltage, an effective one, is less than that."""
        return -self._peak, self._peak

    def _wave(self, state: State, time: Array, ahead: float = 0.0) -> Array:
        angle = 2 * math.pi * self.frequency * time + state + ahead
        return self._peak * jnp.sin(angle)


@struct.dataclass
class ACOnePhase(_Alternating):
    """One alternating voltage, sampled at the start of each step.

    Attributes:
      u_nominal: V, effective value.
      frequency: Hz.
      phase: rad in [0, 2 pi), or None: drawn at each reset.

    >>> supply = ACOnePhase(230.0, phase=0.0)
    >>> supply.voltage(supply.initial(jax.random.key(0)), 5e-3, 0.0)[1]
    Array(325.269, dtype=float32)
    """

    NUM_VOLTAGES = 1

    u_nominal: Any = 230.0
    frequency: Any = 50.0
    phase: Any = None

    @property
    def _peak(self) -> Array:
        return self.u_nominal * math.sqrt(2)

    def initial_voltage(self, state: State) -> Array:
        """V."""
        return self._wave(state, 0.0)

    def voltage(self, state: State, time: Array, i_sup: Array) -> tuple[State, Array]:
        """V."""
        del i_sup
        return state, self._wave(state, time)


@struct.dataclass
class ACThreePhase(_Alternating):
    """Three alternating voltages, each a third of a period ahead of the one before.

    A supply for systems of one's own: none of gym-electric-motor 3.0.3 works with it (a converter
    there has one input voltage), and no converter of this package takes three.

    Attributes:
      u_nominal: V, effective value between two of the phases.
      frequency: Hz.
      phase: rad in [0, 2 pi), of the first; or None: drawn at each reset.

    >>> supply = ACThreePhase(phase=0.0)
    >>> [u.item() for u in supply.initial_voltage(0.0)]
    [0.0, 282.843, -282.843]
    """

    NUM_VOLTAGES = 3

    u_nominal: Any = 400.0
    frequency: Any = 50.0
    phase: Any = None

    @property
    def _peak(self) -> Array:
        return self.u_nominal * math.sqrt(2 / 3)

    def initial_voltage(self, state: State) -> tuple[Array, Array, Array]:
        """V, of each phase."""
        return self.voltage(state, 0.0, 0.0)[1]

    def voltage(
        self, state: State, time: Array, i_sup: Array
    ) -> tuple[State, tuple[Array, Array, Array]]:
        """V, of each phase."""
        del i_sup
        first, second, third = (
            self._wave(state, time, number * 2 * math.pi / 3) for number in range(3)
        )
        return state, (first, second, third)


def check_supply(supply: Any, tau: ArrayLike | None = None) -> None:
    """Check the numbers of a supply, of one drive or of a batch, on the host.

    Args:
      supply: of this module.
      tau: s, period of the system; None leaves the stability of an `RC` unchecked.

    Raises:
      ValueError: a voltage, resistance, capacitance or frequency that is not positive, a phase
        outside `[0, 2 pi)`, or a period too long for the explicit step of an `RC`.

    >>> check_supply(ACOnePhase(phase=7.0))
    Traceback (most recent call last):
    ValueError: phase is 7.0, but it has to be at least 0 and below 2 pi
    """
    for name in supply.__dataclass_fields__:
        value = getattr(supply, name)
        if name == "phase":
            value = np.asarray(0.0 if value is None else value)
            _refuse(name, value, (value >= 0) & (value < 2 * math.pi), "at least 0 and below 2 pi")
        else:
            value = np.asarray(value)
            _refuse(name, value, (value > 0) & np.isfinite(value), "positive and finite")
    if tau is not None and isinstance(supply, RC):
        longest = 2 * np.asarray(supply.resistance) * np.asarray(supply.capacitance)
        longest, tau = np.broadcast_arrays(longest, np.asarray(tau))
        if (wrong := ~(tau < longest)).any():
            raise ValueError(
                f"tau is {tau[wrong][0]}, but the explicit step of an RC needs it below "
                f"2 * resistance * capacitance = {longest[wrong][0]}"
            )


def _refuse(name: str, value: np.ndarray, right: np.ndarray, valid: str) -> None:
    # NaN is never right.
    if not right.all():
        raise ValueError(f"{name} is {value[~right][0]}, but it has to be {valid}")
