"""The README's tables, from the catalogue and the recorded runs and nothing else."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments import recording
from experiments.catalogue.method_rows import method_rows
from experiments.catalogue.system import STATES
from experiments.catalogue.systems import FAMILIES, SYSTEMS

README = recording.ROOT / "README.md"
BENCHMARKS = pathlib.Path(recording.ROOT, "experiments", "bench", "results")
BLOCKS = ("methods", "systems", "learning", "leaderboard", "benchmarks")

Results = Mapping[str, Mapping[str, Any]]


def recorded_runs(folder: pathlib.Path = recording.RESULTS) -> dict[str, dict[str, Any]]:
    """The recorded summaries.

    Args:
      folder: of the JSON files.

    Returns:
      By system.
    """
    found = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    return {summary["system"]: summary for summary in found}


def recorded_benchmarks(folder: pathlib.Path = BENCHMARKS) -> list[dict[str, Any]]:
    """The recorded benchmarks.

    Args:
      folder: of the JSON files, each one object or a list of them.

    Returns:
      One entry for each benchmark, in the order of the files.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        rows += content if isinstance(content, list) else [content]
    return rows


def rewritten(readme: str, results: Results, benchmarks: Sequence[Mapping[str, Any]]) -> str:
    """A README with its tables made new.

    Args:
      readme: with `<!-- name:begin -->` and `<!-- name:end -->` around each of `BLOCKS`.
      results: see `recorded_runs`.
      benchmarks: see `recorded_benchmarks`.

    Returns:
      The same text around new tables.

    Raises:
      ValueError: a marker is missing, or stands twice.
    """
    tables = {
        "methods": methods_table(),
        "systems": systems_table(results),
        "learning": learning_table(results),
        "leaderboard": leaderboard_table(results.get("leaderboard")),
        "benchmarks": benchmarks_table(benchmarks),
    }
    for name, table in tables.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if readme.count(begin) != 1 or readme.count(end) != 1:
            raise ValueError(f"the README needs {begin} and {end} once each, around a table")
        before, _, rest = readme.partition(begin)
        _, _, after = rest.partition(end)
        readme = f"{before}{begin}\n{table}\n{end}{after}"
    return readme


def methods_table() -> str:
    """One row for each method: what it replaces of an update.

    Returns:
      Markdown.
    """
    lines = _head("method", "what it is", "seams it overrides", "has a state", "lines of code")
    for row in method_rows():
        lines.append(
            _row(
                f"`methods.{row.name}`",
                row.summary,
                _code(row.seams),
                "yes" if row.remembers else "",
                str(row.lines),
            )
        )
    return "\n".join(lines)


def systems_table(results: Results) -> str:
    """One row for each system, under its family.

    Args:
      results: see `recorded_runs`.

    Returns:
      Markdown.
    """
    counts = {state: sum(s.state(results) == state for s in SYSTEMS) for state in STATES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [f"{len(SYSTEMS)} systems: {said}.", ""]
    lines += _head("system", "paper", "implementation", "experiment", "state", "recorded run")
    for family, systems in FAMILIES.items():
        lines.append(_row(f"**{family}**", "", "", "", "", ""))
        for system in systems:
            result = results.get(system.slug)
            lines.append(
                _row(
                    system.title,
                    f"[{system.year}](https://arxiv.org/abs/{system.arxiv})",
                    _code(system.implementation),
                    _code([system.experiment] if system.experiment else []),
                    system.state(results),
                    _methods(result) if result else "",
                )
            )
    return "\n".join(lines)


def learning_table(results: Results) -> str:
    """One row for each recorded run that is about no published system.

    Args:
      results: see `recorded_runs`.

    Returns:
      Markdown.
    """
    slugs = {system.slug for system in SYSTEMS}
    lines = _head("run", "recorded", "rule", "verdict", "device", "wall time")
    for name, result in sorted(results.items()):
        if name not in slugs:
            lines.append(
                _row(
                    f"`experiments.{name.replace('-', '_')}`",
                    _methods(result),
                    result["rule"],
                    result["verdict"],
                    result["device"],
                    f"{result['wall_time_s']:.0f} s",
                )
            )
    return "\n".join(lines)


def leaderboard_table(result: Mapping[str, Any] | None) -> str:
    """One row for each method of the leaderboard, the best first.

    Args:
      result: the recorded leaderboard, or None.

    Returns:
      Markdown.
    """
    if result is None:
        return ""
    audits = [found["numbers"].get("audit") for found in result["methods"].values()]
    settings = list(next(filter(None, audits), {}))
    tasks = result["config"]["tasks"].split(", ")
    lines = _head(
        "method",
        result["metric"],
        *tasks,
        "learning rate",
        *(f"bias, {setting}" for setting in settings),
        *(f"noise, {setting}" for setting in settings),
    )
    best_first = sorted(result["methods"].items(), key=lambda entry: -entry[1]["mean"])
    for name, found in best_first:
        numbers = found["numbers"]
        audit = numbers.get("audit", {})
        lines.append(
            _row(
                name,
                f"{_number(found['mean'])} [{_number(found['low'])}, {_number(found['high'])}]",
                *(_number(numbers[task]) for task in tasks),
                _text(numbers.get("learning_rate")),
                *(
                    _text(audit.get(setting, {}).get(measure))
                    for measure in ("bias", "noise")
                    for setting in settings
                ),
            )
        )
    return "\n".join([*lines, "", " ".join(result["notes"])])


def benchmarks_table(benchmarks: Sequence[Mapping[str, Any]]) -> str:
    """One row for each recorded benchmark.

    Args:
      benchmarks: see `recorded_benchmarks`.

    Returns:
      Markdown. A benchmark without a peer leaves the peer's columns empty.
    """
    lines = _head("benchmark", "jaxpg", "peer", "ratio", "target", "device", "note")
    for row in benchmarks:
        unit = row.get("unit", "")
        name = " ".join(filter(None, (row.get("peer_name"), row.get("peer_version"))))
        peer = "" if row.get("peer") is None else f"{_number(row['peer'])} {unit} ({name})"
        lines.append(
            _row(
                row["bench"],
                f"{_number(row['ours'])} {unit}",
                peer,
                "" if row.get("ratio") is None else f"{row['ratio']:.2f}",
                _text(row.get("target")),
                _text(row.get("device")),
                _text(row.get("note")),
            )
        )
    return "\n".join(lines)


def _methods(result: Mapping[str, Any]) -> str:
    """Mean and interval of every method, in the order of the experiment."""
    said = ", ".join(
        f"{name} {_number(found['mean'])} [{_number(found['low'])}, {_number(found['high'])}]"
        for name, found in result["methods"].items()
    )
    return f"{result['metric']}: {said}; {len(result['seeds'])} seeds"


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _text(value: Any) -> str:
    return "" if value is None else _number(value) if isinstance(value, int | float) else str(value)


def _number(value: float | None) -> str:
    """Four significant digits, thousands apart."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
