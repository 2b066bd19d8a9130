"""Proportional and integral control of currents, each in a loop of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.motor import motors
from jaxpg_envs.motor.controllers.drives import refuse_drive
from jaxpg_envs.motor.controllers.equations import Equations, equations
from jaxpg_envs.motor.controllers.modulators import dead_time, modulator
from jaxpg_envs.motor.controllers.reachable import largest_currents, reachable

Array = jax.Array
Values = dict[str, Any]

_DIRECT = (motors.PermExDc, motors.SeriesDc, motors.ShuntDc, motors.ExtExDc)
_THREE_PHASE = (motors.PMSM, motors.SynRM, motors.EESM, motors.SCIM)


@struct.dataclass
class PI:
    """One loop: `kp error + integral`, whose integral does not wind up.

    Attributes:
      kp: gain of the error.
      ki: gain of its integral, 1/s more.
      tracking: 1/s, how fast the integral gives back what was wanted and not applied.
      clamped: whether the integral stands still where more is wanted than can be applied, static.
    """

    kp: Any
    ki: Any
    tracking: Any = 0.0
    clamped: bool = struct.field(pytree_node=False, default=False)

    @classmethod
    def conditioned(cls, kp: Any, ki: Any, tau: Any) -> PI:
        """With the tracking at which the integral sees the error that could be applied.

        It is `ki / kp`, or once a step where that is less. This is for a zero that cancels a pole:
        the answer from saturation on is that of a loop of first order. Where the loop is around an
        integrator it would overshoot, and the integral has to be clamped.

        Source: Hanus, Kinnaert and Henrotte 1987, the conditioning technique.
        """
        least = jnp.abs(ki) * tau
        return cls(kp=kp, ki=ki, tracking=ki / jnp.maximum(kp, jnp.maximum(least, 1e-30)))

    def initial(self) -> Array:
        """No integral."""
        return jnp.zeros(())

    def output(self, integral: Array, error: Array) -> Array:
        """What is wanted."""
        return self.kp * error + integral

    def settle(self, integral: Array, error: Array, excess: Array, tau: Array) -> Array:
        """The next integral; `excess` is what was wanted beyond what is applied."""
        change = self.ki * error
        if self.clamped:
            # Less than this of it is rounding.
            least = 1e-4 * (jnp.abs(self.kp * error) + jnp.abs(integral))
            winds_up = (jnp.abs(excess) > least) & (excess * error > 0)
            change = jnp.where(winds_up, 0.0, change)
        return integral + tau * (change - self.tracking * excess)


@struct.dataclass
class CurrentPI:
    """A loop for each current, on top of the voltages that turning induces.

    Follows the currents of the motor: `i`; `i_a`; `i_a` and `i_e`; `i_sd` and `i_sq` (and `i_e`).

    Attributes:
      motor: what is believed of it.
      loops: tuple of `PI`, V for A.
      largest: A, what is followed at most, by name, see `reachable`.
      modulator: see `modulators`.
      tau: s.
      feed_forward: share of the induced voltages (back-EMF, the terms that couple d and q) that is
        added; 0 leaves them to the integrals.
    """

    motor: Any
    loops: tuple[PI, ...]
    largest: Values
    modulator: Any
    tau: Any
    feed_forward: Any = 1.0

    @property
    def follows(self) -> tuple[str, ...]:
        """Names of the currents."""
        return equations(self.motor).currents

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what has to be measured."""
        return (*self.follows, "omega", *equations(self.motor).needs, *self.modulator.needs)

    def initial(self) -> tuple[Array, ...]:
        """No integrals."""
        return tuple(loop.initial() for loop in self.loops)

    def act(self, state: tuple, measured: Values, wanted: Values) -> tuple[tuple, Array]:
        """`(state, action)` of one step."""
        known, loops = equations(self.motor), self.loops
        wanted = reachable(wanted, self.largest)
        errors = tuple(wanted[name] - measured[name] for name in known.currents)
        together = known.coupled(self.motor, errors)
        induced = known.induced(self.motor, measured)
        voltages = tuple(
            loop.output(integral, error) + self.feed_forward * extra
            for loop, integral, error, extra in zip(loops, state, together, induced, strict=True)
        )
        action, applied = self.modulator(voltages, measured)
        state = tuple(
            loop.settle(integral, error, voltage - given, self.tau)
            for loop, integral, error, voltage, given in zip(
                loops, state, together, voltages, applied, strict=True
            )
        )
        return state, action


