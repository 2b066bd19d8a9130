"""The same small grid for a method and its baselines, on seeds that no test uses."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.method_runs import Context, MethodRun


@dataclasses.dataclass(frozen=True)
class Tuning:
    """A grid over fields of the experiment's config.

    Attributes:
      grid: values to try by field.
      seeds: of the trials.
    """

    grid: Mapping[str, Sequence[Any]]
    seeds: tuple[int, ...] = (1_000, 1_001, 1_002)

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Every combination, in order."""
        combinations = itertools.product(*self.grid.values())
        return [dict(zip(self.grid, values, strict=True)) for values in combinations]


def tune(
    tuning: Tuning,
    method: Callable[[Any, list[int], Context], MethodRun],
    config: Any,
    context: Context,
    *,
    higher_is_better: bool,
) -> tuple[Any, list[dict[str, Any]]]:
    """Tries every setting and takes the best mean.

    Args:
      tuning: what to try.
      method: of the experiment.
      config: gives the fields that are not tuned.
      context: of the method; every trial gets a folder under it.
      higher_is_better: direction of the metric.

    Returns:
      `(config with the best setting, trials)`. A trial has `setting`, `seeds`, `values` and
      `mean`; one whose mean is not finite is never the best, unless all are such.
    """
    trials, scores = [], []
    for number, setting in enumerate(tuning.settings):
        tried = dataclasses.replace(config, **setting)
        place = context.under(f"trial {number}")
        run, _ = place.once(
            lambda tried=tried, place=place: method(tried, list(tuning.seeds), place)
        )
        mean = float(np.mean(run.values))
        trials.append(
            {
                "setting": setting,
                "seeds": list(tuning.seeds),
                "values": run.values.tolist(),
                "mean": mean,
            }
        )
        score = mean if higher_is_better else -mean
        scores.append(score if np.isfinite(score) else -np.inf)
    best = trials[int(np.argmax(scores))]["setting"]
    return dataclasses.replace(config, **best), trials
