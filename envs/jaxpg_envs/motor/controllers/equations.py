"""What a controller believes of a motor: its circuits, and what turning induces in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg_envs.motor import motors

Array = jax.Array
Values = dict[str, Any]
Scalars = tuple[Any, ...]


class Equations(NamedTuple):
    """Circuits of a kind of motor: `L di/dt = u - R i - induced`.

    Attributes:
      currents: names of the controlled currents, one for each voltage of the motor.
      circuits: motor -> `(R, L)` in Ohm and H of each.
      induced: (motor, measured) -> V in each, from turning and from fluxes.
      needs: names of what is measured beside the currents and the speed.
      coupled: (motor, errors) -> A, what the errors of all currents are together for the flux of
        each circuit, over its own inductance.
      integrates: whether `induced` has also what falls at the resistances.
    """

    currents: tuple[str, ...]
    circuits: Callable[[Any], tuple[tuple[Any, Any], ...]]
    induced: Callable[[Any, Values], Scalars]
    needs: tuple[str, ...] = ()
    coupled: Callable[[Any, Scalars], Scalars] = lambda motor, errors: errors
    integrates: bool = False


def equations(motor: Any) -> Equations:
    """Those of a motor, of its class or of the one that it extends."""
    return next(EQUATIONS[each] for each in type(motor).__mro__ if each in EQUATIONS)


def _synchronous(motor: Any, measured: Values, flux: Any) -> Scalars:
    speed = motor.p * measured["omega"]
    return (
        -speed * motor.l_q * measured["i_sq"],
        speed * (motor.l_d * measured["i_sd"] + flux),
    )


def _with_resistances(motor: Any, measured: Values) -> Scalars:
    """GEM's EESM has an unstable pole, which no zero of a controller may cancel."""
    u_d, u_q = _synchronous(motor, measured, motor.l_m * measured["i_e"])
    return (
        u_d + motor.r_s * measured["i_sd"],
        u_q + motor.r_s * measured["i_sq"],
        motor.r_e * measured["i_e"],
    )


def _stator(motor: Any) -> tuple[tuple[Any, Any], ...]:
    return (motor.r_s, motor.l_d), (motor.r_s, motor.l_q)


def _eesm_coupled(motor: Any, errors: Scalars) -> Scalars:
    i_d, i_q, i_e = errors
    return i_d + motor.l_m / motor.l_d * i_e, i_q, i_e + 1.5 * motor.l_m / motor.l_e * i_d


def _induction(motor: Any) -> tuple[tuple[Any, Any], ...]:
    share = motor.l_m / (motor.l_m + motor.l_sigr)
    circuit = (motor.r_s + share**2 * motor.r_r, motor.l_sigs + share * motor.l_sigr)
    return circuit, circuit


def _induced_by_rotor(motor: Any, measured: Values) -> Scalars:
    """In coordinates of the rotor's flux, which turns by the slip faster than the rotor."""
    flux, l_r = measured["psi_abs"], motor.l_m + motor.l_sigr
    share, rate = motor.l_m / l_r, motor.r_r / l_r
    i_d, i_q = measured["i_sd"], measured["i_sq"]
    speed = motor.p * measured["omega"]
    # A field that is still being built has no slip that could be computed.
    least = 0.01 * motor.l_m
    slip = rate * motor.l_m * i_q / jnp.maximum(flux, least)
    (_, inductance), _ = _induction(motor)
    turning = (speed + slip) * inductance
    return -turning * i_q - share * rate * flux, turning * i_d + share * speed * flux


EQUATIONS = {
    motors.PermExDc: Equations(
        ("i",),
        lambda motor: ((motor.r_a, motor.l_a),),
        lambda motor, measured: (motor.psi_e * measured["omega"],),
    ),
    motors.SeriesDc: Equations(
        ("i",),
        lambda motor: ((motor.r_a + motor.r_e, motor.l_a + motor.l_e),),
        lambda motor, measured: (motor.l_e_prime * measured["omega"] * measured["i"],),
    ),
    motors.ShuntDc: Equations(
        ("i_a",),
        lambda motor: ((motor.r_a, motor.l_a),),
        lambda motor, measured: (motor.l_e_prime * measured["omega"] * measured["i_e"],),
        needs=("i_e",),
    ),
    motors.ExtExDc: Equations(
        ("i_a", "i_e"),
        lambda motor: ((motor.r_a, motor.l_a), (motor.r_e, motor.l_e)),
        lambda motor, measured: (motor.l_e_prime * measured["omega"] * measured["i_e"], 0.0),
    ),
    motors.PMSM: Equations(
        ("i_sd", "i_sq"),
        _stator,
        lambda motor, measured: _synchronous(motor, measured, motor.psi_p),
    ),
    motors.SynRM: Equations(
        ("i_sd", "i_sq"),
        _stator,
        lambda motor, measured: _synchronous(motor, measured, 0.0),
    ),
    motors.EESM: Equations(
        ("i_sd", "i_sq", "i_e"),
        lambda motor: (*_stator(motor), (motor.r_e, motor.l_e)),
        _with_resistances,
        coupled=_eesm_coupled,
        integrates=True,
    ),
    motors.SCIM: Equations(
        ("i_sd", "i_sq"),
        _induction,
        _induced_by_rotor,
        needs=("psi_abs",),
    ),
}
"""By the class of the motor."""
