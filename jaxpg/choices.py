"""One sentence for an argument that is none of the valid choices."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any


def one_of(argument: str, given: Any, choices: Iterable[Any]) -> None:
    """Checks that an argument is one of its valid choices.

    Args:
      argument: its name.
      given: its value.
      choices: the valid values.

    Raises:
      ValueError: naming the argument, the value, the nearest valid choice and all of them.

    >>> one_of("backend", "sprng", ["spring", "mjx"])
    Traceback (most recent call last):
    ValueError: backend is 'sprng', which is not a valid choice; did you mean 'spring'? \
The choices are ['mjx', 'spring']
    """
    choices = list(choices)
    if given in choices:
        return
    raise ValueError(
        f"{argument} is {given!r}, which is not a valid choice{nearest(given, choices)} "
        f"The choices are {sorted(choices, key=str)}"
    )


def nearest(given: Any, choices: Iterable[Any]) -> str:
    """`"; did you mean 'x'?"` for a near miss, `"."` otherwise.

    Args:
      given: what was written.
      choices: the valid values.

    Returns:
      A piece of a sentence.
    """
    found = difflib.get_close_matches(str(given), [str(choice) for choice in choices], n=1)
    return f"; did you mean {found[0]!r}?" if found else "."


def replace_fields(config: Any, overrides: dict[str, Any]) -> Any:
    """`dataclasses.replace` that answers an unknown field with the nearest known one.

    Args:
      config: a dataclass instance.
      overrides: new values by field name.

    Returns:
      The changed copy.

    Raises:
      TypeError: a name is no field.
    """
    fields = [field.name for field in dataclasses.fields(config)]
    for name in overrides:
        if name not in fields:
            raise TypeError(
                f"{name!r} is no field of {type(config).__name__}{nearest(name, fields)} "
                f"The fields are {sorted(fields)}"
            )
    return dataclasses.replace(config, **overrides)


def at_least(argument: str, given: Any, minimum: float) -> None:
    """Checks that a number is large enough.

    Args:
      argument: its name.
      given: its value.
      minimum: the smallest valid value.

    Raises:
      ValueError: naming the argument, the value and the minimum.
    """
    if not given >= minimum:
        raise ValueError(f"{argument} is {given!r}, but it has to be at least {minimum}")
