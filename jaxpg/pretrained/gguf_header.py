"""The header of a GGUF file: metadata, and where each tensor's bytes are.

Every length that the file claims is compared with the bytes that are left before anything is
read or allocated.

Source: the GGUF specification of ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import pathlib
import struct
from typing import Any

import numpy as np

from jaxpg.pretrained.errors import PretrainedError
from jaxpg.pretrained.optional import package

SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""GGUF's number of a scalar type -> its format."""
TEXT, ARRAY = 8, 9
LARGEST_COUNT = 2**22
"""Most entries, tensors or texts in one list; a vocabulary has a few hundred thousand."""
SMALLEST_ENTRY, SMALLEST_TENSOR = 13, 24


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What the header says of a tensor.

    Attributes:
      shape: of the values, outermost axis first.
      kind: `gguf.GGMLQuantizationType`.
      offset: of its first byte in the file.
      size: bytes.
    """

    shape: tuple[int, ...]
    kind: Any
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Header:
    """What a GGUF file holds; the bytes of every tensor are there, and no two overlap.

    Attributes:
      path: of the file.
      metadata: plain values; lists of texts are lists, lists of numbers are arrays.
      tensors: by name.
    """

    path: pathlib.Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_header(path: str | pathlib.Path) -> Header:
    """Reads the header of a GGUF file.

    Args:
      path: of the file.

    Returns:
      The header.

    Raises:
      PretrainedError: the file is no GGUF, is cut off, or claims more than it holds.
    """
    path = pathlib.Path(path)
    if path.stat().st_size < 24:
        raise PretrainedError(f"{path} is no GGUF file: it has {path.stat().st_size} bytes")
    cursor = _Cursor(path)
    if cursor.take(4) != b"GGUF":
        raise PretrainedError(f"{path} is no GGUF file: it does not start with GGUF")
    version = cursor.scalar("I")
    if version not in (2, 3):
        raise PretrainedError(
            f"{path} is of GGUF version {version}, but versions 2 and 3 (little-endian) are read"
        )
    num_tensors = cursor.count("Q", SMALLEST_TENSOR, "tensors")
    num_entries = cursor.count("Q", SMALLEST_ENTRY, "metadata entries")
    metadata: dict[str, Any] = {}
    for _ in range(num_entries):
        key = cursor.text()
        if key in metadata:
            raise PretrainedError(f"{path}: the metadata key {key!r} stands there twice")
        metadata[key] = cursor.value(cursor.scalar("I"), key)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise PretrainedError(
            f"{path}: general.alignment is {alignment!r}, but it has to be a power of two"
        )
    claims = [cursor.claim() for _ in range(num_tensors)]
    start = -(-cursor.offset // alignment) * alignment
    return Header(path, metadata, _tensors(path, claims, start, cursor.size))


class _Cursor:
    """Reads on through a file that may claim anything."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.data = memoryview(np.memmap(path, np.uint8, mode="r"))
        self.size = len(self.data)
        self.offset = 0

    def take(self, length: int) -> memoryview:
        if length > self.size - self.offset:
            raise PretrainedError(
                f"{self.path} is cut off: it claims {length} bytes at byte {self.offset}, but ends "
                f"after {self.size}"
            )
        self.offset += length
        return self.data[self.offset - length : self.offset]

    def scalar(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def count(self, form: str, smallest: int, what: str) -> int:
        """A number of things, each of at least `smallest` bytes."""
        count = self.scalar(form)
        left = self.size - self.offset
        if count > LARGEST_COUNT or count * smallest > left:
            raise PretrainedError(
                f"{self.path} claims {count} {what}, but {left} bytes are left, and no file may "
                f"hold more than {LARGEST_COUNT}"
            )
        return count

    def text(self) -> str:
        try:
            return bytes(self.take(self.scalar("Q"))).decode()
        except UnicodeDecodeError as error:
            raise PretrainedError(
                f"{self.path} holds a text before byte {self.offset} that is no UTF-8"
            ) from error

    def value(self, kind: int, key: str) -> Any:
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.scalar(self._format(kind, key))
        kind = self.scalar("I")
        if kind == TEXT:
            return [self.text() for _ in range(self.count("Q", 8, f"texts in {key}"))]
        dtype = np.dtype("<" + self._format(kind, key))
        return np.frombuffer(self.take(self.scalar("Q") * dtype.itemsize), dtype)

    def claim(self) -> tuple[str, tuple[int, ...], int, int]:
        """`(name, shape with the innermost axis first, type, offset)` of a tensor."""
        name, rank = self.text(), self.scalar("I")
        if not 1 <= rank <= 4:
            raise PretrainedError(
                f"{self.path}: the tensor {name} has {rank} axes, but 1 to 4 are read"
            )
        shape = tuple(self.scalar("Q") for _ in range(rank))
        return name, shape, self.scalar("I"), self.scalar("Q")

    def _format(self, kind: int, key: str) -> str:
        if kind not in SCALARS:
            raise PretrainedError(
                f"{self.path}: the metadata key {key!r} is of type {kind}, which is not known; the "
                f"types are {sorted([*SCALARS, TEXT, ARRAY])}, without lists of lists"
            )
        return SCALARS[kind]


def _tensors(
    path: pathlib.Path, claims: list[tuple], start: int, file_size: int
) -> dict[str, Tensor]:
    gguf = package("gguf")
    known = _readable()
    tensors: dict[str, Tensor] = {}
    for name, inner_first, number, offset in claims:
        if name in tensors:
            raise PretrainedError(f"{path}: the tensor {name} stands there twice")
        if number not in known:
            raise PretrainedError(
                f"{path}: the tensor {name} is of type {_type_name(gguf, number)}, which cannot be "
                f"read; the types are {', '.join(kind.name for kind in known.values())}"
            )
        per_block, bytes_per_block = gguf.GGML_QUANT_SIZES[known[number]]
        if inner_first[0] % per_block or 0 in inner_first:
            raise PretrainedError(
                f"{path}: the tensor {name} has rows of {inner_first[0]} values, but "
                f"{known[number].name} needs a multiple of {per_block}"
            )
        size = math.prod(inner_first) // per_block * bytes_per_block
        if start + offset + size > file_size:
            raise PretrainedError(
                f"{path}: the tensor {name} claims bytes {start + offset} to "
                f"{start + offset + size}, but the file ends after {file_size}"
            )
        tensors[name] = Tensor(inner_first[::-1], known[number], start + offset, size)
    # Else a small file could claim its one megabyte for each of a thousand tensors.
    ordered = sorted(tensors.items(), key=lambda item: item[1].offset)
    for (name, tensor), (other, following) in itertools.pairwise(ordered):
        if tensor.offset + tensor.size > following.offset:
            raise PretrainedError(f"{path}: the tensors {name} and {other} overlap")
    return tensors


@functools.cache
def _readable() -> dict[int, Any]:
    """The types that the package can turn into numbers, by a try with one block of each."""
    gguf = package("gguf")
    found = {}
    for kind, (_, bytes_per_block) in gguf.GGML_QUANT_SIZES.items():
        with contextlib.suppress(NotImplementedError):
            gguf.dequantize(np.zeros((1, bytes_per_block), np.uint8), kind)
            found[int(kind)] = kind
    return found


def _type_name(gguf: Any, number: int) -> str:
    names = {int(kind): kind.name for kind in gguf.GGMLQuantizationType}
    return names.get(number, f"number {number}")
