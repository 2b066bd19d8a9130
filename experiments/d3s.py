"""D3S: few telling rollouts and tokens at first, all at the end, at the same trained tokens.

python -m experiments.d3s --budget=cpu
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import harness
from experiments.figures import COLOURS, DOTS_PER_INCH, GREY
from experiments.method_runs import Context, Curve, MethodRun
from experiments.policies import shortly_warmed, small_mlp, small_transformer, warm_started
from experiments.rules import PairedRule
from experiments.tuning import Tuning
from jaxpg import estimators, methods, runner
from jaxpg.algorithms import rlvr
from jaxpg.choices import at_least
from jaxpg.estimator import Estimator
from jaxpg.method import Method, Seams
from jaxpg.parts import aggregates, stabilisers
from jaxpg.types import Algorithm, Array, Metrics, PyTree, Trajectory
from jaxpg_envs import tokens

SUCCESS, HELD_OUT = "success on the prompts trained on", "success on held-out prompts"
REACHED = 0.69
"""A success; the summary says how many trained tokens each method takes to it."""
FIXED_ROWS, FIXED_TOKENS, ALL = (0.25, 0.25), (0.2, 0.2), (1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes that all methods share.

    Attributes:
      num_updates: of each method, and of the schedule.
      num_prompts: of an update.
      group_size: responses to each.
      trained_tokens: where the rule compares; D3S then trains on less than half of the tokens.
      learning_rate: of Adam; tuned.
      evaluations: during training.
      eval_samples: responses to each prompt of an evaluation.
      warm_start_updates: at most so many of supervised training.
      scratch: a transformer with a scratch pad, on prompts of mixed difficulty.
    """

    num_updates: int = 300
    num_prompts: int = 16
    group_size: int = 8
    trained_tokens: int = 6000
    learning_rate: float = 2e-3
    evaluations: int = 20
    eval_samples: int = 32
    warm_start_updates: int = 10_000
    scratch: bool = False

    def __post_init__(self):
        """Refuses sizes of which nothing comes."""
        for name in ("num_updates", "num_prompts", "group_size", "trained_tokens", "evaluations"):
            at_least(name, getattr(self, name), 1)


def grpo(config: Config) -> Estimator:
    """Group-relative advantages and the mean over tokens, the base of all others."""
    del config
    return estimators.dapo(0.2, 0.2)


def selecting(build: Callable[..., Method] = methods.d3s, **settings: Any):
    """A builder of a method that selects rows or tokens."""
    return lambda config: build(config.num_updates, **settings)


d1s = selecting(rows=FIXED_ROWS, tokens=ALL, within_groups=True)


def pods(config: Config) -> Method:
    """The rollouts of the largest reward variance in each group, standardised among themselves."""
    method = d1s(config)

    def override(seams: Seams) -> Seams:
        ours = method.override(seams)

        def select(rows: Trajectory, state: PyTree) -> Trajectory:
            return method.estimator.score(ours.select(rows, state))

        return ours._replace(select=select)

    return dataclasses.replace(method, name="pods", override=override)


def top_entropy(config: Config) -> Estimator:
    """The fifth of all tokens with the highest entropy."""

    def uncertain(log_ratio: Array, advantage: Array, trajectory: Trajectory) -> Array:
        del log_ratio, advantage
        entropy = trajectory.extra("entropy")
        return stabilisers.top_fraction_weight(entropy, trajectory.mask, FIXED_TOKENS[0])

    return dataclasses.replace(
        grpo(config),
        name="top_entropy",
        stabiliser=stabilisers.product(stabilisers.clip(0.2), uncertain),
        aggregate=aggregates.selected_mean,
    )


METHODS: Mapping[str, Callable[[Config], Estimator | Method]] = {
    "D3S": selecting(),
    "GRPO": grpo,
    "random selection": selecting(methods.random_down_sampling),
    "D2S": selecting(rows=FIXED_ROWS, tokens=FIXED_TOKENS),
    "D1S-Cross": selecting(rows=FIXED_ROWS, tokens=ALL),
    "D1S": d1s,
    "PODS": pods,
    "top 20 % entropy": top_entropy,
}


