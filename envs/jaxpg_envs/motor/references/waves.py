"""Periodic references: sine, step, sawtooth and triangle, each a formula of the step's number."""

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
from jaxpg_envs.motor.references.words import uniform

Array = jax.Array


@struct.dataclass
class WaveState:
    """Of a wave: scalars that were drawn for this sub-episode, but for the first.

    Attributes:
      k: int32, steps of this sub-episode that were shown.
      length: int32, steps that it has.
      amplitude: float.
      frequency: float, Hz.
      offset: float.
      phase: float, periods in [0, 1); of a step wave whole steps of time in [0, length).
      shape: float, of a step wave the share of a period that is low, of a triangle the share that
        rises; None for other waves.
    """

    k: Array
    length: Array
    amplitude: Array
    frequency: Array
    offset: Array
    phase: Array
    shape: Array | None = None


def sawtooth(periods: Array, width: Array = 1.0) -> Array:
    """Rises from -1 to 1 in the first share of each period and falls back in the rest.

    Args:
      periods: float, time in periods.
      width: float in [0, 1], the share that rises.

    Returns:
      Float in [-1, 1].

    >>> sawtooth(jnp.array([0.0, 0.25, 0.5, 1.75]), 0.5)
    Array([-1.,  0.,  1.,  0.], dtype=float32)
    """
    share = periods - jnp.floor(periods)
    rises = share < width
    # Denominators of 1 where a branch is not read, so that gradients have no 0 * infinity.
    rising = 2.0 * share / jnp.where(rises, width, 1.0) - 1.0
    falling = (1.0 + width - 2.0 * share) / jnp.where(rises, 1.0, 1.0 - width)
    return jnp.where(rises, rising, falling)


def step(periods: Array, low_share: Array) -> Array:
    """-1 in the first share of each period and 1 in the rest.

    Args:
      periods: float, time in periods.
      low_share: float in [0, 1].

    Returns:
      -1.0 or 1.0, and 0.0 at the edge itself.

    >>> step(jnp.array([0.0, 0.3, 1.5]), 0.25)
    Array([-1.,  1.,  1.], dtype=float32)
    """
    return jnp.sign(periods - jnp.floor(periods) - low_share)


@struct.dataclass
class Wave(ReferenceGenerator):
    """A wave of which a subclass gives the form.

    Attributes:
      names: static, the one state that is referenced.
      amplitude_range: (low, high) or a number, cut to [0, half the distance of the margins]; None:
        all of that.
      frequency_range: (low, high) or a number, Hz.
      offset_range: (low, high) or a number, cut to the margins and to what the amplitude leaves;
        None: all of that.
      episode_lengths: (low, high) or a number, steps of a sub-episode, drawn uniformly and rounded
        down. All numbers above are drawn for each of them uniformly, and so is the phase.
      limit_margin: None, a number or a pair, see `resolve`.

    Source: gym-electric-motor 3.0.3.
    """

    names: tuple[str, ...] = struct.field(pytree_node=False)
    amplitude_range: Any = None
    frequency_range: Any = (1.0, 10.0)
    offset_range: Any = None
    episode_lengths: Any = (500.0, 2000.0)
    limit_margin: Any = None

    num_words = 1
    num_units = 5

    def sub_episode(self, units: tuple[Array, ...], margin: Margin, tau: Array) -> WaveState:
        """A new sub-episode out of uniform numbers.

        Args:
          units: `num_units` scalars in [0, 1): for length, amplitude, frequency, offset, phase and,
            where the wave has one, shape.
          margin: (low, high), this generator's own.
          tau: scalar, seconds.

        Returns:
          The state, before the first step.
        """
        del tau
        low, high = margin
        half = (high - low) / 2
        amplitudes = (0.0, half)
        if self.amplitude_range is not None:
            amplitudes = tuple(clip(end, 0.0, half) for end in ends(self.amplitude_range))
        amplitude = between(amplitudes, units[1])
        offsets = (low, high)
        if self.offset_range is not None:
            offsets = tuple(clip(end, low, high) for end in ends(self.offset_range))
        lowest = self.lowest_offset(margin, amplitude)
        offsets = tuple(clip(end, lowest, high - amplitude) for end in offsets)
        return WaveState(
            k=jnp.zeros((), jnp.int32),
            length=sub_episode_length(self.episode_lengths, units[0]),
            amplitude=amplitude,
            frequency=between(self.frequency_range, units[2]),
            offset=between(offsets, units[3]),
            phase=units[4],
        )

    def lowest_offset(self, margin: Margin, amplitude: Array) -> Array:
        """As if the lower margin were the upper one's negative: the wave is clipped below it."""
        return amplitude - margin[1]

    def periods(self, state: WaveState, tau: Array) -> Array:
        """Time since the sub-episode's start, in periods, with its phase."""
        return state.frequency * (state.k * tau) + state.phase

    def at(self, state: WaveState, margin: Margin, tau: Array) -> Array:
        """Value of step `k` of a sub-episode.

        Args:
          state: of the sub-episode.
          margin: (low, high), this generator's own.
          tau: scalar, seconds.

        Returns:
          Scalar float.
        """
        form = self.form(self.periods(state, tau), state.shape)
        return clip(state.amplitude * form + state.offset, *margin)

    def advance(
        self, words: tuple[Array, ...], state: WaveState, margins: tuple[Margin, ...], tau: Array
    ) -> tuple[WaveState, Values]:
        """One step further on the wave, or the first one of a new wave."""
        begins = state.k >= state.length
        fresh = self._fresh(words, margins, tau)
        return self._show(
            jax.tree.map(lambda new, old: jnp.where(begins, new, old), fresh, state), margins, tau
        )

    def begin(
        self, words: tuple[Array, ...], margins: tuple[Margin, ...], tau: Array
    ) -> tuple[WaveState, Values]:
        """The first step of a wave."""
        return self._show(self._fresh(words, margins, tau), margins, tau)

    def restart(self, state: WaveState, values: Values) -> WaveState:
        """A new wave comes next; it does not look at the value so far."""
        del values
        return state.replace(k=state.length)

    def ranges(self, margins: tuple[Margin, ...]) -> tuple[Margin, ...]:
        """The margins."""
        return (resolve(self.limit_margin, margins[0]),)

    def _fresh(
        self, words: tuple[Array, ...], margins: tuple[Margin, ...], tau: Array
    ) -> WaveState:
        units = tuple(uniform(words[0], index) for index in range(self.num_units))
        return self.sub_episode(units, resolve(self.limit_margin, margins[0]), tau)

    def _show(
        self, state: WaveState, margins: tuple[Margin, ...], tau: Array
    ) -> tuple[WaveState, Values]:
        value = self.at(state, resolve(self.limit_margin, margins[0]), tau)
        return state.replace(k=state.k + 1), (value,)


