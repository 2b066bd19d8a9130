"""Several converters side by side at one supply, each with currents and voltages of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from jaxpg_envs.spaces import MultiDiscrete

Array = jax.Array
Scalars = tuple[Any, ...]


@struct.dataclass
class Multi:
    """Converters in a row: actions, currents and voltages are theirs one after the other.

    Attributes:
      parts: the converters, all continuous or all finite and none a `Multi`; see `multi`.
    """

    parts: tuple[Any, ...]

    @property
    def FINITE(self) -> bool:
        """Whether the parts are finite."""
        return self.parts[0].FINITE

    @property
    def NUM_SIGNALS(self) -> int:
        """Of all parts together."""
        return sum(part.NUM_SIGNALS for part in self.parts)

    @property
    def interlocks(self) -> bool:
        """Whether a part may split a step."""
        return any(part.interlocks for part in self.parts)

    @property
    def interlocking_time(self) -> Any:
        """s, that of the parts which split a step: they have one in common."""
        splitting = [part for part in self.parts if part.interlocks]
        return (splitting or self.parts)[0].interlocking_time

    def action_space(self) -> spaces.Box | MultiDiscrete:
        """Box `[NUM_SIGNALS]`, or MultiDiscrete with one choice for each part."""
        each = [part.action_space() for part in self.parts]
        if self.FINITE:
            return MultiDiscrete([space.n for space in each])
        dtype = jnp.result_type(float)
        low, high = (
            np.concatenate([np.full(space.shape, getattr(space, name), dtype) for space in each])
            for name in ("low", "high")
        )
        return spaces.Box(low, high, low.shape, dtype)

    def initial_switches(self) -> Scalars:
        """Those of the parts."""
        return sum((part.initial_switches() for part in self.parts), ())

    def initial_voltages(self) -> Scalars:
        """Those of the parts."""
        return sum((part.initial_voltages() for part in self.parts), ())

    def switch(self, switches: Scalars, action: Array) -> tuple[Scalars, Array]:
        """States of all legs; the step is split where one part splits it."""
        states, split = (), jnp.zeros((), bool)
        for part, own, command, _ in self._shares(switches, action, (None,) * self.NUM_SIGNALS):
            own, splits = part.switch(own, command)
            states, split = states + own, split | splits
        return states, split

    def convert(self, switches: Scalars, action: Array, currents: Scalars) -> Scalars:
        """Voltages of the parts."""
        return sum(
            (part.convert(*own) for part, *own in self._shares(switches, action, currents)), ()
        )

    def supply_current(self, switches: Scalars, action: Array, currents: Scalars) -> Array:
        """Sum of the parts."""
        first, *others = (
            part.supply_current(*own) for part, *own in self._shares(switches, action, currents)
        )
        return sum(others, first)

    def currents_range(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each signal."""
        return sum((part.currents_range() for part in self.parts), ())

    def voltages_range(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each signal."""
        return sum((part.voltages_range() for part in self.parts), ())

    def _shares(self, switches: Scalars, action: Array, currents: Scalars) -> Iterator[tuple]:
        """Each part with its own switches, action and currents."""
        leg = signal = 0
        for index, part in enumerate(self.parts):
            next_leg, next_signal = leg + len(part.initial_switches()), signal + part.NUM_SIGNALS
            command = action[index] if self.FINITE else action[signal:next_signal]
            yield part, switches[leg:next_leg], command, currents[signal:next_signal]
            leg, signal = next_leg, next_signal


def multi(*parts: Any) -> Multi:
    """Several converters at one supply.

    Args:
      *parts: all continuous, or all finite; those that interlock with one interlocking time.

    Returns:
      A `Multi`.

    Raises:
      ValueError: no part, a part that is a `Multi` or no converter, or continuous and finite ones
        together.

    >>> from jaxpg_envs.motor.converters import FiniteB6, Finite4QC
    >>> multi(FiniteB6(), Finite4QC()).action_space()
    MultiDiscrete((8, 4))
    """
    check_parts(parts)
    return Multi(parts)


def check_parts(parts: tuple[Any, ...]) -> None:
    """Check that converters can stand side by side; see `multi`."""
    names = ", ".join(type(part).__name__ for part in parts)
    if not parts:
        raise ValueError("parts is empty, but at least one converter is needed")
    if not all(hasattr(part, "supply_current") for part in parts):
        raise ValueError(f"parts are {names}, but each has to be a converter, built")
    if any(isinstance(part, Multi) for part in parts):
        raise ValueError(f"parts are {names}, but a Multi has no Multi inside: give its parts")
    if len({part.FINITE for part in parts}) > 1:
        raise ValueError(f"parts are {names}, but all have to be continuous (Cont) or all Finite")
