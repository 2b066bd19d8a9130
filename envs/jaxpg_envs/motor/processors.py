"""What stands between a drive and its controller: delays, other coordinates, more measurements.

A processor is a piece in `DriveParams.processors`, the innermost first. Actions pass from the
outermost to the innermost, measurements the other way; measurements are normalised.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces

from jaxpg_envs.choices import refusal
from jaxpg_envs.motor import transforms
from jaxpg_envs.motor.drive import Values
from jaxpg_envs.motor.motors import DFIM, EESM, PMSM, SCIM, SynRM

Array = jax.Array


class Processor:
    """What a processor may do; it does nothing unless it says so.

    `params` are those of the environment, `limits` those of all that is measured inside of it.
    """

    dead_time = 0
    """Steps by which it delays actions, static."""

    random = False
    """Whether `measure` reads its key, static; it gets None where no processor does."""

    def names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the measurements outside of it, from those inside."""
        return names

    def limits(self, params: Any, limits: Values) -> Values:
        """Limits (or nominal values) outside of it, from those inside."""
        return limits

    def bounds(self, params: Any, low: Values, high: Values) -> tuple[Values, Values]:
        """The normalised range of each measurement outside of it, from that inside."""
        return low, high

    def action_space(self, space: Any, motor: Any) -> Any:
        """The action space outside of it, from that inside."""
        return space

    def initial(
        self, key: Array, params: Any, space: Any, limits: Values, values: Values
    ) -> tuple[Any, Values]:
        """`(state, values)` at a reset; `space` is the action space inside."""
        return (), values

    def act(self, params: Any, state: Any, action: Array, delay: int) -> tuple[Any, Array]:
        """`(state, action for the inside)`; `delay` is the dead time inside, in steps."""
        return state, action

    def measure(
        self, key: Array, params: Any, limits: Values, state: Any, values: Values
    ) -> tuple[Any, Values]:
        """`(state, values)` after a step."""
        return state, values

    def check(self, params: Any, names: tuple[str, ...]) -> None:
        """Refuses in one sentence what it cannot work with; on the host."""


