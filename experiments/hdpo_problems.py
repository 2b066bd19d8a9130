"""The problems of HDPO in small: settings, scenarios, and the cost that counts as the best."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from gymnax.environments.environment import Environment

import jaxpg_envs
from jaxpg import policies, simulation
from jaxpg.algorithms import pathwise
from jaxpg.choices import at_least
from jaxpg.types import Algorithm, PyTree
from jaxpg_envs import inventory
from jaxpg_envs.inventory import references

GAP = "gap, %"
HORIZON, WARM_UP = 50, 30
DEV_HORIZON, DEV_WARM_UP = 100, 60
DATA_SEED, TEST_SEED = 57, 65


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of all problems.

    Attributes:
      num_train: scenarios to train on.
      num_dev: scenarios that choose the parameters.
      num_test: scenarios of the test, of demand drawn anew.
      test_steps: periods of the test.
      test_ignored: its first periods, not counted.
      batch_size: scenarios of a gradient step.
      one_store_batch: likewise, on the one store with lost sales.
      level_steps: gradient steps of policies made of levels.
      one_store_steps: of the perceptron on one store.
      serial_steps: of the perceptron on the chain.
      transshipment_steps: of what trains on the transshipment problem.
      warehouse_steps: of what trains on few scenarios of one warehouse.
      retail_steps: of what trains on retail series.
      more_samples: the score function has so many times the scenarios in a step.
      score_rate: learning rate of REINFORCE.
      ppo_rate: learning rate of PPO.
      width: of the perceptron on one warehouse.
      few: scenarios of the data-efficiency comparison.
      some: likewise.
      num_stores: of one warehouse.
      num_products: of the retail series.
      forecaster_steps: gradient steps of the forecaster.
    """

    num_train: int = 8192
    num_dev: int = 1024
    num_test: int = 4096
    test_steps: int = 1000
    test_ignored: int = 200
    batch_size: int = 128
    one_store_batch: int = 64
    level_steps: int = 320
    one_store_steps: int = 1536
    serial_steps: int = 12_032
    transshipment_steps: int = 512
    warehouse_steps: int = 400
    retail_steps: int = 800
    more_samples: int = 10
    score_rate: float = 3e-4
    ppo_rate: float = 3e-4
    width: int = 512
    few: int = 16
    some: int = 256
    num_stores: int = 10
    num_products: int = 1024
    forecaster_steps: int = 4000

    def __post_init__(self):
        """Refuses sizes of which nothing comes."""
        for field in dataclasses.fields(self):
            if field.type == "int":
                minimum = 0 if field.name == "test_ignored" else 1
                at_least(field.name, getattr(self, field.name), minimum)
        at_least("test_steps", self.test_steps, self.test_ignored + 1)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A setting by name, and what its cost is compared with.

    Attributes:
      name: of the environment.
      options: of the environment, as pairs.
      reference: `(config) -> cost` per period and store: the optimum, a bound, or a heuristic.
      whole_units: orders are rounded in the test.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    reference: Callable[[Config], float]
    whole_units: bool = False

    @functools.cached_property
    def env(self) -> Environment:
        """The environment; the same object every time, so that programs are shared."""
        return jaxpg_envs.make(self.name, **dict(self.options))[0]

    def sets(self, config: Config) -> dict[str, PyTree]:
        """Scenarios to train on and to choose by."""
        return _drawn(self, config.num_train, config.num_dev)

    def gap(self, cost: Any, config: Config) -> Any:
        """How far a cost is above the reference, in percent of it."""
        reference = self.reference(config)
        return 100.0 * (cost - reference) / reference


@functools.lru_cache
def _drawn(problem: Problem, num_train: int, num_dev: int) -> dict[str, PyTree]:
    env = problem.env
    draw = functools.partial(inventory.scenarios, env, env.default_params)
    key = jax.random.key(DATA_SEED)
    return {
        "scenarios": draw(key, num_train, HORIZON),
        "dev": draw(jax.random.fold_in(key, 1), num_dev, DEV_HORIZON),
    }