@functools.lru_cache
def task(scratch: bool, warm_start_updates: int) -> tokens.TokenTask:
    """Sums of three digits; the same object every time, so that programs are shared."""
    settings = {"variable_length": True, "success": (0.02, 0.98)} if scratch else {}
    whole = tokens.digit_sum(held_out_fraction=0.2, **settings)
    return shortly_warmed(whole, warm_start_updates)


def algorithm(method: Estimator | Method, config: Config) -> Algorithm:
    """A method on the task, evaluated on both pools of prompts.

    Args:
      method: of the library, or a baseline of this module.
      config: sizes.

    Returns:
      An `Algorithm`.
    """
    chosen = task(config.scratch, config.warm_start_updates)
    model, params = warm_started(chosen, build=small_transformer if config.scratch else small_mlp)
    inside = dataclasses.replace(chosen, held_out=chosen.prompts, num_held_out=chosen.num_prompts)
    on_held_out, on_trained = (
        rlvr(
            pool,
            model,
            method,
            params=params,
            num_prompts=config.num_prompts,
            group_size=config.group_size,
            learning_rate=config.learning_rate,
            eval_prompts=chosen.num_prompts,
            eval_samples=config.eval_samples,
            eval_greedy=False,
        )
        for pool in (chosen, inside)
    )

    def evaluate(state: PyTree, key: Array) -> Metrics:
        held_out = on_held_out.evaluate(state, key)
        return on_trained.evaluate(state, key) | {
            f"held_out_{name}": value for name, value in held_out.items()
        }

    return on_held_out._replace(evaluate=evaluate)


@functools.lru_cache
def base(config: Config) -> Metrics:
    """An evaluation of the policy that all of them begin with."""
    agent = algorithm(grpo(config), config)
    return jax.jit(lambda key: agent.evaluate(agent.init(key), key))(jax.random.key(0))


