"""Archives as files of plain arrays, which `numpy.load` opens too; see `array_file`."""

from __future__ import annotations

import itertools
import math
import pathlib
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import array_file
from jaxpg.array_file import ArrayFileError
from jaxpg.quality_diversity.archive import Archive
from jaxpg.quality_diversity.cells import Cells, GridCells, from_centroids, grid
from jaxpg.types import PyTree

FORMAT = 1


class ArchiveFileError(ArrayFileError):
    """A file that is damaged, or holds another archive than the one asked for."""


def save(path: str | pathlib.Path, archive: Archive, *, environment: str) -> None:
    """Writes an archive; a file that is there is replaced at the end.

    Args:
      path: of the file, in a folder that exists.
      archive: of one seed.
      environment: name of what its solutions were evaluated in.

    Raises:
      ValueError: the archive is of several seeds.
    """
    path = pathlib.Path(path)
    if archive.fitness.ndim != 1:
        raise ValueError(
            f"the archive's fitness is of shape {archive.fitness.shape}: save each seed's archive "
            f"in a file of its own"
        )
    cells = archive.cells
    header = {
        "format": FORMAT,
        "environment": environment,
        "num_cells": cells.num_cells,
        "grid": list(cells.shape) if isinstance(cells, GridCells) else None,
        "genotypes": _genotypes(archive.genotypes),
    }
    arrays = {
        "low": cells.low,
        "high": cells.high,
        "fitness": archive.fitness,
        "descriptors": archive.descriptors,
    }
    if not isinstance(cells, GridCells):
        arrays["centroids"] = cells.centroids
    for name, leaf in zip(
        _names(archive.genotypes), jax.tree.leaves(archive.genotypes), strict=True
    ):
        leaf = np.asarray(leaf)
        arrays[name] = leaf.view(_plain(leaf.dtype))
    array_file.write(path, arrays, header)


def load(
    path: str | pathlib.Path, genotype: PyTree, *, environment: str, num_cells: int
) -> Archive:
    """Reads an archive.

    Args:
      path: of the file.
      genotype: one solution as the archive should hold it, a pytree of arrays or of their shapes
        and types.
      environment: name of what the solutions have to have been evaluated in.
      num_cells: that the archive has to have.

    Returns:
      An `Archive`.

    Raises:
      ArchiveFileError: the file is damaged, or of another environment, number of cells or genotype.
      OSError: there is no such file, or it cannot be read.
    """
    path = pathlib.Path(path)
    expected = jax.tree.map(
        lambda x: np.broadcast_to(np.zeros((), jnp.result_type(x)), (num_cells, *jnp.shape(x))),
        genotype,
    )
    with array_file.opened(path, "archive file", ArchiveFileError) as file:
        header = _header(file)
        _check(header, _genotypes(expected), environment, num_cells)
        return _read(file, header, expected, num_cells)


def _read(
    file: zipfile.ZipFile, header: dict[str, Any], expected: PyTree, num_cells: int
) -> Archive:
    cells = _cells(file, header, num_cells)
    fitness = array_file.array(file, "fitness", np.float32, (num_cells,))
    descriptors = array_file.array(file, "descriptors", np.float32, (num_cells, cells.low.shape[0]))
    if np.any(np.isnan(fitness)) or not np.all(np.isfinite(descriptors)):
        raise ArrayFileError("a fitness is NaN or a descriptor is not finite")
    leaves, structure = jax.tree.flatten(expected)
    genotypes = [
        array_file.array(file, name, _plain(leaf.dtype), leaf.shape).view(leaf.dtype)
        for name, leaf in zip(_names(expected), leaves, strict=True)
    ]
    # `jnp.array` copies: a device may otherwise share the file's memory, which cannot be donated.
    return Archive(
        cells,
        jax.tree.unflatten(structure, [jnp.array(x) for x in genotypes]),
        jnp.array(fitness),
        jnp.array(descriptors),
    )


def _cells(file: zipfile.ZipFile, header: dict[str, Any], num_cells: int) -> Cells:
    low = array_file.array(file, "low", np.float32, (None,))
    high = array_file.array(file, "high", np.float32, low.shape)
    shape = header["grid"]
    try:
        if shape is None:
            centroids = array_file.array(file, "centroids", np.float32, (num_cells, *low.shape))
            return from_centroids(low, high, centroids)
        if not all(type(count) is int for count in shape) or math.prod(shape) != num_cells:
            raise ArrayFileError(f"its grid {str(shape)[:100]} has not {num_cells} cells")
        return grid(low, high, shape)
    except ArrayFileError:
        raise
    except ValueError as error:
        raise ArrayFileError(f"its cells are refused: {error}") from None


def _header(file: zipfile.ZipFile) -> dict[str, Any]:
    header = array_file.header(file, FORMAT)
    for name, kind in {"environment": str, "num_cells": int, "genotypes": list}.items():
        if type(header.get(name)) is not kind:
            raise ArrayFileError(f"its header has no {name}")
    if not isinstance(header.get("grid", ...), list | None):
        raise ArrayFileError("its header has no grid")
    return header


def _check(
    header: dict[str, Any], genotypes: list[list[Any]], environment: str, num_cells: int
) -> None:
    for name, wanted in (("environment", environment), ("num_cells", num_cells)):
        if header[name] != wanted:
            raise ArrayFileError(
                f"it is of another archive: {name} is {str(header[name])[:100]!r} there, but "
                f"{wanted!r} was asked for"
            )
    for there, here in itertools.zip_longest(header["genotypes"], genotypes):
        if there != here:
            raise ArrayFileError(
                f"it is of other genotypes: a leaf is {str(there)[:100]} there, but {here} here"
            )


def _genotypes(genotypes: PyTree) -> list[list[Any]]:
    return [
        [jax.tree_util.keystr(path), np.dtype(leaf.dtype).name, list(leaf.shape)]
        for path, leaf in jax.tree.leaves_with_path(genotypes)
    ]


def _names(genotypes: PyTree) -> list[str]:
    return [f"genotypes_{i:04d}" for i in range(len(jax.tree.leaves(genotypes)))]


def _plain(dtype: np.dtype) -> np.dtype:
    # npz knows no bfloat16 and the like: their bits are kept as integers.
    return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else np.dtype(dtype)
