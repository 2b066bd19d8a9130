"""What all reference generators share: how an episode begins and goes on, margins and ranges."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxpg_envs.motor.references.words import draw_words

Array = jax.Array
Margin: TypeAlias = tuple[Any, Any]
Values: TypeAlias = tuple[Array, ...]


class ReferenceGenerator:
    """A source of reference values, for one drive; the batch is the caller's vmap.

    A generator is a pytree of numbers with the static `names` of the states that it references. It
    says what it does with random words that are drawn elsewhere, so that generators which run
    together draw all words of a step in one call:

      num_words: how many words `begin` and `advance` want.
      begin(words, margins, tau) -> (state, values): a new episode, and what is shown at its reset.
      advance(words, state, margins, tau) -> (state, values): the next values, shown after a step.
      restart(state, values) -> state: a new sub-episode comes next, and it continues from `values`.
      ranges(margins) -> tuple of (low, high): what values can occur, a pair for each name.

    `margins` has a pair (low, high) for each name: the normalised bounds of the state times its
    nominal value over its limit. `tau` is the length of a step in seconds. The reward of a step
    compares with the values that were shown before it.
    """

    names: tuple[str, ...]
    num_words: int

    def initial(self, key: Array, margins: tuple[Margin, ...], tau: Array) -> tuple[Any, Values]:
        """State of a new episode and the values that are shown at its reset.

        Args:
          key: a PRNG key.
          margins: a pair (low, high) for each name.
          tau: scalar, seconds.

        Returns:
          The state and a tuple with one scalar for each name.
        """
        return self.begin(draw_words(key, self.num_words), margins, tau)

    def next(
        self, key: Array, state: Any, margins: tuple[Margin, ...], tau: Array
    ) -> tuple[Any, Values]:
        """State and values after one more step.

        Args:
          key: a PRNG key. A step that ends in a reset reads only one of `initial` and `next`, so
            that one key may serve both.
          state: of the step before.
          margins: a pair (low, high) for each name.
          tau: scalar, seconds.

        Returns:
          The state and a tuple with one scalar for each name.
        """
        return self.advance(draw_words(key, self.num_words), state, margins, tau)


def resolve(limit_margin: Any, margin: Margin) -> Margin:
    """Bounds of a reference, by a generator's own wish where it has one.

    Args:
      limit_margin: None; or a number, which stands for the nominal value over the limit; or a pair
        of such numbers, for the lower and the upper bound.
      margin: (low, high) as the environment gives it. A state's normalised bounds are -1, 0 or 1:
        they are the signs of its margin.

    Returns:
      (low, high).

    >>> low, high = resolve((0.5, 0.8), (-0.6, 0.6))
    >>> float(low), round(float(high), 6)
    (-0.5, 0.8)
    """
    if limit_margin is None:
        return margin
    lower, upper = ends(limit_margin)
    return lower * jnp.sign(margin[0]), upper * jnp.sign(margin[1])


def ends(value: Any) -> tuple[Any, Any]:
    """Both ends of a range: a pair is one, and a number stands for both."""
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def between(value: Any, unit: Array) -> Array:
    """The number that lies the fraction `unit` of the way along a range (a pair or a number)."""
    low, high = ends(value)
    return (high - low) * unit + low


def clip(value: Any, low: Any, high: Any) -> Array:
    """At least `low` and at most `high`; `high` where these contradict each other."""
    return jnp.minimum(jnp.maximum(value, low), high)


def sub_episode_length(episode_lengths: Any, unit: Array) -> Array:
    """Number of steps of a sub-episode, rounded down.

    Args:
      episode_lengths: (low, high) or a number, steps.
      unit: scalar float in [0, 1).

    Returns:
      Scalar int32.
    """
    return jnp.floor(between(episode_lengths, unit)).astype(jnp.int32)
