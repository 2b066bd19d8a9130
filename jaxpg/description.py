"""Plain words for a configuration, the same in every process, so that strangers are told apart."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

Built = TypeVar("Built")


def describe(value: Any) -> Any:
    """Turns a value into plain ones that JSON holds and that do not depend on the process.

    Args:
      value: numbers, strings, containers, dataclasses, arrays (by digest when large), functions
        (by name); a traced number has no value and is called "traced".

    Returns:
      Plain values.

    >>> describe({"rate": 0.1, "act": max, "low": np.zeros(2)})
    {'rate': 0.1, 'act': 'builtins.max', 'low': [0.0, 0.0]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, jax.core.Tracer):
        return "traced"
    if isinstance(value, Mapping):
        return {str(name): describe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        if array.size <= 16:
            return array.tolist()
        digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()
        return f"{array.dtype}{list(array.shape)} {digest}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return type(value).__qualname__


def recorded(builder: Callable[..., Built]) -> Callable[..., Built]:
    """Decorates a builder of dataclasses so that the result remembers its arguments.

    Args:
      builder: returns a dataclass with a field `settings`.

    Returns:
      The builder.
    """
    signature = inspect.signature(builder)

    @functools.wraps(builder)
    def build(*args: Any, **kwargs: Any) -> Built:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dataclasses.replace(builder(*args, **kwargs), settings=describe(bound.arguments))

    return build
