"""Rules learned on grid worlds under several curricula, and what they reach on levels held out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg_envs
from experiments.method_runs import Context, Curve, MethodRun, folder_name
from jaxpg import estimators, networks, runner
from jaxpg.algorithms import inner_agents, meta, meta_test, on_policy
from jaxpg.algorithms.inner_agents import InnerAgents
from jaxpg.choices import at_least, one_of
from jaxpg.networks.lpg import LearnedRule, learned_rule
from jaxpg.types import Algorithm, Array, PyTree
from jaxpg_envs import gridworld

TINY = gridworld.LevelDistribution(
    sizes=(3, 3), objects=(1, 1), steps=(4, 6), lifetimes=(1, 2), num_walls=1
)
DISTRIBUTIONS = {"tiny": TINY, "small": gridworld.SMALL, "all": gridworld.ALL_SHORT_LIFE}
LARGER = {
    "tiny": dataclasses.replace(TINY, sizes=(4, 4)),
    "small": dataclasses.replace(
        gridworld.SMALL, sizes=(7, 8), objects=(2, 4), steps=(50, 150), lifetimes=(100, 150)
    ),
    "all": dataclasses.replace(
        gridworld.ALL_SHORT_LIFE, sizes=(11, 13), steps=(250, 1000), lifetimes=(500, 500)
    ),
}
HELD_OUT, LARGE, TESTS = (jax.random.key(seed) for seed in (10_001, 10_002, 10_003))
"""Levels held out and the agents on them are the same for all methods and seeds."""
SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of all methods.

    Attributes:
      distribution: of the levels, one of `DISTRIBUTIONS`.
      agents: that live side by side.
      agents_at_once: whose meta-gradient is in memory together.
      workers: environments of each agent.
      steps: of a rollout.
      inner_updates: that a meta-gradient goes through.
      hidden: width of the rule's recurrent layer.
      meta_learning_rate: of Adam.
      meta_steps: of every method.
      buffer: levels that a curriculum remembers.
      held_out: levels of an evaluation.
      evaluations: on the way.
      transfer_updates: of neural networks on other tasks, of 64 environments each.
      handcrafted_updates: of tabular agents on the handcrafted levels.
    """

    distribution: str = "small"
    agents: int = 32
    agents_at_once: int = 32
    workers: int = 16
    steps: int = 20
    inner_updates: int = 5
    hidden: int = 32
    meta_learning_rate: float = 1e-3
    meta_steps: int = 300
    buffer: int = 400
    held_out: int = 64
    evaluations: int = 6
    transfer_updates: int = 400
    handcrafted_updates: int = gridworld.handcrafted.LIFETIME

    def __post_init__(self):
        """Refuses sizes of which nothing comes."""
        one_of("distribution", self.distribution, DISTRIBUTIONS)
        for name in (
            "meta_steps",
            "held_out",
            "evaluations",
            "hidden",
            "transfer_updates",
            "handcrafted_updates",
        ):
            at_least(name, getattr(self, name), 1)


def trained(selection: str, score: str = "algorithmic_regret") -> Callable[..., MethodRun]:
    """A rule that is learned under a curriculum: its share of A2C's return on levels held out.

    Args:
      selection: of `algorithms.meta`.
      score: likewise.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        result = _run(selection, score, config, seeds, context)
        baseline = float(np.mean(references(config)["a2c"]))
        looked = np.asarray(result.evaluations["eval_return"]) / baseline
        each = algorithm(selection, score, config).steps_per_update
        steps = np.asarray(result.evaluations["steps"], float)[:, 0] / each
        curves = {"return, in shares of A2C's": Curve(steps, looked)}
        numbers: dict[str, Any] = {
            "of the optimum": round(float(np.mean(looked[-1]) * baseline / optimum(config)), 3)
        }
        if selection == "rank":
            buffer = jax.tree.map(lambda leaf: leaf[0], result.state.buffer)
            numbers["levels"] = _best_and_first(buffer)
        return MethodRun(looked[-1], curves, numbers)

    return method


def regret(metric: str, of: str) -> Callable[..., MethodRun]:
    """The score of one kind of levels under a curriculum, averaged over meta-training.

    Args:
      metric: of `algorithms.meta`.
      of: name of the method that is looked at, whose run is read where it is there.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        result = _run("rank", "algorithmic_regret", config, seeds, _beside(context, of))
        values = np.asarray(result.metrics[metric], float)
        num_parts = min(10, len(values))
        parts = [_mean_known(part) for part in np.array_split(values, num_parts)]
        steps = [part[-1] + 1 for part in np.array_split(np.arange(len(values)), num_parts)]
        known = ~np.isnan(parts).any(axis=1)
        curve = Curve(np.array(steps)[known], np.array(parts)[known])
        curves = {"algorithmic regret": curve} if known.any() else {}
        return MethodRun(_mean_known(values), curves)

    return method


