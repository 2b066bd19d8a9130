"""Agents learn CartPole, estimators are audited, a transformer learns from rewards: minutes."""

from __future__ import annotations

import pathlib
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

import jaxpg_envs
from experiments import figures
from experiments.method_runs import Curve, MethodRun
from experiments.policies import shortly_warmed, small_transformer
from jaxpg import diagnostics, estimators, runner
from jaxpg.algorithms import on_policy, rlvr, warm_start
from jaxpg.generation import generate
from jaxpg.networks import LanguageModel
from jaxpg.types import PyTree
from jaxpg_envs import tokens

OUT = pathlib.Path("runs") / "demo"
SOLVED = 475.0


class Sizes(NamedTuple):
    """How much is done.

    Attributes:
      seeds: of CartPole.
      updates: of CartPole.
      batches: audited.
      language_seeds: of the transformer.
      language_updates: of the transformer.
      warm_start_updates: of its supervised warm start, at most.
    """

    seeds: int
    updates: int
    batches: int
    language_seeds: int
    language_updates: int
    warm_start_updates: int


SIZES = {"full": Sizes(8, 244, 1000, 3, 150, 500), "smoke": Sizes(2, 4, 100, 2, 2, 10)}


def main(size: str = "full", out: pathlib.Path = OUT) -> int:
    """Trains, draws, audits.

    Args:
      size: a name of `SIZES`.
      out: folder of the figures.

    Returns:
      0.
    """
    sizes = SIZES[size]
    out.mkdir(parents=True, exist_ok=True)
    train_cartpole(sizes.seeds, sizes.updates, out)
    audit(sizes.batches, out)
    train_transformer(sizes, out)
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
    print(f"   {time.perf_counter() - began:.0f} s; figure: {OUT / 'audit.png'}\n", flush=True)


def train_transformer(sizes: Sizes, out: pathlib.Path) -> None:
    """GRPO of a small transformer on sums, from imitation of sloppy demonstrations."""
    task = tokens.fork_sum(4, 5, held_out_fraction=0.2)
    task = shortly_warmed(task, sizes.warm_start_updates)
    print(
        f"3. GRPO of a transformer: the sum of 4 digits modulo 5, worked out (S) or guessed (G). "
        f"It imitates sloppy demonstrations, then {sizes.language_seeds} seeds learn from "
        f"the reward of their own answers",
        flush=True,
    )
    model = small_transformer(task)
    base = warm_start(task, model, jax.random.key(0), progress=True)
    agent = rlvr(task, model, estimators.grpo(), params=base, eval_samples=4)
    before = jax.jit(agent.evaluate)(agent.init(jax.random.key(0)), jax.random.key(0))
    result = runner.train(
        agent,
        key=jax.random.key(0),
        num_updates=sizes.language_updates,
        num_seeds=sizes.language_seeds,
        evaluate_every=max(1, sizes.language_updates // 15),
        progress=True,
        label="GRPO",
    )
    success = result.evaluations["eval_success"]
    print(
        f"   success on {task.num_held_out} problems held out: "
        f"{before['eval_success']:.2f} before, "
        + ", ".join(f"{value:.2f}" for value in success[-1])
        + f" after {agent.steps_per_update * sizes.language_updates:,} tokens"
    )
    trained = jax.tree.map(lambda x: x[0], result.policy)
    for name, params in (("before", base), ("after", trained)):
        print(f"   {name}: {'   '.join(answers(task, model, params))}")
    curve = Curve(
        np.concatenate([[0], result.evaluated]),
        np.concatenate([np.broadcast_to(before["eval_success"], success[:1].shape), success]),
    )
    figure = figures.draw(
        {"GRPO": MethodRun(values=success[-1].tolist(), curves={"held-out success": curve})},
        title=f"Sums of 4 digits modulo 5, {sizes.language_seeds} seeds",
        metric="held-out success",
        x_label="updates",
    )
    figure.savefig(out / "grpo.png")
    print(f"   figure: {OUT / 'grpo.png'}")


def answers(task: tokens.TokenTask, model: LanguageModel, params: PyTree) -> list[str]:
    """What the model writes to three held-out prompts."""
    prompts = task.held_out(jax.numpy.arange(3))
    found = generate(
        model,
        params,
        prompts.tokens,
        prompts.mask,
        jax.random.key(0),
        max_new_tokens=task.response_length,
        stop_tokens=task.stop_tokens,
    )
    return tokens.transcripts(task, prompts, found.tokens, found.mask)


if __name__ == "__main__":
    sys.exit(main())
