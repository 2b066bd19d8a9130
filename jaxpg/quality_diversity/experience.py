"""What a population lives through, remembered in blocks, and the critics that learn from it.

Only real steps are stored: those behind the first end of an episode would be another episode's,
which counts for no fitness. They are left out when they are written, so that a minibatch has no
holes: weights instead would waste a share of every minibatch that grows as policies fall early.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import parallel, replay, rollout
from jaxpg.agent import Agent
from jaxpg.quality_diversity.scoring import EpisodeSteps, Scores
from jaxpg.types import Array, Metrics, PyTree


class Experience(NamedTuple):
    """One step of an episode, leading axes free.

    Attributes:
      observation: pytree, before the action.
      action: float, in [-1, 1].
      reward: float, as the environment gave it.
      terminated: bool, nothing follows.
      truncated: bool, the episode was cut behind it.
      next_observation: pytree, after the action.
      descriptor: `[D]` float, observed over the whole episode; `()` where it does not matter.
      asked: `[D]` float, the descriptor that the policy was made for; likewise.
    """

    observation: PyTree
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    next_observation: PyTree
    descriptor: PyTree
    asked: PyTree


def empty_blocks(
    scores: Scores, num_blocks: int, capacity: int, num_descriptors: int = 0
) -> replay.Buffer:
    """Empty ring buffers.

    Args:
      scores: for the shapes of their steps.
      num_blocks: buffers, over all devices.
      capacity: steps that they hold together, rounded down to equal blocks.
      num_descriptors: D, or 0 where descriptors are not stored.

    Returns:
      A `Buffer` whose leaves have a leading axis `[num_blocks]`.

    Raises:
      ValueError: the scores hold no steps.
    """
    steps = scores.steps
    if not isinstance(steps, EpisodeSteps):
        raise ValueError(
            "the scoring function returns no steps, but a critic learns from them: return "
            "EpisodeSteps, as scoring.episodes does"
        )
    descriptor = jnp.zeros(num_descriptors) if num_descriptors else ()
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), steps)
    example = Experience(
        observation=first.observation,
        action=first.action,
        reward=first.reward,
        terminated=first.terminated,
        truncated=first.truncated,
        next_observation=first.next_observation,
        descriptor=descriptor,
        asked=descriptor,
    )
    each = capacity // num_blocks
    return jax.vmap(lambda _: replay.init(example, each))(jnp.arange(num_blocks))


def store(
    buffers: replay.Buffer, scores: Scores, descriptor: PyTree = (), asked: PyTree = ()
) -> replay.Buffer:
    """Writes the real steps of some episodes over the oldest ones.

    An episode with a number that is not finite in a step, its fitness or its descriptor is left
    out as a whole: it would end all learning.

    Args:
      buffers: of this device.
      scores: of this device's solutions, as many for each block.
      descriptor: `[N, D]` float, see `Experience`, or `()`.
      asked: `[N, D]` float, likewise.

    Returns:
      The buffers.
    """
    steps = scores.steps
    num_rows, num_steps = steps.reward.shape

    def along(row: Array) -> Array:
        return jnp.broadcast_to(row[:, None], (num_rows, num_steps, *row.shape[1:]))

    items = Experience(
        observation=steps.observation,
        action=steps.action,
        reward=steps.reward,
        terminated=steps.terminated,
        truncated=steps.truncated,
        next_observation=steps.next_observation,
        descriptor=jax.tree.map(along, descriptor),
        asked=jax.tree.map(along, asked),
    )
    taken = steps.mask > 0
    sound = jnp.isfinite(scores.fitness) & jnp.all(jnp.isfinite(scores.descriptors), axis=-1)
    for leaf in jax.tree.leaves(items):
        finite = jnp.all(jnp.isfinite(leaf), axis=tuple(range(2, leaf.ndim)))
        sound = sound & jnp.all(finite | ~taken, axis=1)
    num_blocks = buffers.size.shape[0]
    blocks = jax.tree.map(
        lambda x: x.reshape((num_blocks, -1, *x.shape[2:])), (items, taken & sound[:, None])
    )
    return jax.vmap(replay.add)(buffers, *blocks)


def learn(
    agent: Agent,
    key: Array,
    state: PyTree,
    buffers: replay.Buffer,
    num_steps: int,
    num_each: int,
    transitions: Callable[[Experience], replay.Transition],
) -> tuple[PyTree, Metrics]:
    """Gradient steps of an agent, each on a minibatch of its own.

    Args:
      agent: such as `algorithms.twin_delayed`.
      key: the same on all devices.
      state: of the agent.
      buffers: of this device.
      num_steps: static.
      num_each: items of a minibatch from each block.
      transitions: what the agent learns from, given what was stored.

    Returns:
      `(state, metrics)`, metrics averaged over the steps.
    """

    def step(state: PyTree, key: Array) -> tuple[PyTree, Metrics]:
        key_batch, key_update = jax.random.split(key)
        keys = rollout.row_keys(key_batch, buffers.size.shape[0])
        batch = transitions(replay.sample_blocks(keys, buffers, num_each))
        return agent.update(state, batch, key_update)

    state, metrics = jax.lax.scan(step, state, jax.random.split(key, num_steps))
    return state, jax.tree.map(jnp.mean, metrics)


def observations(key: Array, buffers: replay.Buffer, num_steps: int, num_each: int) -> PyTree:
    """Observations of several minibatches, whole on every device.

    Args:
      key: the same on all devices.
      buffers: of this device.
      num_steps: minibatches.
      num_each: items of a minibatch from each block.

    Returns:
      Pytree of `[num_steps, num_blocks num_each, ...]`.
    """
    num_blocks = buffers.size.shape[0]
    seen = buffers.replace(items=buffers.items.observation)
    drawn = replay.sample_blocks(rollout.row_keys(key, num_blocks), seen, num_steps * num_each)

    def items_first(leaf: Array) -> Array:
        leaf = leaf.reshape((num_blocks, num_steps, num_each, *leaf.shape[1:]))
        return jnp.moveaxis(leaf, 1, 2).reshape((-1, num_steps, *leaf.shape[3:]))

    whole = parallel.gather(jax.tree.map(items_first, drawn))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), whole)
