"""Policy-gradient methods for language models on the same tasks, samples and tuning.

python -m experiments.leaderboard --budget=cpu

A method appears here by an entry in `METHODS`.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import harness
from experiments.figures import COLOURS, DOTS_PER_INCH, GREY
from experiments.method_runs import Context, Curve, MethodRun
from experiments.policies import shortly_warmed, warm_started
from experiments.rules import PairedRule
from experiments.tuning import Tuning
from jaxpg import diagnostics, estimators, methods
from jaxpg.algorithms import rlvr
from jaxpg.choices import at_least, one_of
from jaxpg.estimator import Estimator
from jaxpg.method import Method, as_method
from jaxpg.types import Algorithm
from jaxpg_envs import tokens

METRIC = "held-out success, mean of the tasks"
MEASURES = {"bias": "audit: bias (sine of the angle)", "noise": "audit: noise / signal"}
AUDITED = {"on policy": 0.0, "stale": 0.3}
"""Distance of the acting from the current logits, in the gradient audit."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes that all methods share.

    Attributes:
      responses: sampled in one update.
      num_updates: of a method that samples once in an update.
      num_minibatches: gradient steps of an update; the last one is on data as many steps old.
      learning_rate: of Adam; tuned.
      evaluations: during training.
      eval_samples: responses to each held-out prompt.
      audit_batches: of the gradient audit.
      tasks: names of `TASKS`, joined by ", ".
      warm_start_updates: at most so many of each phase of supervised training.
    """

    responses: int = 256
    num_updates: int = 100
    num_minibatches: int = 4
    learning_rate: float = 1e-3
    evaluations: int = 10
    eval_samples: int = 16
    audit_batches: int = 4000
    tasks: str = "fork sum, digit sum"
    warm_start_updates: int = 10_000

    def __post_init__(self):
        """Refuses sizes of which nothing comes."""
        for name in ("responses", "num_updates", "num_minibatches", "evaluations"):
            at_least(name, getattr(self, name), 1)
        for name in self.task_names:
            one_of("tasks", name, TASKS)

    @property
    def task_names(self) -> list[str]:
        """The tasks, one by one."""
        return self.tasks.split(", ")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the leaderboard.

    Attributes:
      build: makes the estimator or method.
      group_size: responses to a prompt; the number of prompts follows from the responses.
      rounds: how many times the responses of an update are sampled, for a method that does not
        report it as the metric `rounds`.
    """

    build: Callable[[], Estimator | Method]
    group_size: int = 8
    rounds: float = 1.0


METHODS: Mapping[str, Entry] = {
    "GRPO": Entry(estimators.grpo),
    "Dr. GRPO": Entry(estimators.dr_grpo),
    "DAPO": Entry(functools.partial(methods.dapo, max_rounds=4)),
    "RLOO": Entry(estimators.rloo),
    "GSPO": Entry(functools.partial(estimators.gspo, 0.2, 0.28)),
    "GSPO, published bounds": Entry(estimators.gspo),
    "CISPO": Entry(estimators.cispo),
    "REINFORCE, batch whitening": Entry(estimators.reinforce_whitened, group_size=1),
    "HPT": Entry(methods.hpt),
    # Trials before the first update would be samples that the others do not have.
    "SPO": Entry(functools.partial(methods.spo, offline_trials=0), group_size=1),
    "AEPO": Entry(methods.aepo, rounds=1.25),
    "D3S": Entry(functools.partial(methods.d3s, 100)),
    "CAPO": Entry(methods.capo),
    "PPO with critic": Entry(
        functools.partial(
            estimators.ppo, discount=1.0, trace_decay=1.0, normalise=True, entropy=0.0
        ),
        group_size=1,
    ),
}

TASKS: Mapping[str, Callable[[], tokens.TokenTask]] = {
    "fork sum": functools.partial(tokens.fork_sum, 4, 5, held_out_fraction=0.2),
    "digit sum": functools.partial(tokens.digit_sum, held_out_fraction=0.2),
}


@functools.lru_cache
def task(name: str, warm_start_updates: int) -> tokens.TokenTask:
    """A task by name; the same object every time, so that programs are shared."""
    return shortly_warmed(TASKS[name](), warm_start_updates)


