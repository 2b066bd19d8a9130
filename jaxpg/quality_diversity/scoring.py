"""Scoring: the fitness and the descriptor of solutions, such as policies in an environment.

A scoring function is `(key, genotypes [N, ...], asked [N, D] or None) -> Scores`. On several
devices each calls it with the same key and with its share of the solutions: what it draws for one
of them depends on that one's index over all devices, as with `rollout.row_keys`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.environment import Environment

from jaxpg import rollout
from jaxpg.choices import at_least
from jaxpg.types import Array, PyTree


class EpisodeSteps(NamedTuple):
    """The episode of each solution, `[N, T, ...]`.

    Attributes:
      observation: pytree, before each action.
      action: float, in [-1, 1].
      reward: float.
      terminated: bool, nothing follows.
      truncated: bool, the episode was cut; never True together with `terminated`.
      next_observation: pytree, after each action and before any reset.
      mask: float, 1 up to and including the first end and 0 behind it.
    """

    observation: PyTree
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    next_observation: PyTree
    mask: Array


class Scores(NamedTuple):
    """What became of N solutions.

    Attributes:
      fitness: `[N]` float.
      descriptors: `[N, D]` float, observed, in the units of the box.
      steps: `EpisodeSteps`, or `()` where there is nothing to learn from.
    """

    fitness: Array
    descriptors: Array
    steps: EpisodeSteps | tuple[()]


Scoring = Callable[[Array, PyTree, Array | None], Scores]


def episodes(
    env: Environment,
    env_params: PyTree,
    apply: Callable[[PyTree, PyTree], Array],
    num_steps: int | None = None,
    *,
    to_environment: Callable[[Array], Array] = lambda action: action,
) -> Scoring:
    """Scores policies by one episode each.

    The fitness is the sum of rewards and the descriptor is that of the last observation, both up to
    and including the first end.

    Args:
      env: in gymnax's interface, with descriptors (`descriptor_bounds`, `descriptor_of`).
      env_params: its parameters.
      apply: `(genotype, observation) -> action [A]` in [-1, 1], of one policy and one observation.
      num_steps: T, after which an episode is cut; None takes `max_steps_in_episode`.
      to_environment: action `[..., A]` -> the environment's action.

    Returns:
      A scoring function.

    Raises:
      ValueError: the environment has no descriptors, or nothing bounds an episode.
    """
    length = episode_length(env, env_params, num_steps)
    act_all = jax.vmap(apply)

    def score(key: Array, genotypes: PyTree, asked: Array | None = None) -> Scores:
        del asked  # A policy of its own was told before.
        act = functools.partial(act_all, genotypes)
        num_rows = jax.tree.leaves(genotypes)[0].shape[0]
        return _play(env, env_params, act, to_environment, key, num_rows, length)

    return score


def conditioned_episodes(
    env: Environment,
    env_params: PyTree,
    apply: Callable[[PyTree, PyTree, Array], Array],
    num_steps: int | None = None,
    *,
    to_environment: Callable[[Array], Array] = lambda action: action,
) -> Scoring:
    """Scores one policy that is asked for descriptors, by one episode for each.

    Args:
      env: as for `episodes`.
      env_params: its parameters.
      apply: `(params, observation [N, ...], asked [N, D]) -> action [N, A]` in [-1, 1].
      num_steps: as for `episodes`.
      to_environment: as for `episodes`.

    Returns:
      A scoring function `(key, params of the one policy, asked [N, D]) -> Scores`.

    Raises:
      ValueError: as `episodes`.
    """
    length = episode_length(env, env_params, num_steps)

    def score(key: Array, params: PyTree, asked: Array) -> Scores:

        def act(observation: PyTree) -> Array:
            return apply(params, observation, asked)

        return _play(env, env_params, act, to_environment, key, asked.shape[0], length)

    return score


def descriptor_bounds(env: Environment, env_params: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """The box of an environment's descriptors.

    Args:
      env: in gymnax's interface.
      env_params: its parameters.

    Returns:
      `(low [D], high [D])`.

    Raises:
      ValueError: the environment has no descriptors.
    """
    _require_descriptors(env)
    low, high = env.descriptor_bounds(env_params)
    return np.asarray(low, np.float32), np.asarray(high, np.float32)


def episode_length(env: Environment, env_params: PyTree, num_steps: int | None = None) -> int:
    """The number of steps after which an episode of a scoring is over.

    Args:
      env: with descriptors.
      env_params: its parameters.
      num_steps: the answer, where it is not None.

    Returns:
      T.

    Raises:
      ValueError: the environment has no descriptors, or nothing bounds an episode.
    """
    _require_descriptors(env)
    if num_steps is None:
        num_steps = getattr(env_params, "max_steps_in_episode", None)
    if num_steps is None:
        raise ValueError(
            f"num_steps is None and the parameters of {env.name} have no max_steps_in_episode, "
            f"so an episode may never end: give num_steps"
        )
    at_least("num_steps", num_steps, 1)
    return int(num_steps)


def _require_descriptors(env: Any) -> None:
    missing = [name for name in ("descriptor_bounds", "descriptor_of") if not hasattr(env, name)]
    if missing:
        raise ValueError(
            f"env is {env.name}, which has no {missing[0]}: quality-diversity needs an environment "
            f"with descriptors"
        )


def _play(
    env: Environment,
    env_params: PyTree,
    act: Callable[[PyTree], Array],
    to_environment: Callable[[Array], Array],
    key: Array,
    num_rows: int,
    num_steps: int,
) -> Scores:
    def acting(carry: PyTree, observation: PyTree, reset: Array, keys: Array):
        del keys
        action = act(observation)
        return carry, action, to_environment(action), jnp.zeros(reset.shape)

    key_start, key_steps = jax.random.split(key)
    rows = rollout.start(env, env_params, key_start, num_rows)
    _, steps, _ = rollout.rollout(env, env_params, acting, rows, key_steps, num_steps)
    # Every episode behind the first one is another's.
    real = jnp.cumsum(steps.reset, axis=1) == 1
    last = jnp.sum(real, axis=1) - 1
    cut = (jnp.arange(num_steps) == num_steps - 1) & real & ~steps.terminated
    at_end = jax.tree.map(
        lambda x: jax.vmap(lambda row, index: row[index])(x, last), steps.final_observation
    )
    return Scores(
        fitness=jnp.sum(jnp.where(real, steps.reward, 0.0), axis=1),
        descriptors=env.descriptor_of(at_end, env_params),
        steps=EpisodeSteps(
            observation=steps.observation,
            action=steps.action,
            reward=steps.reward,
            terminated=steps.terminated,
            truncated=steps.truncated | cut,
            next_observation=steps.final_observation,
            mask=real.astype(jnp.float32),
        ),
    )
