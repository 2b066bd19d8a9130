"""Gradients through a simulator: a policy learns from the exact derivative of what it costs."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from gymnax.environments.environment import Environment

from jaxpg import parallel, simulation
from jaxpg.choices import at_least, replace_fields
from jaxpg.description import describe
from jaxpg.types import Algorithm, Array, Metrics, PyTree


@dataclasses.dataclass(frozen=True)
class PathwiseConfig:
    """How a policy learns from scenarios.

    Attributes:
      num_steps: T, steps of every scenario; the gradient goes through all of them.
      num_ignored: first steps that reports leave out. The loss counts them.
      batch_size: scenarios of a gradient step, over all devices; divides their number. None takes
        all.
      num_epochs: passes over the scenarios in one update; the parameters are compared on the
        development scenarios after each update.
      learning_rate: of Adam; a number or an optax schedule in gradient steps.
      max_gradient_norm: gradients are scaled down to this global norm; None leaves them.
      dev_steps: steps of the development scenarios; None takes `num_steps`.
      dev_ignored: first steps that do not count there; None takes `num_ignored`.
      test_steps: of the test scenarios; None takes `dev_steps`.
      test_ignored: likewise.
      cut_every: see `simulation.advance`.
      remat: see `simulation.advance`.
      unroll: see `simulation.advance`.
      subset: scenarios that a run trains on, drawn without replacement by its key, so that seeds
        differ in their data; None takes all.
      noise_seed: of what resets and steps draw, the same in every epoch. A scenario that holds its
        demand or its references draws nothing.
    """

    num_steps: int = 50
    num_ignored: int = 0
    batch_size: int | None = None
    num_epochs: int = 1
    learning_rate: Any = 1e-3
    max_gradient_norm: float | None = None
    dev_steps: int | None = None
    dev_ignored: int | None = None
    test_steps: int | None = None
    test_ignored: int | None = None
    cut_every: int = 0
    remat: bool = False
    unroll: int = 1
    subset: int | None = None
    noise_seed: int = 0


@struct.dataclass
class PathwiseState:
    """Everything that a run consists of.

    Attributes:
      params: of the policy, after the last gradient step.
      optimiser: state of the optimiser.
      best_params: the cheapest on the development scenarios so far.
      best_cost: what they cost there.
      chosen: int32, the scenarios that are trained on.
      key: of their order in the epochs to come.
      num_updates: int32, done so far.
    """

    params: PyTree
    optimiser: PyTree
    best_params: PyTree
    best_cost: Array
    chosen: Array
    key: Array
    num_updates: Array


class Sets(NamedTuple):
    """Scenarios, every leaf `[N, ...]`, of three purposes."""

    train: PyTree
    dev: PyTree
    test: PyTree


def pathwise(
    env: Environment,
    policy: Any,
    scenarios: PyTree,
    optimiser: optax.GradientTransformation | None = None,
    *,
    dev: PyTree | None = None,
    test: PyTree | None = None,
    test_policy: Any | None = None,
    config: PathwiseConfig | None = None,
    **overrides: Any,
) -> Algorithm:
    """Back-tests a policy on fixed scenarios and follows the derivative of its cost.

    What happens outside (demand, references, noise) does not depend on the actions, so the cost of
    a scenario is a function of the parameters with a derivative almost everywhere: no likelihood,
    no baseline. One update is `num_epochs` passes over the scenarios in random minibatches, one
    optimiser step for each, and then one look at the development scenarios, where the best
    parameters so far are kept.

    Args:
      env: in gymnax's interface, with `supports_transition_gradients`.
      policy: has `init(key) -> params` and `apply(params, observations) -> actions`, leading axes
        `[N]`, such as those of `jaxpg.policies`.
      scenarios: to train on, parameters of the environment with a leading axis on every leaf.
      optimiser: None takes Adam with the config's rate and gradient clip.
      dev: scenarios that choose the parameters; None takes the training cost of the last epoch.
      test: scenarios of evaluations; None takes `dev`, or `scenarios` without.
      test_policy: what evaluations run with the same parameters (orders rounded, say); None takes
        the policy.
      config: see `PathwiseConfig`.
      **overrides: fields of the config.

    Returns:
      An `Algorithm`; its state is a `PathwiseState`, its policy the best parameters. Metrics:
      `cost` (mean per step of the training scenarios, all steps), `gradient_norm`, `dev_cost` and
      `best_dev_cost`; evaluations give `eval_cost` of the best parameters.

    Raises:
      ValueError: an environment without transition gradients, or sizes that do not fit together.
      TypeError: an unknown field.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    config = replace_fields(config or PathwiseConfig(), overrides)
    if not getattr(env, "supports_transition_gradients", False):
        raise ValueError(
            f"env is {env.name}, which has no gradients through its transitions "
            f"(supports_transition_gradients is False): take algorithms.on_policy"
        )
    num_all = simulation.num_scenarios(scenarios)
    num_train = num_all if config.subset is None else config.subset
    if not 1 <= num_train <= num_all:
        raise ValueError(f"subset is {num_train}, but there are {num_all} scenarios to draw from")
    config = _complete(config, num_train)
    has_dev = dev is not None
    for given in (dev, test):
        if given is not None:
            simulation.num_scenarios(given)
    sets = Sets(scenarios, dev if has_dev else (), _test_set(scenarios, dev, test))
    if optimiser is None:
        clip = config.max_gradient_norm
        optimiser = optax.chain(
            optax.identity() if clip is None else optax.clip_by_global_norm(clip),
            optax.adam(config.learning_rate),
        )
    run = _Run(
        env.with_transition_gradients(),
        policy,
        test_policy or policy,
        optimiser,
        config,
        num_all,
        num_train,
        has_dev,
    )
    return Algorithm(
        init=run.init,
        update=jax.tree_util.Partial(run.update, sets),
        evaluate=jax.tree_util.Partial(run.evaluate, sets),
        policy=lambda state: state.best_params,
        steps_per_update=config.num_epochs * num_train * config.num_steps,
        world_size=config.batch_size,
        description={
            "algorithm": "pathwise",
            "environment": env.name,
            "num_scenarios": num_all,
            **describe(config),
        },
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """The functions of one configuration; scenarios are arguments."""

    env: Environment
    policy: Any
    test_policy: Any
    optimiser: optax.GradientTransformation
    config: PathwiseConfig
    num_all: int
    num_train: int
    has_dev: bool

    def init(self, key: Array) -> PathwiseState:
        key_params, key_chosen, key = jax.random.split(key, 3)
        params = self.policy.init(key_params)
        chosen = jnp.arange(self.num_all)
        if self.num_train < self.num_all:
            chosen = jax.random.permutation(key_chosen, self.num_all)[: self.num_train]
        return PathwiseState(
            params=params,
            optimiser=self.optimiser.init(params),
            best_params=params,
            best_cost=jnp.full((), jnp.inf, float),
            chosen=chosen,
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
        )

    def update(self, sets: Sets, state: PathwiseState) -> tuple[PathwiseState, Metrics]:
        config = self.config
        key, key_order = jax.random.split(state.key)
        keys = _noise_keys(config.noise_seed, self.num_all)
        num_batches = self.num_train // config.batch_size

        def step(carry, index):
            params, optimiser_state = carry
            index = parallel.own_share(index)
            batch, batch_keys = jax.tree.map(lambda x: x[index], (sets.train, keys))
            cost, gradient = jax.value_and_grad(self.cost)(params, batch, batch_keys)
            cost, gradient = parallel.mean((cost, gradient))
            updates, optimiser_state = self.optimiser.update(gradient, optimiser_state, params)
            carry = optax.apply_updates(params, updates), optimiser_state
            return carry, {"cost": cost, "gradient_norm": optax.tree.norm(gradient)}

        def epoch(carry, key):
            order = state.chosen
            if num_batches > 1:
                order = jax.random.permutation(key, order)
            return jax.lax.scan(step, carry, order.reshape(num_batches, config.batch_size))

        carry, metrics = jax.lax.scan(
            epoch,
            (state.params, state.optimiser),
            jax.random.split(key_order, config.num_epochs),
        )
        params, optimiser_state = carry
        if self.has_dev:
            found = self.report(self.policy, params, sets.dev, config.dev_steps, config.dev_ignored)
        else:
            found = jnp.mean(metrics["cost"][-1])
        better = found < state.best_cost
        best_params = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), params, state.best_params
        )
        best_cost = jnp.where(better, found, state.best_cost)
        state = PathwiseState(
            params,
            optimiser_state,
            best_params,
            best_cost,
            state.chosen,
            key,
            state.num_updates + 1,
        )
        means = jax.tree.map(jnp.mean, metrics)
        return state, means | {"dev_cost": found, "best_dev_cost": best_cost}

    def cost(self, params: PyTree, scenarios: PyTree, keys: Array) -> Array:
        """Mean cost per step of a batch."""
        config = self.config
        costs = simulation.play(
            self.env,
            functools.partial(self.policy.apply, params),
            scenarios,
            keys,
            config.num_steps,
            cut_every=config.cut_every,
            remat=config.remat,
            unroll=config.unroll,
        )
        return jnp.mean(costs)

    def report(
        self, policy: Any, params: PyTree, scenarios: PyTree, num_steps: int, num_ignored: int
    ) -> Array:
        """Mean cost per step that counts, over the scenarios of all devices."""
        number = simulation.num_scenarios(scenarios)
        keys = _noise_keys(self.config.noise_seed, number)
        if number % parallel.num_shards() == 0:
            scenarios, keys = parallel.own_share((scenarios, keys))
        decide = functools.partial(policy.apply, params)
        costs = simulation.play(self.env, decide, scenarios, keys, num_steps)
        return parallel.mean(jnp.mean(costs[num_ignored:]))

    def evaluate(self, sets: Sets, state: PathwiseState, key: Array) -> Metrics:
        del key  # Scenarios are fixed.
        config = self.config
        found = self.report(
            self.test_policy, state.best_params, sets.test, config.test_steps, config.test_ignored
        )
        return {"eval_cost": found}


