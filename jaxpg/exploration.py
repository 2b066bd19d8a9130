"""Noise that a deterministic policy explores with, in units of half the range of an action.

A noise has `initial(num_rows, num_actions) -> carry` and `draw(carry, reset [B], keys [B],
num_actions) -> (carry, noise [B, A])`. Every environment and every dimension has draws of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxpg.types import Array, PyTree


class Noise(Protocol):
    """What an off-policy agent explores with."""

    def initial(self, num_rows: int, num_actions: int) -> PyTree:
        """The carry of `num_rows` environments."""

    def draw(
        self, carry: PyTree, reset: Array, keys: Array, num_actions: int
    ) -> tuple[PyTree, Array]:
        """The next carry and the noise `[B, A]`."""


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Independent from step to step.

    Attributes:
      scale: standard deviation; may be traced.
    """

    scale: Any = 0.1

    def initial(self, num_rows: int, num_actions: int) -> PyTree:
        """Nothing is carried."""
        del num_rows, num_actions
        return ()

    def draw(
        self, carry: PyTree, reset: Array, keys: Array, num_actions: int
    ) -> tuple[PyTree, Array]:
        """Normal draws of mean 0."""
        del reset
        return carry, self.scale * _normal(keys, num_actions)


@dataclasses.dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """Noise with a memory, which starts at 0 in every episode.

    `x' = x - return_rate x step + scale sqrt(step) N(0, 1)`

    Attributes:
      scale: sigma; may be traced.
      return_rate: theta, how fast the noise falls back to 0.
      step: dt.

    Source: DDPG, Lillicrap et al. 2015, section 7 (stable-baselines3 takes steps of 0.01).
    """

    scale: Any = 0.2
    return_rate: float = 0.15
    step: float = 1.0

    def initial(self, num_rows: int, num_actions: int) -> PyTree:
        """The noise of the step before, `[B, A]`."""
        return jnp.zeros((num_rows, num_actions))

    def draw(
        self, carry: PyTree, reset: Array, keys: Array, num_actions: int
    ) -> tuple[PyTree, Array]:
        """One step of the process."""
        before = jnp.where(reset[:, None], 0.0, carry)
        drift = self.return_rate * self.step * before
        noise = before - drift + self.scale * self.step**0.5 * _normal(keys, num_actions)
        return noise, noise


def _normal(keys: Array, num_actions: int) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, (num_actions,)))(keys)