def algorithm(entry: Entry, task_name: str, config: Config) -> Algorithm:
    """What an entry runs on a task."""
    method = as_method(entry.build())
    chosen = task(task_name, config.warm_start_updates)
    model, params = warm_started(chosen, value_head=method.estimator.needs_critic)
    return rlvr(
        chosen,
        model,
        method,
        params=params,
        num_prompts=config.responses // entry.group_size,
        group_size=entry.group_size,
        num_minibatches=config.num_minibatches,
        learning_rate=config.learning_rate,
        eval_samples=config.eval_samples,
        eval_greedy=False,
    )


def trained(entry: Entry) -> Callable[[Config, list[int], Context], MethodRun]:
    """Both tasks, and the gradient audit."""

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        curves, finals = {}, {}
        every = max(1, config.num_updates // config.evaluations)
        for name in config.task_names:
            result = context.train(
                algorithm(entry, name, config),
                seeds,
                config.num_updates,
                part=name.replace(" ", "-"),
                evaluate_every=every,
            )
            curve = _in_responses(result, config, entry.rounds)
            curves[f"held-out success, {name}"] = curve
            finals[name] = curve.y[-1]
        numbers = {"learning_rate": config.learning_rate} | {
            name: round(float(np.mean(values)), 4) for name, values in finals.items()
        }
        numbers["audit"] = audited(entry, config.audit_batches)
        return MethodRun(np.mean(list(finals.values()), axis=0), curves, numbers)

    return method


def base(config: Config, seeds: list[int], context: Context) -> MethodRun:
    """The policy that all of them begin with."""
    del context
    curves, finals = {}, []
    for name in config.task_names:
        agent = algorithm(METHODS["GRPO"], name, config)
        evaluate = jax.jit(agent.evaluate)
        state = jax.jit(lambda key, agent=agent: agent.init(key))(jax.random.key(0))
        found = [float(evaluate(state, jax.random.key(s))["eval_success"]) for s in seeds]
        finals.append(found)
        budget = config.responses * config.num_updates
        curves[f"held-out success, {name}"] = Curve([0, budget], [found, found])
    names = config.task_names
    numbers = {name: round(float(np.mean(f)), 4) for name, f in zip(names, finals, strict=True)}
    return MethodRun(np.mean(finals, axis=0), curves, numbers)


@functools.lru_cache
def audited(entry: Entry, num_batches: int) -> dict[str, dict[str, float]]:
    """Bias and noise of the method's estimator on a token tree, its scale left out.

    Adam makes steps of one size from gradients of any: what counts is how far the mean estimate
    points away from the gradient, and how much it varies for its own length.
    """
    estimator = as_method(entry.build()).estimator
    problem = diagnostics.token_tree(vocabulary=3, depth=4, eos=True, num_prompts=3)
    found = {}
    for name, staleness in AUDITED.items():
        row = diagnostics.audit(
            estimator, problem, num_batches=num_batches, staleness=staleness
        ).rows[0]
        noise = 1.0 / row["signal_to_noise"]
        # What the noise alone turns a mean of so many batches away by is no bias.
        away = max(0.0, 1.0 - row["cosine"] ** 2 - noise / num_batches) ** 0.5
        found[name] = {
            "bias": float(f"{away:.3g}"),
            "noise": float(f"{noise:.3g}"),
            "scale": float(f"{row['scale']:.3g}"),
        }
    return found


def picture(summary: Mapping[str, Any]) -> Figure:
    """Scores, and beside each the bias and the noise that the audit found.

    Args:
      summary: of a run.

    Returns:
      A figure with one line for each method, the best on top.
    """
    scores = {name: found["mean"] for name, found in summary["methods"].items()}
    names = sorted((n for n in METHODS if n in scores), key=scores.get)
    figure = Figure(figsize=(11, 0.5 * len(names) + 1.6), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(1, 1 + len(MEASURES), sharey=True, width_ratios=(1.4, 1, 1))
    figure.suptitle(EXPERIMENT.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    for row, name in enumerate(names):
        found = summary["methods"][name]
        axes[0].plot(
            found["values"], [row] * len(found["values"]), "o", color=COLOURS[0], alpha=0.3
        )
        axes[0].plot([found["low"], found["high"]], [row, row], color=COLOURS[0], linewidth=3)
        axes[0].plot(found["mean"], row, "D", color=COLOURS[0], markersize=7)
    axes[0].axvline(scores["base policy"], color=GREY, linestyle=(0, (4, 3)), linewidth=1)
    axes[0].text(scores["base policy"], len(names) - 0.45, " base policy", fontsize=8, color=GREY)
    axes[0].set_xlabel(summary["metric"])
    axes[0].set_yticks(range(len(names)), names)
    for place, (measure, label) in zip(axes[1:], MEASURES.items(), strict=True):
        for number, setting in enumerate(AUDITED):
            values = [summary["methods"][n]["numbers"]["audit"][setting][measure] for n in names]
            colour = COLOURS[1 + number]
            place.plot(values, range(len(names)), "os"[number], color=colour, label=setting)
        place.set_xlabel(label)
    for place in axes[1:]:
        place.set_xlim(left=0)
    axes[1].legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
    for place in axes:
        place.grid(axis="x", alpha=0.25, linewidth=0.7)
        place.spines[["top", "right"]].set_visible(False)
        place.tick_params(axis="y", length=0)
    return figure


def _in_responses(result, config: Config, each_round: float) -> Curve:
    """Success over responses sampled, up to the budget that all methods have.

    A method that samples several rounds in an update reaches the budget earlier.
    """
    budget = config.responses * config.num_updates
    success = result.evaluations["eval_success"]
    rounds = result.metrics.get("rounds")
    if rounds is None:
        rounds = np.full((config.num_updates, success.shape[1]), each_round)
    if np.all(rounds == 1):
        return Curve(result.evaluated * config.responses, success)
    sampled = config.responses * np.cumsum(rounds, axis=0)[np.asarray(result.evaluated) - 1]
    # Every seed has its own axis; they meet on an even one.
    x = np.linspace(0, budget, config.evaluations + 1)[1:]
    columns = [np.interp(x, sampled[:, s], success[:, s]) for s in range(success.shape[1])]
    return Curve(x, np.stack(columns, axis=1))


def _checked(config: Config) -> None:
    for entry in METHODS.values():
        if config.responses % entry.group_size:
            raise ValueError(
                f"responses is {config.responses}, which groups of {entry.group_size} do not divide"
            )


EXPERIMENT = harness.Experiment(
    system="leaderboard",
    title="The GRPO family at equal samples and equal tuning",
    claim=(
        "Reinforcement learning from verifiable rewards raises the success of a small supervised "
        "transformer on held-out prompts of both tasks."
    ),
    metric=METRIC,
    rule=PairedRule("GRPO", ("base policy",), minimum_effect=0.2),
    methods={**{name: trained(entry) for name, entry in METHODS.items()}, "base policy": base},
    budgets={
        "smoke": Config(
            responses=64,
            num_updates=2,
            num_minibatches=2,
            evaluations=2,
            eval_samples=1,
            audit_batches=20,
            tasks="fork sum",
            warm_start_updates=20,
        ),
        "cpu": Config(),
        "gpu": Config(num_updates=200),
    },
    num_seeds={"smoke": 2, "cpu": 5, "gpu": 10},
    x_label="responses sampled",
    tuning=Tuning({"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3)}, seeds=(1_000, 1_001)),
    check=_checked,
    picture=picture,
    notes=(
        "Fork sum has 500 prompts to train on and 125 held out, digit sum 275 and 68; all methods "
        "begin with one policy for each task, a transformer of 2 layers and width 64 after the "
        "task's supervised warm start.",
        "An update samples 256 responses and takes 4 gradient steps on 64 of them each.",
        "DAPO samples up to 4 rounds in an update, AEPO 1.25; their success is read where they "
        "have sampled as many responses as the others. SPO begins without trials. HPT also sees "
        "demonstrations, those that the base policy comes from. CAPO has its published thresholds.",
        "GSPO's published bounds are for responses of thousands of tokens; the other line has the "
        "bounds of DAPO.",
        "The audit is that of the estimator on a token tree, on policy and with logits at a root "
        "mean square distance of 0.3 from those that acted. Bias: the sine of the angle between "
        "the mean estimate and the gradient. Noise: variance over the mean estimate's square.",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.main(EXPERIMENT))
