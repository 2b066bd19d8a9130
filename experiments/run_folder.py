"""The folder of a run: whose it is, and what it holds in the end."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from experiments import figures
from experiments.method_runs import MethodRun
from experiments.recording import plain, write_json, write_rows

MARKER = "experiment.json"


class FolderError(ValueError):
    """The folder is no good for this run; the message is one sentence for the user."""


def claim(out: pathlib.Path, identity: Mapping[str, Any], *, resume: bool) -> None:
    """Makes the folder of a new run, or makes sure that it holds the run to resume.

    Args:
      out: the folder.
      identity: what two runs have to agree on, plain values.
      resume: go on with what it holds; an empty folder begins anew.

    Raises:
      FolderError: it holds something else.
    """
    here = plain(identity)
    try:
        holds = any(out.iterdir()) if out.exists() else False
        if not holds:
            write_json(out / MARKER, here)
            return
        if not resume:
            raise FolderError(
                f"--out={out} already holds files: pass --resume to go on with that run, or "
                f"another --out"
            )
        there = json.loads((out / MARKER).read_text())
    except OSError as error:
        raise FolderError(f"--out={out} is no folder of a run ({error.strerror})") from error
    except json.JSONDecodeError as error:
        raise FolderError(f"--out={out} is no folder of a run: its {MARKER} is damaged") from error
    for name, ours, theirs in _differences(here, there):
        raise FolderError(
            f"--out={out} holds another run, its {name} is {theirs!r} and not {ours!r}: pass "
            f"another --out"
        )


def write(
    out: pathlib.Path,
    runs: Mapping[str, MethodRun],
    summary: Mapping[str, Any],
    *,
    title: str,
    x_label: str,
    threshold: float | None = None,
) -> None:
    """Writes `metrics.csv`, `curves.png` and `summary.json`.

    Args:
      out: the folder.
      runs: by method.
      summary: plain values.
      title: of the picture.
      x_label: of the curves.
      threshold: see `figures.draw`.
    """
    metric, seeds = summary["metric"], summary["seeds"]
    names = ("metric", "method", "seed", x_label, "value")
    write_rows(out / "metrics.csv", names, _rows(runs, metric, seeds))
    figure = figures.draw(runs, title=title, metric=metric, x_label=x_label, threshold=threshold)
    figures.save(figure, out / "curves.png")
    write_json(out / "summary.json", summary)


def _rows(runs: Mapping[str, MethodRun], metric: str, seeds: list[int]) -> Iterator[tuple]:
    for name, run in runs.items():
        for label, curve in run.curves.items():
            for x, values in zip(curve.x, curve.y, strict=True):
                for seed, value in zip(seeds, values, strict=True):
                    yield label, name, seed, x, value
        for seed, value in zip(seeds, run.values, strict=True):
            yield f"final {metric}", name, seed, "", value


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[tuple]:
    for name, ours in here.items():
        theirs = there.get(name)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(ours, theirs)
        elif ours != theirs:
            yield name, ours, theirs
