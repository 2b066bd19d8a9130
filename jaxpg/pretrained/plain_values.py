"""Numbers, texts and JSON objects out of files that are not trusted."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxpg.pretrained.errors import PretrainedError

REQUIRED = object()
"""A default that no file can hold: the key has to be there."""
LARGEST_JSON = 2**28
LARGEST_WHOLE = 2**31 - 1


def whole(values: Mapping[str, Any], key: str, source: Any, default: Any = REQUIRED) -> Any:
    """A whole number of at least 1.

    Args:
      values: what the file says.
      key: its name there.
      source: the file, for the error.
      default: where the file has no such key, or null.

    Returns:
      An int, or the default.

    Raises:
      PretrainedError: it is missing, or is something else.
    """
    value = _lookup(values, key, source, default)
    if value is default:
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_WHOLE:
        raise PretrainedError(
            f"{source}: {key} is {_short(value)}, but it has to be a whole number of 1 to "
            f"{LARGEST_WHOLE}"
        )
    return value


def number(values: Mapping[str, Any], key: str, source: Any, default: Any = REQUIRED) -> Any:
    """A finite number above 0.

    Args:
      values: what the file says.
      key: its name there.
      source: the file, for the error.
      default: where the file has no such key, or null.

    Returns:
      A float, or the default.

    Raises:
      PretrainedError: it is missing, or is something else.
    """
    value = _lookup(values, key, source, default)
    if value is default:
        return value
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not 0 < value < math.inf:
        raise PretrainedError(
            f"{source}: {key} is {_short(value)}, but it has to be a finite number above 0"
        )
    return float(value)


def flag(values: Mapping[str, Any], key: str, source: Any, default: bool = False) -> bool:
    """A truth value.

    Args:
      values: what the file says.
      key: its name there.
      source: the file, for the error.
      default: where the file has no such key, or null.

    Returns:
      A bool.

    Raises:
      PretrainedError: it is something else.
    """
    value = _lookup(values, key, source, default)
    if not isinstance(value, bool):
        raise PretrainedError(f"{source}: {key} is {_short(value)}, but it has to be true or false")
    return value


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: of the file.

    Returns:
      The object.

    Raises:
      PretrainedError: the file is too large, no JSON, or no object.
    """
    if path.stat().st_size > LARGEST_JSON:
        raise PretrainedError(
            f"{path} has {path.stat().st_size} bytes, but JSON is read up to {LARGEST_JSON}"
        )
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{path} is no JSON: {_short(error)}") from error
    if not isinstance(values, dict):
        raise PretrainedError(f"{path} holds a {type(values).__name__}, but it has to be an object")
    return values


def _lookup(values: Mapping[str, Any], key: str, source: Any, default: Any) -> Any:
    value = values.get(key)
    if value is not None:
        return value
    if default is REQUIRED:
        raise PretrainedError(f"{source}: {key} is missing")
    return default


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 100 else text[:100] + "..."
