"""gymnax spaces as gymnasium spaces, and values that pass from one to the other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces as gymnasium_spaces
from gymnax.environments import spaces

from jaxpg_envs.spaces import MultiDiscrete


def convert(space: spaces.Space) -> gymnasium_spaces.Space:
    """The gymnasium space with the same members.

    Args:
      space: gymnax's Box, Discrete, Dict or Tuple, or a `MultiDiscrete`, nested at will.

    Returns:
      The gymnasium space of the same shapes; discrete values are int64, as gymnasium expects.

    Raises:
      TypeError: any other kind of space.

    >>> from gymnax.environments import spaces
    >>> convert(spaces.Tuple([spaces.Discrete(3), spaces.Box(0.0, 1.0, (2,))]))
    Tuple(Discrete(3), Box(0.0, 1.0, (2,), float32))
    """
    if isinstance(space, spaces.Discrete):
        return gymnasium_spaces.Discrete(int(space.n))
    if isinstance(space, MultiDiscrete):
        return gymnasium_spaces.MultiDiscrete(space.nvec)
    if isinstance(space, spaces.Box):
        return _convert_box(space)
    if isinstance(space, spaces.Dict):
        children = {name: convert(child) for name, child in space.spaces.items()}
        return gymnasium_spaces.Dict(children)
    if isinstance(space, spaces.Tuple):
        return gymnasium_spaces.Tuple(convert(child) for child in space.spaces)
    given = type(space).__name__
    raise TypeError(
        f"space={given} has no gymnasium form; use Box, Discrete, MultiDiscrete, Dict or Tuple"
    )


def _convert_box(space: spaces.Box) -> gymnasium_spaces.Box:
    dtype = np.dtype(space.dtype)
    shape = tuple(int(size) for size in np.atleast_1d(np.asarray(space.shape, int)))
    bounds = [np.broadcast_to(np.asarray(b), shape) for b in (space.low, space.high)]
    if np.issubdtype(dtype, np.integer):
        # An integer box may be declared unbounded, which no integer can say.
        limits = np.iinfo(dtype)
        bounds = [np.clip(bound, limits.min, limits.max) for bound in bounds]
    low, high = (bound.astype(dtype) for bound in bounds)
    return gymnasium_spaces.Box(low, high, shape, dtype.type)


def conform(space: gymnasium_spaces.Space, value: Any) -> Any:
    """A traced value in the containers and, as far as JAX has them, dtypes of a gymnasium space.

    Args:
      space: gymnasium space of one member.
      value: member of the gymnax space that it was converted from.

    Returns:
      The same values as nested dict and tuple of arrays.
    """
    if isinstance(space, gymnasium_spaces.Dict):
        return {name: conform(child, _item(value, name)) for name, child in space.spaces.items()}
    if isinstance(space, gymnasium_spaces.Tuple):
        return tuple(conform(child, part) for child, part in zip(space.spaces, value, strict=True))
    return jnp.asarray(value, jax.dtypes.canonicalize_dtype(space.dtype))


def _item(value: Any, name: str) -> Any:
    # gymnax's own convention for Dict observations is a dataclass with fields of the same names.
    return value[name] if isinstance(value, dict) else getattr(value, name)


def to_arrays(space: gymnasium_spaces.Space, action: Any) -> Any:
    """An action from the host as arrays of fixed shape and dtype, so that nothing recompiles.

    Args:
      space: gymnasium action space, single or batched.
      action: what a user passed to `step`.

    Returns:
      Nested dict and tuple of numpy arrays.

    Raises:
      ValueError: a shape that is not the space's.
    """
    if isinstance(space, gymnasium_spaces.Dict):
        return {name: to_arrays(child, action[name]) for name, child in space.spaces.items()}
    if isinstance(space, gymnasium_spaces.Tuple):
        pairs = zip(space.spaces, action, strict=True)
        return tuple(to_arrays(child, part) for child, part in pairs)
    array = np.asarray(action, space.dtype)
    if array.shape != space.shape:
        raise ValueError(f"action has shape {array.shape}; {space} needs {space.shape}")
    return array


def from_arrays(space: gymnasium_spaces.Space, value: Any) -> Any:
    """Arrays fetched from the device as a member of a gymnasium space.

    Args:
      space: gymnasium observation space, single or batched.
      value: nested dict and tuple of numpy arrays, as `conform` arranged them.

    Returns:
      The same in the declared dtypes, with numpy scalars for single discrete values.
    """
    if isinstance(space, gymnasium_spaces.Box):
        return value.astype(space.dtype, copy=False)
    if isinstance(space, gymnasium_spaces.Dict):
        return {name: from_arrays(child, value[name]) for name, child in space.spaces.items()}
    if isinstance(space, gymnasium_spaces.Tuple):
        pairs = zip(space.spaces, value, strict=True)
        return tuple(from_arrays(child, part) for child, part in pairs)
    return value.astype(space.dtype)[()]
