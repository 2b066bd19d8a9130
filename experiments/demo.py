"""CartPole, the audit, a transformer that learns from rewards, orders for a store: minutes."""

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
from jaxpg import diagnostics, estimators, policies, runner, simulation
from jaxpg.algorithms import on_policy, pathwise, rlvr, warm_start
from jaxpg.generation import generate
from jaxpg.networks import LanguageModel
from jaxpg.types import PyTree
from jaxpg_envs import inventory, tokens
from jaxpg_envs.inventory import references

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
      inventory_updates: passes of the inventory policy over its scenarios.
      inventory_scenarios: that it learns from.
    """

    seeds: int
    updates: int
    batches: int
    language_seeds: int
    language_updates: int
    warm_start_updates: int
    inventory_updates: int
    inventory_scenarios: int


SIZES = {
    "full": Sizes(8, 244, 1000, 3, 150, 500, 24, 8192),
    "smoke": Sizes(2, 4, 100, 2, 2, 10, 1, 128),
}


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
    train_inventory(sizes, out)
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


def train_inventory(sizes: Sizes, out: pathlib.Path) -> None:
    """A perceptron orders for one store with lost sales, next to the optimum that is known."""
    began = time.perf_counter()
    env, params = jaxpg_envs.make("inventory/one-store-lost", lead_time=4, underage_cost=9.0)
    optimum = references.lost_sales_optimum(
        mean=5.0, holding_cost=1.0, underage_cost=9.0, lead_time=4
    ).cost
    print(
        "\n4. Orders for a store with lost sales, four periods under way: gradients through the "
        "simulator",
        flush=True,
    )
    key = jax.random.key(0)
    policy = policies.vanilla_one_store(env.network)
    agent = pathwise(
        env,
        policy,
        inventory.scenarios(env, params, key, sizes.inventory_scenarios, 50),
        dev=inventory.scenarios(env, params, jax.random.fold_in(key, 1), 1024, 100),
        batch_size=128,
        num_steps=50,
        dev_steps=100,
        dev_ignored=60,
        learning_rate=3e-3,
    )
    result = runner.train(
        agent,
        key=key,
        num_updates=sizes.inventory_updates,
        num_seeds=2,
        progress=True,
        label="orders",
    )
    costs = [
        simulation.simulate(
            env,
            jax.tree_util.Partial(
                policies.rounded(policy).apply, jax.tree.map(lambda x, s=s: x[s], result.policy)
            ),
            inventory.copies(params, 2048),
            jax.random.key(1),
            500,
            num_ignored=100,
        ).mean
        for s in range(2)
    ]
    print(
        "   cost per period on new demand: "
        + ", ".join(f"{cost:.3f}" for cost in costs)
        + f"; the least possible is {optimum:.3f} ({time.perf_counter() - began:.0f} s)"
    )
    curve = Curve(result.updates, result.metrics["dev_cost"])
    figure = figures.draw(
        {"learned orders": MethodRun(values=costs, curves={"cost per period": curve})},
        title="One store with lost sales, and the optimum",
        metric="cost per period",
        x_label="passes over the scenarios",
        threshold=optimum,
    )
    figure.savefig(out / "inventory.png")
    print(f"   figure: {OUT / 'inventory.png'}")


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
