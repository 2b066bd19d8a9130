"""Weekly sales with seasons and Christmas: profit of learned policies and of forecasters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxpg_envs
from experiments.hdpo_problems import DATA_SEED, GAP, Config
from experiments.method_runs import Context, Curve, MethodRun
from jaxpg import policies, simulation
from jaxpg.algorithms import pathwise
from jaxpg_envs import inventory

LEAD_TIMES = (4, 5, 6)
LONGEST = max(LEAD_TIMES)
TRAIN_WEEKS, TEST_WEEKS, IGNORED = 95, 37, 16
LABEL = f"{GAP} of profit, one-store-retail"


class Retail(NamedTuple):
    """Products of the stand-in series.

    Attributes:
      env: with sixteen weeks of history.
      train: scenarios.
      dev: scenarios.
      test: scenarios.
      forecaster: of the training weeks.
      most: profit for each week and store in the test weeks, had demand been known.
    """

    env: Any
    train: Any
    dev: Any
    test: Any
    forecaster: policies.Forecaster
    most: float


@functools.lru_cache
def retail(num_products: int, forecaster_steps: int) -> Retail:
    """The problem, drawn and its forecaster fitted once."""
    env, params = jaxpg_envs.make("inventory/one-store-retail")
    key = jax.random.key(DATA_SEED)
    sales = inventory.retail_series(key, num_products, num_stores=1)
    all_products = inventory.products(params, num_products)
    train, dev, test = inventory.retail_scenarios(env, all_products, sales)
    forecaster, _ = policies.fit_forecaster(
        jax.random.fold_in(key, 1),
        train.demand.values[:, :, 0],
        train.demand.days[0],
        lead_times=LEAD_TIMES,
        num_steps=forecaster_steps,
    )
    knowing, _ = jaxpg_envs.make("inventory/one-store-retail", foresight=LONGEST + 1)
    oracle = policies.just_in_time(env.network)
    most = -_cost(knowing, oracle, (), test)
    return Retail(env, train, dev, test, forecaster, most)


def method(build: Callable[[Retail], policies.DeterministicPolicy], learning_rate: float | None):
    """A method of the experiment.

    Args:
      build: `(problem) -> policy`.
      learning_rate: of Adam through the simulator; None for what has nothing to learn.

    Returns:
      `(config, seeds, context) -> MethodRun`; values are what is missing to the profit of who
      knows the demand, in percent of it.
    """

    def run(config: Config, seeds: list[int], context: Context) -> MethodRun:
        problem = retail(config.num_products, config.forecaster_steps)
        policy = build(problem)
        if learning_rate is None:
            cost = _cost(problem.env, policy, policy.init(jax.random.key(0)), problem.test)
            return _left(problem, np.full(len(seeds), cost), {})
        agent = pathwise(
            problem.env,
            policy,
            problem.train,
            dev=problem.dev,
            learning_rate=learning_rate,
            batch_size=config.batch_size,
            num_steps=TRAIN_WEEKS,
            num_ignored=IGNORED,
            dev_steps=TEST_WEEKS,
            dev_ignored=IGNORED,
        )
        every = config.num_products // config.batch_size
        updates = max(1, config.retail_steps // every)
        result = context.train(agent, seeds, updates, evaluate_every=None)
        costs = [
            _cost(
                problem.env, policy, jax.tree.map(lambda x, s=s: x[s], result.policy), problem.test
            )
            for s in range(len(seeds))
        ]
        curve = Curve(every * result.updates, _gap(problem, result.metrics["dev_cost"]))
        numbers = {"learning_rate": learning_rate}
        return _left(
            problem, np.array(costs), {LABEL.replace("profit", "dev profit"): curve}, numbers
        )

    return run


def _cost(env: Any, policy: policies.DeterministicPolicy, params: Any, scenarios: Any) -> float:
    return simulation.simulate(
        env,
        jax.tree_util.Partial(policy.apply, params),
        scenarios,
        jax.random.key(0),
        TEST_WEEKS,
        num_ignored=IGNORED,
        block=TEST_WEEKS,
    ).mean


def _gap(problem: Retail, cost: Any) -> Any:
    return 100.0 * (problem.most + cost) / problem.most


def _left(problem: Retail, costs: np.ndarray, curves: dict, numbers: dict | None = None):
    numbers = {"profit": round(float(-costs.mean()), 3), "most": round(problem.most, 3)} | (
        numbers or {}
    )
    return MethodRun(_gap(problem, costs), curves, numbers)
