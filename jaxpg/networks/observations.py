"""From an environment's observation to the vector that a network reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.types import Array, PyTree


def encoder(space: Any, keys: str | Sequence[str] | None = None) -> Callable[[PyTree], Array]:
    """Builds the function that flattens observations of a space.

    Args:
      space: in gymnax's form: has `shape` (a box), `n` (discrete: becomes one-hot), or `spaces`
        (a dict or a tuple of spaces).
      keys: for a dict space, the entries to read, in this order; None reads all. With it an actor
        and a critic can read different parts of one observation.

    Returns:
      `observation -> [..., D]` float32; leading axes are free.

    Raises:
      ValueError: `keys` names an entry that the space does not have, or the space has none.
    """
    if keys is None:
        return _encode(space)
    entries = getattr(space, "spaces", None)
    names = [keys] if isinstance(keys, str) else list(keys)
    if not isinstance(entries, dict):
        raise ValueError(
            f"observation keys are {names}, but the observation space is {type(space).__name__} "
            f"and has no named entries: leave them out"
        )
    for name in names:
        if name not in entries:
            raise ValueError(
                f"observation key {name!r} is not in the observation space, whose entries are "
                f"{sorted(entries)}"
            )
    parts = {name: _encode(entries[name]) for name in names}
    return lambda observation: jnp.concatenate(
        [encode(observation[name]) for name, encode in parts.items()], axis=-1
    )


def _encode(space: Any) -> Callable[[PyTree], Array]:
    entries = getattr(space, "spaces", None)
    if isinstance(entries, dict):
        parts = {name: _encode(entry) for name, entry in entries.items()}
        return lambda observation: jnp.concatenate(
            [encode(observation[name]) for name, encode in parts.items()], axis=-1
        )
    if isinstance(entries, list | tuple):
        encoders = [_encode(entry) for entry in entries]
        return lambda observation: jnp.concatenate(
            [encode(part) for encode, part in zip(encoders, observation, strict=True)], axis=-1
        )
    if hasattr(space, "n"):
        return lambda observation: jax.nn.one_hot(observation, space.n, dtype=jnp.float32)
    rank = len(space.shape)

    def flatten(observation: Array) -> Array:
        leading = observation.shape[: observation.ndim - rank]
        return observation.reshape((*leading, -1)).astype(jnp.float32)

    return flatten