def larger(selection: str, of: str) -> Callable[..., MethodRun]:
    """The share of A2C's return on levels larger than any of the training.

    Args:
      selection: of `algorithms.meta`.
      of: name of the method whose rule it is, see `regret`.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        rules = _run(selection, "algorithmic_regret", config, seeds, _beside(context, of)).policy
        return MethodRun(_shares(config, rules, large=True))

    return method


def handcrafted(selection: str | None = None, of: str | None = None) -> Callable[..., MethodRun]:
    """The share of the optimal return on the handcrafted levels and mazes, a mean over them.

    Args:
      selection: of `algorithms.meta`.
      of: name of the method whose rule it is, see `regret`; None trains by A2C.

    Returns:
      `(config, seeds, context) -> MethodRun`, with the share on each level among its numbers.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        names = gridworld.handcrafted.names()
        pairs = [gridworld.handcrafted.level(name) for name in names]
        levels, _ = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
        lifetimes = jnp.full(len(names), config.handcrafted_updates)
        env = gridworld.GridWorld()
        agents = inner_agents(env, num_workers=config.workers, num_steps=config.steps)
        keys = jax.vmap(functools.partial(jax.random.fold_in, TESTS))(jnp.asarray(seeds))
        rule, rules = None, None
        if of is not None:
            rule = _rule(config)
            rules = _run(
                selection, "algorithmic_regret", config, seeds, _beside(context, of)
            ).policy

        def test(key: Array, params: PyTree) -> Array:
            return meta_test(agents, levels, lifetimes, key, 64, rule, params)

        found = jax.jit(lambda *inputs: jax.lax.map(lambda x: test(*x), inputs))(keys, rules)
        best = jax.jit(lambda levels: jax.lax.map(gridworld.optimal_return, levels))(levels)
        shares = np.asarray(found / best)
        each = zip(names, np.mean(shares, axis=0).tolist(), strict=True)
        return MethodRun(
            np.mean(shares, axis=1),
            numbers={"shares of the optimum": {name: round(share, 3) for name, share in each}},
        )

    return method


