"""What is raised for a file that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxpg import choices


class PretrainedError(ValueError):
    """A file of a pretrained model that is damaged, unknown, or disagrees with itself."""


def one_of(source: Any, key: str, given: Any, accepted: Iterable[Any]) -> None:
    """Checks that a file says one of the things that are known.

    Args:
      source: the file.
      key: of what it says.
      given: what it says.
      accepted: the valid values.

    Raises:
      PretrainedError: naming all of them.
    """
    given = given if given is None or isinstance(given, int) else str(given)[:100]
    try:
        choices.one_of(key, given, accepted)
    except ValueError as error:
        raise PretrainedError(f"{source}: {error}") from None
