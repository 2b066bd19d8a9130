"""Random walks between two margins, whose step size changes from one sub-episode to the next."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.motor.references.generator import (
    Margin,
    ReferenceGenerator,
    Values,
    between,
    clip,
    ends,
    resolve,
    sub_episode_length,
)
from jaxpg_envs.motor.references.words import laplace, normal, uniform

Array = jax.Array


@struct.dataclass
class ProcessState:
    """Of a random walk.

    Attributes:
      value: scalar float, shown last.
      sigma: scalar float, scale of the increments of this sub-episode.
      remaining: scalar int32, steps that are left of it.
    """

    value: Array
    sigma: Array
    remaining: Array


class _Process(ReferenceGenerator):
    """A random walk of which a subclass gives the increments and the first value."""

    num_words = 1

    def advance(
        self, words: tuple[Array, ...], state: ProcessState, margins: tuple[Margin, ...], tau: Array
    ) -> tuple[ProcessState, Values]:
        """One increment, of a new scale where a sub-episode begins."""
        del tau
        (word,) = words
        begins = state.remaining <= 0
        length = sub_episode_length(self.episode_lengths, uniform(word, 0))
        low, high = ends(self.sigma_range)
        sigma = low * jnp.exp(jnp.log(high / low) * uniform(word, 1))
        sigma = jnp.where(begins, sigma, state.sigma)
        remaining = jnp.where(begins, length, state.remaining) - 1
        value = state.value + sigma * self.increment(word)
        value = clip(value, *resolve(self.limit_margin, margins[0]))
        return ProcessState(value, sigma, remaining), (value,)

    def begin(
        self, words: tuple[Array, ...], margins: tuple[Margin, ...], tau: Array
    ) -> tuple[ProcessState, Values]:
        """The first increment, on the value of the reset, is shown at once."""
        value = self.first(words[0], resolve(self.limit_margin, margins[0]))
        state = ProcessState(value, jnp.zeros_like(value), jnp.zeros((), jnp.int32))
        return self.advance(words, state, margins, tau)

    def restart(self, state: ProcessState, values: Values) -> ProcessState:
        """A new sub-episode that goes on from the given value."""
        return state.replace(value=values[0], remaining=jnp.zeros_like(state.remaining))

    def ranges(self, margins: tuple[Margin, ...]) -> tuple[Margin, ...]:
        """The margins."""
        return (resolve(self.limit_margin, margins[0]),)


@struct.dataclass
class Wiener(_Process):
    """Normal increments, whose standard deviation is drawn log-uniformly for each sub-episode.

    Attributes:
      names: static, the one state that is referenced.
      sigma_range: (low, high), of the standard deviation of one step's increment.
      initial_range: (low, high) of the uniform value at reset; None: the margins.
      episode_lengths: (low, high) or a number, steps of a sub-episode, drawn uniformly and rounded
        down.
      limit_margin: None, a number or a pair, see `resolve`.

    Source: gym-electric-motor 3.0.3.
    """

    names: tuple[str, ...] = struct.field(pytree_node=False)
    sigma_range: Any = (1e-3, 1e-1)
    initial_range: Any = None
    episode_lengths: Any = (500.0, 2000.0)
    limit_margin: Any = None

    def increment(self, word: Array) -> Array:
        """Of unit scale."""
        return normal(word)

    def first(self, word: Array, margin: Margin) -> Array:
        """Value at reset."""
        wanted = margin if self.initial_range is None else self.initial_range
        return between(wanted, uniform(word, 2))


@struct.dataclass
class Laplace(_Process):
    """Laplace increments, whose scale is drawn log-uniformly for each sub-episode; starts at 0.

    Attributes:
      names: static, the one state that is referenced.
      sigma_range: (low, high), of the scale of one step's increment: its standard deviation over
        the root of 2.
      episode_lengths: (low, high) or a number, steps of a sub-episode, drawn uniformly and rounded
        down.
      limit_margin: None, a number or a pair, see `resolve`.

    Source: gym-electric-motor 3.0.3.
    """

    names: tuple[str, ...] = struct.field(pytree_node=False)
    sigma_range: Any = (1e-3, 1e-1)
    episode_lengths: Any = (500.0, 2000.0)
    limit_margin: Any = None

    def increment(self, word: Array) -> Array:
        """Of unit scale."""
        return laplace(word)

    def first(self, word: Array, margin: Margin) -> Array:
        """Value at reset."""
        del word, margin
        return jnp.zeros(())
