"""Files of plain arrays: written whole or not at all, and not trusted when they are read.

Nothing in a file is executed, and nothing is allocated because one claims to hold it: types and
shapes come from the caller, and the file has to agree.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


class ArrayFileError(ValueError):
    """A file that is damaged, or holds something else than it should."""


def write(path: pathlib.Path, arrays: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Writes an npz; a file that is there is replaced at the end.

    Args:
      path: of the file, in a folder that exists.
      arrays: of NumPy's own types.
      header: what JSON can say, stored as an array called `header`.
    """
    encoded = np.frombuffer(json.dumps(header).encode(), np.uint8)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.savez(
            file, header=encoded, **{name: np.ascontiguousarray(x) for name, x in arrays.items()}
        )
    os.replace(part, path)


@contextlib.contextmanager
def opened(path: pathlib.Path, what: str, error: type[ArrayFileError]) -> Iterator[zipfile.ZipFile]:
    """Opens an npz; what goes wrong while it is read names the file.

    Args:
      path: of the file.
      what: kind of the file, in words.
      error: what to raise.

    Yields:
      The file, for `array` and `header`.

    Raises:
      ArrayFileError: of the kind given.
      OSError: there is no such file, or it cannot be read.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as arrays:
                yield arrays
        except ArrayFileError as found:
            raise error(f"{path}: {found}") from None
        except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as found:
            raise error(f"{path} is no whole {what}: {found}") from found


def header(file: zipfile.ZipFile, version: int) -> dict[str, Any]:
    """What JSON said.

    Args:
      file: of `opened`.
      version: that its entry `format` has to be.

    Returns:
      A dict of anything.

    Raises:
      ArrayFileError: it cannot be read or is of another version.
    """
    content = array(file, "header", np.uint8, (None,)).tobytes()
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise ArrayFileError("its header cannot be read") from error
    if not isinstance(found, dict) or found.get("format") != version:
        raise ArrayFileError(f"its header is not of format {version}")
    return found


def array(
    file: zipfile.ZipFile, name: str, dtype: Any, shape: tuple[int | None, ...]
) -> np.ndarray:
    """One array.

    Args:
      file: of `opened`.
      name: of the array.
      dtype: that it has to be of.
      shape: that it has to have; None is a size that the file may choose.

    Returns:
      The array, in the memory that was read.

    Raises:
      ArrayFileError: it is missing, compressed, cut short or another.
    """
    try:
        member = file.getinfo(f"{name}.npy")
    except KeyError:
        raise ArrayFileError(f"it has no {name}") from None
    # Nothing is larger in memory than in the file: there is no compression to unfold.
    if member.compress_type != zipfile.ZIP_STORED:
        raise ArrayFileError(f"its {name} is compressed")
    content = io.BytesIO(file.read(member))
    version = np.lib.format.read_magic(content)
    if version != (1, 0):
        raise ArrayFileError(f"its {name} is of version {version}")
    found, columns_first, stored = np.lib.format.read_array_header_1_0(content)
    fits = len(found) == len(shape) and all(
        size in (None, here) for here, size in zip(found, shape, strict=True)
    )
    if stored != np.dtype(dtype) or not fits or (columns_first and len(found) > 1):
        raise ArrayFileError(
            f"its {name} is {stored}{list(found)}, but has to be "
            f"{np.dtype(dtype)}{['any' if size is None else size for size in shape]}"
        )
    if content.getbuffer().nbytes - content.tell() != math.prod(found) * stored.itemsize:
        raise ArrayFileError(f"its {name} is cut short")
    return np.ndarray(found, stored, content.getbuffer(), content.tell())
