"""A deterministic policy in many scenarios of an environment: costs, and gradients through them.

A scenario is one value of the environment's parameters; a batch of scenarios is the same pytree
with a leading axis on every leaf. Episodes are not reset: all scenarios run for the same number of
steps. The cost of a step is minus its reward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.environment import Environment

from jaxpg.choices import at_least
from jaxpg.types import Array, PyTree

Decide = Callable[[PyTree], PyTree]
"""`(observations [N, ...]) -> actions [N, ...]`."""


OBSERVATIONS, RESETS = 2**31 - 1, 2**31 - 2
"""What a scenario's key is folded with for its observations and its reset; no step has them."""


class Report(NamedTuple):
    """What a policy costs.

    Attributes:
      mean: per step, over all scenarios.
      standard_error: of the mean, from the spread of the scenarios.
      costs: `[N]` float64, mean of each scenario per step.
    """

    mean: float
    standard_error: float
    costs: np.ndarray


def num_scenarios(scenarios: PyTree) -> int:
    """N, the common leading axis of all leaves.

    Args:
      scenarios: parameters of an environment, every leaf `[N, ...]`.

    Returns:
      N, static.

    Raises:
      ValueError: a leaf without that axis.
    """
    shapes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(scenarios)}
    if len(shapes) != 1 or () in shapes:
        found = sorted(str(shape) for shape in shapes)
        raise ValueError(
            f"scenarios have leaves with the leading axes {', '.join(found)}, but every leaf needs "
            f"the same one: that of the scenarios"
        )
    return next(iter(shapes))[0]


def start(env: Environment, scenarios: PyTree, keys: Array) -> PyTree:
    """The first state of each scenario.

    Args:
      env: in gymnax's interface.
      scenarios: every leaf `[N, ...]`.
      keys: `[N]`, what a reset draws.

    Returns:
      States, every leaf `[N, ...]`.
    """
    chex.assert_shape(keys, (num_scenarios(scenarios),))
    return jax.vmap(env.reset_env)(keys, scenarios)[1]


def observe(env: Environment, keys: Array, states: PyTree, scenarios: PyTree) -> PyTree:
    """What a policy sees of each scenario before it decides.

    Args:
      env: in gymnax's interface; its observations do not depend on the action before.
      keys: `[N]`, of what an observation draws.
      states: every leaf `[N, ...]`.
      scenarios: every leaf `[N, ...]`.

    Returns:
      Observations, every leaf `[N, ...]`.
    """
    return jax.vmap(lambda key, state, params: env.observe(key, state, None, params))(
        keys, states, scenarios
    )


def advance(
    env: Environment,
    decide: Decide,
    scenarios: PyTree,
    states: PyTree,
    keys: Array,
    first: Array | int,
    num_steps: int,
    *,
    cut_every: int = 0,
    remat: bool = False,
    unroll: int = 1,
) -> tuple[PyTree, Array]:
    """Runs every scenario for some steps.

    Observations are those of `env.observe`. A step's key is the scenario's, folded with the number
    of the step, so that a run in several pieces is the run in one; observations have a stream of
    their own. With an environment from
    `with_transition_gradients` costs have gradients through all steps.

    Args:
      env: in gymnax's interface.
      decide: the policy.
      scenarios: every leaf `[N, ...]`.
      states: every leaf `[N, ...]`.
      keys: `[N]`, one for each scenario.
      first: number of the first step.
      num_steps: static.
      cut_every: no gradient flows from one piece of so many steps into the one before; 0 cuts
        nowhere. Divides `num_steps`.
      remat: compute each step again in the backward pass, for less memory.
      unroll: steps in one iteration of the loop, static.

    Returns:
      `(states, costs [num_steps, N])`.

    Raises:
      ValueError: `cut_every` does not divide `num_steps`.
    """

    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    observation_keys = fold(keys, OBSERVATIONS)

    def step(states: PyTree, time: Array) -> tuple[PyTree, Array]:
        step_keys = fold(keys, time)
        observations = observe(env, fold(observation_keys, time), states, scenarios)
        actions = decide(observations)
        _, states, reward, _, _ = jax.vmap(env.step_env)(step_keys, states, actions, scenarios)
        return states, -reward

    one = jax.checkpoint(step, prevent_cse=False) if remat else step
    times = first + jnp.arange(num_steps)
    if not cut_every:
        return jax.lax.scan(one, states, times, unroll=unroll)
    at_least("cut_every", cut_every, 1)
    if num_steps % cut_every:
        raise ValueError(
            f"cut_every is {cut_every}, which does not divide num_steps={num_steps} into equal "
            f"pieces"
        )

    def piece(states: PyTree, times: Array) -> tuple[PyTree, Array]:
        return jax.lax.scan(one, jax.lax.stop_gradient(states), times, unroll=unroll)

    states, costs = jax.lax.scan(piece, states, times.reshape(-1, cut_every))
    return states, costs.reshape(num_steps, -1)


