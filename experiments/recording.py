"""What an experiment writes: its summary, its numbers, its place among the recorded runs."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = pathlib.Path(__file__).parent / "results"
PACKAGES = ("jaxpg", "jax", "flax", "optax", "gymnax", "brax", "numpy", "scipy")


def plain(value: Any) -> Any:
    """Plain values for JSON: numbers that are not finite become None.

    Args:
      value: dicts, lists, tuples, arrays, numbers, text.

    Returns:
      The same, plain.

    >>> plain({"a": (np.float32(1.5), float("nan"))})
    {'a': [1.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a file that is either complete or not there.

    Args:
      path: of the file; missing folders are made.
      value: see `plain`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(plain(value), indent=1, allow_nan=False) + "\n")
    temporary.replace(path)


def write_rows(path: pathlib.Path, names: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file.

    Args:
      path: of the file.
      names: of the columns.
      rows: one entry for each column.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def device() -> str:
    """What the run ran on, without the machine's name.

    Returns:
      For example `"cpu (2 cores)"` or `"NVIDIA H100 80GB HBM3"`.
    """
    found = jax.devices()
    if found[0].platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"cpu ({cores} cores)"
    kind = found[0].device_kind
    return kind if len(found) == 1 else f"{len(found)} x {kind}"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on.

    Returns:
      By package; packages that are not installed are left out.
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit that ran.

    Returns:
      Its hash, with `-dirty` if the tree differs from it; recorded runs and the README's tables
      do not count, because recording writes them. None outside of a git repository.
    """
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    changes = _git("status", "--porcelain", "--", ".", ":!experiments/results", ":!README.md")
    return f"{commit}-dirty" if changes else commit


def record(summary: Mapping[str, Any], picture: pathlib.Path | None = None) -> pathlib.Path:
    """Stores a summary among the recorded runs.

    Args:
      summary: of a run.
      picture: of the same run, stored beside it.

    Returns:
      The path of the recorded run.
    """
    path = RESULTS / f"{summary['system']}.json"
    if picture is not None:
        shutil.copyfile(picture, path.with_suffix(".png"))
    write_json(path, summary)
    return path


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
