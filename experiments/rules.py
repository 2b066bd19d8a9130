"""Rules that decide, written before the run, whether a claim showed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from experiments.statistics import describe
from jaxpg.choices import at_least

Values = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a rule says about a run.

    Attributes:
      holds: the claim showed.
      effect: the number that the rule compares, larger is better.
      details: each comparison by name, plain values.
    """

    holds: bool
    effect: float
    details: dict[str, Any]


class Rule(Protocol):
    """What the harness needs of a rule."""

    higher_is_better: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The methods that the rule speaks of."""

    def words(self, metric: str, num_seeds: int) -> str:
        """The rule as a sentence."""

    def judge(self, values: Values) -> Judgement:
        """Applies the rule to one value for each method and seed."""


@dataclasses.dataclass(frozen=True)
class PairedRule:
    """The method beats each baseline on the same seeds.

    The difference of each seed counts in the direction of the claim: positive is better. It holds
    when the mean difference is positive and at least the minimum effect and its bootstrapped 95%
    interval excludes zero, against every baseline.

    Attributes:
      method: name of the method that the claim is about.
      baselines: names of what it is compared with.
      minimum_effect: smallest mean difference that counts, in the metric's unit.
      higher_is_better: direction of the claim.
      relative: divide each difference by the size of the baseline's value.
    """

    method: str
    baselines: tuple[str, ...]
    minimum_effect: float
    higher_is_better: bool = True
    relative: bool = False

    def __post_init__(self):
        """Refuses what could never fail or never hold."""
        if isinstance(self.baselines, str) or not self.baselines:
            raise ValueError(
                f"baselines is {self.baselines!r}, but a tuple of at least one name is needed"
            )
        if self.method in self.baselines:
            raise ValueError(f"baselines {self.baselines!r} hold the method {self.method!r} itself")
        at_least("minimum_effect", self.minimum_effect, 0)

    @property
    def names(self) -> tuple[str, ...]:
        """The method and its baselines."""
        return (self.method, *self.baselines)

    def words(self, metric: str, num_seeds: int) -> str:
        """The rule as a sentence."""
        direction = "more" if self.higher_is_better else "less"
        amount = f"{self.minimum_effect:.3%}" if self.relative else f"{self.minimum_effect:g}"
        amount = amount.replace(".000%", "%")
        against = " and than ".join(self.baselines)
        return (
            f"{self.method} has {direction} {metric} than {against}: the mean difference of "
            f"{num_seeds} paired seeds is at least {amount} and its bootstrapped 95% interval "
            f"excludes 0"
        )

    def judge(self, values: Values) -> Judgement:
        """Applies the rule.

        Args:
          values: `[num_seeds]` by method, in the same order of seeds.

        Returns:
          A `Judgement`; its effect is the smallest mean difference.
        """
        details = {name: describe(self._differences(values, name)) for name in self.baselines}
        effects = [found["mean"] for found in details.values()]
        holds = all(
            found["mean"] > 0 and found["low"] > 0 and found["mean"] >= self.minimum_effect
            for found in details.values()
        )
        return Judgement(holds, float(np.min(effects)), details)

    def _differences(self, values: Values, baseline: str) -> np.ndarray:
        ours, theirs = (np.asarray(values[name], float) for name in (self.method, baseline))
        differences = ours - theirs if self.higher_is_better else theirs - ours
        return differences / np.abs(theirs) if self.relative else differences


@dataclasses.dataclass(frozen=True)
class NotWorseRule:
    """The method is at most a margin worse than the baseline on the same seeds.

    It holds when the bootstrapped 95% interval of the mean paired difference lies above minus the
    margin. A wide interval therefore does not hold.

    Attributes:
      method: name of the method that the claim is about.
      baseline: name of what it is compared with.
      margin: share of the size of the baseline's mean, above 0.
      higher_is_better: direction of the metric.
    """

    method: str
    baseline: str
    margin: float
    higher_is_better: bool = True

    def __post_init__(self):
        """Refuses a margin that is none."""
        if not 0 < self.margin < 1:
            raise ValueError(f"margin is {self.margin!r}, but it has to be a share in (0, 1)")

    @property
    def names(self) -> tuple[str, ...]:
        """The method and its baseline."""
        return (self.method, self.baseline)

    def words(self, metric: str, num_seeds: int) -> str:
        """The rule as a sentence."""
        return (
            f"{self.method} is not worse than {self.baseline} in {metric}: the bootstrapped 95% "
            f"interval of the mean difference of {num_seeds} paired seeds lies above "
            f"-{self.margin:.0%} of the size of {self.baseline}'s mean"
        )

    def judge(self, values: Values) -> Judgement:
        """Applies the rule.

        Args:
          values: `[num_seeds]` by method, in the same order of seeds.

        Returns:
          A `Judgement`; its effect is the mean difference.
        """
        ours, theirs = (np.asarray(values[name], float) for name in self.names)
        found = describe(ours - theirs if self.higher_is_better else theirs - ours)
        holds = found["low"] > -self.margin * abs(float(np.mean(theirs)))
        return Judgement(holds, found["mean"], {self.baseline: found})


@dataclasses.dataclass(frozen=True)
class ThresholdRule:
    """The method reaches a fixed value.

    Attributes:
      method: name of the method that the claim is about.
      threshold: to reach, in the metric's unit.
      share: of the seeds that have to reach it, in (0, 1]; None compares the mean of the seeds.
      higher_is_better: reaching it is being at least as large.
    """

    method: str
    threshold: float
    share: float | None = None
    higher_is_better: bool = True

    def __post_init__(self):
        """Refuses a share that is none."""
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share!r}, but it has to be in (0, 1], or None")

    @property
    def names(self) -> tuple[str, ...]:
        """The method."""
        return (self.method,)

    def words(self, metric: str, num_seeds: int) -> str:
        """The rule as a sentence."""
        bound = "at least" if self.higher_is_better else "at most"
        which = f"the mean of {num_seeds} seeds"
        if self.share is not None:
            which = f"at least {self._needed(num_seeds)} of {num_seeds} seeds"
        return f"{self.method} has {metric} of {bound} {self.threshold:g} in {which}"

    def judge(self, values: Values) -> Judgement:
        """Applies the rule.

        Args:
          values: `[num_seeds]` by method.

        Returns:
          A `Judgement`; its effect is the share of seeds that reach the threshold, or how far
          the mean is beyond it.
        """
        ours = np.asarray(values[self.method], float)
        beyond = ours - self.threshold if self.higher_is_better else self.threshold - ours
        reached = int(np.sum(beyond >= 0))
        details = {"seeds_that_reach_it": reached, "num_seeds": len(ours)}
        if self.share is None:
            effect = float(np.mean(beyond))
            return Judgement(effect >= 0, effect, details)
        return Judgement(reached >= self._needed(len(ours)), reached / len(ours), details)

    def _needed(self, num_seeds: int) -> int:
        # 0.9 * 10 is 9.000000000000002 in some orders of multiplication: not 10 seeds.
        return math.ceil(self.share * num_seeds - 1e-9)


@dataclasses.dataclass(frozen=True)
class NearRule:
    """The mean of a method is near a value that was set beforehand.

    Attributes:
      method: name of the method that the claim is about.
      target: in the metric's unit.
      tolerance: largest distance of the mean of the seeds, in the metric's unit, above 0.
      higher_is_better: of the rules that it is joined with; a distance has no direction.
    """

    method: str
    target: float
    tolerance: float
    higher_is_better: bool = True

    def __post_init__(self):
        """Refuses a tolerance that is none."""
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance!r}, but it has to be above 0")

    @property
    def names(self) -> tuple[str, ...]:
        """The method."""
        return (self.method,)

    def words(self, metric: str, num_seeds: int) -> str:
        """The rule as a sentence."""
        return (
            f"{self.method} has {metric} within {self.tolerance:g} of {self.target:g} in the mean "
            f"of {num_seeds} seeds"
        )

    def judge(self, values: Values) -> Judgement:
        """Applies the rule.

        Args:
          values: `[num_seeds]` by method.

        Returns:
          A `Judgement`; its effect is what is left of the tolerance.
        """
        found = describe(np.asarray(values[self.method], float) - self.target)
        left = self.tolerance - abs(found["mean"])
        # 0.75 - 0.7 is 0.050000000000000044: not beyond 0.05.
        return Judgement(left >= -1e-9, left, {"distance": found})


@dataclasses.dataclass(frozen=True)
class OrderRule:
    """Methods stand in an order on the same seeds, each beyond the one before it.

    Attributes:
      order: names of at least two methods, the smallest values first.
      minimum_step: smallest mean difference of neighbours that counts, in the metric's unit.
      higher_is_better: of the rules that it is joined with; the order says which way it goes.
    """

    order: tuple[str, ...]
    minimum_step: float = 0.0
    higher_is_better: bool = True

    def __post_init__(self):
        """Refuses what is no order."""
        if len(self.order) < 2 or len(set(self.order)) < len(self.order):
            raise ValueError(
                f"order is {self.order!r}, but at least two names are needed, each of them once"
            )
        at_least("minimum_step", self.minimum_step, 0)

    @property
    def names(self) -> tuple[str, ...]:
        """The methods."""
        return self.order

    def words(self, metric: str, num_seeds: int) -> str:
        """The rule as a sentence."""
        return (
            f"{metric} rises from each to the next of {' < '.join(self.order)}: the mean "
            f"difference of {num_seeds} paired seeds is at least {self.minimum_step:g} and its "
            f"bootstrapped 95% interval excludes 0"
        )

    def judge(self, values: Values) -> Judgement:
        """Applies the rule.

        Args:
          values: `[num_seeds]` by method, in the same order of seeds.

        Returns:
          A `Judgement`; its effect is the smallest mean difference of neighbours.
        """
        steps = {
            f"{less} < {more}": PairedRule(more, (less,), self.minimum_step).judge(values)
            for less, more in itertools.pairwise(self.order)
        }
        effects = [step.effect for step in steps.values()]
        holds = all(step.holds for step in steps.values())
        details = {name: next(iter(step.details.values())) for name, step in steps.items()}
        return Judgement(holds, float(np.min(effects)), details)


@dataclasses.dataclass(frozen=True)
class AllOf:
    """Several rules that have to hold together.

    Attributes:
      rules: in one direction; the effect is the first one's.
    """

    rules: tuple[Rule, ...]

    def __post_init__(self):
        """Refuses rules of two directions: the metric has one."""
        if len({rule.higher_is_better for rule in self.rules}) != 1:
            raise ValueError(
                f"rules {self.rules!r} disagree on higher_is_better, but the metric is one"
            )

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric."""
        return self.rules[0].higher_is_better

    @property
    def names(self) -> tuple[str, ...]:
        """The methods of all rules."""
        return tuple(dict.fromkeys(name for rule in self.rules for name in rule.names))

    def words(self, metric: str, num_seeds: int) -> str:
        """The rules as one sentence."""
        return "; and ".join(rule.words(metric, num_seeds) for rule in self.rules)

    def judge(self, values: Values) -> Judgement:
        """Applies all rules."""
        found = [rule.judge(values) for rule in self.rules]
        details = {
            rule.words("the metric", len(values[rule.names[0]])): judgement.details
            for rule, judgement in zip(self.rules, found, strict=True)
        }
        return Judgement(all(one.holds for one in found), found[0].effect, details)
