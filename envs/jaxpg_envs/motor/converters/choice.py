"""Converters by name, and the period of the system that a converter is put into."""

from __future__ import annotations

from typing import Any

from jaxpg_envs.choices import refusal
from jaxpg_envs.motor.converters.continuous import (
    Cont1QC,
    Cont2QC,
    Cont4QC,
    ContB6,
)
from jaxpg_envs.motor.converters.finite import (
    Finite1QC,
    Finite2QC,
    Finite4QC,
    FiniteB6,
)
from jaxpg_envs.motor.converters.multi import Multi

CONVERTERS = {
    "Cont-1QC": Cont1QC,
    "Cont-2QC": Cont2QC,
    "Cont-4QC": Cont4QC,
    "Cont-B6C": ContB6,
    "Finite-1QC": Finite1QC,
    "Finite-2QC": Finite2QC,
    "Finite-4QC": Finite4QC,
    "Finite-B6C": FiniteB6,
}
"""Classes of converters; a `Multi` is built of several."""

_WITHOUT_LEGS = (Cont1QC, Cont2QC, Finite1QC, Finite2QC)


def converter(name: str, *, interlocking_time: float = 0.0, tau: float | None = None) -> Any:
    """A converter by its name.

    Args:
      name: a key of `CONVERTERS`.
      interlocking_time: s, at least 0; above 0 a finite converter interlocks. A number of the host;
        for a batch of which some drives have none, set `interlocks` by hand.
      tau: s; None gives 1e-4 to a continuous and 1e-5 to a finite one.

    Returns:
      The converter.

    Raises:
      ValueError: no such name.

    >>> converter("Finite-2QC", interlocking_time=1e-6)
    Finite2QC(tau=1e-05, interlocking_time=1e-06, interlocks=True)
    """
    if name not in CONVERTERS:
        raise ValueError(refusal("name", name, CONVERTERS))
    built = CONVERTERS[name](interlocking_time=interlocking_time)
    if "interlocks" in built.__dataclass_fields__:
        built = built.replace(interlocks=interlocking_time > 0)
    return built if tau is None else built.replace(tau=tau)


def follow_tau(converter: Any, tau: Any) -> Any:
    """The converter as gym-electric-motor puts it into a system with a period of its own.

    One- and two-quadrant converters take over the period, also inside a `Multi`; the legs of
    four-quadrant converters and B6 bridges keep theirs. It only counts where a continuous converter
    interlocks. For legs that follow too, `converter.replace(tau=tau)`.

    Args:
      converter: of this package.
      tau: s, of the system.

    Returns:
      The converter.

    >>> follow_tau(Cont2QC(), 5e-5).tau, follow_tau(ContB6(), 5e-5).tau
    (5e-05, 0.0001)
    """
    if isinstance(converter, Multi):
        return Multi(tuple(follow_tau(part, tau) for part in converter.parts))
    return converter.replace(tau=tau) if isinstance(converter, _WITHOUT_LEGS) else converter
