"""What ends an episode: limits of single states, or of a circle in several.

A constraint is a pytree that is called with the normalised states by name and gives the degree of
its violation: 0.0 where it is kept, 1.0 where it is broken, and between them what the reward shall
already mind. One of one's own needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg_envs.choices import refusal

Array = jax.Array
Values = dict[str, Any]

MERGES = ("max", "product")


@struct.dataclass
class LimitConstraint:
    """No state exceeds its limit in size; one that is no number does.

    Attributes:
      names: static, of the states; None: all.

    Source: gym-electric-motor 3.0.3.

    >>> LimitConstraint(("i",))({"i": jnp.array(-1.01), "u": jnp.array(0.0)})
    Array(1., dtype=float32)
    """

    names: tuple[str, ...] | None = struct.field(pytree_node=False, default=None)

    def __call__(self, states: Values) -> Array:
        """Degree of the violation.

        Args:
          states: normalised scalars by name.

        Returns:
          0.0 or 1.0.
        """
        names = tuple(states) if self.names is None else self.names
        largest = jnp.zeros(())
        for name in names:
            largest = jnp.maximum(largest, jnp.abs(states[name]))
        return 1.0 - (largest <= 1.0).astype(float)


@struct.dataclass
class SquaredConstraint:
    """The squares of some states have a sum of at most 1; states that are no numbers do not.

    Attributes:
      names: static, of the states.

    Source: gym-electric-motor 3.0.3.

    >>> SquaredConstraint(("i_sd", "i_sq"))({"i_sd": jnp.array(0.8), "i_sq": jnp.array(0.7)})
    Array(1., dtype=float32)
    """

    names: tuple[str, ...] = struct.field(pytree_node=False, default=())

    def __call__(self, states: Values) -> Array:
        """Degree of the violation.

        Args:
          states: normalised scalars by name.

        Returns:
          0.0 or 1.0.
        """
        total = jnp.zeros(())
        for name in self.names:
            total = total + states[name] ** 2
        return 1.0 - (total <= 1.0).astype(float)


def violation(constraints: tuple[Any, ...], states: Values, merge: str = "max") -> Array:
    """Degree to which several constraints are violated together.

    Args:
      constraints: each called with `states`; none is never violated.
      states: normalised scalars by name.
      merge: static, `"max"`: the largest degree; `"product"`: 1 minus the product of 1 minus each.

    Returns:
      Scalar float in [0, 1]; 1 ends an episode.

    Source: gym-electric-motor 3.0.3 (where "product" fails with a TypeError).

    >>> current = LimitConstraint(("i",))
    >>> float(violation((current, lambda states: 0.5), {"i": 0.2}, "product"))
    0.5
    """
    if merge not in MERGES:
        raise ValueError(refusal("merge", merge, MERGES))
    degrees = [constraint(states) for constraint in constraints]
    if merge == "max":
        largest = jnp.zeros(())
        for degree in degrees:
            largest = jnp.maximum(largest, degree)
        return largest
    # In this form one degree of 1 makes exactly 1, on which the end of an episode depends.
    kept = jnp.ones(())
    for degree in degrees:
        kept = kept * (1.0 - degree)
    return 1.0 - kept


def check_constraints(
    constraints: tuple[Any, ...], states: Iterable[str], merge: str = "max"
) -> None:
    """Check constraints on the host.

    Args:
      constraints: of a drive.
      states: names of the states that it has.
      merge: how they are joined.

    Raises:
      ValueError: something that cannot be called, a state that the drive lacks, a squared
        constraint on no state, or another way to join.

    >>> check_constraints((LimitConstraint(("i_q",)),), ["i_sd", "i_sq"])
    Traceback (most recent call last):
    ValueError: names of LimitConstraint='i_q' is not one of 'i_sd', 'i_sq'; did you mean 'i_sq'?
    """
    states = list(states)
    if not isinstance(constraints, tuple):
        raise ValueError(f"constraints is {constraints!r}, but a tuple of constraints is needed")
    for constraint in constraints:
        kind = type(constraint).__name__
        if not callable(constraint):
            raise ValueError(
                f"constraints has {constraint!r}, but each of them is called with the states: "
                f"give LimitConstraint or SquaredConstraint with names"
            )
        names = getattr(constraint, "names", None)
        if isinstance(names, str):
            raise ValueError(f"names of {kind} is {names!r}, but a tuple of state names is needed")
        for name in names or ():
            if name not in states:
                raise ValueError(refusal(f"names of {kind}", name, states))
        if isinstance(constraint, SquaredConstraint) and not names:
            raise ValueError(f"names of {kind} is {names!r}, but at least one state is needed")
    if merge not in MERGES:
        raise ValueError(refusal("merge", merge, MERGES))
