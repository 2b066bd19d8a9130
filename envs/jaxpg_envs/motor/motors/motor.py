"""What all motors share: the form of the records, and a check of their numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Scalars = tuple[Array, ...]

RPM = math.pi / 30.0
"""A revolution per minute in rad/s."""


class Motor:
    """A motor: parameters as pytree leaves, and its differential equation.

    Everything is in SI units and of one motor; `jax.vmap` gives a batch. Currents, voltages and
    fluxes of one motor are tuples of scalars.

    Attributes:
      NAMES: what can be measured of the motor, in order.
      STATES: states of its differential equation, in order.
      NUM_SIGNALS: currents that flow from a converter, and voltages that one has to give.
      LIMITS: of `omega`, `torque` and every name of `NAMES`, for the default parameters.
      NOMINAL: likewise.
    """

    NAMES: ClassVar[tuple[str, ...]]
    STATES: ClassVar[tuple[str, ...]]
    NUM_SIGNALS: ClassVar[int]
    LIMITS: ClassVar[dict[str, float]]
    NOMINAL: ClassVar[dict[str, float]]

    def derivative(self, states: Scalars, omega: Array, voltages: Scalars) -> Scalars:
        """Derivative of the states by the time.

        Args:
          states: named by `STATES`.
          omega: of the shaft, rad/s.
          voltages: from `machine_voltages`.

        Returns:
          A tuple like `states`.
        """
        raise NotImplementedError

    def torque(self, states: Scalars) -> Array:
        """Nm, from the inside on the shaft."""
        raise NotImplementedError

    def converter_currents(self, states: Scalars) -> Scalars:
        """The `NUM_SIGNALS` currents that flow from the converter."""
        raise NotImplementedError

    def machine_voltages(self, states: Scalars, converter_voltages: Scalars) -> Scalars:
        """Voltages in the coordinates of the differential equation.

        Args:
          states: at the start of the interval in which they are held.
          converter_voltages: `NUM_SIGNALS` of them.

        Returns:
          A tuple, for `derivative`.
        """
        raise NotImplementedError

    def measure(
        self, start: Scalars, states: Scalars, converter_voltages: Scalars
    ) -> dict[str, Array]:
        """What can be measured, by the names of `NAMES`.

        Args:
          start: states at the start of the last interval, whose angles are used where GEM uses
            angles of that moment; after a reset the states themselves.
          states: now.
          converter_voltages: in the last interval.

        Returns:
          Scalars in SI units.
        """
        raise NotImplementedError

    def torque_limit(
        self, limits: Mapping[str, Any] | None = None, nominal: Mapping[str, Any] | None = None
    ) -> Any:
        """The limit of the torque, Nm.

        Args:
          limits: of the currents, by name; None is `LIMITS`.
          nominal: values of the currents, by name; None is `NOMINAL`.

        Returns:
          A scalar; that of a three-phase motor follows from its parameters.
        """
        del nominal
        return (self.LIMITS if limits is None else limits)["torque"]

    def limits(self) -> dict[str, Any]:
        """`LIMITS`, with the torque that these parameters give."""
        return {**self.LIMITS, "torque": self.torque_limit()}

    def nominal(self) -> dict[str, Any]:
        """`NOMINAL`, with the torque that these parameters give where none is known."""
        return dict(self.NOMINAL)

    def lowest(self, converter: Any) -> dict[str, float]:
        """The lower ends of normalised ranges that a converter lets be other than -1.

        Args:
          converter: gives `currents_range()` and `voltages_range()`.

        Returns:
          -1 or 0 by name; nothing for three-phase motors.
        """
        del converter
        return {}

    def check(self) -> None:
        """Refuse in one sentence what only this kind of motor cannot have, on the host."""


def ratings(
    names: Iterable[str], *, omega: float, torque: float, i: float, u: float, **exact: float
) -> dict[str, float]:
    """Limits or nominal values by name.

    Args:
      names: of the quantities besides `omega` and `torque`.
      omega: rad/s.
      torque: Nm.
      i: of every current, A.
      u: of every voltage, V.
      **exact: of single names, where they differ from the others.

    Returns:
      A dict in the order of the names; an angle has pi.

    >>> ratings(("i", "u"), omega=400.0, torque=38.0, i=210.0, u=60.0)
    {'omega': 400.0, 'torque': 38.0, 'i': 210.0, 'u': 60.0}
    """
    of_kind = {"i": i, "u": u, "e": math.pi}
    return {"omega": omega, "torque": torque} | {
        name: exact.get(name, of_kind[name[0]]) for name in names
    }


def array_module(*values: Any) -> ModuleType:
    """The module numpy where all values are plain, which keeps their digits, else jax.numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


_AT_LEAST_0 = (lambda x: x >= 0, "a finite number of at least 0")
_POSITIVE = (lambda x: x > 0, "a finite number above 0")
_RULES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "l_": (_POSITIVE[0], "a finite inductance above 0"),
    "r_": (_AT_LEAST_0[0], "a finite resistance of at least 0"),
    "j_": (_POSITIVE[0], "a finite moment of inertia above 0"),
    "psi_": _AT_LEAST_0,
    "k": _POSITIVE,
    "p": (lambda x: (x >= 1) & (x == np.round(x)), "a whole number of pole pairs, at least 1,"),
}


def check_motor(motor: Motor) -> None:
    """Check a motor's parameters on the host, of one motor or of a batch.

    Args:
      motor: any of `motors`.

    Raises:
      ValueError: an inductance or inertia that is not positive, a negative resistance or flux,
        pole pairs that are no whole number of at least 1, anything that is not finite, or
        inductances that no currents' equation can be solved with.

    >>> from jaxpg_envs.motor import motors
    >>> check_motor(motors.PMSM(l_d=-1.0))
    Traceback (most recent call last):
    ValueError: l_d is -1.0, but a finite inductance above 0 is needed
    """
    for field in dataclasses.fields(motor):
        # The longest prefix: psi_p is a flux and no number of pole pairs.
        prefixes = [prefix for prefix in _RULES if field.name.startswith(prefix)]
        if prefixes:
            refuse_unless(field.name, getattr(motor, field.name), *_RULES[max(prefixes, key=len)])
    motor.check()


def refuse_unless(
    name: str, value: Any, good: Callable[[np.ndarray], np.ndarray], valid: str
) -> None:
    """Refuse the first entry of a number or of a batch of them that is not good.

    Args:
      name: of the field.
      value: a number or an array.
      good: whether entries are accepted, elementwise.
      valid: what is accepted, in words.

    Raises:
      ValueError: in one sentence.
    """
    value = np.asarray(value)
    if value.dtype.kind not in "iuf":
        raise ValueError(f"{name} has dtype {value.dtype}, but {valid} is needed")
    wrong = ~(np.isfinite(value) & good(value))
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"{name}[{', '.join(map(str, index))}]" if index else name
        raise ValueError(f"{where} is {value[index]}, but {valid} is needed")