@struct.dataclass
class Sinusoidal(Wave):
    """amplitude * sin(2 pi (frequency t + phase)) + offset, clipped to the margins; see `Wave`."""

    def form(self, periods: Array, shape: None) -> Array:
        """Of unit amplitude."""
        del shape
        return jnp.sin(2.0 * jnp.pi * periods)


@struct.dataclass
class Sawtooth(Wave):
    """As `Sinusoidal`, but with a sawtooth that rises and falls at once."""

    def form(self, periods: Array, shape: None) -> Array:
        """Of unit amplitude."""
        del shape
        return sawtooth(periods)


@struct.dataclass
class Triangular(Wave):
    """As `Sinusoidal`, but with a triangle that rises in a uniformly drawn share of the period."""

    num_units = 6

    def sub_episode(self, units: tuple[Array, ...], margin: Margin, tau: Array) -> WaveState:
        """With the share that rises."""
        return super().sub_episode(units[:5], margin, tau).replace(shape=units[5])

    def form(self, periods: Array, shape: Array) -> Array:
        """Of unit amplitude."""
        return sawtooth(periods, shape)


@struct.dataclass
class Step(Wave):
    """As `Sinusoidal`, but with a step that is low in a random share of the period.

    The phase moves the sub-episode's values around in a circle, as gym-electric-motor does: what
    passes its end comes in at its start, so that a jump may come where they meet. The
    share has the triangular distribution on [0, 1] about 1/2.
    """

    num_units = 6

    def sub_episode(self, units: tuple[Array, ...], margin: Margin, tau: Array) -> WaveState:
        """With the share that is low, and the phase in steps of time."""
        state = super().sub_episode(units[:5], margin, tau)
        unit = units[5]
        below, above = jnp.minimum(unit, 0.5), jnp.maximum(unit, 0.5)
        share = jnp.where(unit < 0.5, jnp.sqrt(below / 2), 1.0 - jnp.sqrt((1.0 - above) / 2))
        shift = jnp.floor(state.phase / (state.frequency * tau))
        # A float, since processors divide whole numbers one by one.
        shift = shift - state.length * jnp.floor(shift / state.length)
        return state.replace(phase=shift, shape=share)

    def lowest_offset(self, margin: Margin, amplitude: Array) -> Array:
        """The lower margin leaves the amplitude room."""
        return margin[0] + amplitude

    def periods(self, state: WaveState, tau: Array) -> Array:
        """Time in periods, moved around in a circle."""
        moved = state.k - state.phase
        moved = moved + jnp.where(moved < 0, state.length, 0)
        return state.frequency * (moved * tau)

    def form(self, periods: Array, shape: Array) -> Array:
        """Of unit amplitude."""
        return step(periods, shape)