def current_pi(
    params: Any, *, kp: Any = None, ki: Any = None, delay: Any = None, feed_forward: Any = 1.0
) -> CurrentPI:
    """PI control of the currents of a direct current motor with a continuous converter.

    The gains follow the magnitude optimum in discrete time: a loop's zero cancels the pole
    `exp(-R tau / L)` of its circuit, and `ki = R / (2 delay)`; `kp` is `L / (2 delay)` where tau is
    small. With a dead time of one step the loop then has the poles of `z^2 - z + 1/3`, and it
    overshoots a step by 4 %, like the second-order system `1 / (1 + 2 delay s + 2 delay^2 s^2)`
    that the rule aims at; without a dead time it is of first order, with its pole at 2/3.

    Args:
      params: of the environment.
      kp: V/A, a number or a tuple with one for each current; None: by the rule.
      ki: V/(A s), likewise.
      delay: s, sum of the small delays; None: half a step of hold, and a step for computing or the
        dead time of the drive, whichever is longer.
      feed_forward: see `CurrentPI`.

    Returns:
      The controller.

    Raises:
      ValueError: another motor, or a finite converter.

    >>> from jaxpg_envs.motor import ids
    >>> drive = ids.electric_drive("Cont-CC-PermExDc-v0").default_params
    >>> current_pi(drive, kp=0.08, ki=60.0).loops[0].ki
    60.0

    Source: Kessler 1958, the "Betragsoptimum".
    """
    refuse_drive("current_pi", params, _DIRECT, finite=False)
    return _loops(params, kp, ki, delay, feed_forward)


def field_oriented(
    params: Any, *, kp: Any = None, ki: Any = None, delay: Any = None, feed_forward: Any = 1.0
) -> CurrentPI:
    """PI control of the currents of a three-phase motor in field coordinates.

    Works on environments with `DqActions`, where the action is in (d, q), and without, where it is
    the duty cycles of the three legs. A SCIM needs a `FluxObserver`: its field is the rotor's flux.
    The gains follow the rule of `current_pi`. An EESM's direct axis and excitation are coupled, and
    its resistances are compensated: its loops see integrators, and `ki = kp / (8 delay)` gives them
    two equal poles.

    Args:
      params: of the environment.
      kp: V/A, a number or a tuple with one for each current; None: by the rule.
      ki: V/(A s), likewise.
      delay: s, see `current_pi`.
      feed_forward: see `CurrentPI`; 0 leaves out the terms that decouple d and q.

    Returns:
      The controller.

    Raises:
      ValueError: another motor, a finite converter, or a SCIM without an observed flux.
    """
    refuse_drive("field_oriented", params, _THREE_PHASE, finite=False)
    return _loops(params, kp, ki, delay, feed_forward)


def small_delay(params: Any) -> Any:
    """s, half a step of hold, and a step for computing or the dead time if that is longer."""
    return (0.5 + max(1, dead_time(params))) * params.tau


def _loops(params: Any, kp: Any, ki: Any, delay: Any, feed_forward: Any) -> CurrentPI:
    tau = params.tau
    delay = small_delay(params) if delay is None else delay
    known = equations(params.motor)
    circuits = known.circuits(params.motor)
    rule = _integrating if known.integrates else _cancelling
    rules = tuple(rule(r, l, tau, delay) for r, l in circuits)
    return CurrentPI(
        motor=params.motor,
        loops=tuple(
            _loop(known, by_rule[0] if p is None else p, by_rule[1] if i is None else i, tau)
            for by_rule, p, i in zip(rules, _each(kp, rules), _each(ki, rules), strict=True)
        ),
        largest=largest_currents(params),
        modulator=modulator(params),
        tau=tau,
        feed_forward=feed_forward,
    )


def _loop(known: Equations, kp: Any, ki: Any, tau: Any) -> PI:
    return PI(kp, ki, clamped=True) if known.integrates else PI.conditioned(kp, ki, tau)


def _each(gain: Any, loops: tuple) -> tuple:
    return tuple(gain) if isinstance(gain, tuple | list) else (gain,) * len(loops)


def _cancelling(r: Any, l: Any, tau: Any, delay: Any) -> tuple[Any, Any]:
    """`(kp, ki)` whose zero is the circuit's pole."""
    return _held_inductance(r, l, tau) / (2.0 * delay), r / (2.0 * delay)


def _integrating(r: Any, l: Any, tau: Any, delay: Any) -> tuple[Any, Any]:
    """`(kp, ki)` of a circuit without resistance."""
    del r, tau
    kp = l / (2.0 * delay)
    return kp, kp / (8.0 * delay)


def _held_inductance(r: Any, l: Any, tau: Any) -> Any:
    """`R tau / (1 - exp(-R tau / L))`: L, as a voltage that is held for tau meets it."""
    x = r * tau / l
    small = x < 1e-2
    exact = x / -jnp.expm1(-jnp.where(small, 1.0, x))
    return l * jnp.where(small, 1.0 + x / 2.0 + x * x / 12.0, exact)
