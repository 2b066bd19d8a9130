"""Synchronous motors: permanent magnets, reluctance, external excitation.

Their equations are in coordinates (d, q) that turn with the rotor. GEM holds the voltages of an
interval there, so that the phases' voltages turn within it, and measures the phases' currents with
the angle at the interval's start.

Source: gym-electric-motor 3.0.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from flax import struct

from jaxpg_envs.motor import transforms
from jaxpg_envs.motor.motors.motor import RPM, Motor, Scalars, array_module, ratings

Array = jax.Array

_NAMES = ("i_a", "i_b", "i_c", "i_sd", "i_sq", "u_a", "u_b", "u_c", "u_sd", "u_sq", "epsilon")


class _Synchronous(Motor):
    """Stator in (d, q), and the electrical angle as the last state."""

    def converter_currents(self, states: Scalars) -> Scalars:
        """Phase currents, and those of the rest."""
        i_d, i_q, *rest, epsilon = states
        return (*transforms.dq_to_abc((i_d, i_q), epsilon), *rest)

    def machine_voltages(self, states: Scalars, converter_voltages: Scalars) -> Scalars:
        """`(u_sd, u_sq)`, and those of the rest."""
        phases, rest = converter_voltages[:3], converter_voltages[3:]
        return (*transforms.abc_to_dq(phases, states[-1]), *rest)

    def measure(
        self, start: Scalars, states: Scalars, converter_voltages: Scalars
    ) -> dict[str, Array]:
        """Phases in the angle of the start, as GEM has them."""
        *currents, epsilon = states
        phases = self.converter_currents((*currents, start[-1]))[:3]
        voltages = self.machine_voltages(start, converter_voltages)
        values = (*phases, *currents, *converter_voltages[:3], *voltages, transforms.wrap(epsilon))
        return dict(zip(self.NAMES, values, strict=True))

    def nominal(self) -> dict[str, Any]:
        """`NOMINAL`, with the torque's limit."""
        return {**self.NOMINAL, "torque": self.torque_limit()}

    def _stator(
        self, states: Scalars, omega: Array, u_d: Array, u_q: Array, psi_d: Array
    ) -> tuple[Array, Array, Array]:
        """`(v_d, v_q, p omega)`: what is left of the voltages for the change of the fluxes."""
        speed = self.p * omega
        v_d = u_d - self.r_s * states[0] + speed * self.l_q * states[1]
        v_q = u_q - self.r_s * states[1] - speed * psi_d
        return v_d, v_q, speed


def _best_currents(xp: Any, psi: Any, delta: Any, i: Any) -> tuple[Any, Any]:
    """`(i_d, i_q)` of length i with the largest torque `(psi + delta i_d) i_q`.

    The larger root's form that loses no digits where delta is small; delta = 0 has no i_d.
    """
    none = delta == 0.0
    half = xp.abs(psi / (4.0 * xp.where(none, 1.0, delta)))
    size = 0.5 * i**2 / (half + xp.sqrt(half**2 + 0.5 * i**2))
    i_d = xp.sign(delta) * size
    return i_d, xp.sqrt(i**2 - i_d**2)


