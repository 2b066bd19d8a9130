"""Noise of measurements: what the controller, the reward and the constraints see, not the drive."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import struct

from jaxpg_envs.choices import refusal
from jaxpg_envs.motor.processors import Processor
from jaxpg_envs.motor.references import words

Array = jax.Array
Values = dict[str, Any]


@struct.dataclass
class Normal:
    """Normal noise.

    Attributes:
      loc: mean.
      scale: standard deviation, at least 0.
    """

    loc: Any = 0.0
    scale: Any = 1.0

    def from_word(self, word: Array) -> Array:
        """A sample out of 32 random bits."""
        return self.loc + self.scale * words.normal(word)


@struct.dataclass
class Laplace:
    """Laplace noise.

    Attributes:
      loc: mean.
      scale: at least 0, the standard deviation over the root of 2.
    """

    loc: Any = 0.0
    scale: Any = 1.0

    def from_word(self, word: Array) -> Array:
        """A sample out of 32 random bits."""
        return self.loc + self.scale * words.laplace(word)


@struct.dataclass
class Uniform:
    """Uniform noise.

    Attributes:
      low: lowest value.
      high: highest value.
    """

    low: Any = 0.0
    high: Any = 1.0

    def from_word(self, word: Array) -> Array:
        """A sample out of 32 random bits."""
        return self.low + (self.high - self.low) * words.uniform(word, 0)


@struct.dataclass
class StateNoise(Processor):
    """Adds independent samples of one distribution to some normalised states at each observation.

    Attributes:
      states: static, their names.
      distribution: `Normal`, `Laplace` or `Uniform`; one of one's own is a pytree with
        `from_word(word) -> sample`, of a scalar uint32.

    Source: gym-electric-motor 3.0.3.

    >>> noise = StateNoise(("i",), Uniform(0.5, 0.5))
    >>> noise(jax.random.key(0), {"omega": 0.25, "i": 0.25})
    {'omega': 0.25, 'i': Array(0.75, dtype=float32)}
    """

    states: tuple[str, ...] = struct.field(pytree_node=False)
    distribution: Any = struct.field(default_factory=Normal)

    random = True
    """Whether `measure` reads its key."""

    def __call__(self, key: Array, values: Values) -> Values:
        """Measurements with noise.

        Args:
          key: a PRNG key.
          values: normalised scalars by name.

        Returns:
          The same with other values of the named states.
        """
        drawn = words.draw_words(key, len(self.states))
        noisy = {
            name: values[name] + self.distribution.from_word(word)
            for name, word in zip(self.states, drawn, strict=True)
        }
        return {**values, **noisy}

    def initial(
        self, key: Array, params: Any, space: Any, limits: Values, values: Values
    ) -> tuple[tuple[()], Values]:
        """There is noise at a reset too."""
        return (), self(key, values)

    def measure(
        self, key: Array, params: Any, limits: Values, state: tuple[()], values: Values
    ) -> tuple[tuple[()], Values]:
        """Noise of this step."""
        return state, self(key, values)

    def check(self, params: Any, names: tuple[str, ...]) -> None:
        """Refuses states that are not measured and distributions that are none."""
        if isinstance(self.states, str):
            raise ValueError(
                f"states of StateNoise is {self.states!r}, but a tuple of state names is needed"
            )
        for name in self.states:
            if name not in names:
                raise ValueError(refusal("states of StateNoise", name, names))
            if self.states.count(name) > 1:
                raise ValueError(f"states of StateNoise has {name!r} more than once")
        if not hasattr(self.distribution, "from_word"):
            raise ValueError(
                f"distribution of StateNoise is {self.distribution!r}, but Normal, Laplace or "
                f"Uniform of jaxpg_envs.motor.noise is needed"
            )
        scale = getattr(self.distribution, "scale", 0.0)
        if not np.all(np.asarray(scale) >= 0):
            raise ValueError(f"scale of the noise is {scale!r}, but it has to be at least 0")
        if isinstance(self.distribution, Uniform):
            low, high = self.distribution.low, self.distribution.high
            if not np.all(np.asarray(low) <= np.asarray(high)):
                raise ValueError(
                    f"low of the noise is {low!r}, but it has to be at most high, which is {high!r}"
                )
