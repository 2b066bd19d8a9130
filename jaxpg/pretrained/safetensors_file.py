"""Tensors of safetensors files, read one at a time."""

from __future__ import annotations

import functools
import pathlib
import struct

import numpy as np

from jaxpg.pretrained.errors import PretrainedError, one_of
from jaxpg.pretrained.layout import Stored
from jaxpg.pretrained.optional import package

DTYPES = ("F32", "F16", "BF16")
LARGEST_HEADER = 100_000_000


def read(path: pathlib.Path) -> dict[str, Stored]:
    """Lists the tensors of a file; their values are read later.

    Args:
      path: of the file.

    Returns:
      By name.

    Raises:
      PretrainedError: the file is damaged, claims more than it holds, or has other types than
        `DTYPES`.
    """
    _check_header_length(path)
    safetensors = package("safetensors")
    try:
        handle = safetensors.safe_open(path, framework="np")
    except safetensors.SafetensorError as error:
        raise PretrainedError(f"{path} is no whole safetensors file: {error}") from error
    found = {}
    for name in handle.keys():
        claim = handle.get_slice(name)
        one_of(path, f"the type of the tensor {name}", claim.get_dtype(), DTYPES)
        found[name] = Stored(tuple(claim.get_shape()), functools.partial(handle.get_tensor, name))
    return found


def write(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a file.

    Args:
      path: of the file.
      tensors: by name; float32, float16 or bfloat16.
    """
    # The package makes a file that only its owner can read; others follow the process's mask.
    path.touch()
    mode = path.stat().st_mode
    package("safetensors.numpy").save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(mode)


def _check_header_length(path: pathlib.Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    if size < 8:
        raise PretrainedError(f"{path} is no safetensors file: it has {size} bytes")
    (length,) = struct.unpack("<Q", start)
    if length > min(size - 8, LARGEST_HEADER):
        raise PretrainedError(
            f"{path} claims a header of {length} bytes, but {size - 8} are left, and at most "
            f"{LARGEST_HEADER} are read"
        )