@struct.dataclass(kw_only=True)
class PMSM(_Synchronous):
    """Permanent magnets in the rotor.

    Attributes:
      p: float, whole number of pole pairs.
      l_d: float, direct axis inductance, H.
      l_q: float, quadrature axis inductance, H.
      j_rotor: float, moment of inertia, kg m^2.
      r_s: float, stator resistance, Ohm.
      psi_p: float, flux of the magnets, Wb.

    >>> float(PMSM().torque_limit())
    160.6123626
    """

    NAMES: ClassVar[tuple[str, ...]] = _NAMES
    STATES: ClassVar[tuple[str, ...]] = ("i_sd", "i_sq", "epsilon")
    NUM_SIGNALS: ClassVar[int] = 3
    LIMITS: ClassVar[dict[str, float]] = ratings(
        NAMES, omega=4000 * RPM, torque=160.6123626293421, i=400.0, u=150.0
    )
    NOMINAL: ClassVar[dict[str, float]] = ratings(
        NAMES, omega=3000 * RPM, torque=160.6123626293421, i=240.0, u=150.0
    )

    p: Any = 3.0
    l_d: Any = 0.37e-3
    l_q: Any = 1.2e-3
    j_rotor: Any = 0.03883
    r_s: Any = 18e-3
    psi_p: Any = 66e-3

    def derivative(self, states: Scalars, omega: Array, voltages: Scalars) -> Scalars:
        """`(d i_sd, d i_sq, d epsilon)`."""
        psi_d = self.l_d * states[0] + self.psi_p
        v_d, v_q, speed = self._stator(states, omega, *voltages, psi_d)
        return v_d * (1.0 / self.l_d), v_q * (1.0 / self.l_q), speed

    def torque(self, states: Scalars) -> Array:
        """Of the magnets, and of the saliency."""
        i_d, i_q = states[:2]
        return 1.5 * self.p * (self.psi_p + (self.l_d - self.l_q) * i_d) * i_q

    def torque_limit(
        self, limits: Mapping[str, Any] | None = None, nominal: Mapping[str, Any] | None = None
    ) -> Any:
        """The largest torque of the nominal current; of the largest one without saliency.

        Where `l_d > l_q`, GEM's formula takes the other root, whose torque is negative or no
        number; this takes the one of the largest torque.
        """
        limits = self.LIMITS if limits is None else limits
        nominal = self.NOMINAL if nominal is None else nominal
        delta = self.l_d - self.l_q
        xp = array_module(self.psi_p, delta, self.p, nominal["i_sq"], limits["i_sq"])
        best = _best_currents(xp, self.psi_p, delta, nominal["i_sq"])
        return xp.where(delta == 0.0, self.torque((0.0, limits["i_sq"])), self.torque(best))[()]


@struct.dataclass(kw_only=True)
class SynRM(_Synchronous):
    """Nothing but saliency.

    Attributes:
      p: float, whole number of pole pairs.
      l_d: float, direct axis inductance, H.
      l_q: float, quadrature axis inductance, H.
      j_rotor: float, moment of inertia, kg m^2.
      r_s: float, stator resistance, Ohm.
    """

    NAMES: ClassVar[tuple[str, ...]] = _NAMES
    STATES: ClassVar[tuple[str, ...]] = ("i_sd", "i_sq", "epsilon")
    NUM_SIGNALS: ClassVar[int] = 3
    LIMITS: ClassVar[dict[str, float]] = ratings(
        NAMES, omega=4300 * RPM, torque=5.832, i=18.0, u=40.0
    )
    NOMINAL: ClassVar[dict[str, float]] = ratings(
        NAMES, omega=3000 * RPM, torque=5.832, i=10.0, u=40.0
    )

    p: Any = 4.0
    l_d: Any = 10.1e-3
    l_q: Any = 4.1e-3
    j_rotor: Any = 0.8e-3
    r_s: Any = 0.57

    def derivative(self, states: Scalars, omega: Array, voltages: Scalars) -> Scalars:
        """`(d i_sd, d i_sq, d epsilon)`."""
        v_d, v_q, speed = self._stator(states, omega, *voltages, self.l_d * states[0])
        return v_d * (1.0 / self.l_d), v_q * (1.0 / self.l_q), speed

    def torque(self, states: Scalars) -> Array:
        """Of the saliency."""
        i_d, i_q = states[:2]
        return 1.5 * self.p * (self.l_d - self.l_q) * i_d * i_q

    def torque_limit(
        self, limits: Mapping[str, Any] | None = None, nominal: Mapping[str, Any] | None = None
    ) -> Any:
        """The largest torque of the largest current."""
        del nominal
        limits = self.LIMITS if limits is None else limits
        return self.torque((limits["i_sd"], limits["i_sq"])) / 2.0


