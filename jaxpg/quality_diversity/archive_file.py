"""Archives as files: an npz of plain arrays, written whole or not at all. Files are not trusted.

`numpy.load` opens them. Nothing in them is executed, and nothing is allocated because a file claims
to hold it: types and shapes come from the caller, and the file has to agree.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import pathlib
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.quality_diversity.archive import Archive
from jaxpg.quality_diversity.cells import Cells, GridCells, from_centroids, grid
from jaxpg.types import PyTree

FORMAT = 1


class ArchiveFileError(ValueError):
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
    manifest = {
        "format": FORMAT,
        "environment": environment,
        "num_cells": cells.num_cells,
        "grid": list(cells.shape) if isinstance(cells, GridCells) else None,
        "genotypes": _genotypes(archive.genotypes),
    }
    arrays = {
        "manifest": np.frombuffer(json.dumps(manifest).encode(), np.uint8),
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
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, **{name: np.ascontiguousarray(x) for name, x in arrays.items()})
    os.replace(part, path)


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
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive_file:
                manifest = _manifest(archive_file)
                _check(manifest, _genotypes(expected), environment, num_cells)
                return _read(archive_file, manifest, expected, num_cells)
        except ArchiveFileError as error:
            raise ArchiveFileError(f"{path}: {error}") from None
        except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as error:
            raise ArchiveFileError(f"{path} is no whole archive file: {error}") from error


def _read(
    file: zipfile.ZipFile, manifest: dict[str, Any], expected: PyTree, num_cells: int
) -> Archive:
    cells = _cells(file, manifest, num_cells)
    fitness = _array(file, "fitness", np.float32, (num_cells,))
    descriptors = _array(file, "descriptors", np.float32, (num_cells, cells.low.shape[0]))
    if np.any(np.isnan(fitness)) or not np.all(np.isfinite(descriptors)):
        raise ArchiveFileError("a fitness is NaN or a descriptor is not finite")
    leaves, structure = jax.tree.flatten(expected)
    genotypes = [
        _array(file, name, _plain(leaf.dtype), leaf.shape).view(leaf.dtype)
        for name, leaf in zip(_names(expected), leaves, strict=True)
    ]
    # `jnp.array` copies: a device may otherwise share the file's memory, which cannot be donated.
    return Archive(
        cells,
        jax.tree.unflatten(structure, [jnp.array(x) for x in genotypes]),
        jnp.array(fitness),
        jnp.array(descriptors),
    )


def _cells(file: zipfile.ZipFile, manifest: dict[str, Any], num_cells: int) -> Cells:
    low = _array(file, "low", np.float32, (None,))
    high = _array(file, "high", np.float32, low.shape)
    shape = manifest["grid"]
    try:
        if shape is None:
            centroids = _array(file, "centroids", np.float32, (num_cells, *low.shape))
            return from_centroids(low, high, centroids)
        if not all(type(count) is int for count in shape) or math.prod(shape) != num_cells:
            raise ArchiveFileError(f"its grid {str(shape)[:100]} has not {num_cells} cells")
        return grid(low, high, shape)
    except ArchiveFileError:
        raise
    except ValueError as error:
        raise ArchiveFileError(f"its cells are refused: {error}") from None


def _manifest(file: zipfile.ZipFile) -> dict[str, Any]:
    content = _array(file, "manifest", np.uint8, (None,)).tobytes()
    try:
        manifest = json.loads(content)
    except RecursionError as error:
        raise ArchiveFileError("its manifest cannot be read") from error
    fields = {"format": int, "environment": str, "num_cells": int, "genotypes": list}
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArchiveFileError(f"its manifest is not of format {FORMAT}")
    for name, kind in fields.items():
        if type(manifest.get(name)) is not kind:
            raise ArchiveFileError(f"its manifest has no {name}")
    if not isinstance(manifest.get("grid", ...), list | None):
        raise ArchiveFileError("its manifest has no grid")
    return manifest


def _check(
    manifest: dict[str, Any], genotypes: list[list[Any]], environment: str, num_cells: int
) -> None:
    for name, wanted in (("environment", environment), ("num_cells", num_cells)):
        if manifest[name] != wanted:
            raise ArchiveFileError(
                f"it is of another archive: {name} is {str(manifest[name])[:100]!r} there, but "
                f"{wanted!r} was asked for"
            )
    for there, here in itertools.zip_longest(manifest["genotypes"], genotypes):
        if there != here:
            raise ArchiveFileError(
                f"it is of other genotypes: a leaf is {str(there)[:100]} there, but {here} here"
            )


def _array(
    file: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int | None, ...]
) -> np.ndarray:
    # None is a size that the file may choose.
    try:
        member = file.getinfo(f"{name}.npy")
    except KeyError:
        raise ArchiveFileError(f"it has no {name}") from None
    # Nothing is larger in memory than in the file: there is no compression to unfold.
    if member.compress_type != zipfile.ZIP_STORED:
        raise ArchiveFileError(f"its {name} is compressed")
    content = io.BytesIO(file.read(member))
    version = np.lib.format.read_magic(content)
    if version != (1, 0):
        raise ArchiveFileError(f"its {name} is of version {version}")
    found, columns_first, stored = np.lib.format.read_array_header_1_0(content)
    fits = len(found) == len(shape) and all(
        size in (None, here) for here, size in zip(found, shape, strict=True)
    )
    if stored != np.dtype(dtype) or not fits or (columns_first and len(found) > 1):
        raise ArchiveFileError(
            f"its {name} is {stored}{list(found)}, but has to be "
            f"{np.dtype(dtype)}{['any' if size is None else size for size in shape]}"
        )
    if content.getbuffer().nbytes - content.tell() != math.prod(found) * stored.itemsize:
        raise ArchiveFileError(f"its {name} is cut short")
    return np.ndarray(found, stored, content.getbuffer(), content.tell())


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
