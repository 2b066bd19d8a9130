"""Sentences that refuse what no reference cost can be computed for."""

from __future__ import annotations

import numpy as np


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a finite number above 0.

    Args:
      name: of the argument.
      value: given.

    Raises:
      ValueError: one sentence.

    >>> check_positive("holding_cost", -1.0)
    Traceback (most recent call last):
    ValueError: holding_cost is -1.0, but a number above 0 is needed
    """
    # Written so that NaN is refused.
    if not 0 < value < np.inf:
        raise ValueError(f"{name} is {value!r}, but a number above 0 is needed")


def check_not_negative(name: str, value: float) -> None:
    """Refuse what is not a finite number from 0 on.

    Args:
      name: of the argument.
      value: given.

    Raises:
      ValueError: one sentence.
    """
    if not 0 <= value < np.inf:
        raise ValueError(f"{name} is {value!r}, but a number from 0 on is needed")


def check_costs(holding_cost: float, underage_cost: float) -> None:
    """Refuse costs with which the best level is not finite.

    Args:
      holding_cost: h.
      underage_cost: p.

    Raises:
      ValueError: one of them is not above 0.
    """
    check_positive("holding_cost", holding_cost)
    check_positive("underage_cost", underage_cost)


def check_lead_time(name: str, value: int) -> None:
    """Refuse what is not a whole number from 1 on.

    Args:
      name: of the argument.
      value: given.

    Raises:
      ValueError: one sentence.

    >>> check_lead_time("lead_time", 0)
    Traceback (most recent call last):
    ValueError: lead_time is 0, but a whole number from 1 on is needed
    """
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}, but a whole number from 1 on is needed")
