"""Checks of the arguments that token tasks share, one sentence for each refusal."""

import math
from typing import Any


def whole_number(argument: str, given: Any, lowest: int, highest: int | None = None) -> int:
    """Check that an argument is a whole number in its range.

    Args:
      argument: its name.
      given: its value; numpy's integers will do, a bool will not.
      lowest: the smallest valid value.
      highest: the largest valid value; None for no limit.

    Returns:
      The value as an int.

    Raises:
      TypeError: not a whole number.
      ValueError: out of range, with the nearest valid value.

    >>> whole_number("modulus", 1, 2)
    Traceback (most recent call last):
    ValueError: modulus=1 must be at least 2
    """
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise TypeError(f"{argument}={given!r} must be a whole number, {_range(lowest, highest)}")
    if given < lowest or (highest is not None and given > highest):
        raise ValueError(f"{argument}={given} must be {_range(lowest, highest)}")
    return int(given)


def probability(
    argument: str, given: Any, lowest: float = 0.0, highest: float = 1.0, *, below: bool = False
) -> float:
    """Check that an argument is a probability or a share.

    Args:
      argument: its name.
      given: its value.
      lowest: the smallest valid value.
      highest: the largest valid value.
      below: whether `highest` itself is refused.

    Returns:
      The value as a float.

    Raises:
      TypeError: not a number.
      ValueError: out of range, or NaN.

    >>> probability("step_error", 15, 0.0, 1.0)
    Traceback (most recent call last):
    ValueError: step_error=15 must be from 0 to 1
    """
    valid = f"from {lowest:.6g} to {highest:.6g}" + (", the end left out" if below else "")
    if isinstance(given, bool | str) or not hasattr(given, "__float__"):
        raise TypeError(f"{argument}={given!r} must be a number {valid}")
    value = float(given)
    if math.isnan(value) or not lowest <= value <= highest or (below and value == highest):
        raise ValueError(f"{argument}={given} must be {valid}")
    return value


def _range(lowest: int, highest: int | None) -> str:
    return f"at least {lowest}" if highest is None else f"from {lowest} to {highest}"
