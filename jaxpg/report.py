"""What a run tells while it goes on: progress, CSV, TensorBoard, a user's own callable."""

from __future__ import annotations

import csv
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

HEADLINES = ("eval_return", "episode_return", "success", "loss", "entropy")
"""Metrics that progress shows, the first two of these that a run has."""

SECONDS_BETWEEN_LINES = 5.0


class CsvLog:
    """One row for each logged update and seed; flushed after every chunk."""

    def __init__(self, path: str | pathlib.Path):
        """Opens a file that may exist, to append.

        Args:
          path: of the CSV.
        """
        self.path = pathlib.Path(path)
        self._names: list[str] | None = None

    def read(self, last_update: int) -> list[dict[str, float]]:
        """Reads the rows up to an update and cuts the file after them.

        Args:
          last_update: rows beyond it were logged after the checkpoint that is resumed from.

        Returns:
          The rows kept.
        """
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            self._names = list(reader.fieldnames or [])
            rows = []
            for row in reader:
                # A line cut short by a kill has empty cells.
                if None in row.values() or "" in row.values():
                    continue
                if int(float(row["update"])) <= last_update:
                    rows.append({name: float(value) for name, value in row.items()})
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            self._write(file, rows, header=True)
        temporary.replace(self.path)
        return rows

    def append(self, rows: Sequence[dict[str, float]]) -> None:
        """Adds rows.

        Args:
          rows: all with the same names.
        """
        if not rows:
            return
        header = self._names is None
        if header:
            self._names = list(rows[0])
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            self._write(file, rows, header)

    def _write(self, file: Any, rows: Sequence[dict[str, float]], header: bool) -> None:
        writer = csv.DictWriter(file, self._names or [])
        if header:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _shortest(value) for name, value in row.items()})


class TensorBoardLog:
    """TensorBoard events, one run for each seed."""

    def __init__(self, folder: str | pathlib.Path):
        """Opens event files.

        Args:
          folder: where they go.

        Raises:
          ImportError: tensorboardX is missing; the sentence names the extra.
        """
        try:
            import tensorboardX
        except ImportError as error:
            raise ImportError(
                'tensorboard=True needs tensorboardX: pip install "jaxpg[tensorboard]"'
            ) from error
        self._module = tensorboardX
        self._folder = pathlib.Path(folder)
        self._writers: dict[int, Any] = {}

    def append(self, rows: Sequence[dict[str, float]]) -> None:
        """Adds rows of the CSV's form.

        Args:
          rows: with `update` and `seed`.
        """
        for row in rows:
            seed = int(row["seed"])
            if seed not in self._writers:
                self._writers[seed] = self._module.SummaryWriter(
                    str(self._folder / f"seed_{seed}"), write_to_disk=True
                )
            for name, value in row.items():
                if name not in ("update", "seed", "steps") and np.isfinite(value):
                    self._writers[seed].add_scalar(name, value, int(row["update"]))

    def close(self) -> None:
        """Flushes the event files."""
        for writer in self._writers.values():
            writer.close()


class History:
    """The metrics of a run so far: in memory as columns, on disk as rows."""

    def __init__(
        self,
        num_seeds: int | None,
        steps_per_update: int,
        csv_log: CsvLog | None = None,
        tensorboard: TensorBoardLog | None = None,
    ):
        """Starts empty.

        Args:
          num_seeds: None if there is no axis of seeds.
          steps_per_update: of one seed, for the column `steps`.
          csv_log: where rows go, or None.
          tensorboard: where they go as well, or None.
        """
        self._num_seeds, self._steps_per_update = num_seeds, steps_per_update
        self._csv, self._tensorboard = csv_log, tensorboard
        self._rows: list[dict[str, float]] = []

    def resume(self, last_update: int) -> None:
        """Reads what an earlier call logged.

        Args:
          last_update: of the checkpoint; later rows are dropped.
        """
        if self._csv is not None:
            self._rows = self._csv.read(last_update)

    def append(self, updates: Sequence[int], metrics: Mapping[str, np.ndarray]) -> None:
        """Adds the metrics of some updates.

        Args:
          updates: `[N]`, counted from 1.
          metrics: `[N]` or `[N, num_seeds]` by name.
        """
        new = []
        for index, update in enumerate(updates):
            for seed in range(self._num_seeds or 1):
                place = index if self._num_seeds is None else (index, seed)
                values = {name: value[place] for name, value in metrics.items()}
                steps = int(update) * self._steps_per_update
                new.append({"update": int(update), "seed": seed, "steps": steps, **values})
        self._rows += new
        for log in (self._csv, self._tensorboard):
            if log is not None:
                log.append(new)

    @property
    def numbers(self) -> np.ndarray:
        """`[N]` int, the updates that are there."""
        return np.array([int(row["update"]) for row in self._rows[:: self._num_seeds or 1]], int)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """`[N]` or `[N, num_seeds]` by name; `steps` is one of them."""
        shape = (-1,) if self._num_seeds is None else (-1, self._num_seeds)
        names = [name for name in (self._rows or [{}])[0] if name not in ("update", "seed")]
        return {
            name: np.array(
                [row[name] for row in self._rows], float if name == "steps" else np.float32
            ).reshape(shape)
            for name in names
        }


class ProgressReport:
    """Updates, steps per second, time left and two metrics; plain lines without a terminal."""

    def __init__(self, total: int, done: int, label: str, enabled: bool = True):
        """Starts to report.

        Args:
          total: updates of the whole run.
          done: updates already done, when a run is resumed.
          label: what the run is called.
          enabled: False reports nothing.
        """
        self._enabled = enabled
        self._total, self._label = total, label
        self._began, self._first, self._printed = time.monotonic(), done, 0.0
        self._bar = None
        console = Console(file=sys.stderr)
        if enabled and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=console,
            )
            self._task = self._bar.add_task(label, total=total, completed=done, text="compiling")
            self._bar.start()
        elif enabled:
            print(f"{label}: compiling", file=sys.stderr, flush=True)

    def update(self, done: int, steps_per_second: float, metrics: dict[str, float]) -> None:
        """Reports after a chunk.

        Args:
          done: updates done so far.
          steps_per_second: of the last chunk.
          metrics: means of the last chunk.
        """
        if not self._enabled:
            return
        shown = [name for name in HEADLINES if np.isfinite(metrics.get(name, np.nan))][:2]
        text = "  ".join(f"{name.replace('_', ' ')} {metrics[name]:.4g}" for name in shown)
        if steps_per_second:
            text = f"{_thousands(steps_per_second)} steps/s  {text}"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        if now - self._printed < SECONDS_BETWEEN_LINES and done < self._total:
            return
        self._printed = now
        left = (now - self._began) / max(done - self._first, 1) * (self._total - done)
        print(
            f"{self._label}: {done}/{self._total} updates  {left:.0f} s left  {text}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def _thousands(value: float) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.1f}k"


def _shortest(value: float) -> str:
    """Shortest text that reads back as the same number, the same after it was read back."""
    text = str(value)
    return text.removesuffix(".0")
