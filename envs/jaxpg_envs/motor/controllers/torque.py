"""Control of the torque: which currents give it, and a controller that follows them.

A torque map has `currents(torque, measured) -> dict` and `range(measured) -> (low, high)` in Nm,
`motor`, what is believed of it, and `needs`, the names of what has to be measured.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.motor import motors
from jaxpg_envs.motor.controllers.bang_bang import bang_bang
from jaxpg_envs.motor.controllers.deadbeat import deadbeat
from jaxpg_envs.motor.controllers.drives import refuse_drive
from jaxpg_envs.motor.controllers.equations import EQUATIONS, equations
from jaxpg_envs.motor.controllers.modulators import within_circle
from jaxpg_envs.motor.controllers.proportional_integral import (
    current_pi,
    field_oriented,
)

Array = jax.Array
Values = dict[str, Any]

_LEAST_SHARE = 0.02
"""Of a flux or an excitation that is still being built, which a torque is divided by."""

_TINY = 1e-12


@struct.dataclass
class PermanentField:
    """Torque proportional to the current of a PermExDc.

    Attributes:
      motor: what is believed of it.
      max_current: A.
    """

    motor: Any
    max_current: Any

    needs = ()

    def range(self, measured: Values) -> tuple[Array, Array]:
        """Of the largest current of either sign."""
        largest = self.motor.psi_e * self.max_current
        return -largest, largest

    def currents(self, torque: Array, measured: Values) -> Values:
        """`i`."""
        return {"i": torque / self.motor.psi_e}


@struct.dataclass
class SeriesField:
    """Torque proportional to the square of the current of a SeriesDc, never negative.

    Attributes:
      motor: what is believed of it.
      max_current: A.
    """

    motor: Any
    max_current: Any

    needs = ()

    def range(self, measured: Values) -> tuple[Array, Array]:
        """From none to that of the largest current."""
        largest = self.motor.l_e_prime * self.max_current**2
        return jnp.zeros_like(largest), largest

    def currents(self, torque: Array, measured: Values) -> Values:
        """`i`, the positive one."""
        square = torque / self.motor.l_e_prime
        some = square > 0
        return {"i": jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)}


@struct.dataclass
class ExcitedField:
    """Torque by the armature's current, at the excitation that is there.

    Attributes:
      motor: what is believed of it, a ShuntDc or an ExtExDc.
      max_current: A, of the armature.
      excitation: A, what the excitation of an ExtExDc is held at.
    """

    motor: Any
    max_current: Any
    excitation: Any

    needs = ("i_e",)

    def _flux(self, measured: Values) -> Array:
        i_e = jnp.asarray(measured["i_e"], float)
        least = _LEAST_SHARE * self.excitation
        sign = jnp.where(i_e < 0, -1.0, 1.0)
        return self.motor.l_e_prime * sign * jnp.maximum(jnp.abs(i_e), least)

    def range(self, measured: Values) -> tuple[Array, Array]:
        """Of the largest current of either sign."""
        largest = jnp.abs(self._flux(measured)) * self.max_current
        return -largest, largest

    def currents(self, torque: Array, measured: Values) -> Values:
        """`i_a`, and the `i_e` of an ExtExDc."""
        return {"i_a": torque / self._flux(measured), "i_e": self.excitation}


@struct.dataclass
class BestCurrents:
    """The torque of a synchronous motor with the least stator current (MTPA).

    At high speeds the currents are shortened so that the supply can drive them against the voltage
    that they induce. Magnets are not weakened: beyond the speed at which they alone take that
    voltage there is no torque.

    Attributes:
      motor: what is believed of it, a PMSM, SynRM or EESM.
      max_current: A, of the stator's space vector.
      excitation: A, what the excitation of an EESM is held at, or less at high speeds.
      share: of half the supply's voltage, for what is induced; an excitation takes up to 0.6 of it.
    """

    motor: Any
    max_current: Any
    excitation: Any = 0.0
    share: Any = 0.9

    @property
    def needs(self) -> tuple[str, ...]:
        """The excitation of an EESM."""
        more = ("i_e",) if isinstance(self.motor, motors.EESM) else ()
        return ("omega", "u_sup", *more)

    def _flux(self, measured: Values) -> Any:
        if isinstance(self.motor, motors.EESM):
            return self.motor.l_m * measured["i_e"]
        return getattr(self.motor, "psi_p", 0.0)

    def _largest_flux(self, measured: Values) -> Array:
        """Wb, what the supply can be induced against."""
        voltage = self.share * 0.5 * jnp.abs(measured["u_sup"])
        return voltage / jnp.maximum(jnp.abs(self.motor.p * measured["omega"]), 1e-3)

    def range(self, measured: Values) -> tuple[Array, Array]:
        """Of the largest current, or of what the voltage leaves of it."""
        largest = self._largest_torque(measured)
        ends = (self.currents(torque, measured) for torque in (-largest, largest))
        rest = (measured["i_e"],) if isinstance(self.motor, motors.EESM) else ()
        low, high = (self.motor.torque((at["i_sd"], at["i_sq"], *rest)) for at in ends)
        return low, high

    def _largest_torque(self, measured: Values) -> Array:
        motor, half = self.motor, 0.5 * jnp.abs(self._flux(measured))
        saliency = jnp.abs(motor.l_d - motor.l_q)
        # i_d^2 + i_q^2 = i^2 on the curve of the least current, without a division by saliency.
        square, i = half**2, self.max_current
        root = jnp.sqrt(square + 2.0 * (saliency * i) ** 2 + _TINY)
        i_d = saliency * i**2 / (half + root)
        i_q = jnp.sqrt(i**2 - i_d**2)
        return 1.5 * motor.p * (2.0 * half + saliency * i_d) * i_q

    def currents(self, torque: Array, measured: Values) -> Values:
        """`i_sd` and `i_sq`, and the `i_e` of an EESM.

        On the curve of the least current `T = 1.5 p i_q (h + sqrt(h^2 + (L_d - L_q)^2 i_q^2))`,
        h being half the flux, which grows with i_q; it is solved by Newton's method.
        """
        motor, flux = self.motor, self._flux(measured)
        saliency = motor.l_d - motor.l_q
        half, sign = 0.5 * jnp.abs(flux), jnp.where(flux < 0, -1.0, 1.0)
        wanted = torque * sign / (1.5 * motor.p)
        size = jnp.abs(wanted)
        i_q = size / (half + jnp.sqrt(half**2 + jnp.abs(saliency) * size + _TINY))
        for _ in range(4):
            root = jnp.sqrt(half**2 + (saliency * i_q) ** 2 + _TINY)
            slope = half + root + (saliency * i_q) ** 2 / root
            i_q = i_q - (i_q * (half + root) - size) / slope
        root = jnp.sqrt(half**2 + (saliency * i_q) ** 2 + _TINY)
        i_d = sign * saliency * i_q**2 / (half + root)
        i_d, i_q = within_circle((i_d, jnp.sign(wanted) * i_q), self.max_current)
        most = self._largest_flux(measured)
        shorter = _shortening((motor.l_d * i_d, motor.l_q * i_q), flux, most)
        currents = {"i_sd": shorter * i_d, "i_sq": shorter * i_q}
        if isinstance(motor, motors.EESM):
            currents["i_e"] = jnp.minimum(self.excitation, 0.6 * most / motor.l_m)
        return currents


def _shortening(vector: tuple[Array, Array], offset: Any, radius: Array) -> Array:
    """The largest s in [0, 1] with `(s x + offset, s y)` within a radius."""
    x, y = vector
    square, slope = x * x + y * y + _TINY, x * offset
    room = jnp.maximum(radius**2 - offset**2, 0.0)
    # The positive root in the form without a difference, whatever the sign of the slope.
    root = jnp.sqrt(slope**2 + square * room + _TINY**2)
    largest = jnp.where(slope > 0, room / jnp.maximum(root + slope, _TINY), (root - slope) / square)
    return jnp.minimum(1.0, largest)


@struct.dataclass
class RotorFlux:
    """Torque of a SCIM by `i_sq`, across a rotor flux that `i_sd` holds.

    Attributes:
      motor: what is believed of it.
      max_current: A, of the stator's space vector.
      magnetising: A, `i_sd`; less at speeds at which its induced voltage is more than `share` of
        what there is.
      share: of half the supply's voltage.
    """

    motor: Any
    max_current: Any
    magnetising: Any
    share: Any = 0.8

    needs = ("psi_abs", "omega", "u_sup")

    def _i_d(self, measured: Values) -> Array:
        motor = self.motor
        speed = jnp.abs(motor.p * measured["omega"]) * (motor.l_m + motor.l_sigs)
        voltage = self.share * 0.5 * jnp.abs(measured["u_sup"])
        return self.magnetising * jnp.minimum(
            1.0, voltage / jnp.maximum(speed * self.magnetising, _TINY)
        )

    def _slope(self, measured: Values) -> Array:
        """Nm/A of `i_sq`, of the observed flux."""
        motor = self.motor
        least = _LEAST_SHARE * motor.l_m * self.magnetising
        flux = jnp.maximum(measured["psi_abs"], least)
        return 1.5 * motor.p * motor.l_m / (motor.l_m + motor.l_sigr) * flux

    def range(self, measured: Values) -> tuple[Array, Array]:
        """Of what the magnetising current leaves of the largest current."""
        i_q = jnp.sqrt(jnp.maximum(self.max_current**2 - self._i_d(measured) ** 2, _TINY))
        largest = self._slope(measured) * i_q
        return -largest, largest

    def currents(self, torque: Array, measured: Values) -> Values:
        """`i_sd` and `i_sq`."""
        return {"i_sd": self._i_d(measured), "i_sq": torque / self._slope(measured)}


@struct.dataclass
class TorqueControl:
    """Follows `torque` by currents that a controller inside follows.

    Attributes:
      torque_map: see this module.
      current: of the currents.
    """

    torque_map: Any
    current: Any

    follows = ("torque",)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what has to be measured."""
        return (*self.torque_map.needs, *self.current.needs)

    def initial(self) -> Any:
        """That of the inside."""
        return self.current.initial()

    def act(self, state: Any, measured: Values, wanted: Values) -> tuple[Any, Array]:
        """`(state, action)` of one step."""
        torque = jnp.clip(wanted["torque"], *self.torque_map.range(measured))
        return self.current.act(state, measured, self.torque_map.currents(torque, measured))