def _known(what: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(refusal(what, name, names))


@struct.dataclass
class DeadTime(Processor):
    """Delays actions by whole steps; the first ones are zeros.

    Attributes:
      steps: at least 1, static.
    """

    steps: int = struct.field(pytree_node=False, default=1)

    @property
    def dead_time(self) -> int:
        """Its steps."""
        return self.steps

    def initial(self, key, params, space, limits, values):
        """Nothing was commanded before the first step."""
        # A fixed key: only the shape of an action is read.
        action = jax.eval_shape(space.sample, jax.random.key(0))
        return tuple(jnp.zeros(action.shape, action.dtype) for _ in range(self.steps)), values

    def act(self, params, state, action, delay):
        """The action of `steps` steps ago."""
        action = jnp.asarray(action, state[0].dtype)
        return (*state[1:], action), state[0]

    def check(self, params, names):
        """At least one step."""
        if self.steps < 1:
            raise ValueError(f"steps of DeadTime is {self.steps!r}, but it has to be at least 1")


@struct.dataclass
class CosSin(Processor):
    """Adds the cosine and sine of an angle, named `cos(<angle>)` and `sin(<angle>)`.

    Attributes:
      angle: name of a measurement whose limit is pi, static.
      remove_angle: whether to take the angle itself out, static.
    """

    angle: str = struct.field(pytree_node=False, default="epsilon")
    remove_angle: bool = struct.field(pytree_node=False, default=False)

    def _extend(self, values: Values, cosine: Any, sine: Any) -> Values:
        kept = {k: v for k, v in values.items() if k != self.angle or not self.remove_angle}
        return {**kept, f"cos({self.angle})": cosine, f"sin({self.angle})": sine}

    def names(self, names):
        """With the cosine and the sine at the end."""
        return tuple(self._extend(dict.fromkeys(names), None, None))

    def limits(self, params, limits):
        """1 for both."""
        return self._extend(limits, 1.0, 1.0)

    def bounds(self, params, low, high):
        """From -1 to 1."""
        return self._extend(low, -1.0, -1.0), self._extend(high, 1.0, 1.0)

    def initial(self, key, params, space, limits, values):
        """As after any step."""
        return self.measure(key, params, limits, (), values)

    def measure(self, key, params, limits, state, values):
        """Of the normalised angle times pi."""
        angle = values[self.angle] * jnp.pi
        return state, self._extend(values, jnp.cos(angle), jnp.sin(angle))

    def check(self, params, names):
        """The angle has to be there."""
        _known("angle of CosSin", self.angle, names)


@struct.dataclass
class CurrentSum(Processor):
    """Adds `i_sum`, the sum of the normalised currents.

    Attributes:
      currents: their names, static.
      limit: `"max"` or `"sum"`: how the limit of the sum follows from theirs, static.
    """

    currents: tuple[str, ...] = struct.field(pytree_node=False, default=("i_a", "i_e"))
    limit: str = struct.field(pytree_node=False, default="max")

    def names(self, names):
        """With `i_sum` at the end."""
        return (*names, "i_sum")

    def limits(self, params, limits):
        """The largest, or the sum."""
        of_currents = jnp.stack([jnp.asarray(limits[name], float) for name in self.currents])
        reduced = jnp.max(of_currents) if self.limit == "max" else jnp.sum(of_currents)
        return {**limits, "i_sum": reduced}

    def bounds(self, params, low, high):
        """From -1 to 1."""
        return {**low, "i_sum": -1.0}, {**high, "i_sum": 1.0}

    def initial(self, key, params, space, limits, values):
        """As after any step."""
        return self.measure(key, params, limits, (), values)

    def measure(self, key, params, limits, state, values):
        """The sum of what is normalised each by its own limit."""
        return state, {**values, "i_sum": sum(values[name] for name in self.currents)}

    def check(self, params, names):
        """The currents have to be there."""
        for name in self.currents:
            _known("currents of CurrentSum", name, names)
        if self.limit not in ("max", "sum"):
            raise ValueError(refusal("limit of CurrentSum", self.limit, ("max", "sum")))


@struct.dataclass
class FluxObserver(Processor):
    """Adds an estimate of an induction motor's rotor flux: `psi_abs` and `psi_angle`.

    One explicit Euler step of the rotor's equation in the measured stator currents and speed.

    Attributes:
      currents: names of the three stator currents, static.
    """

    currents: tuple[str, ...] = struct.field(pytree_node=False, default=("i_sa", "i_sb", "i_sc"))

    def names(self, names):
        """With both at the end."""
        return (*names, "psi_abs", "psi_angle")

    def _largest(self, params: Any, limits: Values) -> Array:
        return params.motor.l_m * limits["i_sd"]

    def limits(self, params, limits):
        """The main inductance times the limit of the current; pi."""
        return {**limits, "psi_abs": self._largest(params, limits), "psi_angle": jnp.pi}

    def bounds(self, params, low, high):
        """As gym-electric-motor has them: in webers and radians, though what is shown has none."""
        largest = self._largest(params, params.limits)
        return (
            {**low, "psi_abs": -largest, "psi_angle": -jnp.pi},
            {**high, "psi_abs": largest, "psi_angle": jnp.pi},
        )

    def initial(self, key, params, space, limits, values):
        """No flux."""
        zero = jnp.zeros((), float)
        return (zero, zero), {**values, "psi_abs": zero, "psi_angle": zero}

    def measure(self, key, params, limits, state, values):
        """The flux after the step."""
        motor, (alpha, beta) = params.motor, state
        phases = tuple(values[name] * limits[name] for name in self.currents)
        i_alpha, i_beta = transforms.abc_to_alpha_beta(phases)
        speed = values["omega"] * limits["omega"] * motor.p
        rate = motor.r_r / (motor.l_m + motor.l_sigr)
        gain = rate * motor.l_m
        alpha, beta = (
            alpha + params.tau * (gain * i_alpha - rate * alpha - speed * beta),
            beta + params.tau * (gain * i_beta - rate * beta + speed * alpha),
        )
        # Without any flux the gradient of its length is 0, where that of a root has no value.
        square = alpha**2 + beta**2
        some = square > 0
        length = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
        angle = transforms.angle_of((alpha, beta))
        outside = self.limits(params, limits)
        values = {
            **values,
            "psi_abs": length / outside["psi_abs"],
            "psi_angle": angle / outside["psi_angle"],
        }
        return (alpha, beta), values

    def check(self, params, names):
        """Only for induction motors."""
        if not isinstance(params.motor, (SCIM, DFIM)):
            raise ValueError(
                f"FluxObserver needs an induction motor (SCIM or DFIM), but the motor is "
                f"{type(params.motor).__name__}"
            )
        for name in self.currents:
            _known("currents of FluxObserver", name, names)


@struct.dataclass
class DqActions(Processor):
    """Takes the voltages of a three-phase drive in field coordinates.

    The angle is the last measured one, carried on by half a step and by the dead time inside:
    the electrical angle for synchronous motors and for the stator of a DFIM, that of the observed
    flux for a SCIM. An EESM's third action goes to its excitation; a DFIM takes a pair for the
    stator and a pair for the rotor.
    """

    def _angle(self, motor: Any) -> str:
        return "psi_angle" if isinstance(motor, SCIM) else "epsilon"

    def action_space(self, space, motor):
        """A box from -1 to 1: two actions, three for an EESM, four for a DFIM."""
        size = {EESM: 3, DFIM: 4}.get(type(motor), 2)
        return spaces.Box(-1.0, 1.0, (size,))

    def _seen(self, params: Any, limits: Values, values: Values) -> tuple[Array, Array, Array]:
        angle = self._angle(params.motor)
        flux = values.get("psi_angle", jnp.zeros((), float)) * jnp.pi
        return values[angle] * limits[angle], values["omega"] * limits["omega"], flux

    def initial(self, key, params, space, limits, values):
        """What was measured at the reset."""
        return self._seen(params, limits, values), values

    def measure(self, key, params, limits, state, values):
        """What is measured now, for the next action."""
        return self._seen(params, limits, values), values

    def act(self, params, state, action, delay):
        """Phase voltages."""
        angle, omega, flux = state
        motor = params.motor
        ahead = angle + (0.5 + delay) * params.tau * omega * motor.p
        phases = transforms.dq_to_abc((action[0], action[1]), ahead)
        if isinstance(motor, EESM):
            phases = (*phases, action[2])
        elif isinstance(motor, DFIM):
            phases = (*phases, *transforms.dq_to_abc((action[2], action[3]), flux - ahead))
        return state, jnp.stack(phases)

    def check(self, params, names):
        """Only for three-phase motors with continuous converters, and with the angle observed."""
        motor = params.motor
        if not isinstance(motor, (PMSM, SynRM, EESM, SCIM, DFIM)):
            raise ValueError(
                f"DqActions needs a three-phase motor, but the motor is {type(motor).__name__}"
            )
        if not hasattr(params.converter.action_space(), "low"):
            raise ValueError(
                f"DqActions needs a continuous converter, but the converter is "
                f"{type(params.converter).__name__}"
            )
        needed = "psi_angle" if isinstance(motor, (SCIM, DFIM)) else "epsilon"
        if needed not in names:
            raise ValueError(
                f"DqActions needs {needed!r}, which is not measured: put a FluxObserver before it"
            )
