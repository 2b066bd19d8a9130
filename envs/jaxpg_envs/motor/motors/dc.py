"""Direct current motors: series, shunt, permanently and externally excited.

Source: gym-electric-motor 3.0.3, whose numbers are those of a Heinzmann PMG 132.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
from flax import struct

from jaxpg_envs.motor.motors.motor import Motor, Scalars, ratings

Array = jax.Array


def _limits(names: tuple[str, ...]) -> dict[str, float]:
    return ratings(names, omega=400.0, torque=38.0, i=210.0, u=60.0)


def _nominal(names: tuple[str, ...]) -> dict[str, float]:
    return ratings(names, omega=300.0, torque=16.0, i=97.0, u=60.0)


class _Dc(Motor):
    """What these motors share: the converter acts on the motor's own currents and voltages."""

    def converter_currents(self, states: Scalars) -> Scalars:
        """The motor's currents."""
        return states

    def machine_voltages(self, states: Scalars, converter_voltages: Scalars) -> Scalars:
        """Those of the converter."""
        del states
        return converter_voltages

    def measure(
        self, start: Scalars, states: Scalars, converter_voltages: Scalars
    ) -> dict[str, Array]:
        """Currents, then voltages."""
        del start
        return dict(zip(self.NAMES, (*states, *converter_voltages), strict=True))

    def _signs(self, converter: Any) -> tuple[list[float], list[float]]:
        ranges = converter.currents_range(), converter.voltages_range()
        return tuple([-1.0 if low < 0 else 0.0 for low, _ in each] for each in ranges)


@struct.dataclass(kw_only=True)
class SeriesDc(_Dc):
    """Armature and excitation in series: the torque grows with the square of the current.

    Attributes:
      r_a: float, armature resistance, Ohm.
      r_e: float, excitation resistance, Ohm.
      l_a: float, armature inductance, H.
      l_e_prime: float, effective excitation inductance, H.
      l_e: float, excitation inductance, H.
      j_rotor: float, moment of inertia, kg m^2.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("i", "u")
    STATES: ClassVar[tuple[str, ...]] = ("i",)
    NUM_SIGNALS: ClassVar[int] = 1
    LIMITS: ClassVar[dict[str, float]] = _limits(NAMES)
    NOMINAL: ClassVar[dict[str, float]] = _nominal(NAMES)

    r_a: Any = 16e-3
    r_e: Any = 48e-3
    l_a: Any = 19e-6
    l_e_prime: Any = 1.7e-3
    l_e: Any = 5.4e-3
    j_rotor: Any = 2.5e-3

    def derivative(self, states: Scalars, omega: Array, voltages: Scalars) -> Scalars:
        """`(d i,)`."""
        (i,), (u,) = states, voltages
        inverse = 1.0 / (self.l_a + self.l_e)
        return ((u - (self.r_a + self.r_e + self.l_e_prime * omega) * i) * inverse,)

    def torque(self, states: Scalars) -> Array:
        """Never negative."""
        return self.l_e_prime * states[0] * states[0]

    def lowest(self, converter: Any) -> dict[str, float]:
        """Speed and torque have one sign."""
        (i,), (u,) = self._signs(converter)
        return {"omega": 0.0, "torque": 0.0, "i": i, "u": u}


class _TwoCircuits(_Dc):
    """Armature and excitation as circuits of their own."""

    def torque(self, states: Scalars) -> Array:
        """Product of both currents."""
        i_a, i_e = states
        return self.l_e_prime * i_a * i_e

    def _both(self, states: Scalars, omega: Array, u_a: Array, u_e: Array) -> Scalars:
        i_a, i_e = states
        inverse_a, inverse_e = 1.0 / self.l_a, 1.0 / self.l_e
        return (
            (u_a - self.r_a * i_a - self.l_e_prime * omega * i_e) * inverse_a,
            (u_e - self.r_e * i_e) * inverse_e,
        )


@struct.dataclass(kw_only=True)
class ShuntDc(_TwoCircuits):
    """Armature and excitation side by side on one voltage.

    Attributes:
      r_a: float, armature resistance, Ohm.
      r_e: float, excitation resistance, Ohm.
      l_a: float, armature inductance, H.
      l_e_prime: float, effective excitation inductance, H.
      l_e: float, excitation inductance, H.
      j_rotor: float, moment of inertia, kg m^2.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("i_a", "i_e", "u")
    STATES: ClassVar[tuple[str, ...]] = ("i_a", "i_e")
    NUM_SIGNALS: ClassVar[int] = 1
    LIMITS: ClassVar[dict[str, float]] = _limits(NAMES)
    NOMINAL: ClassVar[dict[str, float]] = _nominal(NAMES)

    r_a: Any = 16e-3
    r_e: Any = 0.4
    l_a: Any = 19e-6
    l_e_prime: Any = 1.7e-3
    l_e: Any = 5.4e-3
    j_rotor: Any = 2.5e-3

    def derivative(self, states: Scalars, omega: Array, voltages: Scalars) -> Scalars:
        """`(d i_a, d i_e)`."""
        (u,) = voltages
        return self._both(states, omega, u, u)

    def converter_currents(self, states: Scalars) -> Scalars:
        """The sum of both."""
        i_a, i_e = states
        return (i_a + i_e,)

    def lowest(self, converter: Any) -> dict[str, float]:
        """The speed has one sign."""
        (i,), (u,) = self._signs(converter)
        return {"omega": 0.0, "torque": i, "i_a": i, "i_e": i, "u": u}


