"""Does a reference generator fit a drive? On the host, one sentence for the first fault."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxpg_envs.choices import refusal
from jaxpg_envs.motor.references.combined import Multiple, Switched
from jaxpg_envs.motor.references.generator import Margin, ReferenceGenerator, ends


def check_reference(
    generator: ReferenceGenerator,
    states: Iterable[str],
    margins: tuple[Margin, ...] | None = None,
) -> None:
    """Check a reference generator, of one drive or of a batch.

    Args:
      generator: a generator, or one made of others.
      states: names of the states that the drive has.
      margins: a pair (low, high) for each name, as the environment gives them; None: not checked.

    Raises:
      ValueError: a state that the drive lacks or that is referenced twice, a range that is not
        a pair or is reversed, a scale or a frequency that is not positive, a sub-episode of no
        step, probabilities that do not fit, or margins that leave no values.

    >>> from jaxpg_envs.motor.references.process import Wiener
    >>> check_reference(Wiener(names=("omga",)), ["omega", "torque", "i"])
    Traceback (most recent call last):
    ValueError: names='omga' is not one of 'i', 'omega', 'torque'; did you mean 'omega'?
    """
    states = list(states)
    names = generator.names
    if isinstance(names, str) or not isinstance(names, tuple):
        raise ValueError(f"names is {names!r}, but a tuple of state names is needed")
    for name in names:
        if name not in states:
            raise ValueError(refusal("names", name, states))
    if margins is not None and len(margins) != len(names):
        raise ValueError(f"margins has {len(margins)} pairs, but one for each of {names} is needed")
    if isinstance(generator, Multiple):
        _check_multiple(generator, states, margins)
    elif isinstance(generator, Switched):
        _check_switched(generator, states, margins)
    else:
        _check_single(generator, margins)


def check_range(name: str, value: Any, least: float | None = None, above: bool = False) -> None:
    """Check a range: two numbers in order, or one number that stands for both.

    Args:
      name: of the argument.
      value: a pair, or a number; arrays where it is that of a batch.
      least: smallest number that is accepted.
      above: whether `least` itself is refused.

    Raises:
      ValueError: another form, an end that is no number or too small, or ends in reverse order.
    """
    if isinstance(value, tuple | list) and len(value) != 2:
        raise ValueError(f"{name} is {value!r}, but a pair (low, high) is needed")
    # Leaves without a value, as of a tree's structure, are not the user's.
    low, high = (np.asarray(end) for end in ends(value))
    for end in (low, high):
        if end.dtype.kind not in "iuf" or np.isnan(end).any():
            raise ValueError(f"{name} is {value!r}, but a pair of numbers (low, high) is needed")
    if (low > high).any():
        raise ValueError(f"{name} is {value!r}, but its low end has to be at most its high end")
    if least is not None and ((low < least) | (above & (low == least))).any():
        wanted = "above" if above else "at least"
        raise ValueError(f"{name} is {value!r}, but both ends have to be {wanted} {least:g}")


def _check_single(generator: ReferenceGenerator, margins: tuple[Margin, ...] | None) -> None:
    if hasattr(generator, "sigma_range"):
        check_range("sigma_range", generator.sigma_range, 0.0, above=True)
    if hasattr(generator, "frequency_range"):
        check_range("frequency_range", generator.frequency_range, 0.0, above=True)
    if hasattr(generator, "episode_lengths"):
        check_range("episode_lengths", generator.episode_lengths, 1.0)
    for name in ("initial_range", "amplitude_range", "offset_range", "value"):
        if getattr(generator, name, None) is not None:
            check_range(name, getattr(generator, name))
    if len(generator.names) > 1:
        raise ValueError(
            f"names is {generator.names!r}, but one generator references one state: combine "
            f"several in Multiple"
        )
    if margins is None:
        return
    for name, (low, high) in zip(generator.names, generator.ranges(margins), strict=True):
        low, high = np.asarray(low), np.asarray(high)
        if (~(low <= high)).any():
            raise ValueError(
                f"limit_margin is {getattr(generator, 'limit_margin', None)!r}, but then the "
                f"reference of {name!r} has the bounds {low} and {high}: give factors of the "
                f"state's own bounds"
            )


def _check_multiple(
    generator: Multiple, states: list[str], margins: tuple[Margin, ...] | None
) -> None:
    names = generator.names
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"generators reference {name!r} {names.count(name)} times, but each state can have "
                f"only one reference"
            )
    for part in generator.generators:
        own = None
        if margins is not None:
            own = tuple(margins[names.index(name)] for name in part.names)
        check_reference(part, states, own)


def _check_switched(
    generator: Switched, states: list[str], margins: tuple[Margin, ...] | None
) -> None:
    for part in generator.generators:
        if part.names != generator.names:
            raise ValueError(
                f"generators reference {part.names} and {generator.names}, but a switch is between "
                f"generators of the same states"
            )
        check_reference(part, states, margins)
    check_range("super_episode_length", generator.super_episode_length, 1.0)
    if generator.probabilities is None:
        return
    shares = [np.asarray(share) for share in generator.probabilities]
    if len(shares) != len(generator.generators):
        raise ValueError(
            f"probabilities has {len(shares)} numbers, but there are {len(generator.generators)} "
            f"generators"
        )
    # The tolerance is that of sums in float32.
    if any((share < 0).any() for share in shares) or (abs(sum(shares) - 1.0) > 1e-5).any():
        raise ValueError(
            f"probabilities is {generator.probabilities!r}, but numbers of at least 0 with sum 1 "
            f"are needed"
        )