def play(
    env: Environment, decide: Decide, scenarios: PyTree, keys: Array, num_steps: int, **options: Any
) -> Array:
    """Runs every scenario from its reset.

    Args:
      env: in gymnax's interface.
      decide: the policy.
      scenarios: every leaf `[N, ...]`.
      keys: `[N]`, one for each scenario: of its reset, its observations and its steps.
      num_steps: static.
      **options: of `advance`.

    Returns:
      Costs, `[num_steps, N]`.
    """
    states = start(env, scenarios, jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, RESETS))
    return advance(env, decide, scenarios, states, keys, 0, num_steps, **options)[1]


def simulate(
    env: Environment,
    decide: Decide | jax.tree_util.Partial,
    scenarios: PyTree,
    key: Array,
    num_steps: int,
    *,
    num_ignored: int = 0,
    block: int = 100,
) -> Report:
    """What a policy costs over a horizon of any length, in blocks of steps.

    A block is one compiled program and holds only its own steps; sums are carried on in float64,
    since float32 loses digits over thousands of steps.

    Args:
      env: in gymnax's interface; scenarios may draw their noise as they go.
      decide: the policy; as a `jax.tree_util.Partial` of its parameters it is compiled once for
        all of them.
      scenarios: every leaf `[N, ...]`.
      key: of the resets and the noise.
      num_steps: of every scenario.
      num_ignored: first steps whose cost is not counted, below `num_steps`.
      block: steps of one call of the program.

    Returns:
      A `Report`.

    Raises:
      ValueError: sizes that do not fit.
    """
    if not isinstance(decide, jax.tree_util.Partial):
        decide = jax.tree_util.Partial(decide)
    number = num_scenarios(scenarios)
    at_least("block", block, 1)
    at_least("num_ignored", num_ignored, 0)
    at_least("num_steps", num_steps, num_ignored + 1)
    key_reset, key_steps = jax.random.split(key)
    states = _start(env, scenarios, jax.random.split(key_reset, number))
    keys = jax.random.split(key_steps, number)
    sums = np.zeros(number)
    for first in range(0, num_steps, block):
        states, block_sums = _block(
            env, block, decide, scenarios, states, keys, first, num_ignored, num_steps
        )
        sums += np.asarray(block_sums, np.float64)
    costs = sums / (num_steps - num_ignored)
    error = float(costs.std(ddof=1) / np.sqrt(number)) if number > 1 else float("nan")
    return Report(float(costs.mean()), error, costs)


_start = jax.jit(start, static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _block(
    env: Environment,
    length: int,
    decide: jax.tree_util.Partial,
    scenarios: PyTree,
    states: PyTree,
    keys: Array,
    first: Array,
    num_ignored: Array,
    num_steps: Array,
) -> tuple[PyTree, Array]:
    """Sum of each scenario's counted costs in one block."""
    states, costs = advance(env, decide, scenarios, states, keys, first, length)
    times = first + jnp.arange(length)
    counted = (times >= num_ignored) & (times < num_steps)
    return states, jnp.sum(jnp.where(counted[:, None], costs, 0.0), axis=0)
