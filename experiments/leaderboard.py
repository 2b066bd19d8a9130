"""Policy-gradient methods for language models on the same tasks, samples and tuning.

python -m experiments.leaderboard --budget=cpu

A method appears here by an entry in `METHODS`.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping

import jax
import numpy as np

from experiments import harness
from experiments.method_runs import Context, Curve, MethodRun
from experiments.policies import warm_started
from experiments.rules import PairedRule
from experiments.tuning import Tuning
from jaxpg import diagnostics, estimators, methods
from jaxpg.algorithms import rlvr
from jaxpg.choices import at_least
from jaxpg.estimator import Estimator
from jaxpg.method import Method, as_method
from jaxpg.types import Algorithm
from jaxpg_envs import tokens

METRIC = "held-out success, mean of both tasks"
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
    """

    responses: int = 256
    num_updates: int = 100
    num_minibatches: int = 4
    learning_rate: float = 1e-3
    evaluations: int = 10
    eval_samples: int = 16
    audit_batches: int = 1000

    def __post_init__(self):
        """Refuses sizes of which nothing comes."""
        for name in ("responses", "num_updates", "num_minibatches", "evaluations"):
            at_least(name, getattr(self, name), 1)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the leaderboard.

    Attributes:
      build: makes the estimator or method.
      group_size: responses to a prompt; the number of prompts follows from the responses.
    """

    build: Callable[[], Estimator | Method]
    group_size: int = 8


METHODS: Mapping[str, Entry] = {
    "GRPO": Entry(estimators.grpo),
    "Dr. GRPO": Entry(estimators.dr_grpo),
    "DAPO": Entry(functools.partial(methods.dapo, max_rounds=4)),
    "RLOO": Entry(estimators.rloo),
    "GSPO": Entry(functools.partial(estimators.gspo, 0.2, 0.28)),
    "GSPO, published bounds": Entry(estimators.gspo),
    "CISPO": Entry(estimators.cispo),
    "REINFORCE, batch whitening": Entry(estimators.reinforce_whitened, group_size=1),
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
def task(name: str) -> tokens.TokenTask:
    """A task by name; the same object every time, so that programs are shared."""
    return TASKS[name]()


def algorithm(entry: Entry, task_name: str, config: Config) -> Algorithm:
    """What an entry runs on a task."""
    method = as_method(entry.build())
    model, params = warm_started(task(task_name), value_head=method.estimator.needs_critic)
    return rlvr(
        task(task_name),
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
        for name in TASKS:
            result = context.train(
                algorithm(entry, name, config),
                seeds,
                config.num_updates,
                part=name.replace(" ", "-"),
                evaluate_every=every,
            )
            curve = _in_responses(result, config)
            curves[f"held-out success, {name}"] = curve
            finals[name] = curve.y[-1]
        numbers = {"learning_rate": config.learning_rate} | {
            name: round(float(np.mean(values)), 4) for name, values in finals.items()
        }
        numbers["audit"] = audited(as_method(entry.build()), config.audit_batches)
        return MethodRun(np.mean(list(finals.values()), axis=0), curves, numbers)

    return method


def base(config: Config, seeds: list[int], context: Context) -> MethodRun:
    """The policy that all of them begin with."""
    del context
    curves, finals = {}, []
    for name in TASKS:
        agent = algorithm(METHODS["GRPO"], name, config)
        evaluate = jax.jit(agent.evaluate)
        state = jax.jit(lambda key, agent=agent: agent.init(key))(jax.random.key(0))
        found = [float(evaluate(state, jax.random.key(s))["eval_success"]) for s in seeds]
        finals.append(found)
        budget = config.responses * config.num_updates
        curves[f"held-out success, {name}"] = Curve([0, budget], [found, found])
    numbers = {name: round(float(np.mean(f)), 4) for name, f in zip(TASKS, finals, strict=True)}
    return MethodRun(np.mean(finals, axis=0), curves, numbers)


@functools.lru_cache
def audited(method: Method, num_batches: int) -> dict[str, dict[str, float]]:
    """Bias and variance of the method's estimator on a token tree, over the gradient's norm."""
    problem = diagnostics.token_tree(vocabulary=3, depth=4, eos=True, num_prompts=3)
    found = {}
    for name, staleness in AUDITED.items():
        report = diagnostics.audit(
            method.estimator, problem, num_batches=num_batches, staleness=staleness
        )
        row = report.rows[0]
        found[name] = {
            "relative_bias": float(f"{row['bias'] / report.exact_norm:.3g}"),
            "relative_variance": float(f"{row['variance'] / report.exact_norm**2:.3g}"),
            "cosine": float(f"{row['cosine']:.4g}"),
        }
    return found


def _in_responses(result, config: Config) -> Curve:
    """Success over responses sampled, up to the budget that all methods have.

    A method that samples several rounds in an update reaches the budget earlier.
    """
    budget = config.responses * config.num_updates
    success = result.evaluations["eval_success"]
    rounds = result.metrics.get("rounds")
    if rounds is None:
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
        "smoke": Config(num_updates=4, evaluations=2, eval_samples=1, audit_batches=50),
        "cpu": Config(),
        "gpu": Config(num_updates=200),
    },
    num_seeds={"smoke": 2, "cpu": 5, "gpu": 10},
    x_label="responses sampled",
    tuning=Tuning({"learning_rate": (3e-4, 1e-3, 3e-3)}, seeds=(1_000, 1_001)),
    check=_checked,
    notes=(
        "Fork sum has 500 prompts to train on and 125 held out, digit sum 275 and 68; all methods "
        "begin with one policy for each task, a transformer of 2 layers and width 64 after the "
        "task's supervised warm start.",
        "An update samples 256 responses and takes 4 gradient steps on 64 of them each.",
        "DAPO samples up to 4 rounds in an update; its success is read where it has sampled as "
        "many responses as the others.",
        "GSPO's published bounds are for responses of thousands of tokens; the other line has the "
        "bounds of DAPO.",
        "The audit is that of the estimator on a token tree, on policy and with logits at a root "
        "mean square distance of 0.3; bias is over the gradient's norm, variance over its square.",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.main(EXPERIMENT))
