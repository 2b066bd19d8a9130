"""The bytes that each token stands for."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from jaxpg.pretrained.errors import PretrainedError

BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def kind_of(core: Any) -> str:
    """How tokens become text.

    Args:
      core: of the package `tokenizers`.

    Returns:
      `"ByteLevel"` (each character of a token is a byte) or `"ByteFallback"` (a token is text, or
      one byte by its number).

    Raises:
      PretrainedError: it is neither.
    """
    decoder = json.loads(core.decoder.__getstate__()) if core.decoder is not None else {}
    names = [decoder.get("type")] + [part["type"] for part in decoder.get("decoders", ())]
    for kind in ("ByteLevel", "ByteFallback"):
        if kind in names:
            return kind
    raise PretrainedError(
        f"the tokenizer's decoder is {names[0]!r}, which is not a valid choice; the choices are "
        f"['ByteFallback', 'ByteLevel']"
    )


def token_bytes(core: Any, vocabulary_size: int) -> tuple[bytes, ...]:
    """The bytes of every token.

    Args:
      core: of the package `tokenizers`.
      vocabulary_size: V.

    Returns:
      V values; b"" for an id without a token. A space that the decoder drops at the start of a
      text is there.

    Raises:
      PretrainedError: see `kind_of`.
    """
    to_bytes = {"ByteLevel": _byte_level, "ByteFallback": _byte_fallback}[kind_of(core)]
    found = [b""] * vocabulary_size
    for token, index in core.get_vocab(with_added_tokens=True).items():
        found[index] = to_bytes(token)
    return tuple(found)


@functools.cache
def byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level vocabularies.

    Returns:
      256 characters: printable bytes stand for themselves, the others, in their order, are the
      characters from U+0100 on.

    >>> byte_of_character()["A"], byte_of_character()["Ġ"]
    (65, 32)
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}


def _byte_level(token: str) -> bytes:
    alphabet = byte_of_character()
    # An added token may hold other characters; the decoder then leaves it as it is.
    if all(character in alphabet for character in token):
        return bytes(alphabet[character] for character in token)
    return token.encode()


def _byte_fallback(token: str) -> bytes:
    number = BYTE.fullmatch(token)
    return bytes([int(number[1], 16)]) if number else token.replace("\u2581", " ").encode()
