"""Control of the speed: a loop around control of the torque."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.motor.controllers.drives import refuse_drive
from jaxpg_envs.motor.controllers.equations import EQUATIONS, equations
from jaxpg_envs.motor.controllers.proportional_integral import PI, small_delay
from jaxpg_envs.motor.controllers.torque import torque_control

Array = jax.Array
Values = dict[str, Any]


@struct.dataclass
class CascadedPI:
    """Follows `omega`: a loop whose output is the torque, and control of the torque inside.

    Attributes:
      speed: `PI`, Nm for rad/s.
      torque: see `TorqueControl`.
      tau: s.
    """

    speed: PI
    torque: Any
    tau: Any

    follows = ("omega",)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what has to be measured."""
        return ("omega", *self.torque.needs)

    def initial(self) -> tuple[Array, Any]:
        """No integral, and the state of the inside."""
        return self.speed.initial(), self.torque.initial()

    def act(self, state: tuple, measured: Values, wanted: Values) -> tuple[tuple, Array]:
        """`(state, action)` of one step."""
        integral, inside = state
        error = wanted["omega"] - measured["omega"]
        torque = self.speed.output(integral, error)
        possible = jnp.clip(torque, *self.torque.torque_map.range(measured))
        integral = self.speed.settle(integral, error, torque - possible, self.tau)
        inside, action = self.torque.act(inside, measured, {"torque": possible})
        return (integral, inside), action


def speed_cascade(
    params: Any,
    *,
    kp: Any = None,
    ki: Any = None,
    delay: Any = None,
    current: Any = None,
    max_current: Any = None,
    excitation: Any = None,
) -> CascadedPI:
    """Cascaded control of the speed of a drive.

    The gains follow the symmetric optimum for the inertia of rotor and load, with its parameter at
    `1 + sqrt(2)`, where the poles are damped like those of the magnitude optimum:
    `kp = J / (a delay)` and `ki = kp / (a^2 delay)`.

    Args:
      params: of the environment.
      kp: Nm s; None: by the rule.
      ki: Nm; None: by the rule.
      delay: s, of the current's loop; None: that of a `current_pi`, and half the time in which the
        supply drives the nominal current through the motor's largest inductance.
      current: see `torque_control`.
      max_current: see `torque_control`.
      excitation: see `torque_control`.

    Returns:
      The controller.

    Raises:
      ValueError: another motor, a SCIM without an observed flux, or a load of constant speed.

    Source: Kessler 1958, the "symmetrisches Optimum".
    """
    refuse_drive("speed_cascade", params, tuple(EQUATIONS), finite=None)
    if not hasattr(params.load, "j_load"):
        raise ValueError(
            f"speed_cascade needs a load with an inertia (PolynomialStatic), but the load is "
            f"{type(params.load).__name__}"
        )
    spread = 1.0 + 2.0**0.5
    delay = _delay(params) if delay is None else delay
    inertia = params.motor.j_rotor + params.load.j_load
    kp = inertia / (spread * delay) if kp is None else kp
    ki = kp / (spread**2 * delay) if ki is None else ki
    inside = torque_control(params, current=current, max_current=max_current, excitation=excitation)
    return CascadedPI(PI(kp, ki, clamped=True), inside, params.tau)


def _delay(params: Any) -> Any:
    known = equations(params.motor)
    times = [
        inductance * params.nominal[name] / _largest_voltage(params, name)
        for name, (_, inductance) in zip(known.currents, known.circuits(params.motor), strict=True)
        # An excitation is held, and not needed for the speed.
        if name != "i_e"
    ]
    longest = times[0] if len(times) == 1 else jnp.maximum(*times)
    return 2.0 * small_delay(params) + 0.5 * longest


def _largest_voltage(params: Any, name: str) -> Any:
    supply = params.nominal["u_sup"]
    return 0.5 * supply if name in ("i_sd", "i_sq") else supply
