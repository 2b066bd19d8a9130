"""Agents learn CartPole, and the gradient audit says which estimators are biased: minutes."""

from __future__ import annotations

import pathlib
import sys
import time

import jax
import numpy as np

import jaxpg_envs
from experiments import figures
from experiments.method_runs import Curve, MethodRun
from jaxpg import diagnostics, estimators, runner
from jaxpg.algorithms import on_policy

OUT = pathlib.Path("runs") / "demo"
SOLVED = 475.0
SIZES = {"full": (8, 244, 1000), "smoke": (2, 4, 100)}
"""Seeds, updates and audited batches."""


def main(size: str = "full", out: pathlib.Path = OUT) -> int:
    """Trains, draws, audits.

    Args:
      size: a name of `SIZES`.
      out: folder of the figures.

    Returns:
      0.
    """
    num_seeds, num_updates, num_batches = SIZES[size]
    out.mkdir(parents=True, exist_ok=True)
    train_cartpole(num_seeds, num_updates, out)
    audit(num_batches, out)
    return 0


def train_cartpole(num_seeds: int, num_updates: int, out: pathlib.Path) -> None:
    """PPO on CartPole for all seeds in one program, and a picture of it."""
    env, env_params = jaxpg_envs.make("CartPole-v1")
    agent = on_policy(
        env,
        env_params,
        estimators.ppo(discount=0.98, trace_decay=0.8, entropy=0.0),
        num_envs=32,
        num_steps=64,
        learning_rate=1e-3,
        anneal_updates=num_updates,
        eval_envs=32,
        eval_deterministic=True,
    )
    steps = num_updates * agent.steps_per_update
    print(
        f"1. PPO on CartPole-v1: {num_seeds} seeds in one program, {steps:,} steps each", flush=True
    )
    result = runner.train(
        agent,
        key=jax.random.key(0),
        num_updates=num_updates,
        num_seeds=num_seeds,
        evaluate_every=max(1, num_updates // 20),
        progress=True,
        label="PPO on CartPole",
    )
    returns = result.evaluations["eval_return"]
    solved = int(np.sum(returns[-1] >= SOLVED))
    print(
        f"   {solved} of {num_seeds} seeds reach a mean return of {SOLVED:.0f} (the best is 500): "
        + ", ".join(f"{value:.0f}" for value in returns[-1])
    )
    print(
        f"   {result.steps_per_second / 1e3:.0f}k environment steps/s, compiled in "
        f"{result.compile_time:.0f} s"
    )
    curve = Curve(result.evaluated * agent.steps_per_update, returns)
    figure = figures.draw(
        {"PPO": MethodRun(values=returns[-1].tolist(), curves={"evaluation return": curve})},
        title=f"CartPole-v1, {num_seeds} seeds",
        metric="evaluation return",
        x_label="environment steps",
        threshold=SOLVED,
    )
    figure.savefig(out / "cartpole.png")
    print(f"   figure: {OUT / 'cartpole.png'}\n", flush=True)


def audit(num_batches: int, out: pathlib.Path) -> None:
    """Bias and variance of the GRPO family against the exact gradient."""
    names = ("rloo", "dr_grpo", "grpo", "dapo", "gspo", "cispo", "reinforce_whitened")
    print(
        f"2. The gradient audit: {len(names)} estimators, {num_batches} batches each, against the "
        f"exact gradient of a token tree",
        flush=True,
    )
    began = time.perf_counter()
    report = diagnostics.audit(
        [estimators.CATALOGUE[name]() for name in names],
        diagnostics.token_tree(vocabulary=3, depth=4, eos=True, num_prompts=3),
        num_batches=num_batches,
    )
    print(report)
    report.plot(out / "audit.png")
    print(f"   {time.perf_counter() - began:.0f} s; figure: {OUT / 'audit.png'}")


if __name__ == "__main__":
    sys.exit(main())