@struct.dataclass(kw_only=True)
class PermExDc(_Dc):
    """Permanent magnets: the torque is proportional to the current.

    Attributes:
      r_a: float, armature resistance, Ohm.
      l_a: float, armature inductance, H.
      psi_e: float, flux of the magnets, Wb.
      j_rotor: float, moment of inertia, kg m^2.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("i", "u")
    STATES: ClassVar[tuple[str, ...]] = ("i",)
    NUM_SIGNALS: ClassVar[int] = 1
    LIMITS: ClassVar[dict[str, float]] = _limits(NAMES)
    NOMINAL: ClassVar[dict[str, float]] = _nominal(NAMES)

    r_a: Any = 16e-3
    l_a: Any = 19e-6
    psi_e: Any = 0.165
    j_rotor: Any = 0.025

    def derivative(self, states: Scalars, omega: Array, voltages: Scalars) -> Scalars:
        """`(d i,)`."""
        (i,), (u,) = states, voltages
        inverse = 1.0 / self.l_a
        return ((u - self.r_a * i - self.psi_e * omega) * inverse,)

    def torque(self, states: Scalars) -> Array:
        """Flux times current."""
        return self.psi_e * states[0]

    def lowest(self, converter: Any) -> dict[str, float]:
        """The speed has the voltage's signs, the torque the current's."""
        (i,), (u,) = self._signs(converter)
        return {"omega": u, "torque": i, "i": i, "u": u}


@struct.dataclass(kw_only=True)
class ExtExDc(_TwoCircuits):
    """Armature and excitation on a voltage each.

    Attributes:
      r_a: float, armature resistance, Ohm.
      r_e: float, excitation resistance, Ohm.
      l_a: float, armature inductance, H.
      l_e_prime: float, effective excitation inductance, H.
      l_e: float, excitation inductance, H.
      j_rotor: float, moment of inertia, kg m^2.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("i_a", "i_e", "u_a", "u_e")
    STATES: ClassVar[tuple[str, ...]] = ("i_a", "i_e")
    NUM_SIGNALS: ClassVar[int] = 2
    LIMITS: ClassVar[dict[str, float]] = _limits(NAMES)
    NOMINAL: ClassVar[dict[str, float]] = _nominal(NAMES)

    r_a: Any = 16e-3
    r_e: Any = 0.16
    l_a: Any = 19e-6
    l_e_prime: Any = 1.7e-3
    l_e: Any = 5.4e-3
    j_rotor: Any = 2.5e-3

    def derivative(self, states: Scalars, omega: Array, voltages: Scalars) -> Scalars:
        """`(d i_a, d i_e)`."""
        return self._both(states, omega, *voltages)

    def lowest(self, converter: Any) -> dict[str, float]:
        """Speed and torque have a sign that one of the circuits has."""
        (i_a, i_e), (u_a, u_e) = self._signs(converter)
        return {
            "omega": min(u_a, u_e),
            "torque": min(i_a, i_e),
            "i_a": i_a,
            "i_e": i_e,
            "u_a": u_a,
            "u_e": u_e,
        }
