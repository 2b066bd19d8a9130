"""References that do not move."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.motor.references.generator import Margin, ReferenceGenerator, Values

Array = jax.Array


class _Still(ReferenceGenerator):
    """Draws nothing and has no state."""

    num_words = 0

    def begin(
        self, words: tuple[Array, ...], margins: tuple[Margin, ...], tau: Array
    ) -> tuple[tuple[()], Values]:
        """The values."""
        del words, margins, tau
        return (), self.values()

    def advance(
        self, words: tuple[Array, ...], state: tuple[()], margins: tuple[Margin, ...], tau: Array
    ) -> tuple[tuple[()], Values]:
        """The same values."""
        del words, margins, tau
        return state, self.values()

    def restart(self, state: tuple[()], values: Values) -> tuple[()]:
        """Changes nothing."""
        del values
        return state


@struct.dataclass
class Constant(_Still):
    """One value.

    Attributes:
      names: static, the one state that is referenced.
      value: normalised; margins do not apply to it.

    Source: gym-electric-motor 3.0.3.
    """

    names: tuple[str, ...] = struct.field(pytree_node=False)
    value: Any = 0.5

    def values(self) -> Values:
        """The value."""
        return (jnp.asarray(self.value, float),)

    def ranges(self, margins: tuple[Margin, ...]) -> tuple[Margin, ...]:
        """The value alone."""
        del margins
        return ((self.value, self.value),)


@struct.dataclass
class Zero(_Still):
    """References nothing and shows nothing.

    Source: gym-electric-motor 3.0.3.
    """

    names = ()

    def values(self) -> Values:
        """None."""
        return ()

    def ranges(self, margins: tuple[Margin, ...]) -> tuple[Margin, ...]:
        """None."""
        del margins
        return ()
