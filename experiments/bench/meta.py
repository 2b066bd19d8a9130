"""Meta-learning of update rules on grid worlds: speed, memory, and where the time goes.

There is no peer here: every record compares ours with another of ours, which `peer_name` names.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments import groove_runs
from experiments.bench.measuring import alternate, compare, record
from jaxpg import rollout
from jaxpg.types import PyTree

SMALL = groove_runs.Config()
SMALL_STEPS = 40
"""Meta-steps of a measurement: several lives, so that those who finish have their due share."""
REPEATS = 10
"""Of a part of a meta-step in one measurement."""

OFFICIAL = groove_runs.Config(
    distribution="all", agents=512, agents_at_once=4, workers=64, hidden=256, buffer=4000
)
OFFICIAL_FEW, OFFICIAL_PAIRS = 32, 2
MEMORY_AGENTS = (32, 128, 512)
MEMORY_AT_ONCE = 8
NUM_LEVELS, NUM_STEPS = 4096, 100


def run() -> None:
    """Records `meta_steps_<sizes>`, `meta_share_<part>`, `meta_memory` and `gridworld_steps`."""
    rank = _MetaSteps(SMALL, "rank", SMALL_STEPS)
    random = _MetaSteps(SMALL, "random", SMALL_STEPS)
    sizes = f"{SMALL.agents} agents, {SMALL.workers} workers, {SMALL.distribution} levels"
    _record(
        "meta_steps_small",
        alternate(lambda: 1 / rank(), lambda: 1 / random()),
        peer_name="ours on random levels, without antagonists",
        unit="meta-steps/s",
        compile_seconds=rank.compile_seconds,
        note=f"GROOVE's curriculum by rank, {sizes}; 1 less the ratio is the scores' share",
    )
    rollouts, gradient = _parts()
    for name, part, what in (
        ("rollouts", rollouts, "inner rollouts"),
        ("updates", lambda: gradient() - rollouts(), "the meta-gradient less its rollouts"),
        ("antagonists", lambda: rank() - random(), "what scores add to random levels"),
    ):
        _record(
            f"meta_share_{name}",
            alternate(part, rank),
            peer_name="ours, the whole meta-step by rank",
            unit="seconds",
            note=f"the ratio is the share of {what}; {sizes}",
        )
    _official()
    _memory()
    _gridworld()


class _MetaSteps:
    """Seconds of a meta-step, of one run that goes on from call to call."""

    def __init__(self, config: groove_runs.Config, selection: str, num_steps: int):
        agent = groove_runs.algorithm(selection, "algorithmic_regret", config)
        several = functools.partial(jax.lax.scan, lambda s, _: agent.update(s), length=num_steps)
        self.go, self.num_steps = jax.jit(several, donate_argnums=0), num_steps
        self.state = jax.block_until_ready(jax.jit(agent.init)(jax.random.key(0)))
        began = time.perf_counter()
        # Also the first lives, which all begin together.
        self()
        self.compile_seconds = time.perf_counter() - began

    def __call__(self) -> float:
        began = time.perf_counter()
        self.state, _ = jax.block_until_ready(self.go(self.state))
        return (time.perf_counter() - began) / self.num_steps


def _parts() -> tuple[Callable[[], float], Callable[[], float]]:
    """Seconds of the rollouts of a meta-gradient, and of the whole meta-gradient."""
    agents, meta_gradient, init = _functions(SMALL)
    key = jax.random.key(0)
    state = jax.jit(init)(key)
    lives = state.world.rows

    def rollouts(key: jax.Array, agent: PyTree, level: PyTree) -> PyTree:
        def one(agent: PyTree, key: jax.Array) -> PyTree:
            return agents.collect(key, agent, level)[:2]

        return jax.lax.scan(one, agent, jax.random.split(key, SMALL.inner_updates + 1))

    def timed(function: Callable[..., PyTree], *inputs: PyTree) -> float:
        began = time.perf_counter()
        for _ in range(REPEATS):
            found = function(*inputs)
        jax.block_until_ready(found)
        return (time.perf_counter() - began) / REPEATS

    inputs = jax.random.split(key, SMALL.agents), lives.agents, lives.levels
    alone = functools.partial(timed, jax.jit(jax.vmap(rollouts)), *inputs)
    whole = functools.partial(timed, jax.jit(meta_gradient), key, state.rule, lives)
    alone(), whole()
    return alone, whole


def _official() -> None:
    many = _MetaSteps(OFFICIAL, "rank", 1)
    few = _MetaSteps(dataclasses.replace(OFFICIAL, agents=OFFICIAL_FEW), "rank", 1)
    share = OFFICIAL_FEW / OFFICIAL.agents
    _record(
        "meta_steps_official",
        alternate(lambda: 1 / many(), lambda: share / few(), OFFICIAL_PAIRS),
        peer_name=f"ours with {OFFICIAL_FEW} agents, the speed times their share",
        unit="meta-steps/s",
        target="about 1",
        compile_seconds=many.compile_seconds,
        note=(
            f"{OFFICIAL.agents} agents, {OFFICIAL.agents_at_once} at once, {OFFICIAL.workers} "
            f"workers, hidden {OFFICIAL.hidden}; nobody finishes, so antagonists are not in it"
        ),
    )


def _memory() -> None:
    held = {}
    for number in MEMORY_AGENTS:
        sizes = {"agents": number, "agents_at_once": MEMORY_AT_ONCE, "buffer": 2 * number}
        _, meta_gradient, init = _functions(dataclasses.replace(SMALL, **sizes))
        key = jax.random.key(0)
        state = jax.eval_shape(init, key)
        compiled = jax.jit(meta_gradient).lower(key, state.rule, state.world.rows).compile()
        # The agents' own state is in its arguments and results, which are not temporaries.
        held[number] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    few, *_, many = held
    _record(
        "meta_memory",
        [(held[many], held[few])],
        peer_name=f"ours with {few} agents",
        unit="MiB of temporaries",
        target="about 1",
        note=(
            f"compiled meta-gradient, {MEMORY_AT_ONCE} agents at once; their own state is not a "
            f"temporary; {', '.join(f'{n} agents: {size:.4g}' for n, size in held.items())}"
        ),
    )


def _gridworld() -> None:
    many = dataclasses.replace(OFFICIAL, held_out=NUM_LEVELS)
    agents, levels, _ = groove_runs.held_out_levels(many, large=False)
    env = agents.env

    def act(carry: PyTree, observation: PyTree, reset: jax.Array, keys: jax.Array):
        # One draw for all, as a policy's network would act for all of them.
        action = jax.random.randint(keys[0], (NUM_LEVELS,), 0, env.num_actions)
        return carry, action, action, jnp.zeros(NUM_LEVELS)

    @jax.jit
    def go(rows: PyTree, key: jax.Array) -> PyTree:
        rows, steps, _ = rollout.rollout(env, None, act, rows, key, NUM_STEPS)
        # What a learner reads of a rollout.
        return rows, (steps.observation, steps.reward, steps.terminated)

    def speed(rows: PyTree) -> float:
        began = time.perf_counter()
        jax.block_until_ready(go(rows, jax.random.key(1)))
        return NUM_LEVELS * NUM_STEPS / (time.perf_counter() - began)

    start = functools.partial(rollout.start, num_rows=NUM_LEVELS, params_per_row=True)
    same = jax.tree.map(lambda x: jnp.repeat(x[:1], NUM_LEVELS, axis=0), levels)
    rows, same_rows = (start(env, x, jax.random.key(0)) for x in (levels, same))
    speed(rows)
    _record(
        "gridworld_steps",
        alternate(lambda: speed(rows), lambda: speed(same_rows)),
        peer_name=f"ours, one level {NUM_LEVELS} times",
        unit="environment steps/s",
        target="about 1",
        note=f"{NUM_LEVELS} different levels of ALL_SHORT_LIFE, random actions, resets included",
    )


def _functions(config: groove_runs.Config) -> tuple[Any, Callable, Callable]:
    """The agents, `meta_gradient` and `init` of an algorithm by rank."""
    # An algorithm does not show its parts; its functions are methods of what holds them.
    parts = groove_runs.algorithm("rank", "algorithmic_regret", config).update.__self__
    return parts.agents, parts.meta_gradient, parts.init


def _record(bench: str, pairs: list[tuple[float, float]], target: str = "-", **rest: Any) -> None:
    record(compare(bench, pairs, peer_version=f"jax {jax.__version__}", target=target, **rest))
