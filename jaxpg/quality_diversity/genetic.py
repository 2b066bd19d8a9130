"""Genetic variation: offspring between pairs of elites, without any gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxpg import parallel
from jaxpg.choices import at_least
from jaxpg.description import describe
from jaxpg.quality_diversity import archive as archives
from jaxpg.quality_diversity import variation
from jaxpg.quality_diversity.archive import Archive
from jaxpg.quality_diversity.emitter import Emitter, EmitterState, Offspring
from jaxpg.types import Array, PyTree


def genetic(
    batch_size: int,
    *,
    sigma_iso: float = 0.005,
    sigma_line: float = 0.05,
    low: PyTree = None,
    high: PyTree = None,
) -> Emitter:
    """The emitter of MAP-Elites: every offspring varies two elites with iso+line.

    Args:
      batch_size: offspring of an update, over all devices.
      sigma_iso: see `variation.iso_line`.
      sigma_line: likewise.
      low: least values of genes, or None.
      high: largest values, or None.

    Returns:
      An `Emitter` without memory; its blocks are its offspring.

    Raises:
      ValueError: fewer than one offspring.

    Source: Vassiliades and Mouret 2018, "Discovering the elite hypervolume by leveraging
    interspecies correlation" (arXiv 1804.03906).
    """
    at_least("batch_size", batch_size, 1)
    vary = functools.partial(
        pairs,
        num_offspring=batch_size,
        sigma_iso=sigma_iso,
        sigma_line=sigma_line,
        low=low,
        high=high,
    )

    def emit(key: Array, state: EmitterState, archive: Archive) -> Offspring:
        del state
        return unasked(vary(key, archive), archive)

    return Emitter(
        init=lambda key, scores: EmitterState((), ()),
        learn=lambda key, state, archive: (state, {}),
        emit=emit,
        remember=lambda state, offspring, scores: state,
        operators={"genetic": batch_size},
        num_blocks=batch_size,
        has_rows=False,
        settings=describe(
            {
                "batch_size": batch_size,
                "sigma_iso": sigma_iso,
                "sigma_line": sigma_line,
                "low": low,
                "high": high,
            }
        ),
    )


def pairs(
    key: Array,
    archive: Archive,
    num_offspring: int,
    sigma_iso: float = 0.005,
    sigma_line: float = 0.05,
    low: PyTree = None,
    high: PyTree = None,
) -> PyTree:
    """Varies pairs of elites that are drawn uniformly and with replacement.

    Args:
      key: the same on all devices.
      archive: not empty.
      num_offspring: over all devices.
      sigma_iso: see `variation.iso_line`.
      sigma_line: likewise.
      low: least values of genes, or None.
      high: largest values, or None.

    Returns:
      Genotypes, this device's share.
    """
    key_parents, key_variation = jax.random.split(key)
    parents, _, _ = archives.sample(key_parents, archive, 2 * num_offspring)
    first, second = (
        jax.tree.map(lambda x, half=half: x[half], parents)
        for half in (slice(num_offspring), slice(num_offspring, None))
    )
    # Drawn for all offspring, and then cut: the same ones on one device and on several.
    return parallel.own_share(
        variation.iso_line(key_variation, first, second, sigma_iso, sigma_line, low, high)
    )


def unasked(genotypes: PyTree, archive: Archive) -> Offspring:
    """Offspring that were made for no descriptor.

    Args:
      genotypes: pytree of `[N, ...]`.
      archive: for the number of dimensions.

    Returns:
      `Offspring`.
    """
    num_offspring = jax.tree.leaves(genotypes)[0].shape[0]
    return Offspring(
        genotypes,
        jnp.zeros((num_offspring, archive.descriptors.shape[-1])),
        jnp.zeros(num_offspring, bool),
    )
