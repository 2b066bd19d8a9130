"""Does a converter fit its system, and an action its converter? On the host, one sentence each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxpg_envs.motor.converters.multi import Multi, check_parts


def check_converter(converter: Any, tau: ArrayLike, *, same_tau: bool = True) -> None:
    """Check the numbers of a converter, of one drive or of a batch.

    Args:
      converter: of this package.
      tau: s, period of the system.
      same_tau: refuse a converter, or a part of a `Multi`, whose own tau is another; see
        `follow_tau` for what gym-electric-motor accepts.

    Raises:
      ValueError: a tau that is not positive, an interlocking time outside `[0, tau)` or one that
        nothing reads, another tau, or parts of a `Multi` that do not go together.

    >>> from jaxpg_envs.motor.converters import FiniteB6
    >>> check_converter(FiniteB6(interlocking_time=2e-5, interlocks=True), 1e-5)
    Traceback (most recent call last):
    ValueError: interlocking_time is 2e-05, but it has to be at least 0 and below tau=1e-05
    """
    if not isinstance(converter, Multi):
        _check_one("", converter, tau, same_tau)
        return
    check_parts(converter.parts)
    for index, part in enumerate(converter.parts):
        _check_one(f"parts[{index}].", part, tau, same_tau)
    common = np.asarray(converter.interlocking_time)
    for index, part in enumerate(converter.parts):
        own = np.asarray(part.interlocking_time)
        if part.interlocks and not np.array_equal(own, common):
            raise ValueError(
                f"parts[{index}].interlocking_time is {own}, but another part has {common}: a step "
                f"is split at one time only"
            )


def _check_one(where: str, converter: Any, tau: ArrayLike, same_tau: bool) -> None:
    own, lost = converter.tau, converter.interlocking_time
    for name, value in (("tau", tau), (f"{where}tau", own)):
        value = np.asarray(value, float)
        _refuse(name, value, ~((value > 0) & np.isfinite(value)), "it has to be positive")
    own, lost, tau = np.broadcast_arrays(*(np.asarray(x, float) for x in (own, lost, tau)))
    limit = np.minimum(own, tau) if not converter.FINITE else tau
    wrong = ~((lost >= 0) & (lost < limit))
    if wrong.any():
        raise ValueError(
            f"{where}interlocking_time is {lost[wrong][0]}, but it has to be at least 0 and below "
            f"tau={limit[wrong][0]}"
        )
    has_switch = "interlocks" in converter.__dataclass_fields__
    if has_switch and not converter.interlocks and (lost > 0).any():
        raise ValueError(
            f"{where}interlocking_time is {lost[lost > 0][0]}, but interlocks is False, which "
            f"leaves it out: build the converter with interlocks=True"
        )
    # Single precision of either number is no difference.
    different = ~np.isclose(own, tau, rtol=1e-5, atol=0.0)
    if same_tau and different.any():
        raise ValueError(
            f"{where}tau is {own[different][0]}, but the system has tau={tau[different][0]}: a "
            f"converter's duty cycles last one step"
        )


def _refuse(name: str, value: np.ndarray, wrong: np.ndarray, valid: str) -> None:
    if wrong.any():
        raise ValueError(f"{name} is {value[wrong][0]}, but {valid}")


def check_action(converter: Any, action: ArrayLike) -> None:
    """Check an action of one drive; the converters themselves clip duty cycles and trust switches.

    Args:
      converter: of this package.
      action: what should be a member of `converter.action_space()`.

    Raises:
      ValueError: another shape, fractions where a choice is wanted, or a value out of the space.

    >>> from jaxpg_envs.motor.converters import Cont4QC
    >>> check_action(Cont4QC(), [1.5])
    Traceback (most recent call last):
    ValueError: action[0] is 1.5, but Cont4QC needs [-1.0, 1.0]
    """
    space = converter.action_space()
    name, action = type(converter).__name__, np.asarray(action)
    if action.shape != tuple(space.shape):
        raise ValueError(f"action has shape {action.shape}, but {name} needs {tuple(space.shape)}")
    if converter.FINITE:
        if action.dtype.kind not in "iu":
            raise ValueError(f"action has dtype {action.dtype}, but {name} needs whole numbers")
        low, high = 0, np.asarray(getattr(space, "nvec", None) or space.n) - 1
    else:
        low, high = space.low, space.high
    low, high = (np.broadcast_to(bound, action.shape) for bound in (low, high))
    # Written so that NaN is refused.
    wrong = ~((action >= low) & (action <= high))
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"action[{index[0]}]" if index else "action"
        raise ValueError(
            f"{where} is {action[index]}, but {name} needs [{low[index]}, {high[index]}]"
        )
