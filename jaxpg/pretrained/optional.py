"""Packages that only pretrained models need, imported when they are used."""

from __future__ import annotations

import importlib
from types import ModuleType


def package(name: str) -> ModuleType:
    """Imports a package of the extra `[llm]`.

    Args:
      name: of the package.

    Returns:
      The module.

    Raises:
      ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"pretrained models need the package {error.name!r}, which is not installed: "
            f"pip install 'jaxpg[llm]'"
        ) from error
