"""Which currents a controller lets itself be asked for: a reference may lie beyond the limits."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxpg_envs.motor.controllers.equations import equations
from jaxpg_envs.motor.controllers.modulators import within_circle

Values = dict[str, Any]
Scalars = tuple[Any, ...]

_SHARE = 0.95


def largest_currents(params: Any) -> Values:
    """A, by name: 0.95 of the limits of what a controller of the currents follows."""
    return {name: _SHARE * params.limits[name] for name in equations(params.motor).currents}


def reachable(wanted: Values, largest: Values) -> Values:
    """The wanted currents, each cut at its largest, d and q together at the largest of q.

    Args:
      wanted: A, by name.
      largest: A, of every current that is followed.

    Returns:
      A, of the names of `largest`.
    """
    followed = {name: jnp.clip(wanted[name], -bound, bound) for name, bound in largest.items()}
    if "i_sd" in followed:
        stator = within_circle((wanted["i_sd"], wanted["i_sq"]), largest["i_sq"])
        followed["i_sd"], followed["i_sq"] = stator
    return followed
