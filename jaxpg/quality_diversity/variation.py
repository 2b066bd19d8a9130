"""Variation operators: new genotypes from old ones, on pytrees with the leading axis `[N]`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.choices import at_least
from jaxpg.types import Array, PyTree


def iso_line(
    key: Array,
    first: PyTree,
    second: PyTree,
    sigma_iso: float = 0.005,
    sigma_line: float = 0.05,
    low: float | None = None,
    high: float | None = None,
) -> PyTree:
    """Noise around a first parent that is stretched along the line to a second one.

    `x1 + sigma_iso e + sigma_line z (x2 - x1)` with normal `e` for every number and one normal `z`
    for each offspring, which all its leaves share: the covariance of an offspring is
    `sigma_iso^2 I + sigma_line^2 (x2 - x1) (x2 - x1)^T`.

    Args:
      key: of the noise.
      first: parents, pytree of `[N, ...]` float.
      second: parents, pytree of `[N, ...]` float.
      sigma_iso: standard deviation of the noise that is alike in all directions.
      sigma_line: standard deviation along the line, in units of the parents' distance.
      low: the least that a number of a genotype can be, or an array that broadcasts to every leaf.
      high: the most, likewise.

    Returns:
      Pytree of `[N, ...]`.

    Raises:
      ValueError: a negative sigma, or low above high.

    Source: Vassiliades & Mouret 2018 (arXiv 1804.03906), eq. 2.
    """
    at_least("sigma_iso", sigma_iso, 0.0)
    at_least("sigma_line", sigma_line, 0.0)
    _check_bounds(low, high)
    leaves, structure = jax.tree.flatten(first)
    key_line, *keys = jax.random.split(key, len(leaves) + 1)
    line = sigma_line * jax.random.normal(key_line, leaves[0].shape[:1])

    def vary(key: Array, x1: Array, x2: Array) -> Array:
        iso = sigma_iso * jax.random.normal(key, x1.shape, x1.dtype)
        along = line.astype(x1.dtype).reshape(-1, *[1] * (x1.ndim - 1)) * (x2 - x1)
        return jnp.clip(x1 + iso + along, low, high)

    return jax.tree.map(vary, jax.tree.unflatten(structure, keys), first, second)


def polynomial_mutation(
    key: Array, genotypes: PyTree, eta: float, proportion: float, low: float, high: float
) -> PyTree:
    """Changes some numbers of every genotype by less the closer they are to a bound.

    Args:
      key: of the choice and the change.
      genotypes: pytree of `[N, ...]` float within the bounds.
      eta: 0 or more; the larger, the smaller the changes.
      proportion: probability with which each number is changed.
      low: the least that a number can be, or an array that broadcasts to every leaf.
      high: the most, likewise.

    Returns:
      Pytree of `[N, ...]` within the bounds.

    Raises:
      ValueError: a negative eta, a proportion that is no probability, or low not below high.

    Source: Deb & Goyal 1996, in the form of Deb's NSGA-II, where the bounds limit the change.
    """
    at_least("eta", eta, 0.0)
    if not 0.0 <= proportion <= 1.0:
        raise ValueError(f"proportion is {proportion!r}, but has to be between 0 and 1")
    _check_bounds(low, high)
    leaves, structure = jax.tree.flatten(genotypes)
    keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))

    def mutate(key: Array, x: Array) -> Array:
        key_choice, key_change = jax.random.split(key)
        u = jax.random.uniform(key_change, x.shape, x.dtype)
        share = jnp.clip((x - low) / (high - low), 0.0, 1.0)
        down = (2 * u + (1 - 2 * u) * (1 - share) ** (eta + 1)) ** (1 / (eta + 1)) - 1
        up = 1 - (2 * (1 - u) + (2 * u - 1) * share ** (eta + 1)) ** (1 / (eta + 1))
        change = jnp.where(u < 0.5, down, up) * (high - low)
        chosen = jax.random.bernoulli(key_choice, proportion, x.shape)
        return jnp.where(chosen, jnp.clip(x + change, low, high), x)

    return jax.tree.map(mutate, keys, genotypes)


def _check_bounds(low: Any, high: Any) -> None:
    known = isinstance(low, int | float) and isinstance(high, int | float)
    if known and not low < high:
        raise ValueError(f"low is {low!r} and high is {high!r}, but low has to be below high")