def _noise_keys(seed: int, number: int) -> Array:
    return jax.random.split(jax.random.key(seed), number)


def _test_set(scenarios: PyTree, dev: PyTree | None, test: PyTree | None) -> PyTree:
    if test is not None:
        return test
    return scenarios if dev is None else dev


def _complete(config: PathwiseConfig, num_train: int) -> PathwiseConfig:
    batch_size = num_train if config.batch_size is None else config.batch_size
    for name in ("num_epochs", "unroll"):
        at_least(name, getattr(config, name), 1)
    at_least("batch_size", batch_size, 1)
    if num_train % batch_size:
        raise ValueError(
            f"batch_size is {batch_size}, which does not divide the {num_train} scenarios into "
            f"equal minibatches"
        )
    dev_steps = config.num_steps if config.dev_steps is None else config.dev_steps
    dev_ignored = config.num_ignored if config.dev_ignored is None else config.dev_ignored
    config = dataclasses.replace(
        config,
        batch_size=batch_size,
        dev_steps=dev_steps,
        dev_ignored=dev_ignored,
        test_steps=dev_steps if config.test_steps is None else config.test_steps,
        test_ignored=dev_ignored if config.test_ignored is None else config.test_ignored,
    )
    for name in ("num", "dev", "test"):
        ignored = getattr(config, f"{name}_ignored")
        at_least(f"{name}_ignored", ignored, 0)
        at_least(f"{name}_steps", getattr(config, f"{name}_steps"), ignored + 1)
    at_least("cut_every", config.cut_every, 0)
    if config.cut_every and config.num_steps % config.cut_every:
        raise ValueError(
            f"cut_every is {config.cut_every}, which does not divide num_steps={config.num_steps} "
            f"into equal pieces"
        )
    return config