def trained(
    build: Callable[[Config], Estimator | Method],
) -> Callable[[Config, list[int], Context], MethodRun]:
    """One method, read where it has trained on as many tokens as the others."""

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        agent = algorithm(build(config), config)
        result = context.train(
            agent,
            seeds,
            config.num_updates,
            evaluate_every=max(1, config.num_updates // config.evaluations),
        )
        start = base(dataclasses.replace(config, learning_rate=0.0))
        updates = np.concatenate([[0], result.evaluated])
        spent = np.cumsum(_trained_tokens(result, agent), axis=0)
        spent = np.concatenate([np.zeros((1, len(seeds))), spent])[updates]
        success, held_out = (
            np.concatenate([np.full((1, len(seeds)), float(start[name])), found])
            for name, found in (
                (name, result.evaluations[name])
                for name in ("eval_success", "held_out_eval_success")
            )
        )
        values = [
            np.interp(config.trained_tokens, spent[:, seed], success[:, seed])
            for seed in range(len(seeds))
        ]
        return MethodRun(
            values,
            {
                SUCCESS: Curve(spent.mean(axis=1), success),
                HELD_OUT: Curve(spent.mean(axis=1), held_out),
            },
            {"learning_rate": config.learning_rate}
            | _numbers(result, updates, spent.mean(axis=1), success.mean(axis=1))
            | {HELD_OUT: _rounded(held_out.mean(axis=1))},
        )

    return method


def _trained_tokens(result: runner.Result, agent: Algorithm) -> np.ndarray:
    """`[num_updates, num_seeds]`, tokens with a gradient; all that the loss does not mask."""
    if "trained_tokens" in result.metrics:
        return result.metrics["trained_tokens"]
    rows = agent.description["num_prompts"] * agent.description["group_size"]
    metrics = result.metrics
    return rows * metrics["response_length"] * (1.0 - metrics["masked_share"])


def _numbers(
    result: runner.Result, updates: np.ndarray, spent: np.ndarray, success: np.ndarray
) -> dict[str, Any]:
    """Both axes, and how many rows had an advantage; means over seeds."""
    # All rows of a group with different rewards have an advantage, and no others.
    useful = result.metrics.get("useful_share", result.metrics["mixed_group_share"])
    tenth = max(1, result.num_updates // 10)
    return {
        "useful rows, first tenth": round(float(np.mean(useful[:tenth])), 4),
        "useful rows, last tenth": round(float(np.mean(useful[-tenth:])), 4),
        f"trained tokens to success {REACHED}": _first(spent, success),
        f"updates to success {REACHED}": _first(updates, success),
        "updates": updates.tolist(),
        "trained tokens": _rounded(spent, 0),
        SUCCESS: _rounded(success),
    }


def _first(x: np.ndarray, success: np.ndarray) -> float | None:
    """Where a line through the evaluations first reaches `REACHED`; None if it never does."""
    above = np.flatnonzero(success >= REACHED)
    if not len(above):
        return None
    last = slice(max(above[0] - 1, 0), above[0] + 1)
    return round(float(np.interp(REACHED, success[last], x[last])), 1)


def _rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    return [round(float(value), digits) for value in values]


def picture(summary: Mapping[str, Any]) -> Figure:
    """Success over trained tokens, and over updates: what is cheap to learn from, and how fast.

    Args:
      summary: of a run.

    Returns:
      A figure.
    """
    figure = Figure(figsize=(12, 4.8), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    figure.suptitle(EXPERIMENT.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    names = [name for name in METHODS if name in summary["methods"]]
    for place, (name, label) in zip(
        axes, (("trained tokens", "tokens trained on"), ("updates", "updates")), strict=True
    ):
        for number, method in enumerate(names):
            found = summary["methods"][method]["numbers"]
            style = {"linewidth": 2.4 if number == 0 else 1.5, "zorder": 9 - number}
            place.plot(
                found[name],
                found[SUCCESS],
                "--" if number >= len(COLOURS) else "-",
                color=COLOURS[number % len(COLOURS)],
                label=method,
                **style,
            )
        place.axhline(REACHED, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
        place.set_xlabel(label)
        place.grid(alpha=0.25, linewidth=0.7)
        place.spines[["top", "right"]].set_visible(False)
    compared = summary["config"]["trained_tokens"]
    axes[0].set_xlim(0, 4 * compared)
    axes[0].axvline(compared, color=GREY, linewidth=1)
    axes[0].set_ylabel(SUCCESS)
    axes[1].legend(fontsize=8, frameon=False, loc="lower right")
    return figure


EXPERIMENT = harness.Experiment(
    system="d3s",
    title="D3S against GRPO at the same number of trained tokens",
    claim=(
        "Learning from the rollouts of the largest advantage variance and their tokens of the "
        "largest |advantage| x entropy, and from more of them as training goes on, takes fewer "
        "trained tokens than GRPO to the same success."
    ),
    metric=f"{SUCCESS} at equal trained tokens",
    rule=PairedRule("D3S", ("GRPO", "random selection"), minimum_effect=0.02),
    methods={name: trained(build) for name, build in METHODS.items()},
    budgets={
        "smoke": Config(
            num_updates=6,
            num_prompts=4,
            trained_tokens=40,
            evaluations=3,
            eval_samples=2,
            warm_start_updates=20,
        ),
        "cpu": Config(),
        "gpu": Config(num_updates=600, trained_tokens=40_000, eval_samples=16, scratch=True),
    },
    num_seeds={"smoke": 2, "cpu": 10, "gpu": 10},
    x_label="trained tokens",
    tuning=Tuning({"learning_rate": (1e-3, 2e-3, 4e-3, 8e-3)}, seeds=(1_000, 1_001)),
    picture=picture,
    notes=(
        "Sums of three digits modulo 7, 275 prompts to train on and 68 held out, answers of three "
        "tokens; the policy is a perceptron of 128 and 64 units after the task's warm start. An "
        "update samples 16 prompts x 8 responses and takes one gradient step.",
        "The rule reads success where 6000 tokens have had a gradient: after 16 updates of GRPO "
        "and about 110 of D3S, whose share of tokens is still below a half. Per update D3S is "
        "behind GRPO; the picture shows both axes. All responses are generated in any case.",
        "D3S and the random selection go from a quarter of the rows and a fifth of their tokens "
        "to all; D2S stays at the start of that, D1S-Cross at its rows. D1S takes 2 rows of each "
        "group; the two of the largest advantage variance in a group are those of the largest "
        "reward variance, so PODS takes the same rows, and standardises their rewards again.",
        "With one gradient step on fresh responses all ratios are 1, and GSPO on single tokens "
        "would be GRPO: it is left out.",
        "Useful rows are those with an advantage other than 0.",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.main(EXPERIMENT))
