"""Rotary position embeddings, with the frequency scalings that published checkpoints use."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from jaxpg.choices import one_of
from jaxpg.types import Array

KINDS = ("linear", "llama3")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How the rotary frequencies of a longer context follow from those of training.

    Attributes:
      kind: `"linear"` divides all of them, `"llama3"` only the low ones, with a ramp between.
      factor: of the division, at least 1.
      low_frequency_factor: wavelengths above `original_positions / this` are divided in full.
      high_frequency_factor: wavelengths below `original_positions / this` are kept.
      original_positions: context length of training.
    """

    kind: str
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self) -> None:
        """Checks the kind."""
        one_of("rope_scaling.kind", self.kind, KINDS)


def frequencies(head_width: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Angle per position of each pair of a head's entries.

    Args:
      head_width: H, even.
      theta: base of the geometric series.
      scaling: see `RopeScaling`.

    Returns:
      `[H/2]` float32, radians; computed in float64.

    Source: Su et al. 2021, "RoFormer", eq. 15; the ramp is Llama 3.1's.

    >>> frequencies(4, 100.0).tolist()
    [1.0, 0.1]
    """
    if head_width % 2:
        raise ValueError(f"head_width is {head_width}, but rotary positions need an even number")
    base = theta ** (-np.arange(0, head_width, 2, dtype=np.float64) / head_width)
    if scaling is None:
        return base.astype(np.float32)
    if scaling.kind == "linear":
        return (base / scaling.factor).astype(np.float32)
    turns = scaling.original_positions * base / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (base * (kept + (1.0 - kept) / scaling.factor)).astype(np.float32)


def angles(
    positions: Array, head_width: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Array, Array]:
    """Cosine and sine of every rotation, in float32 whatever the model computes in.

    Args:
      positions: `[...]` int.
      head_width: H.
      theta: see `frequencies`.
      scaling: see `frequencies`.

    Returns:
      `(cosine, sine)`, both `[..., H/2]` float32.
    """
    angle = positions[..., None].astype(jnp.float32) * frequencies(head_width, theta, scaling)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(heads: Array, cosine: Array, sine: Array) -> Array:
    """Rotates every pair (entry i of the first half, entry i of the second half) of each head.

    Args:
      heads: `[..., H]`.
      cosine: broadcasts to `[..., H/2]`.
      sine: like `cosine`.

    Returns:
      `[..., H]`, in the type of `heads`.
    """
    first, second = jnp.split(heads, 2, axis=-1)
    rotated = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(rotated, axis=-1).astype(heads.dtype)
