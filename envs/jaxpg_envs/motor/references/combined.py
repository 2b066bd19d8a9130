"""Generators made of generators: several side by side, or one after the other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.motor.references.generator import (
    Margin,
    ReferenceGenerator,
    Values,
    sub_episode_length,
)
from jaxpg_envs.motor.references.words import uniform

Array = jax.Array


@struct.dataclass
class Multiple(ReferenceGenerator):
    """Several generators side by side, each for states of its own.

    Attributes:
      generators: a tuple of generators; no state is referenced twice.

    Source: gym-electric-motor 3.0.3.
    """

    generators: tuple[Any, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all generators, in their order."""
        return tuple(name for generator in self.generators for name in generator.names)

    @property
    def num_words(self) -> int:
        """Of all generators."""
        return sum(generator.num_words for generator in self.generators)

    def begin(
        self, words: tuple[Array, ...], margins: tuple[Margin, ...], tau: Array
    ) -> tuple[tuple[Any, ...], Values]:
        """All generators begin."""
        return _joined(
            generator.begin(words, margins, tau)
            for generator, words, margins in zip(
                self.generators, self._words(words), self._named(margins), strict=True
            )
        )

    def advance(
        self,
        words: tuple[Array, ...],
        state: tuple[Any, ...],
        margins: tuple[Margin, ...],
        tau: Array,
    ) -> tuple[tuple[Any, ...], Values]:
        """All generators advance."""
        return _joined(
            generator.advance(words, state, margins, tau)
            for generator, words, state, margins in zip(
                self.generators, self._words(words), state, self._named(margins), strict=True
            )
        )

    def restart(self, state: tuple[Any, ...], values: Values) -> tuple[Any, ...]:
        """All generators restart."""
        parts = zip(self.generators, state, self._named(values), strict=True)
        return tuple(generator.restart(state, values) for generator, state, values in parts)

    def ranges(self, margins: tuple[Margin, ...]) -> tuple[Margin, ...]:
        """Of all generators."""
        parts = zip(self.generators, self._named(margins), strict=True)
        return tuple(pair for generator, margins in parts for pair in generator.ranges(margins))

    def _words(self, words: tuple[Array, ...]) -> list[tuple[Array, ...]]:
        return _split(words, [generator.num_words for generator in self.generators])

    def _named(self, items: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return _split(items, [len(generator.names) for generator in self.generators])


@struct.dataclass
class SwitchedState:
    """Of a switched generator.

    Attributes:
      index: scalar int32, which generator is shown.
      remaining: scalar int32, steps for which it stays; -1 asks for a new one that counts as chosen
        by a reset.
      states: a state for each generator; those that are not shown mean nothing.
      values: a scalar for each name, shown last.
    """

    index: Array
    remaining: Array
    states: tuple[Any, ...]
    values: Values


@struct.dataclass
class Switched(ReferenceGenerator):
    """One generator at a time, chosen anew after a random number of steps.

    A generator that is chosen starts a new sub-episode, and a process goes on from the value that
    was shown last. The one that a reset chose is shown for one step more than was drawn.

    Attributes:
      generators: a tuple of generators of the same states.
      probabilities: a number for each of them, with sum 1; None: equal.
      super_episode_length: (low, high), whole numbers of steps drawn uniformly from {low, ...,
        high - 1}; or one number.

    Source: gym-electric-motor 3.0.3.
    """

    generators: tuple[Any, ...]
    probabilities: Any = None
    super_episode_length: Any = (100.0, 10000.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Of each generator."""
        return self.generators[0].names

    @property
    def num_words(self) -> int:
        """One, and as many as the generator that wants most: one is shown at a time."""
        return 1 + max(generator.num_words for generator in self.generators)

    def begin(
        self, words: tuple[Array, ...], margins: tuple[Margin, ...], tau: Array
    ) -> tuple[SwitchedState, Values]:
        """The generator that is chosen begins."""
        index, length = self._choose(words[0])
        begun = [
            generator.begin(words[1 : 1 + generator.num_words], margins, tau)
            for generator in self.generators
        ]
        values = _chosen(index, [values for _, values in begun])
        return SwitchedState(index, length, tuple(state for state, _ in begun), values), values

    def advance(
        self,
        words: tuple[Array, ...],
        state: SwitchedState,
        margins: tuple[Margin, ...],
        tau: Array,
    ) -> tuple[SwitchedState, Values]:
        """One step of the generator that is shown, or the first one of the next."""
        switches = state.remaining <= 0
        index, length = self._choose(words[0])
        index = jnp.where(switches, index, state.index)
        length = length + (state.remaining < 0)
        remaining = jnp.where(switches, length, state.remaining) - 1
        advanced = []
        for generator, old in zip(self.generators, state.states, strict=True):
            restarted = generator.restart(old, state.values)
            old = jax.tree.map(lambda new, old: jnp.where(switches, new, old), restarted, old)
            advanced.append(
                generator.advance(words[1 : 1 + generator.num_words], old, margins, tau)
            )
        values = _chosen(index, [values for _, values in advanced])
        states = tuple(state for state, _ in advanced)
        return SwitchedState(index, remaining, states, values), values

    def restart(self, state: SwitchedState, values: Values) -> SwitchedState:
        """A generator is chosen anew, as by a reset, and goes on from the given values."""
        return state.replace(remaining=jnp.full_like(state.remaining, -1), values=values)

    def ranges(self, margins: tuple[Margin, ...]) -> tuple[Margin, ...]:
        """From the lowest to the highest of all generators."""
        pairs = zip(*(generator.ranges(margins) for generator in self.generators), strict=True)
        return tuple(
            (
                jnp.min(jnp.stack([jnp.asarray(low, float) for low, _ in of_name])),
                jnp.max(jnp.stack([jnp.asarray(high, float) for _, high in of_name])),
            )
            for of_name in pairs
        )

    def _choose(self, word: Array) -> tuple[Array, Array]:
        unit, length = uniform(word, 0), uniform(word, 1)
        num = len(self.generators)
        shares = (1.0 / num,) * num if self.probabilities is None else self.probabilities
        index, passed = jnp.zeros((), jnp.int32), 0.0
        for share in shares[:-1]:
            passed = passed + share
            index = index + (unit >= passed)
        return index, sub_episode_length(self.super_episode_length, length)


def _split(items: tuple[Any, ...], sizes: list[int]) -> list[tuple[Any, ...]]:
    parts, first = [], 0
    for size in sizes:
        parts.append(items[first : first + size])
        first += size
    return parts


def _joined(parts: Any) -> tuple[tuple[Any, ...], Values]:
    parts = list(parts)
    return tuple(state for state, _ in parts), sum((values for _, values in parts), ())


def _chosen(index: Array, of_generators: list[Values]) -> Values:
    shown = of_generators[0]
    for number, values in enumerate(of_generators[1:], start=1):
        pairs = zip(values, shown, strict=True)
        shown = tuple(jnp.where(index == number, new, old) for new, old in pairs)
    return shown
