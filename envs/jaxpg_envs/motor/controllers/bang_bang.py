"""Bang-bang control of currents: a finite converter's largest voltage against the error."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.motor import motors, transforms
from jaxpg_envs.motor.controllers.drives import refuse_drive
from jaxpg_envs.motor.controllers.equations import EQUATIONS, equations
from jaxpg_envs.motor.controllers.reachable import largest_currents, reachable
from jaxpg_envs.motor.converters import Finite1QC

Array = jax.Array
Values = dict[str, Any]
Scalars = tuple[Any, ...]


@struct.dataclass
class BangBang:
    """Up where a current is too small, down where it is too large, and inside a band as before.

    Three-phase currents are compared phase by phase. An EESM's coupled currents are compared by
    the flux that their errors are together.

    Attributes:
      motor: what is believed of it: a SCIM's field, an EESM's coupling.
      largest: A, what is followed at most, by name, see `reachable`.
      band: A, half the width of the band inside of which nothing is switched.
      down: of each converter of one current the action that lowers it, static; 1 raises it.
      bridge: whether the first two currents are those of a bridge of three legs, static.
    """

    motor: Any
    largest: Values
    band: Any
    down: tuple[int, ...] = struct.field(pytree_node=False)
    bridge: bool = struct.field(pytree_node=False, default=False)

    @property
    def follows(self) -> tuple[str, ...]:
        """Names of the currents."""
        return equations(self.motor).currents

    @property
    def _angle(self) -> str:
        return "psi_angle" if isinstance(self.motor, motors.SCIM) else "epsilon"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what has to be measured."""
        return (*self.follows, self._angle) if self.bridge else self.follows

    def initial(self) -> tuple[Array, ...]:
        """Nothing is up."""
        return (jnp.zeros((), bool),) * (len(self.down) + 3 * self.bridge)

    def act(self, state: tuple, measured: Values, wanted: Values) -> tuple[tuple, Array]:
        """`(state, action)` of one step; which currents are being raised is remembered."""
        wanted = reachable(wanted, self.largest)
        errors = tuple(wanted[name] - measured[name] for name in self.follows)
        errors = equations(self.motor).coupled(self.motor, errors)
        if self.bridge:
            errors = (*transforms.dq_to_abc(errors[:2], measured[self._angle]), *errors[2:])
        up = tuple(
            jnp.where(jnp.abs(error) > self.band, error > 0, before)
            for error, before in zip(errors, state, strict=True)
        )
        legs, singles = (up[:3], up[3:]) if self.bridge else ((), up)
        choices = [jnp.where(each, 1, low) for each, low in zip(singles, self.down, strict=True)]
        if legs:
            choices.insert(0, sum(jnp.where(leg, 4 >> bit, 0) for bit, leg in enumerate(legs)))
        choices = [choice.astype(jnp.int32) for choice in choices]
        return up, choices[0] if len(choices) == 1 else jnp.stack(choices)


def bang_bang(params: Any, *, band: Any = 0.0) -> BangBang:
    """Bang-bang control of the currents of a drive with a finite converter.

    A current that does not change its reference stays within one step's change beyond the band.

    Args:
      params: of the environment.
      band: A, see `BangBang`.

    Returns:
      The controller.

    Raises:
      ValueError: another motor, a continuous converter, or a SCIM without an observed flux.
    """
    refuse_drive("bang_bang", params, tuple(EQUATIONS), finite=True)
    bridge = not isinstance(
        params.motor, motors.PermExDc | motors.SeriesDc | motors.ShuntDc | motors.ExtExDc
    )
    parts = getattr(params.converter, "parts", (params.converter,))
    return BangBang(
        motor=params.motor,
        largest=largest_currents(params),
        band=band,
        down=tuple(_down(part) for part in parts[1 if bridge else 0 :]),
        bridge=bridge,
    )


def _down(converter: Any) -> int:
    """0 turns a single transistor off; half a bridge and a bridge go down by action 2."""
    return 0 if isinstance(converter, Finite1QC) else 2
