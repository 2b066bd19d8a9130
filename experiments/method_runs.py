"""What one method of an experiment leaves, and where and how it runs."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.recording import device, write_json
from jaxpg import runner
from jaxpg.types import Algorithm


class Stopped(Exception):
    """A signal ended a run after its checkpoint."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """How something developed.

    Attributes:
      x: `[N]` float, in the experiment's `x_label`.
      y: `[N, num_seeds]` float.
    """

    x: np.ndarray
    y: np.ndarray

    def __post_init__(self):
        """Accepts lists, refuses shapes that do not fit."""
        object.__setattr__(self, "x", np.asarray(self.x, float))
        object.__setattr__(self, "y", np.asarray(self.y, float))
        if self.x.ndim != 1 or self.y.ndim != 2 or len(self.x) != len(self.y):
            raise ValueError(
                f"x has shape {self.x.shape} and y {self.y.shape}, but [N] and [N, num_seeds] "
                f"are needed"
            )


@dataclasses.dataclass(frozen=True)
class MethodRun:
    """What one method left.

    Attributes:
      values: `[num_seeds]` float, the final evaluation in the experiment's metric.
      curves: by the label of their y axis; methods that share a label share a panel.
      numbers: anything else worth keeping in the summary, plain values.
    """

    values: np.ndarray
    curves: Mapping[str, Curve] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Accepts lists."""
        object.__setattr__(self, "values", np.asarray(self.values, float))


@dataclasses.dataclass(frozen=True)
class Context:
    """Where and how one method runs.

    Attributes:
      out: folder of this method.
      label: what progress calls it.
      resume: go on with what the folder holds.
      progress: show progress.
      tensorboard: write TensorBoard events.
    """

    out: pathlib.Path
    label: str
    resume: bool = False
    progress: bool = False
    tensorboard: bool = False

    def train(
        self,
        algorithm: Algorithm,
        seeds: Sequence[int],
        num_updates: int,
        *,
        part: str = "run",
        **overrides: Any,
    ) -> runner.Result:
        """Runs an algorithm for all seeds in one program; a killed run goes on when resumed.

        Args:
          algorithm: any.
          seeds: seed s starts from `jax.random.key(s)`.
          num_updates: of each seed.
          part: names the folder, where a method trains more than once.
          **overrides: fields of `runner.RunConfig`.

        Returns:
          A complete `runner.Result`; every entry has an axis of seeds.

        Raises:
          Stopped: a signal ended the run.
        """
        folder = self.out / part
        config = runner.RunConfig(
            out=folder,
            resume=self.resume and folder.exists(),
            progress=self.progress,
            label=self.label if part == "run" else f"{self.label}, {part}",
            tensorboard=self.tensorboard,
        )
        result = runner.train(
            algorithm,
            key=jnp.stack([jax.random.key(seed) for seed in seeds]),
            num_updates=num_updates,
            config=dataclasses.replace(config, **overrides),
        )
        if not result.complete:
            raise Stopped
        return result

    def under(self, name: str) -> Context:
        """The same for a part of the method, in a folder of its own.

        Args:
          name: of the part.

        Returns:
          A `Context`.
        """
        return dataclasses.replace(
            self, out=self.out / folder_name(name), label=f"{self.label}, {name}"
        )

    def once(self, work: Callable[[], MethodRun]) -> tuple[MethodRun, float]:
        """Does a piece of work, or reads what it left when the run is resumed.

        Args:
          work: trains and evaluates.

        Returns:
          `(what it left, seconds it took)`. Where an interrupted piece went on, the seconds are
          those of the last call, and the numbers say `resumed`; where it was done on another device
          than this process has, they say which.
        """
        path = self.out / "result.json"
        if self.resume and path.exists():
            return _read(path)
        interrupted = self.resume and self.out.exists()
        began = time.perf_counter()
        run = work()
        if interrupted:
            run = dataclasses.replace(run, numbers={**run.numbers, "resumed": True})
        seconds = time.perf_counter() - began
        _write(path, run, seconds)
        return run, seconds


def trained(
    build: Callable[[Any], Algorithm],
    *,
    metric: str = "eval_return",
    label: str = "evaluation return",
) -> Callable[[Any, list[int], Context], MethodRun]:
    """A method that trains an algorithm and evaluates it on the way and at the end.

    Args:
      build: `(config) -> algorithm`; the config has `total_steps`, of one seed, and
        `evaluations`, their number.
      metric: name of the evaluation that counts.
      label: of its axis.

    Returns:
      A method of an experiment.
    """

    def method(config: Any, seeds: list[int], context: Context) -> MethodRun:
        algorithm = build(config)
        num_updates = config.total_steps // algorithm.steps_per_update
        every = max(1, num_updates // config.evaluations)
        result = context.train(algorithm, seeds, num_updates, evaluate_every=every)
        return learning_run(result, metric, label)

    return method


def learning_run(
    result: runner.Result, metric: str = "eval_return", label: str = "evaluation return"
) -> MethodRun:
    """What a training run with evaluations left.

    Args:
      result: of a run with `evaluate_every`.
      metric: name of an evaluation.
      label: of its axis.

    Returns:
      A `MethodRun`: the last evaluation, and its curve over environment steps or tokens.
    """
    values = result.evaluations[metric]
    return MethodRun(
        values=values[-1],
        curves={label: Curve(result.evaluations["steps"][:, 0], values)},
        numbers={"steps_per_second": round(result.steps_per_second)},
    )


def folder_name(name: str) -> str:
    """A method's name as a folder.

    Args:
      name: any text with a letter or a digit in it.

    Returns:
      Lower case, words joined by dashes.

    >>> folder_name("REINFORCE + baseline")
    'reinforce-baseline'
    """
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def _write(path: pathlib.Path, run: MethodRun, seconds: float) -> None:
    curves = {label: {"x": c.x.tolist(), "y": c.y.tolist()} for label, c in run.curves.items()}
    stored = {"values": run.values.tolist(), "curves": curves, "numbers": dict(run.numbers)}
    write_json(path, stored | {"wall_time_s": seconds, "device": device()})


def _read(path: pathlib.Path) -> tuple[MethodRun, float]:
    stored = json.loads(path.read_text())
    curves = {
        label: Curve(_numbers(curve["x"]), _numbers(curve["y"]))
        for label, curve in stored["curves"].items()
    }
    numbers = stored["numbers"]
    if stored.get("device", device()) != device():
        numbers = numbers | {"device": stored["device"]}
    run = MethodRun(_numbers(stored["values"]), curves, numbers)
    return run, stored["wall_time_s"]


def _numbers(values: list) -> np.ndarray:
    """JSON's null is NaN: float dtype reads None so."""
    return np.array(values, dtype=float)
