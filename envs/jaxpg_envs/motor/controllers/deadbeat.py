"""Deadbeat control of currents: the voltages that reach the wanted currents within one step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.motor import motors
from jaxpg_envs.motor.controllers.drives import refuse_drive
from jaxpg_envs.motor.controllers.equations import equations
from jaxpg_envs.motor.controllers.modulators import dead_time, modulator
from jaxpg_envs.motor.controllers.reachable import largest_currents, reachable

Array = jax.Array
Values = dict[str, Any]
Scalars = tuple[Any, ...]
Matrix = tuple[tuple[Any, ...], ...]

_VALID = (
    motors.PermExDc,
    motors.SeriesDc,
    motors.ShuntDc,
    motors.ExtExDc,
    motors.PMSM,
    motors.SynRM,
    motors.EESM,
)


@struct.dataclass
class Deadbeat:
    """Inverts the believed motor over one step, at the speed of the step's start.

    At a constant speed the currents obey `dx/dt = A x + B u + c`; over a step with held voltages
    they move by `tau M (A x + B u + c)` with `M = I + A tau / 2 + (A tau)^2 / 6 + ...`, which is
    solved for u. With a dead time the currents are first predicted to where the action arrives.

    Attributes:
      motor: what is believed of it.
      largest: A, what is followed at most, by name, see `reachable`.
      modulator: see `modulators`.
      tau: s.
      dead_time: in steps, static.
      order: up to which power of tau a step is known, static; 4 is what one step of Runge and
        Kutta's method does.
    """

    motor: Any
    largest: Values
    modulator: Any
    tau: Any
    dead_time: int = struct.field(pytree_node=False, default=0)
    order: int = struct.field(pytree_node=False, default=4)

    @property
    def follows(self) -> tuple[str, ...]:
        """Names of the currents."""
        return equations(self.motor).currents

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what has to be measured."""
        return (*self._states, "omega", *self.modulator.needs)

    @property
    def _states(self) -> tuple[str, ...]:
        return tuple(name for name in self.motor.STATES if name != "epsilon")

    def initial(self) -> tuple[Scalars, ...]:
        """The voltages under way, oldest first: zeros."""
        none = tuple(jnp.zeros(()) for _ in self.follows)
        return (none,) * self.dead_time

    def act(self, state: tuple, measured: Values, wanted: Values) -> tuple[tuple, Array]:
        """`(state, action)` of one step."""
        names, omega = self._states, measured["omega"]
        wanted = reachable(wanted, self.largest)
        epsilon = (0.0,) * (len(self.motor.STATES) - len(names))
        size, none = len(names), (0.0,) * len(self.follows)

        def derivative(currents, voltages):
            return self.motor.derivative((*currents, *epsilon), omega, voltages)[:size]

        currents = tuple(jnp.asarray(measured[name], float) for name in names)
        zeros = tuple(jnp.zeros_like(current) for current in currents)
        rates = _jacobian(lambda *x: derivative(x, none), zeros)
        mean = _mean(rates, self.tau, self.order)
        for voltages in state:
            moved = _apply(mean, derivative(currents, voltages))
            currents = tuple(i + self.tau * rate for i, rate in zip(currents, moved, strict=True))
        rows = [names.index(name) for name in self.follows]
        inputs = tuple(jnp.zeros_like(currents[row]) for row in rows)
        gains = _product(mean, _jacobian(lambda *u: derivative(currents, u), inputs))
        drift = _apply(mean, derivative(currents, none))
        lacking = tuple(
            (wanted[names[row]] - currents[row]) / self.tau - drift[row] for row in rows
        )
        voltages = _solve(tuple(gains[row] for row in rows), lacking)
        action, applied = self.modulator(voltages, measured)
        return (*state, applied)[1:] if self.dead_time else (), action


def deadbeat(params: Any, *, order: int = 4) -> Deadbeat:
    """Deadbeat control of the currents of a drive with a continuous converter.

    A drive whose parameters are the believed ones is where it is wanted after one step, and one
    more for each step of dead time, unless the voltage does not suffice. It works on environments
    with `DqActions` and without.

    Args:
      params: of the environment.
      order: see `Deadbeat`, static.

    Returns:
      The controller.

    Raises:
      ValueError: another motor, or a finite converter.
    """
    refuse_drive("deadbeat", params, _VALID, finite=False)
    return Deadbeat(
        motor=params.motor,
        largest=largest_currents(params),
        modulator=modulator(params),
        tau=params.tau,
        dead_time=dead_time(params),
        order=order,
    )


def _jacobian(function: Any, at: Scalars) -> Matrix:
    """Rows of scalars. The derivative and no difference: induced voltages are large."""
    columns = []
    for index in range(len(at)):
        tangent = tuple(
            jnp.ones_like(x) if k == index else jnp.zeros_like(x) for k, x in enumerate(at)
        )
        columns.append(jax.jvp(function, at, tangent)[1])
    return tuple(zip(*columns, strict=True))


def _mean(rates: Matrix, tau: Array, order: int) -> Matrix:
    """`I + A tau / 2 + ... + (A tau)^(order - 1) / order!`."""
    size = range(len(rates))
    unit = tuple(tuple(1.0 if i == j else 0.0 for j in size) for i in size)
    mean = unit
    for power in range(order, 1, -1):
        product = _product(rates, mean)
        mean = tuple(tuple(unit[i][j] + product[i][j] * (tau / power) for j in size) for i in size)
    return mean


def _apply(matrix: Matrix, vector: Scalars) -> Scalars:
    return tuple(sum(a * x for a, x in zip(row, vector, strict=True)) for row in matrix)


def _product(left: Matrix, right: Matrix) -> Matrix:
    columns = tuple(zip(*right, strict=True))
    return tuple(zip(*(_apply(left, column) for column in columns), strict=True))


def _solve(matrix: Matrix, vector: Scalars) -> Scalars:
    """By elimination on scalars, which a batch does elementwise; no diagonal entry is near 0."""
    (pivot, *row), (value, *values) = matrix[0], vector
    if not row:
        return (value / pivot,)
    rest, known = [], []
    for below, other in zip(matrix[1:], values, strict=True):
        factor = below[0] / pivot
        rest.append(tuple(b - factor * a for b, a in zip(below[1:], row, strict=True)))
        known.append(other - factor * value)
    solved = _solve(tuple(rest), tuple(known))
    return ((value - sum(a * x for a, x in zip(row, solved, strict=True))) / pivot, *solved)
