"""Acting in vectorised environments: one scan, automatic resets, exact episode statistics.

Environments have gymnax's interface. The random numbers of environment i depend on its index over
all devices, so that a batch gives the same trajectories on one device and on several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments.environment import Environment

from jaxpg import parallel
from jaxpg.types import Array, Metrics, PyTree

Act = Callable[[PyTree, PyTree, Array, Array], tuple[PyTree, PyTree, PyTree, Array]]


@struct.dataclass
class Rows:
    """What each environment carries from step to step; every leaf has the leading axis `[B]`.

    Attributes:
      env_state: the environment's own state.
      observation: what the next action is chosen from.
      carry: the policy's hidden state, `()` if it has none.
      reset: `[B]` bool, the next step is the first of an episode.
      env_params: `()` where all environments share theirs, else their own.
      episode_return: `[B]` float, undiscounted reward of the running episode.
      episode_length: `[B]` int, steps of the running episode.
      scaled_return: `[B]` float, discounted sum that reward normalisation follows.
    """

    env_state: PyTree
    observation: PyTree
    carry: PyTree
    reset: Array
    env_params: PyTree
    episode_return: Array
    episode_length: Array
    scaled_return: Array


class Steps(NamedTuple):
    """A rollout, `[B, T, ...]`.

    Attributes:
      observation: before each action.
      action: as the policy's distribution scores it.
      log_prob: float, under the policy that acted.
      reward: float.
      terminated: bool.
      truncated: bool, never True together with `terminated`.
      reset: bool, the step is the first of an episode.
      final_observation: after each action, before any reset.
      carry: hidden state after each step.
    """

    observation: PyTree
    action: PyTree
    log_prob: Array
    reward: Array
    terminated: Array
    truncated: Array
    reset: Array
    final_observation: PyTree
    carry: PyTree


class Finished(NamedTuple):
    """Sums over the episodes that ended in a rollout, `[B]`."""

    episodes: Array
    returns: Array
    lengths: Array


def row_keys(key: Array, num_rows: int, first_row: int | None = None) -> Array:
    """One key for each of this device's rows, by their index over all devices.

    Args:
      key: the same on every device.
      num_rows: of this device, static.
      first_row: index of the first of them; None counts over all devices. Where the rows of one
        agent are on one device, and the key is the agent's, it is 0 on every device.

    Returns:
      `[num_rows]` keys.
    """
    first = parallel.shard_index() * num_rows if first_row is None else first_row
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(first + jnp.arange(num_rows))


def start(
    env: Environment,
    env_params: PyTree,
    key: Array,
    num_rows: int,
    initial_carry: PyTree = (),
    *,
    params_per_row: bool = False,
    first_row: int | None = None,
) -> Rows:
    """Resets `num_rows` environments.

    Args:
      env: in gymnax's interface.
      env_params: its parameters; with `params_per_row` every leaf has a leading axis `[B]`.
      key: of the starts.
      num_rows: B.
      initial_carry: the policy's, leading axis `[B]`.
      params_per_row: whether each environment has parameters of its own.
      first_row: see `row_keys`.

    Returns:
      `Rows`.
    """
    keys = row_keys(key, num_rows, first_row)
    axis = 0 if params_per_row else None
    observation, env_state = jax.vmap(env.reset_env, in_axes=(0, axis))(keys, env_params)
    zeros = jnp.zeros(num_rows)
    rows = Rows(
        env_state=env_state,
        observation=observation,
        carry=initial_carry,
        reset=jnp.ones(num_rows, bool),
        env_params=jax.tree.map(jnp.asarray, env_params) if params_per_row else (),
        episode_return=zeros,
        episode_length=jnp.zeros(num_rows, jnp.int32),
        scaled_return=zeros,
    )
    return jax.tree.map(_strongly_typed, rows)


def rollout(
    env: Environment,
    env_params: PyTree,
    act: Act,
    rows: Rows,
    key: Array,
    num_steps: int,
    *,
    first_row: int | None = None,
) -> tuple[Rows, Steps, Finished]:
    """Takes `num_steps` steps in every environment.

    Args:
      env: in gymnax's interface.
      env_params: shared by all environments; ignored if `rows` carry their own.
      act: `(carry, observation, reset, keys [B]) -> (carry, raw action, action, log_prob)`, all
        with leading axis `[B]`; the raw action is stored, the environment gets the other one.
      rows: where the environments stand.
      key: of this rollout.
      num_steps: T, static.
      first_row: see `row_keys`.

    Returns:
      `(rows, steps, finished)`. Only whole episodes are in `finished`; an episode that began in
      an earlier rollout counts in full.
    """
    num_rows = rows.reset.shape[0]
    if rows.env_params != ():
        env_params, axis = rows.env_params, 0
    else:
        axis = None

    def step(carry, key):
        rows, finished = carry
        key_act, key_env = jax.random.split(key)
        policy_carry, raw, action, log_prob = act(
            rows.carry, rows.observation, rows.reset, row_keys(key_act, num_rows, first_row)
        )
        observation, env_state, reward, terminated, truncated, final = step_environments(
            env,
            env_params,
            axis,
            row_keys(key_env, num_rows, first_row),
            rows.env_state,
            action,
        )
        ended = terminated | truncated
        total, length = rows.episode_return + reward, rows.episode_length + 1
        steps = Steps(
            observation=rows.observation,
            action=raw,
            log_prob=log_prob,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            reset=rows.reset,
            final_observation=final,
            carry=policy_carry,
        )
        finished = Finished(
            finished.episodes + ended,
            finished.returns + jnp.where(ended, total, 0.0),
            finished.lengths + jnp.where(ended, length, 0),
        )
        rows = rows.replace(
            env_state=env_state,
            observation=observation,
            carry=policy_carry,
            reset=ended,
            episode_return=jnp.where(ended, 0.0, total),
            episode_length=jnp.where(ended, 0, length),
        )
        return (rows, finished), steps

    counts = jnp.zeros(num_rows, jnp.int32)
    finished = Finished(counts, jnp.zeros(num_rows), counts)
    keys = jax.random.split(key, num_steps)
    (rows, finished), steps = jax.lax.scan(step, (rows, finished), keys)
    return rows, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps), finished


def step_environments(
    env: Environment, env_params: PyTree, axis: int | None, keys: Array, state: PyTree, action: Any
) -> tuple[PyTree, PyTree, Array, Array, Array, PyTree]:
    """One step of a batch of environments, with a fresh start where an episode ended.

    The result equals `jax.vmap(env.step)` with the same keys. Where a reset is expensive
    (`env.reset_is_expensive`) only the environments that ended are reset, in chunks, instead of
    all of them in every step.

    Args:
      env: in gymnax's interface.
      env_params: its parameters.
      axis: 0 if the parameters have a leading axis `[B]`, else None.
      keys: `[B]`.
      state: leading axis `[B]`.
      action: leading axis `[B]`.

    Returns:
      `(observation, state, reward, terminated, truncated, final_observation)`.
    """
    if type(env).step is not Environment.step:
        # An environment that steps in a way of its own resets in a way of its own, too.
        stepped = jax.vmap(env.step, in_axes=(0, 0, 0, axis))(keys, state, action, env_params)
        observation, state, reward, terminated, truncated, info = stepped
        truncated = truncated & ~terminated
        final = info.get("final_observation", observation)
        return observation, state, reward.astype(jnp.float32), terminated, truncated, final
    keys = jax.vmap(jax.random.split)(keys)
    final, stepped, reward, terminated, _ = jax.vmap(env.step_env, in_axes=(0, 0, 0, axis))(
        keys[:, 0], state, action, env_params
    )
    truncated = jax.vmap(env.is_truncated, in_axes=(0, axis))(stepped, env_params)
    terminated = jnp.asarray(terminated, bool)
    ended = terminated | truncated
    reset = jax.vmap(env.reset_env, in_axes=(0, axis))
    if getattr(env, "reset_is_expensive", False):
        per_row = (keys[:, 1],) if axis is None else (keys[:, 1], env_params)
        observation, state = apply_where(
            ended,
            lambda keys, params=env_params: reset(keys, params),
            per_row,
            (final, stepped),
        )
    else:
        fresh = reset(keys[:, 1], env_params)
        observation, state = jax.tree.map(
            lambda new, old: jnp.where(_expand(ended, new), new, old).astype(old.dtype),
            fresh,
            (final, stepped),
        )
    reward = jnp.asarray(reward, jnp.float32)
    return observation, state, reward, terminated, truncated & ~terminated, final


def apply_where(
    chosen: Array,
    function: Callable[..., PyTree],
    inputs: tuple[PyTree, ...],
    outputs: PyTree,
    chunk: int | None = None,
) -> PyTree:
    """Replaces rows of `outputs` by `function` of the same rows of `inputs`, where chosen.

    The work grows with the number of chosen rows and not with B, while all shapes stay static:
    the chosen rows are taken in chunks until none is left.

    Args:
      chosen: `[B]` bool.
      function: `(*inputs) -> outputs` on a leading axis of any length.
      inputs: pytrees with leading axis `[B]`.
      outputs: pytree with leading axis `[B]`, what the other rows keep.
      chunk: rows that are computed at a time; None takes B/32, at least 1.

    Returns:
      Pytree like `outputs`.
    """
    num_rows = chosen.shape[0]
    chunk = min(num_rows, max(1, num_rows // 32) if chunk is None else chunk)

    def body(carry):
        pending, outputs = carry
        index = jnp.nonzero(pending, size=chunk, fill_value=num_rows)[0]
        inside = jnp.minimum(index, num_rows - 1)
        computed = function(*jax.tree.map(lambda x: x[inside], inputs))
        outputs = jax.tree.map(
            lambda old, new: old.at[index].set(new.astype(old.dtype), mode="drop"),
            outputs,
            computed,
        )
        return pending.at[index].set(False, mode="drop"), outputs

    outputs = jax.tree.map(_strongly_typed, outputs)
    return jax.lax.while_loop(lambda carry: jnp.any(carry[0]), body, (chosen, outputs))[1]


def episode_metrics(finished: Finished) -> Metrics:
    """Mean return and length of the episodes that ended, over all devices.

    Args:
      finished: sums of this device.

    Returns:
      `episode_return`, `episode_length` (NaN if none ended) and `episode_count`.
    """
    episodes, returns, lengths = parallel.total(jax.tree.map(jnp.sum, finished))
    some = jnp.maximum(episodes, 1)
    return {
        "episode_return": jnp.where(episodes > 0, returns / some, jnp.nan),
        "episode_length": jnp.where(episodes > 0, lengths / some, jnp.nan),
        "episode_count": episodes.astype(jnp.float32),
    }


def evaluation_metrics(returns: Array, lengths: Array, complete: Array) -> Metrics:
    """What an agent says of an evaluation.

    Args:
      returns: of `evaluate`.
      lengths: likewise.
      complete: likewise.

    Returns:
      `eval_return`, `eval_return_std`, `eval_length` and `eval_complete`, the share of episodes
      that came to their end.
    """
    return {
        "eval_return": jnp.mean(returns),
        "eval_return_std": jnp.std(returns),
        "eval_length": jnp.mean(lengths.astype(jnp.float32)),
        "eval_complete": jnp.mean(complete.astype(jnp.float32)),
    }


def evaluate(
    env: Environment,
    env_params: PyTree,
    act: Act,
    key: Array,
    *,
    num_envs: int,
    episodes_per_env: int = 1,
    initial_carry: Callable[[int], PyTree] = lambda num_rows: (),
    max_steps: int | None = None,
    first_row: int | None = None,
) -> tuple[Array, Array, Array]:
    """Plays the same number of episodes in every environment and waits for the longest.

    Counting the first N episodes that finish instead would favour short ones.

    Args:
      env: in gymnax's interface.
      env_params: shared by all environments.
      act: as for `rollout`.
      key: of the evaluation; the training key is not touched.
      num_envs: environments that run side by side.
      episodes_per_env: episodes of each, all with starts of their own.
      initial_carry: of the policy.
      max_steps: gives up after so many steps; None takes `env_params.max_steps_in_episode`.
      first_row: see `row_keys`.

    Returns:
      `(returns, lengths, complete)`, each `[num_envs, episodes_per_env]`: undiscounted returns,
      steps, and whether the episode ended within `max_steps`.

    Raises:
      ValueError: neither `max_steps` nor the parameters bound an episode.
    """
    max_steps = (
        getattr(env_params, "max_steps_in_episode", None) if max_steps is None else max_steps
    )
    if max_steps is None:
        raise ValueError(
            f"max_steps is None and the parameters of {env.name} have no max_steps_in_episode, "
            f"so an episode may never end: give max_steps"
        )
    num_rows = num_envs * episodes_per_env
    key_start, key_steps = jax.random.split(key)
    rows = start(env, env_params, key_start, num_rows, initial_carry(num_rows), first_row=first_row)

    def going_on(carry):
        _, alive, _, _, time = carry
        return jnp.any(alive) & (time < max_steps)

    def step(carry):
        rows, alive, returns, lengths, time = carry
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, time))
        keys = row_keys(key_act, num_rows, first_row)
        policy_carry, _, action, _ = act(rows.carry, rows.observation, rows.reset, keys)
        observation, env_state, reward, terminated, _ = jax.vmap(
            env.step_env, in_axes=(0, 0, 0, None)
        )(row_keys(key_env, num_rows, first_row), rows.env_state, action, env_params)
        truncated = jax.vmap(env.is_truncated, in_axes=(0, None))(env_state, env_params)
        rows = rows.replace(
            env_state=jax.tree.map(
                lambda new, old: new.astype(old.dtype), env_state, rows.env_state
            ),
            observation=observation,
            carry=policy_carry,
            reset=jnp.zeros_like(rows.reset),
        )
        returns = returns + jnp.where(alive, reward, 0.0)
        lengths = lengths + alive
        return rows, alive & ~(terminated | truncated), returns, lengths, time + 1

    carry = (rows, jnp.ones(num_rows, bool), jnp.zeros(num_rows), jnp.zeros(num_rows, jnp.int32), 0)
    _, alive, returns, lengths, _ = jax.lax.while_loop(going_on, step, carry)
    shape = (num_envs, episodes_per_env)
    return returns.reshape(shape), lengths.reshape(shape), ~alive.reshape(shape)


def _strongly_typed(leaf: Any) -> Array:
    # A Python number in a state is weakly typed and changes its type in a loop's carry.
    return jax.lax.convert_element_type(leaf, jnp.result_type(leaf))


def _expand(flag: Array, like: Array) -> Array:
    return flag.reshape(flag.shape + (1,) * (like.ndim - 1))
