"""The data that every part of the library shares: trajectories, evaluations, algorithms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
PyTree = Any
Metrics = dict[str, Array]

OWN_ROLLOUT, DEMONSTRATION, REPLAY = 0, 1, 2
"""Values of `Trajectory.source`."""

SELECTED = "selected"
"""Name of the extra `[B, T]` by which `select` takes single decisions out of the loss."""


@struct.dataclass
class Trajectory:
    """B rows of at most T decisions, time last; a decision is real where `mask` is 1.

    What a single method needs beside (values, entropies, advantages, hidden states) goes into
    `extras` under a name, never into a new field.

    Attributes:
      observation: pytree of `[B, T, ...]`, what the policy saw before each decision.
      action: pytree of `[B, T, ...]`, what was done, in the form that the policy's distribution
        scores (before clipping or squashing into the environment's range).
      log_prob: `[B, T]` float, log-probability of the action under the behaviour policy.
      reward: `[B, T]` float, received after the decision.
      terminated: `[B, T]` bool, the episode ended for good: nothing is bootstrapped.
      truncated: `[B, T]` bool, the episode was cut: the value of the final observation is.
      mask: `[B, T]` float, 1.0 for a real decision and 0.0 for padding.
      group_ids: `[B]` int in `[0, B)`, rows of one prompt or one start share it.
      rollout_ids: `[B]` int, rows that are segments of one rollout share it.
      source: `[B]` int, `OWN_ROLLOUT`, `DEMONSTRATION` or `REPLAY`.
      extras: named arrays whose leading axes are `[B]` or `[B, T]`.
    """

    observation: PyTree
    action: PyTree
    log_prob: Array
    reward: Array
    terminated: Array
    truncated: Array
    mask: Array
    group_ids: Array
    rollout_ids: Array
    source: Array
    extras: Mapping[str, Any]

    @property
    def num_rows(self) -> int:
        """B, static."""
        return self.mask.shape[0]

    @property
    def num_decisions(self) -> int:
        """T, static."""
        return self.mask.shape[1]

    @property
    def total_reward(self) -> Array:
        """`[B]` float, the undiscounted sum of the rewards of each row's real decisions."""
        return jnp.sum(jnp.where(self.mask > 0, self.reward, 0.0), axis=-1)

    def of_rows(self, leaf: Array) -> Array:
        """A `[B]` leaf in a form that broadcasts against `[B, T]`.

        In a minibatch of single decisions the leaves of rows are `[B, 1]` already.
        """
        return jnp.reshape(leaf, (self.num_rows, -1))

    def with_extras(self, **extras: Any) -> Trajectory:
        """Returns a copy with these extras added or replaced."""
        return self.replace(extras={**self.extras, **extras})

    def extra(self, name: str) -> Any:
        """Returns an extra, or says in one sentence which one is missing and which exist."""
        if name not in self.extras:
            raise KeyError(
                f"the trajectory has no extra {name!r}; it has "
                f"{sorted(self.extras) or 'none'}: the `score` seam has to add it"
            )
        return self.extras[name]


def trajectory(
    log_prob: Array,
    reward: Array | None = None,
    *,
    observation: PyTree = (),
    action: PyTree = (),
    terminated: Array | None = None,
    truncated: Array | None = None,
    mask: Array | None = None,
    group_ids: Array | None = None,
    rollout_ids: Array | None = None,
    source: Array | None = None,
    **extras: Any,
) -> Trajectory:
    """Builds a `Trajectory` from plain arrays, filling what is left out.

    Args:
      log_prob: `[B, T]` float, log-probabilities under the behaviour policy.
      reward: `[B, T]` float, or `[B]` for one reward for each row (paid at the row's last real
        decision; a row without any gets none). Default: zeros.
      observation: pytree of `[B, T, ...]`.
      action: pytree of `[B, T, ...]`.
      terminated: `[B, T]` bool. Default: the last real decision of each row.
      truncated: `[B, T]` bool. Default: nowhere.
      mask: `[B, T]`, 1 where a decision is real. Default: everywhere.
      group_ids: `[B]` int in `[0, B)`. Default: each row is its own group.
      rollout_ids: `[B]` int. Default: each row is its own rollout.
      source: `[B]` int. Default: `OWN_ROLLOUT`.
      **extras: named arrays with leading axes `[B]` or `[B, T]`.

    Returns:
      A `Trajectory`.

    Raises:
      ValueError: `reward` is `[N]` with N other than B.

    >>> t = trajectory(jnp.zeros((2, 3)), jnp.array([1., 0.]), mask=jnp.array([[1, 1, 0]] * 2))
    >>> t.reward.tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    chex.assert_rank(log_prob, 2)
    num_rows, num_decisions = log_prob.shape
    mask = jnp.ones_like(log_prob) if mask is None else jnp.asarray(mask, log_prob.dtype)
    last = last_decision(mask)
    if reward is None:
        reward = jnp.zeros_like(log_prob)
    elif reward.ndim == 1:
        if reward.shape != (num_rows,):
            raise ValueError(
                f"reward has {reward.shape[0]} entries for {num_rows} rows of log_prob: give one "
                f"for each row, or an array of shape {(num_rows, num_decisions)}"
            )
        reward = jnp.where(last, jnp.asarray(reward, log_prob.dtype)[:, None], 0.0)
    rows = jnp.arange(num_rows)
    built = Trajectory(
        observation=observation,
        action=action,
        log_prob=log_prob,
        reward=reward,
        terminated=last if terminated is None else terminated,
        truncated=jnp.zeros_like(last) if truncated is None else truncated,
        mask=mask,
        group_ids=rows if group_ids is None else group_ids,
        rollout_ids=rows if rollout_ids is None else rollout_ids,
        source=jnp.zeros_like(rows) if source is None else source,
        extras=extras,
    )
    chex.assert_shape(
        [built.reward, built.terminated, built.truncated, built.mask], (num_rows, num_decisions)
    )
    chex.assert_shape([built.group_ids, built.rollout_ids, built.source], (num_rows,))
    return built


def last_decision(mask: Array) -> Array:
    """Marks the last real decision of each row.

    Args:
      mask: `[B, T]`, 1 where a decision is real (padding may be on either side).

    Returns:
      `[B, T]` bool, at most one True in a row, none in a row without a real decision.
    """
    real = mask > 0
    later = jnp.cumsum(real[:, ::-1], axis=-1)[:, ::-1]
    return real & (later == 1)


@struct.dataclass
class Evaluation:
    """What the current parameters say about a trajectory; the only part that carries a gradient.

    Attributes:
      log_prob: `[B, T]` float, log-probability of the actions taken.
      entropy: `[B, T]` float, or None.
      value: `[B, T]` float, the critic's value of each observation, or None.
      distribution: the action distribution's parameters, leading axes `[B, T]`, or None.
      extras: named outputs of the network that a single method needs.
    """

    log_prob: Array
    entropy: Array | None = None
    value: Array | None = None
    distribution: PyTree = None
    extras: Mapping[str, Any] = struct.field(default_factory=dict)


class Algorithm(NamedTuple):
    """Everything that learns: a pair of pure functions, as in optax, and what describes them.

    A function may be a `jax.tree_util.Partial` that holds arrays (a model's weights, a data set):
    the runner passes them to its programs as arguments, one of each for all seeds.

    Attributes:
      init: `(key) -> state`. A state with a field `world` keeps there what belongs to single
        environments or prompts (every leaf has them as its leading axis); that field is split
        over devices and everything else is replicated.
      update: `(state) -> (state, metrics)`, metrics being a flat dict of scalars. A metric is
        finite, unless its name starts with `episode_`: those are NaN until an episode ends.
      evaluate: `(state, key) -> metrics`, reads the state and changes nothing; or None.
      policy: `(state) -> policy pytree`, what is worth keeping after training; or None.
      steps_per_update: environment steps or generated tokens of one update, over all devices.
      world_size: the leading axis of `state.world` (0 where there is none).
      description: what makes a checkpoint of another configuration foreign (plain values).
      seeds_in_turn: several seeds run one after the other in the program instead of vmapped:
        faster where one seed keeps the processor busy.
    """

    init: Callable[[Array], PyTree]
    update: Callable[[PyTree], tuple[PyTree, Metrics]]
    evaluate: Callable[[PyTree, Array], Metrics] | None = None
    policy: Callable[[PyTree], PyTree] | None = None
    steps_per_update: int = 0
    world_size: int = 0
    description: Mapping[str, Any] = {}
    seeds_in_turn: bool = False

    def updates_for(self, num_steps: int) -> int:
        """Updates that take at least `num_steps` environment steps or tokens.

        Args:
          num_steps: asked for; the run takes a whole number of updates and never fewer steps.

        Returns:
          The number of updates.

        >>> Algorithm(init=None, update=None, steps_per_update=384).updates_for(1000)
        3
        """
        return -(-num_steps // self.steps_per_update)
