"""Every trajectory of a finite problem, and the policy gradient as a sum over them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.types import Array


class Process(Protocol):
    """What is enumerated: the arrays of `finite.Problem`, where they are described."""

    reward: np.ndarray
    successor: np.ndarray
    probability: np.ndarray
    initial: np.ndarray
    horizon: int


class Enumeration(NamedTuple):
    """N trajectories of H decisions at most.

    Attributes:
      state: `[N, H]` int.
      action: `[N, H]` int.
      mask: `[N, H]` bool, True where a decision is real.
      total_reward: `[N]` float, mean sum of rewards.
      chance: `[N]` float, the world's share of the probability: first state and transitions.
    """

    state: np.ndarray
    action: np.ndarray
    mask: np.ndarray
    total_reward: np.ndarray
    chance: np.ndarray


def count(process: Process) -> float:
    """Number of trajectories that have positive probability under any softmax policy.

    Args:
      process: any.

    Returns:
      A float, because it may be vast.
    """
    possible = process.probability > 0
    onwards = np.ones(len(process.initial))
    for _ in range(process.horizon):
        last = np.where(process.successor < 0, 1.0, onwards[process.successor])
        onwards = np.sum(last * possible, axis=(1, 2))
    return float(np.sum(onwards[process.initial > 0]))


def enumerate_all(process: Process) -> Enumeration:
    """Lists the trajectories, breadth first.

    Args:
      process: with few enough of them, see `count`.

    Returns:
      All trajectories of positive probability.
    """
    num_actions, num_branches = process.probability.shape[1:]
    starts = np.flatnonzero(process.initial > 0)
    state, chance, total = starts, process.initial[starts], np.zeros(len(starts))
    past = np.zeros((len(starts), 0, 2), np.int64)
    finished = []
    for time in range(process.horizon):
        paths, action, branch = (
            part.ravel()
            for part in np.meshgrid(
                np.arange(len(state)),
                np.arange(num_actions),
                np.arange(num_branches),
                indexing="ij",
            )
        )
        here = state[paths]
        possible = process.probability[here, action, branch] > 0
        paths, action, branch, here = (x[possible] for x in (paths, action, branch, here))
        decision = np.stack([here, action], axis=-1)[:, None]
        past = np.concatenate([past[paths], decision], axis=1)
        chance = chance[paths] * process.probability[here, action, branch]
        total = total[paths] + process.reward[here, action]
        state = process.successor[here, action, branch]
        over = (state < 0) | (time == process.horizon - 1)
        finished.append((past[over], total[over], chance[over]))
        past, total, chance, state = (x[~over] for x in (past, total, chance, state))
    return _padded(finished, process.horizon)


def score_gradient(paths: Enumeration, params: Array) -> Array:
    """Sum over trajectories of probability, return and score.

    Args:
      paths: all of them.
      params: `[S, A]` float, logits.

    Returns:
      `[S, A]` float. The score of a softmax at one decision is the action's indicator minus the
      policy, in the row of the state.
    """
    log_policy = jax.nn.log_softmax(params)
    log_prob = jnp.sum(jnp.where(paths.mask, log_policy[paths.state, paths.action], 0.0), axis=-1)
    chance, total = (jnp.asarray(x, params.dtype) for x in (paths.chance, paths.total_reward))
    weight = jnp.where(paths.mask, (chance * jnp.exp(log_prob) * total)[:, None], 0.0)
    taken = jnp.zeros_like(params).at[paths.state, paths.action].add(weight)
    return taken - jnp.sum(taken, axis=-1, keepdims=True) * jnp.exp(log_policy)


def _padded(finished: list[tuple[np.ndarray, ...]], horizon: int) -> Enumeration:
    decisions, masks = [], []
    for past, _, _ in finished:
        num_paths, length = past.shape[:2]
        decisions.append(np.pad(past, ((0, 0), (0, horizon - length), (0, 0))))
        masks.append(np.broadcast_to(np.arange(horizon) < length, (num_paths, horizon)))
    both = np.concatenate(decisions)
    return Enumeration(
        state=both[..., 0],
        action=both[..., 1],
        mask=np.concatenate(masks),
        total_reward=np.concatenate([total for _, total, _ in finished]),
        chance=np.concatenate([chance for _, _, chance in finished]),
    )