def torque_control(
    params: Any, *, current: Any = None, max_current: Any = None, excitation: Any = None
) -> TorqueControl:
    """Control of the torque of a drive.

    Args:
      params: of the environment.
      current: a controller of the currents; None: `bang_bang` for finite converters, else
        `current_pi`, `field_oriented`, or `deadbeat` for an EESM, whose coupled currents overshoot
        with loops of their own.
      max_current: A, of the armature or of the stator's space vector; None: 0.9 of the limit, less
        what a finite converter changes in a step before it sees that it has to turn.
      excitation: A, what the excitation of an ExtExDc or EESM is held at, and the magnetising
        current of a SCIM; None: the nominal one of an ExtExDc, 0.8 of the nominal one of an EESM,
        1 / sqrt(2) of the nominal current of a SCIM.

    Returns:
      The controller.

    Raises:
      ValueError: another motor, or a SCIM without an observed flux.
    """
    refuse_drive("torque_control", params, tuple(EQUATIONS), finite=None)
    current = _current_controller(params) if current is None else current
    return TorqueControl(_torque_map(params, max_current, excitation), current)


def _current_controller(params: Any) -> Any:
    if params.converter.FINITE:
        return bang_bang(params)
    if isinstance(params.motor, motors.EESM):
        return deadbeat(params)
    direct = (motors.PermExDc, motors.SeriesDc, motors.ShuntDc, motors.ExtExDc)
    return (current_pi if isinstance(params.motor, direct) else field_oriented)(params)


