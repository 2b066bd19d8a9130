"""One update through the five seams: the same for environments and for language models."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxpg import batches, parallel
from jaxpg.method import Seams
from jaxpg.types import Array, Metrics, PyTree, Trajectory

NUM_CUTS = 4
"""Sizes to which a minibatch with dropped rows can be cut: the program is compiled for each."""


@struct.dataclass
class TrainState:
    """Everything that a run consists of.

    Attributes:
      params: what is optimised.
      optimiser: state of the optimiser.
      method: state of the method.
      world: what collection carries on; its field `rows` is split over devices.
      key: of the updates to come.
      num_updates: int32, done so far.
      frozen: what is read and never changes, such as a base or a reference model.
    """

    params: PyTree
    optimiser: PyTree
    method: PyTree
    world: PyTree
    key: Array
    num_updates: Array
    frozen: PyTree = ()


@dataclasses.dataclass(frozen=True)
class Passes:
    """How often a batch is used.

    Attributes:
      num_epochs: passes over the batch.
      num_minibatches: gradient steps in each pass.
      whole_rows: minibatches consist of rows and not of single decisions.
      together: consecutive rows that are not separated, with `whole_rows`.
      drops_rows: rows without a real decision are left out of the pass through the networks, as far
        as the rest fits in one of `NUM_CUTS` sizes.
      target_kl: in nats; the update ends after a step whose minibatch shows an approximate KL
        beyond 1.5 times this. None never ends early.
    """

    num_epochs: int = 4
    num_minibatches: int = 4
    whole_rows: bool = False
    together: int = 1
    drops_rows: bool = False
    target_kl: float | None = None

    @property
    def num_steps(self) -> int:
        """Gradient steps of one update."""
        return self.num_epochs * self.num_minibatches


def learning_rate(
    initial: float | Array | optax.Schedule,
    passes: Passes,
    anneal_updates: int = 0,
    *,
    stair: bool = False,
) -> float | Array | optax.Schedule:
    """A schedule in gradient steps from a length in updates.

    Args:
      initial: at the first step; a schedule (in gradient steps) is returned as it is.
      passes: give the number of gradient steps in an update.
      anneal_updates: the rate falls linearly to 0 over this many updates; 0 keeps it constant.
      stair: constant within an update instead of falling with every gradient step.

    Returns:
      A rate or an optax schedule, never negative.

    >>> rate = learning_rate(1.0, Passes(2, 4), 10)
    >>> [float(rate(step)) for step in (0, 40, 79, 100)]
    [1.0, 0.5, 0.0125, 0.0]
    >>> rate = learning_rate(1.0, Passes(2, 4), 10, stair=True)
    >>> [float(rate(step)) for step in (0, 7, 8, 79)]
    [1.0, 1.0, 0.9, 0.1]
    """
    if callable(initial) or not anneal_updates:
        return initial
    total = anneal_updates * passes.num_steps

    def schedule(step: Array) -> Array:
        counted = step // passes.num_steps * passes.num_steps if stair else step
        return initial * jnp.maximum(0.0, 1.0 - counted / total)

    return schedule


def as_schedule(rate: float | Array | optax.Schedule | None) -> optax.Schedule | None:
    """A learning rate in the form of a schedule.

    Args:
      rate: a number, a schedule, or None.

    Returns:
      A schedule, or None.
    """
    return rate if rate is None or callable(rate) else optax.constant_schedule(rate)


def one_update(seams: Seams, optimiser: optax.GradientTransformation, passes: Passes, state: Any):
    """Collects, scores, selects, learns, and lets the method remember.

    Args:
      seams: of the method.
      optimiser: any optax transformation.
      passes: over the batch.
      state: has fields `params`, `optimiser`, `method`, `world`, `key`, `num_updates`.

    Returns:
      `(state, metrics)`.
    """
    key, key_collect, key_learn = jax.random.split(state.key, 3)
    trajectory, world, collected = seams.collect(
        key_collect, state.params, state.world, state.method
    )
    trajectory = seams.score(state.params, trajectory, state.method)
    trajectory = seams.select(trajectory, state.method)
    params, optimiser_state, learned = learn(
        seams, optimiser, passes, key_learn, state.params, state.optimiser, trajectory, state.method
    )
    method, remembered = seams.after(params, trajectory, learned, state.method)
    state = state.replace(
        params=params,
        optimiser=optimiser_state,
        method=method,
        world=world,
        key=key,
        num_updates=state.num_updates + 1,
    )
    return state, collected | learned | remembered


def learn(
    seams: Seams,
    optimiser: optax.GradientTransformation,
    passes: Passes,
    key: Array,
    params: PyTree,
    optimiser_state: PyTree,
    trajectory: Trajectory,
    method_state: PyTree,
) -> tuple[PyTree, PyTree, Metrics]:
    """Epochs of minibatch gradient steps on one batch, gradients averaged over devices.

    Args:
      seams: of the method; `loss` is used.
      optimiser: any optax transformation.
      passes: over the batch.
      key: of the shuffling, the same on every device.
      params: what is optimised.
      optimiser_state: the optimiser's.
      trajectory: scored and selected; this device's share.
      method_state: the method's.

    Returns:
      `(params, optimiser_state, metrics)`, metrics averaged over the steps taken.
    """
    loss_gradient = jax.value_and_grad(seams.loss, has_aux=True)
    if passes.drops_rows:
        loss_gradient = _of_real_rows(loss_gradient)

    def step(carry, minibatch):
        params, optimiser_state, stopped = carry
        (loss, metrics), gradient = loss_gradient(params, minibatch, method_state)
        loss, metrics, gradient = parallel.mean((loss, metrics, gradient))
        updates, new_optimiser_state = optimiser.update(gradient, optimiser_state, params)
        new = (optax.apply_updates(params, updates), new_optimiser_state)
        metrics |= {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        if passes.target_kl is None:
            return (*new, stopped), (metrics, jnp.ones(()))
        kept = jax.tree.map(
            lambda old, fresh: jnp.where(stopped, old, fresh), (params, optimiser_state), new
        )
        beyond = metrics["approximate_kl"] > 1.5 * passes.target_kl
        return (*kept, stopped | beyond), (metrics, jnp.where(stopped, 0.0, 1.0))

    def epoch(carry, key):
        batches = minibatches(
            key, trajectory, passes.num_minibatches, passes.whole_rows, passes.together
        )
        return jax.lax.scan(step, carry, batches)

    keys = jax.random.split(key, passes.num_epochs)
    carry = (params, optimiser_state, jnp.zeros((), bool))
    (params, optimiser_state, _), (metrics, taken) = jax.lax.scan(epoch, carry, keys)
    metrics = jax.tree.map(lambda x: jnp.sum(x * taken) / jnp.sum(taken), metrics)
    if passes.target_kl is not None:
        metrics["steps_taken"] = jnp.sum(taken)
    return params, optimiser_state, metrics


def minibatches(
    key: Array, trajectory: Trajectory, num_minibatches: int, whole_rows: bool, together: int = 1
) -> Trajectory:
    """Splits a batch at random into minibatches of equal size.

    The items (decisions, rows, or a few rows together) are taken in blocks of `num_minibatches`
    consecutive ones, and every block gives one item to each minibatch, in random order. So every
    minibatch holds steps from all environments and times; the split costs no sort of the whole
    batch; and it depends on an item's index over all devices, so that it is the same on one device
    and on several.

    Args:
      key: the same on every device.
      trajectory: this device's share, `[B, T]`.
      num_minibatches: M, static; divides the number of items.
      whole_rows: items are rows; else decisions, which become rows of length 1.
      together: consecutive rows that make one item, with `whole_rows`; divides B.

    Returns:
      A trajectory with leading axes `[M, B/M, T]`, or `[M, B T/M, 1]`.

    Raises:
      ValueError: M does not divide this device's share.
    """
    if whole_rows:
        items = trajectory
    else:
        # An entry of an observation may be empty, so that -1 could be anything.
        count = trajectory.mask.size
        items = jax.tree.map(
            lambda x: x.reshape((count, 1, *x.shape[2:])), _for_each_decision(trajectory)
        )
    if num_minibatches == 1:
        return jax.tree.map(lambda x: x[None], items)
    if together > 1:
        items = jax.tree.map(lambda x: x.reshape((-1, together, *x.shape[1:])), items)
    count = items.mask.shape[0]
    if count % num_minibatches:
        raise ValueError(
            f"num_minibatches={num_minibatches} does not divide the {count} items (rows, or "
            f"decisions) of each of {parallel.num_shards()} devices into equal parts"
        )
    num_blocks = count // num_minibatches
    first = parallel.shard_index() * num_blocks

    def order(block: Array) -> Array:
        bits = jax.random.bits(jax.random.fold_in(key, block), (num_minibatches,))
        # Ranks by counting: for a handful of items this is cheaper than a sort.
        index = jnp.arange(num_minibatches)
        smaller = bits[None, :] < bits[:, None]
        tie = (bits[None, :] == bits[:, None]) & (index[None, :] < index[:, None])
        return jnp.sum(smaller | tie, axis=1)

    ranks = jax.vmap(order)(first + jnp.arange(num_blocks))
    # taken[m, b] is the item of block b whose rank is m.
    taken = jnp.argmax(ranks[:, None, :] == jnp.arange(num_minibatches)[:, None], axis=-1).T
    taken = taken + num_minibatches * jnp.arange(num_blocks)
    batches = jax.tree.map(lambda x: x[taken], items)
    if together > 1:
        batches = jax.tree.map(lambda x: x.reshape((num_minibatches, -1, *x.shape[3:])), batches)
    return batches


def _of_real_rows(loss_gradient):
    """Runs a loss on the rows with a real decision, and as few others as static shapes allow.

    All devices, and all seeds of a `vmap`, take the same size.
    """

    def cut(params: PyTree, minibatch: Trajectory, method_state: PyTree):
        real = jnp.any(minibatch.mask > 0, axis=1)
        first = batches.take(minibatch, jnp.argsort(~real, stable=True))
        num_rows = minibatch.num_rows
        sizes = sorted({-(-num_rows * part // NUM_CUTS) for part in range(1, NUM_CUTS + 1)})
        needed = _largest(parallel.largest(jnp.sum(real)))
        branches = [
            lambda rows, size=size: loss_gradient(
                params, jax.tree.map(lambda leaf: leaf[:size], rows), method_state
            )
            for size in sizes
        ]
        return jax.lax.switch(jnp.searchsorted(jnp.array(sizes), needed), branches, first)

    return cut


@jax.custom_batching.custom_vmap
def _largest(count: Array) -> Array:
    return count


@_largest.def_vmap
def _largest_of_all(axis_size: int, in_batched: Any, count: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return _largest(jnp.max(count, axis=0)), False


def _for_each_decision(trajectory: Trajectory) -> Trajectory:
    """Gives every `[B]` leaf a time axis."""
    num_decisions = trajectory.num_decisions
    shape = trajectory.mask.shape

    def spread(leaf: Array) -> Array:
        if leaf.shape[:2] == shape:
            return leaf
        return jnp.broadcast_to(
            jnp.expand_dims(leaf, 1), (leaf.shape[0], num_decisions, *leaf.shape[1:])
        )

    return jax.tree.map(spread, trajectory)


def check_divisible(
    num_items: int, num_minibatches: int, names: tuple[str, str], unit: str
) -> None:
    """Refuses a batch that does not split into equal minibatches.

    Args:
      num_items: decisions or rows of one device.
      num_minibatches: M.
      names: of the two arguments, for the sentence.
      unit: what the items are, for the sentence.

    Raises:
      ValueError: the remainder is not 0.
    """
    if num_items % num_minibatches:
        raise ValueError(
            f"{names[0]} gives {num_items} {unit}, which do not split into "
            f"{names[1]}={num_minibatches} equal minibatches"
        )
