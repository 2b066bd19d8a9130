"""Induction motors: squirrel cage, and doubly fed.

States are the stator's currents and the rotor's fluxes in fixed coordinates (alpha, beta), where
GEM holds the voltages of an interval. What it measures in (d, q) is seen along the rotor's flux at
the interval's start; a rotor without flux has it at the angle 0.

Source: gym-electric-motor 3.0.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import struct

from jaxpg_envs.motor import transforms
from jaxpg_envs.motor.motors.motor import RPM, Motor, Scalars, ratings
from jaxpg_envs.motor.transforms import Pair

Array = jax.Array

_STATES = ("i_salpha", "i_sbeta", "psi_ralpha", "psi_rbeta", "epsilon")


def _five(prefix: str) -> tuple[str, ...]:
    return tuple(prefix + axis for axis in ("a", "b", "c", "d", "q"))


class _Induction(Motor):
    """The equation of both kinds, with a voltage at the rotor."""

    def torque(self, states: Scalars) -> Array:
        """Cross product of the rotor's flux and the stator's current."""
        i_alpha, i_beta, psi_alpha, psi_beta = states[:4]
        share = self.l_m / (self.l_m + self.l_sigr)
        return 1.5 * self.p * share * (psi_alpha * i_beta - psi_beta * i_alpha)

    def torque_limit(
        self, limits: Mapping[str, Any] | None = None, nominal: Mapping[str, Any] | None = None
    ) -> Any:
        """Of the largest current, half of its square in each axis."""
        del nominal
        limits = self.LIMITS if limits is None else limits
        share = self.l_m**2 / (self.l_m + self.l_sigr)
        return 1.5 * self.p * share * limits["i_sd"] * limits["i_sq"] / 2.0

    def nominal(self) -> dict[str, Any]:
        """`NOMINAL`, with the torque's limit."""
        return {**self.NOMINAL, "torque": self.torque_limit()}

    def _derivative(self, states: Scalars, omega: Array, u_s: Pair, u_r: Pair) -> Scalars:
        i_alpha, i_beta, psi_alpha, psi_beta, _ = states
        speed = self.p * omega
        share = self.l_m / (self.l_m + self.l_sigr)
        rate = self.r_r / (self.l_m + self.l_sigr)
        d_alpha = rate * (self.l_m * i_alpha - psi_alpha) - speed * psi_beta + u_r[0]
        d_beta = rate * (self.l_m * i_beta - psi_beta) + speed * psi_alpha + u_r[1]
        # sigma l_s, as a sum: the usual difference loses digits in single precision.
        inverse = 1.0 / (self.l_sigs + share * self.l_sigr)
        return (
            (u_s[0] - self.r_s * i_alpha - share * d_alpha) * inverse,
            (u_s[1] - self.r_s * i_beta - share * d_beta) * inverse,
            d_alpha,
            d_beta,
            speed,
        )


@struct.dataclass(kw_only=True)
class SCIM(_Induction):
    """A rotor that is a cage: short circuited.

    Attributes:
      p: float, whole number of pole pairs.
      l_m: float, main inductance, H.
      l_sigs: float, stray inductance of the stator, H.
      l_sigr: float, stray inductance of the rotor, H.
      j_rotor: float, moment of inertia, kg m^2.
      r_s: float, stator resistance, Ohm.
      r_r: float, rotor resistance, Ohm.

    >>> float(SCIM().torque_limit())
    6.266754685
    """

    NAMES: ClassVar[tuple[str, ...]] = (*_five("i_s"), *_five("u_s"), "epsilon")
    STATES: ClassVar[tuple[str, ...]] = _STATES
    NUM_SIGNALS: ClassVar[int] = 3
    LIMITS: ClassVar[dict[str, float]] = ratings(
        NAMES, omega=4000 * RPM, torque=6.266754684784789, i=5.5, u=280.0
    )
    NOMINAL: ClassVar[dict[str, float]] = ratings(
        NAMES, omega=3000 * RPM, torque=6.266754684784789, i=3.9, u=280.0
    )

    p: Any = 2.0
    l_m: Any = 143.75e-3
    l_sigs: Any = 5.87e-3
    l_sigr: Any = 5.87e-3
    j_rotor: Any = 1.1e-3
    r_s: Any = 2.9338
    r_r: Any = 1.355

    def derivative(self, states: Scalars, omega: Array, voltages: Scalars) -> Scalars:
        """Of `STATES`, from the stator's voltages."""
        return self._derivative(states, omega, voltages, (0.0, 0.0))

    def converter_currents(self, states: Scalars) -> Scalars:
        """The stator's phases."""
        return transforms.alpha_beta_to_abc(states[:2])

    def machine_voltages(self, states: Scalars, converter_voltages: Scalars) -> Scalars:
        """`(u_salpha, u_sbeta)`."""
        del states
        return transforms.abc_to_alpha_beta(converter_voltages)

    def measure(
        self, start: Scalars, states: Scalars, converter_voltages: Scalars
    ) -> dict[str, Array]:
        """In (d, q) along the flux of the start, as GEM has it."""
        field = transforms.unit_along(start[2:4])
        voltages = transforms.abc_to_alpha_beta(converter_voltages)
        values = (
            *self.converter_currents(states),
            *transforms.turn_back(states[:2], field),
            *converter_voltages,
            *transforms.turn_back(voltages, field),
            transforms.wrap(states[4]),
        )
        return dict(zip(self.NAMES, values, strict=True))


