"""The planar arm: reach every point of a disc with joint angles that are as equal as possible."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Scores(NamedTuple):
    """What evaluating a batch of genotypes gives.

    Attributes:
      fitness: `[N]` float.
      descriptors: `[N, D]` float.
      steps: of the episodes; `()`, because there are none.
    """

    fitness: Array
    descriptors: Array
    steps: tuple = ()


def planar_arm(genes: Array) -> tuple[Array, Array]:
    """Hand position and evenness of an arm of n links of equal length.

    Link i turns by `2 pi genes[i] - pi` relative to the one before. Positions are scaled so that
    the arm of any n stands at (0.5, 0.5) and reaches the disc of radius 0.5 around it.

    Args:
      genes: `[..., n]` float; values outside [0, 1] count as the nearest bound.

    Returns:
      `(fitness [...], descriptor [..., 2])`: minus the standard deviation of the genes, at most 0,
      and the position of the hand in [0, 1]^2.

    Raises:
      ValueError: an arm without links.

    Source: Cully et al. 2015, with the numbers of QDax's arm task.

    >>> fitness, hand = planar_arm(jnp.full(8, 0.5))
    >>> hand.tolist()
    [1.0, 0.5]
    """
    genes = jnp.asarray(genes)
    if genes.ndim == 0 or genes.shape[-1] == 0:
        raise ValueError(f"genes has shape {list(genes.shape)}; an arm has at least one link")
    genes = jnp.clip(genes, 0.0, 1.0)
    fitness = -jnp.std(genes, axis=-1)
    angles = jnp.cumsum(2.0 * jnp.pi * genes - jnp.pi, axis=-1)
    hand = jnp.stack([jnp.sum(jnp.cos(angles), -1), jnp.sum(jnp.sin(angles), -1)], -1)
    return fitness, hand / (2 * genes.shape[-1]) + 0.5


def score_arm(key: Array | None, genotypes: Array, asked: Array | None = None) -> Scores:
    """`planar_arm` as a scoring function of a quality-diversity algorithm.

    Args:
      key: not used, the arm is deterministic.
      genotypes: `[N, n]` float, genes.
      asked: not used, genes are not told a descriptor.

    Returns:
      `Scores` with D = 2 and no steps.
    """
    del key, asked
    return Scores(*planar_arm(genotypes))
