"""Gradient steps through inventory simulators against torch, and against the likelihood.

Fixed traces of 50 periods, the gradient through all of them, one step of Adam; the torch simulator
is written for the benchmark.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxpg_envs
from experiments.bench.measuring import alternate, compare, record
from experiments.bench.peers import Peer
from jaxpg import diagnostics, policies
from jaxpg.algorithms import pathwise
from jaxpg_envs import inventory

HORIZON = 50


class Case(NamedTuple):
    """One comparison.

    Attributes:
      peer: argument of the torch script.
      env: name of the environment.
      options: of the environment.
      policy: `(network) -> policy`.
      batch_size: scenarios of a step.
      num_steps: gradient steps of a measurement.
      options_of_ours: of `pathwise`.
      target: in words.
    """

    peer: str
    env: str
    options: dict[str, Any]
    policy: Callable[[Any], policies.DeterministicPolicy]
    batch_size: int
    num_steps: int
    options_of_ours: dict[str, Any]
    target: str


CASES = {
    "inventory_one_store": Case(
        "one_store",
        "inventory/one-store-lost",
        {"lead_time": 4, "underage_cost": 9.0},
        policies.vanilla_one_store,
        512,
        100,
        {},
        "at least 4, aim 8",
    ),
    "inventory_warehouse": Case(
        "warehouse",
        "inventory/one-warehouse",
        {"num_stores": 5},
        policies.vanilla_warehouse,
        1024,
        3,
        {},
        "at least 1.2",
    ),
    "inventory_graph": Case(
        "graph",
        "inventory/one-warehouse",
        {"num_stores": 5},
        policies.gnn,
        1024,
        3,
        {"remat": True},
        "at least 4",
    ),
}


def ours(case: Case) -> Callable[[], float]:
    """Measures gradient steps per second."""
    env, params = jaxpg_envs.make(case.env, **case.options)
    traces = inventory.scenarios(env, params, jax.random.key(0), case.batch_size, HORIZON)
    agent = pathwise(
        env,
        case.policy(env.network),
        traces,
        num_steps=HORIZON,
        learning_rate=1e-3,
        num_epochs=case.num_steps,
        **case.options_of_ours,
    )
    # The runner's program: scenarios are arguments, the state is donated.
    update = jax.jit(agent.update.func, donate_argnums=1)
    state = [jax.jit(agent.init)(jax.random.key(0))]

    def measure() -> float:
        began = time.perf_counter()
        state[0], metrics = update(*agent.update.args, state[0])
        jax.block_until_ready(metrics)
        return case.num_steps / (time.perf_counter() - began)

    began = time.perf_counter()
    measure()
    measure.compile_seconds = time.perf_counter() - began
    return measure


def variance_ratio(num_batches: int = 2000) -> None:
    """Records `pathwise_variance`: of the score function's estimate over the pathwise one's.

    The same policy, a level with normal noise, on the one-store problem with lost sales; the mean
    of ten times as many pathwise estimates stands for the exact gradient.
    """
    env, params = jaxpg_envs.make("inventory/one-store-lost", lead_time=4, underage_cost=9.0)
    policy = policies.base_stock()
    estimators = diagnostics.gradient_samplers(
        env,
        policy,
        policy.init(jax.random.key(0)),
        params,
        num_steps=HORIZON,
        noise=1.0,
        batch_size=64,
    )
    keys = jax.random.split(jax.random.key(1), 10 * num_batches)
    sample = jax.jit(functools.partial(jax.lax.map, estimators["pathwise"]))
    exact = np.mean(np.asarray(sample(keys), np.float64), axis=0)
    found = diagnostics.compare_gradients(estimators, exact, num_batches=num_batches)
    score = found["score function"]
    record(
        compare(
            "pathwise_variance",
            [(found["pathwise"].variance, score.variance)],
            peer_name="score function, leave-one-out baseline",
            peer_version="-",
            unit="variance of one estimate from 64 episodes",
            target="-",
            lower_is_better=True,
            note=(
                f"base stock with normal noise on the raw level; the score function is "
                f"{score.bias_z:.2f} standard errors from the mean of ten times as many pathwise "
                f"estimates"
            ),
        )
    )


def run(num_pairs: int = 5) -> None:
    """All comparisons."""
    variance_ratio()
    for bench, case in CASES.items():
        peer = Peer("torch_inventory", case.peer, str(case.batch_size), str(case.num_steps))
        measure = ours(case)
        pairs = alternate(measure, peer.measure, num_pairs)
        peer.close()
        record(
            compare(
                bench,
                pairs,
                peer_name="torch, a plain loop",
                peer_version=peer.version,
                unit="gradient steps/s",
                target=case.target,
                compile_seconds=measure.compile_seconds,
            )
        )
