"""The harness: flags, seeds, statistics, a picture and a verdict for every experiment.

An experiment is a module with one `Experiment` and

    if __name__ == "__main__":
        sys.exit(harness.main(EXPERIMENT))
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from experiments import command_line, figures, recording, run_folder
from experiments.command_line import BUDGETS, Options, UsageError
from experiments.method_runs import Context, MethodRun, Stopped, folder_name
from experiments.rules import Judgement, Rule
from experiments.statistics import describe
from experiments.tuning import Tuning, tune
from jaxpg.checkpoint import CheckpointError
from jaxpg.choices import at_least, one_of
from jaxpg.runner import NonFiniteError

FEWEST_SEEDS = 5
"""Of every budget but smoke."""

Method = Callable[[Any, list[int], Context], MethodRun]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A claim, how it is tested, and what decides.

    Attributes:
      system: slug of the published system, or a name of its own.
      title: of the picture and the table.
      claim: what was claimed, a sentence.
      metric: what is compared, with its unit: the label of an axis.
      rule: decides in code.
      methods: `(config, seeds, context) -> MethodRun` by name; the method first, then baselines.
      budgets: an instance of the experiment's config dataclass for each budget.
      num_seeds: by budget.
      x_label: of the curves, with its unit.
      tuning: a grid that method and baselines go through alike before the test seeds; a smoke
        budget leaves it out.
      check: `(config) -> anything`, builds what can be built without compiling, so that a wrong
        value is refused before.
      notes: sentences that belong to the numbers.
      picture: `(summary) -> figure` of what the curves do not show: `picture.png` beside them, and
        beside the recorded run.
    """

    system: str
    title: str
    claim: str
    metric: str
    rule: Rule
    methods: Mapping[str, Method]
    budgets: Mapping[str, Any]
    num_seeds: Mapping[str, int]
    x_label: str = "environment steps"
    tuning: Tuning | None = None
    check: Callable[[Any], Any] | None = None
    notes: tuple[str, ...] = ()
    picture: Callable[[Mapping[str, Any]], Figure] | None = None

    def __post_init__(self):
        """Refuses an experiment that could not be run or decided."""
        for name in self.rule.names:
            one_of("a method of the rule", name, self.methods)
        for budget in ("smoke", "cpu"):
            one_of("a budget that is needed", budget, self.budgets)
        for budget in self.budgets:
            one_of("budget", budget, BUDGETS)
            one_of("budget", budget, self.num_seeds)
            fewest = 1 if budget == "smoke" else FEWEST_SEEDS
            at_least(f"num_seeds[{budget!r}]", self.num_seeds[budget], fewest)
        folders = {folder_name(name) for name in self.methods}
        if len(folders) != len(self.methods) or not all(folders):
            raise ValueError(
                f"methods {list(self.methods)} need a folder each, but they give {sorted(folders)}"
            )

    @property
    def module(self) -> str:
        """Name of the experiment's module."""
        return self.system.replace("-", "_")