@struct.dataclass(kw_only=True)
class DFIM(_Induction):
    """A rotor with windings on a converter of its own, which turns with it.

    Attributes:
      p: float, whole number of pole pairs.
      l_m: float, main inductance, H.
      l_sigs: float, stray inductance of the stator, H.
      l_sigr: float, stray inductance of the rotor, H.
      j_rotor: float, moment of inertia, kg m^2.
      r_s: float, stator resistance, Ohm.
      r_r: float, rotor resistance, Ohm.

    >>> float(DFIM().torque_limit())
    33.27096741
    """

    NAMES: ClassVar[tuple[str, ...]] = (
        *_five("i_s"),
        *_five("i_r"),
        *_five("u_s"),
        *_five("u_r"),
        "epsilon",
    )
    STATES: ClassVar[tuple[str, ...]] = _STATES
    NUM_SIGNALS: ClassVar[int] = 6
    LIMITS: ClassVar[dict[str, float]] = ratings(
        NAMES, omega=1800 * RPM, torque=33.27096740509266, i=9.0, u=360.0
    )
    NOMINAL: ClassVar[dict[str, float]] = ratings(
        NAMES, omega=1650 * RPM, torque=33.27096740509266, i=7.5, u=360.0
    )

    p: Any = 2.0
    l_m: Any = 297.5e-3
    l_sigs: Any = 25.71e-3
    l_sigr: Any = 25.71e-3
    j_rotor: Any = 13.695e-3
    r_s: Any = 4.42
    r_r: Any = 3.51

    def derivative(self, states: Scalars, omega: Array, voltages: Scalars) -> Scalars:
        """Of `STATES`, from the voltages of stator and rotor."""
        return self._derivative(states, omega, voltages[:2], voltages[2:])

    def rotor_current(self, states: Scalars) -> Pair:
        """`(i_ralpha, i_rbeta)` in fixed coordinates, of what the stator leaves of the flux."""
        i_alpha, i_beta, psi_alpha, psi_beta = states[:4]
        inverse = 1.0 / (self.l_m + self.l_sigr)
        return (psi_alpha - self.l_m * i_alpha) * inverse, (psi_beta - self.l_m * i_beta) * inverse

    def converter_currents(self, states: Scalars) -> Scalars:
        """The stator's phases, then the rotor's.

        GEM gives the rotor's converter the rotor's currents as they are in fixed coordinates, and
        so they are here; the windings that it feeds turn.
        """
        stator = transforms.alpha_beta_to_abc(states[:2])
        return (*stator, *transforms.alpha_beta_to_abc(self.rotor_current(states)))

    def machine_voltages(self, states: Scalars, converter_voltages: Scalars) -> Scalars:
        """`(u_salpha, u_sbeta, u_ralpha, u_rbeta)`, the rotor's turned into fixed coordinates."""
        stator = transforms.abc_to_alpha_beta(converter_voltages[:3])
        rotor = transforms.abc_to_alpha_beta(converter_voltages[3:])
        return (*stator, *transforms.dq_to_alpha_beta(rotor, states[4]))

    def measure(
        self, start: Scalars, states: Scalars, converter_voltages: Scalars
    ) -> dict[str, Array]:
        """In (d, q) along the flux of the start, the rotor's phases in the angle of the start."""
        field, turned = transforms.unit_along(start[2:4]), transforms.unit(start[4])
        rotor = self.rotor_current(states)
        voltages = self.machine_voltages(start, converter_voltages)
        values = (
            *transforms.alpha_beta_to_abc(states[:2]),
            *transforms.turn_back(states[:2], field),
            *transforms.alpha_beta_to_abc(transforms.turn_back(rotor, turned)),
            *transforms.turn_back(rotor, field),
            *converter_voltages[:3],
            *transforms.turn_back(voltages[:2], field),
            *converter_voltages[3:],
            *transforms.turn_back(voltages[2:], field),
            transforms.wrap(states[4]),
        )
        return dict(zip(self.NAMES, values, strict=True))
