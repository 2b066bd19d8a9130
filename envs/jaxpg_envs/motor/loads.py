"""What a motor turns: the mechanical half of a drive's differential equation.

A load is a pytree with `STATES`, `LIMITS` of what the motor does not limit, `initial() -> states`,
`derivative(time, states, torque, j_rotor) -> d states / dt` and `measure(states) -> dict`. Speeds
are in rad/s, angles in rad, torques in Nm, inertias in kg m^2.

GEM has one more load, an Ornstein-Uhlenbeck process. It is no differential equation, for it draws a
random number whenever a solver looks at it, and it cannot be built in GEM 3.0.3. It is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxpg_envs.motor import transforms
from jaxpg_envs.motor.motors.motor import refuse_unless

Array = jax.Array

# Around standstill static friction grows with the speed, as fast as it would stop the inertia
# within this time (s); else a solver jumps across standstill for ever.
_FRICTION_TIME = 1e-3


class Load:
    """What all loads share; `omega` is the first state."""

    STATES: ClassVar[tuple[str, ...]] = ("omega",)
    LIMITS: ClassVar[dict[str, float]] = {}

    def measure(self, states: tuple[Array, ...]) -> dict[str, Array]:
        """The states by their names."""
        return dict(zip(self.STATES, states, strict=True))


@struct.dataclass
class ConstantSpeed(Load):
    """A machine so strong that nothing changes the speed.

    Attributes:
      omega_fixed: float, rad/s.

    >>> ConstantSpeed(100.0).initial()
    (100.0,)
    """

    omega_fixed: Any = 0.0

    def initial(self) -> tuple[Array]:
        """`(omega,)`."""
        return (self.omega_fixed,)

    def derivative(
        self, time: Array, states: tuple[Array], torque: Array, j_rotor: Array
    ) -> tuple[Array]:
        """`(0,)`: not even a speed that is not the fixed one changes."""
        del time, torque, j_rotor
        return (jnp.zeros_like(states[0]),)


@struct.dataclass
class ExternalSpeed(Load):
    """A speed that follows a profile over time, with a lag of first order.

    Attributes:
      profile: static, `profile(time) -> omega` in rad/s, of jax operations on a scalar.
      tau_l: float, s, of the lag. Only one Euler step of this length is on the profile exactly.
    """

    profile: Callable[[Array], Array] = struct.field(pytree_node=False)
    tau_l: Any = 1e-4

    def initial(self) -> tuple[Array]:
        """`(omega,)`, the profile's beginning."""
        return (self.profile(jnp.zeros(())),)

    def derivative(
        self, time: Array, states: tuple[Array], torque: Array, j_rotor: Array
    ) -> tuple[Array]:
        """`(d omega,)`, towards where the profile will be a time `tau_l` later."""
        del torque, j_rotor
        return ((self.profile(time + self.tau_l) - states[0]) / self.tau_l,)


@struct.dataclass
class PolynomialStatic(Load):
    """An inertia with friction: static, growing with the speed, and growing with its square.

    Attributes:
      a: float, Nm.
      b: float, Nm s.
      c: float, Nm s^2.
      j_load: float, kg m^2; the rotor's inertia is added.
    """

    a: Any = 0.0
    b: Any = 0.0
    c: Any = 0.0
    j_load: Any = 1e-5

    def initial(self) -> tuple[Array, ...]:
        """Zeros: standstill."""
        return (0.0,) * len(self.STATES)

    def load_torque(self, omega: Array, j_rotor: Array) -> Array:
        """Nm, what the load takes at a speed.

        At standstill its gradient is that of the line through it, which static friction is there.
        """
        slope = (self.j_load + j_rotor) / _FRICTION_TIME
        # A comparison and no clip: a clip between -0 and 0 would have a gradient at standstill.
        slow = jnp.abs(slope * omega) < self.a
        friction = jnp.where(slow, slope * omega, jnp.sign(omega) * self.a)
        return friction + (self.b + self.c * jnp.abs(omega)) * omega

    def derivative(
        self, time: Array, states: tuple[Array, ...], torque: Array, j_rotor: Array
    ) -> tuple[Array, ...]:
        """`(d omega,)`: what torque is left over the inertia."""
        del time
        omega = states[0]
        return ((torque - self.load_torque(omega, j_rotor)) / (self.j_load + j_rotor),)


@struct.dataclass
class PositionalPolynomialStatic(PolynomialStatic):
    """A `PolynomialStatic` load that knows the shaft's angle; of GEM's earlier versions.

    The angle is mechanical, and wrapped to `(-pi, pi]` where it is measured.
    """

    STATES: ClassVar[tuple[str, ...]] = ("omega", "position")
    LIMITS: ClassVar[dict[str, float]] = {"position": math.pi}

    def derivative(
        self, time: Array, states: tuple[Array, Array], torque: Array, j_rotor: Array
    ) -> tuple[Array, Array]:
        """`(d omega, omega)`."""
        return (*super().derivative(time, states, torque, j_rotor), states[0])

    def measure(self, states: tuple[Array, Array]) -> dict[str, Array]:
        """Speed and wrapped angle by their names."""
        omega, position = states
        return super().measure((omega, transforms.wrap(position)))


def check_load(load: Load, j_rotor: Any = 0.0) -> None:
    """Check a load's numbers on the host, of one load or of a batch.

    Args:
      load: any of this module.
      j_rotor: of the motor that it is coupled to; together they need a positive inertia.

    Raises:
      ValueError: a number that is not finite, a lag, friction or inertia that is negative, a lag or
        a whole inertia of 0, or a profile that is no scalar function of time.

    >>> check_load(PolynomialStatic(b=-0.1))
    Traceback (most recent call last):
    ValueError: b is -0.1, but a finite number of at least 0 is needed
    """
    if isinstance(load, ConstantSpeed):
        refuse_unless("omega_fixed", load.omega_fixed, np.isfinite, "a finite number")
    elif isinstance(load, ExternalSpeed):
        refuse_unless("tau_l", load.tau_l, lambda x: x > 0, "a finite number above 0")
        _check_profile(load.profile)
    elif isinstance(load, PolynomialStatic):
        for name in ("a", "b", "c", "j_load"):
            valid = "a finite number of at least 0"
            refuse_unless(name, getattr(load, name), lambda x: x >= 0, valid)
        whole = np.asarray(load.j_load) + np.asarray(j_rotor)
        refuse_unless("j_load + j_rotor", whole, lambda x: x > 0, "a finite number above 0")


def _check_profile(profile: Callable[[Array], Array]) -> None:
    if not callable(profile):
        raise ValueError(f"profile is {profile!r}, but a function of time is needed")
    speed = jax.eval_shape(profile, jnp.zeros(()))
    if getattr(speed, "shape", None) != ():
        raise ValueError(f"profile(time) gives {speed}, but one speed is needed for a scalar time")