def main(experiment: Experiment, argv: list[str] | None = None) -> int:
    """Runs an experiment from the command line.

    Args:
      experiment: of the module.
      argv: flags; None takes the process's.

    Returns:
      The exit code: 0, 2 for wrong flags, 1 for a run that failed in a way that has a sentence,
      130 for a run that was stopped.
    """
    try:
        options = command_line.parse(
            experiment.module,
            experiment.budgets,
            experiment.num_seeds,
            sys.argv[1:] if argv is None else argv,
        )
        if isinstance(options, str):
            print(f"{experiment.title}\n{experiment.claim}\n\n{options}")
            return 0
        _check(experiment, options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _use_compilation_cache()
    try:
        summary = run(experiment, options)
    except (NonFiniteError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (Stopped, KeyboardInterrupt):
        print("stopped: the same command with --resume goes on from here", file=sys.stderr)
        return 130
    _print_table(experiment, options, summary)
    print(json.dumps(summary, allow_nan=False), flush=True)
    return 0


def run(experiment: Experiment, options: Options) -> dict[str, Any]:
    """Runs all methods on the same seeds, decides, and writes what was found.

    A method that was finished before is not run again when the run is resumed, and one that was
    interrupted goes on from its last checkpoint.

    Args:
      experiment: any.
      options: see `command_line.Options`.

    Returns:
      The summary, plain values.

    Raises:
      Stopped: a signal ended the run; it can be resumed.
    """
    runs, seconds, tuning = {}, {}, {}
    for name, method in experiment.methods.items():
        context = Context(
            out=options.out / folder_name(name),
            label=name,
            resume=options.resume,
            progress=options.progress,
            tensorboard=options.tensorboard,
        )
        config = options.config
        if experiment.tuning is not None and options.budget != "smoke":
            config, tuning[name] = tune(
                experiment.tuning,
                method,
                config,
                context,
                higher_is_better=experiment.rule.higher_is_better,
            )
        runs[name], seconds[name] = context.once(
            lambda method=method, config=config, context=context: method(
                config, list(options.seeds), context
            )
        )
        _check_seeds(name, runs[name], len(options.seeds))
    judgement = experiment.rule.judge({name: run.values for name, run in runs.items()})
    summary = recording.plain(
        _summary(experiment, options, runs, seconds, judgement)
        | ({"tuning": tuning} if tuning else {})
    )
    run_folder.write(
        options.out,
        runs,
        summary,
        title=experiment.title,
        x_label=experiment.x_label,
        threshold=getattr(experiment.rule, "threshold", None),
    )
    picture = None
    if experiment.picture is not None:
        picture = options.out / "picture.png"
        figures.save(experiment.picture(summary), picture)
    if options.record:
        path = recording.record(summary, picture)
        clean = summary["git_commit"] and not summary["git_commit"].endswith("-dirty")
        warning = "" if clean else "; the code differs from its commit, so record it again"
        print(f"recorded as {path.name}{warning}", file=sys.stderr)
    return summary


def _check(experiment: Experiment, options: Options) -> None:
    """Everything that can be wrong with the flags, before anything is compiled."""
    num_seeds = experiment.num_seeds[options.budget]
    if options.record and (options.budget == "smoke" or options.changed):
        what = "--budget=smoke" if options.budget == "smoke" else f"--config.{options.changed[0]}"
        raise UsageError(f"--record stores only runs of a budget as it is written, not of {what}")
    if options.record and len(options.seeds) < num_seeds:
        raise UsageError(
            f"--num_seeds is {len(options.seeds)}, but --record needs at least the {num_seeds} "
            f"seeds that the budget says"
        )
    if experiment.tuning is not None:
        both = sorted(set(options.seeds) & set(experiment.tuning.seeds))
        if both:
            raise UsageError(
                f"--seed and --num_seeds give the seed {both[0]}, which is one of the tuning seeds "
                f"{list(experiment.tuning.seeds)}"
            )
    if experiment.check is not None:
        try:
            experiment.check(options.config)
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(str(error)) from error
    try:
        run_folder.claim(
            options.out,
            {
                "system": experiment.system,
                "budget": options.budget,
                "seeds": options.seeds,
                "config": dataclasses.asdict(options.config),
            },
            resume=options.resume,
        )
    except run_folder.FolderError as error:
        raise UsageError(str(error)) from error


def _check_seeds(name: str, run: MethodRun, num_seeds: int) -> None:
    if run.values.shape != (num_seeds,):
        raise ValueError(
            f"method {name!r} returned values of shape {run.values.shape}, but ({num_seeds},) is "
            f"needed: one for each seed"
        )


def _summary(
    experiment: Experiment,
    options: Options,
    runs: Mapping[str, MethodRun],
    seconds: Mapping[str, float],
    judgement: Judgement,
) -> dict[str, Any]:
    methods = {}
    for name, found in runs.items():
        methods[name] = describe(found.values) | {
            "values": found.values,
            "wall_time_s": round(seconds[name], 1),
            **({"numbers": found.numbers} if found.numbers else {}),
        }
    return {
        "system": experiment.system,
        "claim": experiment.claim,
        "budget": options.budget,
        "seeds": options.seeds,
        "methods": methods,
        "metric": experiment.metric,
        "rule": experiment.rule.words(experiment.metric, len(options.seeds)),
        "effect": judgement.effect,
        "verdict": "reproduced" if judgement.holds else "not reproduced",
        "wall_time_s": round(sum(seconds.values()), 1),
        "device": recording.device(),
        "versions": recording.versions(),
        "git_commit": recording.git_commit(),
        "command": options.command,
        "config": dataclasses.asdict(options.config),
        "notes": list(experiment.notes),
        "comparisons": judgement.details,
    }


def _print_table(experiment: Experiment, options: Options, summary: Mapping[str, Any]) -> None:
    console = Console(file=sys.stderr, width=None if sys.stderr.isatty() else 100)
    table = Table(title=f"{experiment.title} ({options.budget}, {len(options.seeds)} seeds)")
    table.add_column("method")
    for heading in (experiment.metric, "95% interval", "wall time"):
        table.add_column(heading, justify="right")
    for name, found in summary["methods"].items():
        low, mean, high = (_short(found[key]) for key in ("low", "mean", "high"))
        interval = f"[{low}, {high}]".replace("[", r"\[")
        table.add_row(name, mean, interval, f"{found['wall_time_s']:.1f} s")
    console.print(table)
    console.print(f"Rule: {summary['rule']}.", markup=False)
    colour = "green" if summary["verdict"] == "reproduced" else "yellow"
    caveat = " (a smoke run decides nothing)" if options.budget == "smoke" else ""
    console.print(
        f"[{colour}]{summary['verdict']}[/], effect {_short(summary['effect'])}{caveat}; "
        f"see {options.out / 'curves.png'}"
    )


def _short(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.4g}"


def _use_compilation_cache() -> None:
    if jax.config.jax_compilation_cache_dir is None:
        folder = pathlib.Path(recording.ROOT, ".cache", "jax")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