def _ripple(params: Any) -> Any:
    """A, of twice the supply's voltage: that and as much of an induced one."""
    known = equations(params.motor)
    least = functools.reduce(
        jnp.minimum,
        [
            inductance
            for name, (_, inductance) in zip(
                known.currents, known.circuits(params.motor), strict=True
            )
            if name != "i_e"
        ],
    )
    return 2.0 * params.nominal["u_sup"] * params.tau / least


def _torque_map(params: Any, max_current: Any, excitation: Any) -> Any:
    motor, limits, nominal = params.motor, params.limits, params.nominal
    name = {motors.PermExDc: "i", motors.SeriesDc: "i", motors.ShuntDc: "i_a"}
    name |= {motors.ExtExDc: "i_a"}
    limit = limits[name.get(type(motor), "i_sq")]
    ripple = _ripple(params) if params.converter.FINITE else 0.0
    largest = 0.9 * (limit - ripple) if max_current is None else max_current
    if isinstance(motor, motors.PermExDc):
        return PermanentField(motor, largest)
    if isinstance(motor, motors.SeriesDc):
        return SeriesField(motor, largest)
    if isinstance(motor, motors.ShuntDc | motors.ExtExDc):
        return ExcitedField(motor, largest, nominal["i_e"] if excitation is None else excitation)
    if isinstance(motor, motors.SCIM):
        magnetising = 0.5**0.5 * nominal["i_sd"] if excitation is None else excitation
        return RotorFlux(motor, largest, magnetising)
    if isinstance(motor, motors.EESM):
        held = 0.8 * nominal["i_e"] if excitation is None else excitation
        return BestCurrents(motor, largest, held)
    return BestCurrents(motor, largest)
