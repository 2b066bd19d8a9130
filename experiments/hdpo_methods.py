"""What learns on the problems of HDPO: through the simulator, or by the likelihood."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hdpo_problems import (
    GAP,
    HORIZON,
    LOST,
    WARM_UP,
    Config,
    Problem,
    learner,
    steps_per_update,
    test_cost,
)
from experiments.method_runs import Context, Curve, MethodRun
from jaxpg import estimators, networks, policies
from jaxpg.algorithms import Policy, on_policy
from jaxpg.algorithms.on_policy import normalised
from jaxpg.estimator import Estimator
from jaxpg.types import PyTree
from jaxpg_envs.action_map import MappedActions

LOOKS = 10
"""At the development scenarios, where a seed has few scenarios of its own."""
TRACE_SEED, TRACE = 7, 60
"""Of the picture's store: the seed of its demand, and its periods."""


def trained(
    problem: Problem | Callable[[Config], Problem],
    policy: Callable[[Problem, Config], policies.DeterministicPolicy],
    num_steps: str,
    learning_rate: float,
    *,
    batch_size: int | str | None = None,
    subset: str | None = None,
    pictured: bool = False,
    **options: Any,
):
    """A method of the experiment: a policy that learns through the simulator.

    Args:
      problem: what it learns on.
      policy: builds the policy.
      num_steps: the field of the config that holds its gradient steps.
      learning_rate: of Adam.
      batch_size: scenarios of a step, or the field of the config that holds them; None takes
        `batch_size`.
      subset: the field of the config that holds how many scenarios each seed has.
      pictured: keep a stretch of one store's life for the picture.
      **options: of `pathwise`.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        chosen = problem(config) if not isinstance(problem, Problem) else problem
        built = policy(chosen, config)
        size, extra = batch_size or config.batch_size, dict(options)
        if isinstance(size, str):
            size = getattr(config, size)
        total = getattr(config, num_steps)
        if subset is not None:
            number = getattr(config, subset)
            size = min(size, number)
            # Some ten looks at the development scenarios, whatever the number of scenarios.
            epochs = max(1, total * size // number // LOOKS)
            extra |= {"subset": number, "num_epochs": epochs}
        agent = learner(
            chosen, built, config, learning_rate=learning_rate, batch_size=size, **extra
        )
        every = steps_per_update(agent, size)
        result = context.train(agent, seeds, max(1, total // every), evaluate_every=None)
        found = [
            test_cost(chosen, built, jax.tree.map(lambda x, s=s: x[s], result.policy), config)
            for s in range(len(seeds))
        ]
        curve = Curve(every * result.updates, chosen.gap(result.metrics["dev_cost"], config))
        numbers = {"cost": round(float(np.mean(found)), 4), "learning_rate": learning_rate}
        if pictured:
            first = jax.tree.map(lambda x: x[0], result.policy)
            costs = chosen.reference(config) * (1.0 + curve.y.mean(axis=1) / 100.0)
            numbers["learning"] = {"steps": curve.x.tolist(), "cost": costs.round(4).tolist()}
            numbers["optimum"] = round(chosen.reference(config), 4)
            numbers["store"] = one_store_life(chosen, built, first)
        label = f"{GAP}, {chosen.name.removeprefix('inventory/')}"
        return MethodRun(chosen.gap(np.array(found), config), {label: curve}, numbers)

    return method


def exact(problem: Problem, cost: Callable[[], float]):
    """A method whose cost is known exactly; the same number for every seed."""

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        del context
        value = cost()
        gaps = np.full(len(seeds), problem.gap(value, config))
        return MethodRun(gaps, numbers={"cost": round(value, 4)})

    return method


def by_likelihood(estimator: Callable[[], Estimator], more: bool, rate: str, **options: Any):
    """The one-store perceptron as the mean of a normal policy, learned without the simulator's
    derivative: the environment contains the head, and `on_policy` does the rest.

    Args:
      estimator: builds it.
      more: whether a step has `more_samples` times the scenarios.
      rate: the field of the config that holds its learning rate.
      **options: of `on_policy`.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        policy = policies.vanilla_one_store(LOST.env.network)
        env = LOST.env
        params = env.default_params.replace(max_steps_in_episode=HORIZON)
        mapped = MappedActions(env, policy.action, policy.num_outputs)
        nets = networks.actor_critic(
            mapped.observation_space(params),
            mapped.action_space(params),
            hidden=(32, 32, 32),
            activation="elu",
            initial_log_std=-1.0,
            actor_keys="stores",
            critic_keys="stores",
            critic=estimator().needs_critic,
        )
        agent = on_policy(
            mapped,
            params,
            estimator(),
            networks=nets,
            num_envs=config.one_store_batch * (config.more_samples if more else 1),
            num_steps=HORIZON,
            learning_rate=getattr(config, rate),
            **options,
        )
        result = context.train(agent, seeds, config.one_store_steps, evaluate_every=None)

        # The mean of the learned policy, as a policy whose parameters are all of it.
        shown = dataclasses.replace(policy, outputs=functools.partial(_mean_outputs, nets))
        found = [
            test_cost(LOST, shown, jax.tree.map(lambda x, s=s: x[s], result.policy), config)
            for s in range(len(seeds))
        ]
        numbers = {
            "cost": round(float(np.mean(found)), 4),
            "learning_rate": getattr(config, rate),
            "periods_of_a_seed": int(agent.steps_per_update * config.one_store_steps),
        }
        return MethodRun(LOST.gap(np.array(found), config), numbers=numbers)

    return method


def _mean_outputs(nets: networks.Networks, learned: Policy, observations: Any) -> jax.Array:
    seen = normalised(learned.observation_statistics, observations)
    no_reset = jnp.zeros(observations["stores"].shape[0], bool)
    _, parameters, _ = nets.step(learned.params, (), seen, no_reset)
    return nets.distribution.mode(parameters)


def one_store_life(
    problem: Problem, policy: policies.DeterministicPolicy, params: PyTree
) -> Mapping[str, list[float]]:
    """Stock, orders and demand of one store, period by period, after a warm-up."""
    env = problem.env
    tested = policies.rounded(policy) if problem.whole_units else policy

    @jax.jit
    def live(key):
        def step(state, key):
            observation = env.observe(key, state, None, env.default_params)
            row = jax.tree.map(lambda x: x[None], observation)
            action = jax.tree.map(lambda x: x[0], tested.apply(params, row))
            _, state, _, _, info = env.step_env(key, state, action, env.default_params)
            seen = (observation["stores"][0, 0], action["stores"][0, 0], info["demand"][0])
            return state, seen

        _, state = env.reset_env(key, env.default_params)
        return jax.lax.scan(step, state, jax.random.split(key, WARM_UP + TRACE))[1]

    names = ("on hand", "ordered", "demand")
    found = live(jax.random.key(TRACE_SEED))
    return {
        name: np.asarray(values, float)[WARM_UP:].round(2).tolist()
        for name, values in zip(names, found, strict=True)
    }


REINFORCE = estimators.reinforce_batch_mean
PPO = functools.partial(estimators.ppo, discount=0.99, trace_decay=0.95, entropy=0.0)