def transfer(name: str, of: str | None = None, **world: Any) -> Callable[..., MethodRun]:
    """The return of a neural network on another task, trained by the rule or by A2C.

    Args:
      name: of the task.
      of: name of the method whose rule it is, see `regret`; None trains by A2C.
      **world: arguments of the task.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        env, params = jaxpg_envs.make(name, **world)
        rule, rules = _rule(config), None
        if of is not None:
            beside = _beside(context, of)
            rules = _run("rank", "algorithmic_regret", config, seeds, beside).policy

        def train(index: int, seed: int) -> float:
            if rules is None:
                estimator, outputs = estimators.a2c(trace_decay=0.95), 1
            else:
                mine = jax.tree.map(lambda leaf: leaf[index], rules)
                estimator, outputs = estimators.learned(rule, mine), rule.num_targets
            agent = on_policy(
                env,
                params,
                estimator,
                networks=networks.actor_critic(
                    env.observation_space(params),
                    env.action_space(params),
                    activation="relu",
                    critic_outputs=outputs,
                ),
                num_envs=64,
                num_steps=config.steps,
                num_epochs=1,
                num_minibatches=1,
                learning_rate=5e-4,
                eval_envs=64,
            )
            updates = config.transfer_updates
            result = context.train(
                agent, [seed], updates, part=f"seed-{seed}", evaluate_every=updates
            )
            return float(np.ravel(result.evaluations["eval_return"])[-1])

        return MethodRun(np.array([train(i, seed) for i, seed in enumerate(seeds)]))

    return method


def untrained(config: Config, seeds: list[int], context: Context) -> MethodRun:
    """The rules before they learn anything."""
    del context
    rules = jax.vmap(_rule(config).init)(jax.vmap(jax.random.key)(jnp.asarray(seeds)))
    return MethodRun(_shares(config, rules, large=False))


@functools.cache
def references(config: Config, large: bool = False) -> dict[str, np.ndarray]:
    """What A2C reaches on levels held out, `[held_out]`.

    Args:
      config: sizes.
      large: the levels that are larger than those of the training.

    Returns:
      `a2c`, and on levels of the training's size `optimal`.
    """
    agents, levels, lifetimes = held_out_levels(config, large)
    test = jax.jit(lambda key: meta_test(agents, levels, lifetimes, key, 64))
    found = {"a2c": np.asarray(test(TESTS))}
    if not large:
        best = jax.jit(lambda levels: jax.lax.map(gridworld.optimal_return, levels))
        found["optimal"] = np.asarray(best(levels))
    return found


def optimum(config: Config) -> float:
    """Mean optimal return of the levels held out."""
    return float(np.mean(references(config)["optimal"]))


def held_out_levels(config: Config, large: bool) -> tuple[InnerAgents, PyTree, Array]:
    """Levels held out, their lifetimes, and agents that can live on them."""
    distribution = (LARGER if large else DISTRIBUTIONS)[config.distribution]
    env = _world(distribution)
    draw = _draw(env, distribution)
    key = LARGE if large else HELD_OUT
    levels, lifetimes = jax.jit(jax.vmap(draw))(jax.random.split(key, config.held_out))
    agents = inner_agents(env, num_workers=config.workers, num_steps=config.steps)
    return agents, levels, lifetimes


def algorithm(selection: str, score: str, config: Config) -> Algorithm:
    """Meta-learning under a curriculum.

    Args:
      selection: of `algorithms.meta`.
      score: likewise.
      config: sizes.

    Returns:
      An `Algorithm`.
    """
    distribution = DISTRIBUTIONS[config.distribution]
    env = _world(distribution)
    _, *held_out = held_out_levels(config, large=False)
    return meta(
        env,
        _draw(env, distribution),
        rule=_rule(config),
        held_out=tuple(held_out),
        num_agents=config.agents,
        agents_at_once=config.agents_at_once,
        num_workers=config.workers,
        num_steps=config.steps,
        num_inner_updates=config.inner_updates,
        meta_learning_rate=config.meta_learning_rate,
        buffer_size=config.buffer,
        selection=selection,
        score=score,
    )


def _run(
    selection: str, score: str, config: Config, seeds: list[int], context: Context
) -> runner.Result:
    every = max(1, config.meta_steps // config.evaluations)
    agent = algorithm(selection, score, config)
    return context.train(agent, seeds, config.meta_steps, evaluate_every=every)


def _beside(context: Context, of: str) -> Context:
    """The folder of another method: a run that is finished is read there, not repeated."""
    out = context.out.parent / folder_name(of)
    return dataclasses.replace(context, out=out, resume=True)


def _shares(config: Config, rules: PyTree, large: bool) -> np.ndarray:
    """Mean return over A2C's, for rules with a leading axis of seeds."""
    agents, levels, lifetimes = held_out_levels(config, large)
    rule = _rule(config)

    def test(params: PyTree) -> Array:
        return meta_test(agents, levels, lifetimes, TESTS, 64, rule, params)

    found = jax.jit(lambda rules: jax.lax.map(test, rules))(rules)
    return np.mean(found, axis=1) / np.mean(references(config, large)["a2c"])


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Over the first axis without NaN; NaN where nothing is known."""
    known = np.isfinite(values)
    counts = np.sum(known, axis=0)
    return np.sum(np.where(known, values, 0.0), axis=0) / np.where(counts > 0, counts, np.nan)


def _rule(config: Config) -> LearnedRule:
    return learned_rule(hidden=config.hidden)


def _world(distribution: gridworld.LevelDistribution) -> gridworld.GridWorld:
    return gridworld.GridWorld(max_size=distribution.sizes[1], max_objects=distribution.objects[1])


def _draw(
    env: gridworld.GridWorld, distribution: gridworld.LevelDistribution
) -> Callable[[Array], tuple[PyTree, Array]]:
    return functools.partial(
        gridworld.sample,
        distribution=distribution,
        max_size=env.max_size,
        max_objects=env.max_objects,
    )


def _best_and_first(buffer: Any) -> dict[str, list[dict[str, Any]]]:
    """Levels of the highest scores, and levels that nobody has scored, as plain values."""
    scores = np.where(np.asarray(buffer.new), -np.inf, np.asarray(buffer.scores))
    best = np.argsort(-scores)[:SHOWN]
    fresh = np.flatnonzero(np.asarray(buffer.new))[:SHOWN]

    def plain(slot: int) -> dict[str, Any]:
        level, lifetime = jax.tree.map(lambda leaf: np.asarray(leaf[slot]).tolist(), buffer.items)
        fields = {field.name: getattr(level, field.name) for field in dataclasses.fields(level)}
        return {"level": fields, "lifetime": lifetime, "score": round(float(scores[slot]), 3)}

    found = {"best": [plain(i) for i in best], "unscored": [plain(i) for i in fresh]}
    for entry in found["unscored"]:
        entry["score"] = None
    return found