@functools.lru_cache
def _serial_optimum(config: Config) -> float:
    del config
    return references.clark_scarf([0.1, 0.2, 0.5, 1.0], 9.0, [2, 4, 3, 4], 5.0, 2.0).cost


@functools.lru_cache
def _transshipment_bound(config: Config) -> float:
    del config
    stores = inventory.store_parameters(3)
    return references.transshipment_bound(1.0, 4.0, 3, 2, stores.mean, stores.std, 0.5).cost


@functools.lru_cache
def _one_store_optimum(config: Config) -> float:
    del config
    return references.lost_sales_optimum(
        mean=5.0, holding_cost=1.0, underage_cost=9.0, lead_time=4
    ).cost


BACKLOGGED = Problem(
    "inventory/one-store-backlogged",
    (("lead_time", 4), ("underage_cost", 9.0)),
    lambda config: references.backlogged_base_stock(1.0, 9.0, 4, 5.0, 1.6).cost,
)
LOST = Problem(
    "inventory/one-store-lost",
    (("lead_time", 4), ("underage_cost", 9.0)),
    _one_store_optimum,
    whole_units=True,
)
SERIAL = Problem(
    "inventory/serial",
    (("store_lead_time", 4), ("underage_cost", 9.0)),
    _serial_optimum,
)
TRANSSHIPMENT = Problem(
    "inventory/transshipment",
    (("num_stores", 3), ("store_lead_time", 2), ("underage_cost", 4.0), ("correlation", 0.5)),
    _transshipment_bound,
)


def warehouse(config: Config) -> Problem:
    """One warehouse; the reference is the best base stock heuristic found through the simulator."""
    return _warehouse(config.num_stores)


@functools.lru_cache
def _warehouse(num_stores: int) -> Problem:
    options = (("num_stores", num_stores),)
    return Problem("inventory/one-warehouse", options, _heuristic)


@functools.lru_cache
def _heuristic(config: Config) -> float:
    problem = warehouse(config)
    policy = policies.network_base_stock(problem.env.network)
    agent = learner(problem, policy, config, learning_rate=0.1, batch_size=config.batch_size)
    steps = steps_per_update(agent, config.batch_size)
    state = jax.jit(agent.init)(jax.random.key(0))
    update = jax.jit(agent.update.func)
    for _ in range(max(1, config.level_steps // steps)):
        state, _ = update(*agent.update.args, state)
    return test_cost(problem, policy, state.best_params, config)


def learner(
    problem: Problem,
    policy: policies.DeterministicPolicy,
    config: Config,
    *,
    learning_rate: float,
    batch_size: int | None = None,
    **options: Any,
) -> Algorithm:
    """Pathwise gradients on a problem's scenarios."""
    return pathwise(
        problem.env,
        policy,
        **problem.sets(config),
        learning_rate=learning_rate,
        batch_size=batch_size or config.batch_size,
        num_steps=HORIZON,
        num_ignored=WARM_UP,
        dev_steps=DEV_HORIZON,
        dev_ignored=DEV_WARM_UP,
        **options,
    )


def steps_per_update(agent: Algorithm, batch_size: int) -> int:
    """Gradient steps of one update."""
    return agent.steps_per_update // (HORIZON * batch_size)


def test_cost(
    problem: Problem, policy: policies.DeterministicPolicy, params: PyTree, config: Config
) -> float:
    """Cost per period and store on demand that nobody has seen; the same for all policies."""
    tested = policies.rounded(policy) if problem.whole_units else policy
    env = problem.env
    return simulation.simulate(
        env,
        jax.tree_util.Partial(tested.apply, params),
        inventory.copies(env.default_params, config.num_test),
        jax.random.key(TEST_SEED),
        config.test_steps,
        num_ignored=config.test_ignored,
    ).mean


test_cost.__test__ = False  # pytest would take it for a test.
