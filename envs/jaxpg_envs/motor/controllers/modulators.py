"""From the voltages that a controller wants to the action that a continuous converter takes.

A modulator is `modulator(voltages, measured) -> (action, applied)`: it cuts voltages to what the
converter can give, and says what is left of them. `needs` are names of what has to be measured.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.motor import motors, transforms
from jaxpg_envs.motor.processors import DqActions

Array = jax.Array
Values = dict[str, Any]
Scalars = tuple[Any, ...]

_LEAST_SUPPLY = 1e-3
"""V. A supply that is at zero, as an alternating one is at times, can drive nothing."""


@struct.dataclass
class DutyCycles:
    """One duty cycle for each voltage, of one-, two- and four-quadrant converters.

    Attributes:
      low: of each duty cycle the least, -1.0 or 0.0, static; the greatest is 1.
    """

    low: tuple[float, ...] = struct.field(pytree_node=False)

    needs = ("u_sup",)

    def __call__(self, voltages: Scalars, measured: Values) -> tuple[Array, Scalars]:
        """Action `[len(low)]`, and the voltages that it gives."""
        supply = _supply(measured)
        duties = tuple(
            jnp.clip(voltage / supply, low, 1.0)
            for voltage, low in zip(voltages, self.low, strict=True)
        )
        return jnp.stack(duties), tuple(duty * supply for duty in duties)


@struct.dataclass
class Bridge:
    """A bridge of three legs, and duty cycles of what is excited separately.

    The amplitude of the phases is cut at half of the supply, where no leg clips: the voltage of the
    direct axis comes first, that of the other axis gets what is left. Where an excitation is
    coupled to it, all voltages are shortened together before: one that is cut alone would turn the
    direction in which the currents change, and in GEM's EESM the sign of it.

    Voltages of an interval are held in (d, q) for synchronous motors, so that no half step has to
    be looked ahead; `DqActions` does look ahead, which is taken back. For an induction motor they
    are held in fixed coordinates, and the angle in the interval's middle counts.

    Attributes:
      tau: s.
      p: pole pairs, as the controller believes them.
      low: see `DutyCycles`, of what is excited separately, static.
      angle: `"epsilon"` or `"psi_angle"`, static.
      dead_time: in steps, static.
      dq_actions: whether the environment takes actions in (d, q), static.
    """

    tau: Any
    p: Any
    low: tuple[float, ...] = struct.field(pytree_node=False, default=())
    angle: str = struct.field(pytree_node=False, default="epsilon")
    dead_time: int = struct.field(pytree_node=False, default=0)
    dq_actions: bool = struct.field(pytree_node=False, default=False)

    @property
    def needs(self) -> tuple[str, ...]:
        """Without actions in (d, q) the angle is needed here."""
        return ("omega", "u_sup") if self.dq_actions else ("omega", "u_sup", self.angle)

    def __call__(self, voltages: Scalars, measured: Values) -> tuple[Array, Scalars]:
        """Action in (d, q) or of the three legs, and the voltages that it gives."""
        supply = _supply(measured)
        half = 0.5 * supply
        d, q, *rest = (voltage / half for voltage in voltages)
        if rest:
            d, q, *rest = _one_direction(d, q, rest)
        stator = _direct_first(d, q)
        applied = tuple(share * half for share in stator)
        held_in_dq = self.angle == "epsilon"
        step = self.tau * self.p * measured["omega"]
        if self.dq_actions:
            ahead = -0.5 * step if held_in_dq else jnp.zeros(())
            action = transforms.dq_to_alpha_beta(stator, ahead)
        else:
            steps = self.dead_time + (0.0 if held_in_dq else 0.5)
            action = transforms.dq_to_abc(stator, measured[self.angle] + steps * step)
        if not self.low:
            return jnp.stack(action), applied
        duties, given = DutyCycles(self.low)(tuple(share * half for share in rest), measured)
        return jnp.concatenate([jnp.stack(action), duties]), (*applied, *given)


def modulator(params: Any) -> DutyCycles | Bridge:
    """The modulator of a drive with a continuous converter.

    Args:
      params: of the environment.

    Returns:
      One that knows whether the environment takes actions in (d, q), and its dead time.
    """
    space = params.converter.voltages_range()
    low = tuple(-1.0 if least < 0 else 0.0 for least, _ in space)
    motor = params.motor
    if not isinstance(motor, motors.PMSM | motors.SynRM | motors.EESM | motors.SCIM):
        return DutyCycles(low)
    return Bridge(
        tau=params.tau,
        p=motor.p,
        low=low[3:],
        angle="psi_angle" if isinstance(motor, motors.SCIM) else "epsilon",
        dead_time=dead_time(params),
        dq_actions=any(isinstance(each, DqActions) for each in params.processors),
    )


def dead_time(params: Any) -> int:
    """Steps by which the processors of a drive delay actions."""
    return sum(processor.dead_time for processor in params.processors)


def within_circle(vector: Scalars, radius: Any) -> Scalars:
    """The vector, shortened to a length where it is longer; in two dimensions."""
    x, y = vector
    square = x * x + y * y
    long = square > radius * radius
    # Differentiated also where it is not taken: no root of 0.
    scale = jnp.where(long, radius * jax.lax.rsqrt(jnp.where(long, square, 1.0)), 1.0)
    return x * scale, y * scale


def _direct_first(d: Array, q: Array) -> Scalars:
    d = jnp.clip(d, -1.0, 1.0)
    room = jnp.sqrt(jnp.maximum(1.0 - d * d, 1e-12))
    return d, jnp.clip(q, -room, room)


def _one_direction(d: Array, q: Array, rest: list[Array]) -> Scalars:
    """All divided by how much the longest is too long; one of the rest may have a length of 2."""
    excess = jnp.maximum(1.0, jnp.sqrt(jnp.maximum(d * d + q * q, 1.0)))
    for voltage in rest:
        excess = jnp.maximum(excess, 0.5 * jnp.abs(voltage))
    return tuple(voltage / excess for voltage in (d, q, *rest))


def _supply(measured: Values) -> Array:
    supply = jnp.asarray(measured["u_sup"], float)
    return jnp.where(jnp.abs(supply) < _LEAST_SUPPLY, _LEAST_SUPPLY, supply)