@struct.dataclass(kw_only=True)
class EESM(_Synchronous):
    """An excitation winding in the rotor, coupled to the direct axis.

    GEM refers the rotor's quantities to the stator by the ratio of turns `k`, which drops out of
    the equations in the rotor's own current `i_e`; what is left of it is in the torque's limit.

    The default parameters are GEM's. Their `l_d l_e < 1.5 l_m^2` makes the stored energy
    indefinite: left alone, the currents grow, within about 20 ms by a factor e.

    Attributes:
      p: float, whole number of pole pairs.
      l_d: float, direct axis inductance, H.
      l_q: float, quadrature axis inductance, H.
      l_m: float, mutual inductance of stator and excitation, H.
      l_e: float, excitation inductance, H.
      j_rotor: float, moment of inertia, kg m^2.
      r_s: float, stator resistance, Ohm.
      r_e: float, excitation resistance, Ohm.
      k: float, ratio of turns.

    >>> float(EESM().torque_limit())
    129.4197674
    """

    NAMES: ClassVar[tuple[str, ...]] = (*_NAMES[:5], "i_e", *_NAMES[5:10], "u_e", "epsilon")
    STATES: ClassVar[tuple[str, ...]] = ("i_sd", "i_sq", "i_e", "epsilon")
    NUM_SIGNALS: ClassVar[int] = 4
    LIMITS: ClassVar[dict[str, float]] = ratings(
        NAMES, omega=12000 * RPM, torque=129.41976740147197, i=150.0, u=160.0
    )
    NOMINAL: ClassVar[dict[str, float]] = ratings(
        NAMES, omega=4300 * RPM, torque=129.41976740147197, i=120.0, u=160.0, i_e=150.0
    )

    p: Any = 3.0
    l_d: Any = 1.66e-3
    l_q: Any = 0.35e-3
    l_m: Any = 1.589e-3
    l_e: Any = 1.74e-3
    j_rotor: Any = 0.3883
    r_s: Any = 15.55e-3
    r_e: Any = 7.2e-3
    k: Any = 65.21

    def derivative(self, states: Scalars, omega: Array, voltages: Scalars) -> Scalars:
        """`(d i_sd, d i_sq, d i_e, d epsilon)`."""
        u_d, u_q, u_e = voltages
        i_d, _, i_e, _ = states
        psi_d = self.l_d * i_d + self.l_m * i_e
        v_d, v_q, speed = self._stator(states, omega, u_d, u_q, psi_d)
        v_e = u_e - self.r_e * i_e
        # [l_d, l_m; 1.5 l_m, l_e] [d i_d; d i_e] = [v_d; v_e]
        inverse = 1.0 / (self.l_d * self.l_e - 1.5 * self.l_m**2)
        return (
            (self.l_e * v_d - self.l_m * v_e) * inverse,
            v_q * (1.0 / self.l_q),
            (self.l_d * v_e - 1.5 * self.l_m * v_d) * inverse,
            speed,
        )

    def torque(self, states: Scalars) -> Array:
        """Of the excitation, and of the saliency."""
        i_d, i_q, i_e = states[:3]
        return 1.5 * self.p * (self.l_m * i_e + (self.l_d - self.l_q) * i_d) * i_q

    def torque_limit(
        self, limits: Mapping[str, Any] | None = None, nominal: Mapping[str, Any] | None = None
    ) -> Any:
        """At the largest excitation, and at the currents that GEM takes for the best.

        They are of nominal length, and the best for an excitation of `1.5 k` times the nominal
        current; without saliency `i_q` has its limit.
        """
        limits = self.LIMITS if limits is None else limits
        nominal = self.NOMINAL if nominal is None else nominal
        delta, i, i_e = self.l_d - self.l_q, nominal["i_sq"], limits["i_e"]
        psi = 1.5 * self.k * self.l_m * i
        xp = array_module(psi, delta, self.p, i_e, limits["i_sq"])
        salient = self.torque((*_best_currents(xp, psi, delta, i), i_e))
        return xp.where(delta == 0.0, self.torque((0.0, limits["i_sq"], i_e)), salient)[()]

    def check(self) -> None:
        """Refuse inductances between whose currents no voltages decide."""
        product = np.asarray(self.l_d) * np.asarray(self.l_e)
        coupling = 1.5 * np.square(np.asarray(self.l_m))
        wrong = np.abs(product - coupling) <= 1e-6 * product
        if wrong.any():
            first = tuple(np.argwhere(np.atleast_1d(wrong))[0])
            l_m = np.broadcast_to(self.l_m, wrong.shape)
            raise ValueError(
                f"l_m is {np.atleast_1d(l_m)[first]}, but 1.5 l_m^2 other than l_d l_e = "
                f"{np.atleast_1d(product)[first]:.6g} is needed, at which the inductances are "
                f"singular"
            )
