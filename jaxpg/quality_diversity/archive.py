"""An archive of elites: in every cell the fittest solution of those with descriptors there.

Every function is pure and of static shapes. An archive that is donated to `insert` is changed in
place, at a cost that grows with the batch and not with the archive.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg.quality_diversity.cells import Cells, check_descriptors
from jaxpg.types import Array, Metrics, PyTree


@struct.dataclass
class Archive:
    """At most one solution for each cell.

    Attributes:
      cells: of K cells in D dimensions.
      genotypes: pytree of `[K, ...]`, zeros where empty.
      fitness: `[K]` float, -inf where empty.
      descriptors: `[K, D]` float, what was observed of the solutions; zeros where empty.
    """

    cells: Cells
    genotypes: PyTree
    fitness: Array
    descriptors: Array


def empty(cells: Cells, genotype: PyTree) -> Archive:
    """An archive without solutions.

    Args:
      cells: copied, so that the archive may be donated.
      genotype: one solution, a pytree of arrays or of their shapes and types.

    Returns:
      An `Archive`.
    """
    cells, number = jax.tree.map(lambda x: jnp.array(x, copy=True), cells), cells.num_cells
    return Archive(
        cells,
        jax.tree.map(lambda x: jnp.zeros((number, *jnp.shape(x)), jnp.result_type(x)), genotype),
        jnp.full(number, -jnp.inf, jnp.float32),
        jnp.zeros((number, cells.low.shape[0]), jnp.float32),
    )


def occupied(archive: Archive) -> Array:
    """`[K]` bool, the cells that hold a solution."""
    return archive.fitness > -jnp.inf


def insert(
    archive: Archive, genotypes: PyTree, fitness: Array, descriptors: Array
) -> tuple[Archive, Array]:
    """Puts the fittest of a batch into each cell where it is fitter than the present solution.

    Of equals the first stays: the present solution, or the first of the batch. So one batch gives
    what its solutions give one by one, and with distinct fitness the order does not matter.

    Args:
      archive: donate it, and it is changed in place.
      genotypes: pytree of `[N, ...]`.
      fitness: `[N]` float. Solutions whose fitness is NaN or -inf never enter.
      descriptors: `[N, D]` float. Solutions with a descriptor that is not finite never enter.

    Returns:
      `(archive, added)`: the archive, and `[N]` bool, who entered; at most one for each cell.

    Raises:
      ValueError: the batch does not fit the archive.

    Source: MAP-Elites, Mouret & Clune 2015 (arXiv 1504.04909).

    >>> from jaxpg.quality_diversity.cells import grid
    >>> archive = empty(grid([0.], [1.], (4,)), jnp.zeros(()))
    >>> solutions, places = jnp.array([7., 8., 9.]), jnp.array([[0.1], [0.2], [0.9]])
    >>> archive, added = insert(archive, solutions, jnp.array([1., 5., 3.]), places)
    >>> archive.genotypes.tolist(), added.tolist()
    ([8.0, 0.0, 0.0, 9.0], [False, True, True])
    """
    _check_batch(archive, genotypes, fitness, descriptors)
    number, num_cells = fitness.shape[0], archive.fitness.shape[0]
    rows = jnp.arange(number, dtype=jnp.int32)
    cells = archive.cells.index(descriptors)
    valid = (fitness > -jnp.inf) & jnp.all(jnp.isfinite(descriptors), axis=1)
    # A NaN would win every maximum of its cell, and nothing would enter there.
    fitness = jnp.where(valid, fitness, -jnp.inf).astype(archive.fitness.dtype)

    best = archive.fitness.at[cells].max(fitness, mode="promise_in_bounds")
    fittest = (fitness == _at(best, cells)) & (fitness > _at(archive.fitness, cells))
    # Several solutions may share the best fitness: the first of them, or which one is written
    # depends on the device.
    first = jnp.full(num_cells, number, jnp.int32)
    first = first.at[jnp.where(fittest, cells, num_cells)].min(rows, mode="drop")
    added = fittest & (_at(first, cells) == rows)

    # Distinct rows beyond the end are dropped.
    slots = jnp.where(added, cells, num_cells + rows)
    genotypes, descriptors = jax.tree.map(
        lambda old, new: old.at[slots].set(new.astype(old.dtype), mode="drop", unique_indices=True),
        (archive.genotypes, archive.descriptors),
        (genotypes, descriptors),
    )
    return archive.replace(genotypes=genotypes, fitness=best, descriptors=descriptors), added


def sample(key: Array, archive: Archive, num_solutions: int) -> tuple[PyTree, Array, Array]:
    """Draws solutions uniformly over the occupied cells, with replacement.

    Args:
      key: of the draw, which is one for genotypes, descriptors and cells.
      archive: not empty. Where its fitness is known (outside of `jit`) an empty one is refused;
        inside, the zeros of its first cell come out.
      num_solutions: n, static.

    Returns:
      `(genotypes, descriptors, cells)`: pytree of `[n, ...]`, `[n, D]` float and `[n]` int32.

    Raises:
      ValueError: the archive is known to be empty.
    """
    present = occupied(archive)
    if not isinstance(present, jax.core.Tracer) and not jnp.any(present):
        raise ValueError("the archive is empty, so there is nothing to sample: insert first")
    ranks = jnp.cumsum(present, dtype=jnp.int32)
    drawn = jax.random.randint(key, (num_solutions,), 0, jnp.maximum(ranks[-1], 1))
    # The cell of rank r is the first with more than r occupied cells up to it.
    cells = jnp.searchsorted(ranks, drawn, side="right", method="scan_unrolled")
    cells = jnp.minimum(cells, len(ranks) - 1).astype(jnp.int32)
    return (
        jax.tree.map(lambda x: _at(x, cells), archive.genotypes),
        _at(archive.descriptors, cells),
        cells,
    )


def metrics(archive: Archive, offset: float = 0.0) -> Metrics:
    """What an archive is worth.

    Args:
      archive: of K cells.
      offset: added to the fitness of every solution, so that another one never lowers the score.

    Returns:
      `qd_score` (the sum of fitness and offset over all solutions), `coverage` (occupied cells in
      percent) and `max_fitness` (-inf for an empty archive).
    """
    present = occupied(archive)
    return {
        "qd_score": jnp.sum(jnp.where(present, archive.fitness + offset, 0.0)),
        "coverage": 100.0 * jnp.mean(present, dtype=archive.fitness.dtype),
        "max_fitness": jnp.max(archive.fitness),
    }


def _at(x: Array, rows: Array) -> Array:
    return x.at[rows].get(mode="promise_in_bounds")


def _check_batch(archive: Archive, genotypes: PyTree, fitness: Array, descriptors: Array) -> None:
    check_descriptors(archive.cells, descriptors)
    number = descriptors.shape[0]
    if fitness.shape != (number,):
        raise ValueError(
            f"fitness is of shape {fitness.shape}, but has to be {(number,)} for {number} "
            f"descriptors"
        )
    held = jax.tree.structure(archive.genotypes)
    given = jax.tree.structure(genotypes)
    if held != given:
        raise ValueError(f"genotypes are {given}, but the archive holds {held}")
    for (path, old), new in zip(
        jax.tree.leaves_with_path(archive.genotypes), jax.tree.leaves(genotypes), strict=True
    ):
        if new.shape != (number, *old.shape[1:]):
            raise ValueError(
                f"genotypes{jax.tree_util.keystr(path)} are of shape {new.shape}, but have to be "
                f"{(number, *old.shape[1:])}"
            )
