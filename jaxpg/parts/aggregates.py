"""Aggregations: from one number for each decision to the loss. Linear in the values.

Each takes the values, the mask, the stabiliser's weights (which only `selected_mean` reads) and
what the `select` seam left of the real decisions: one that was not selected has no value and is not
counted, but its row is. Counts are taken over all devices, so that the average of the devices'
results is the result of the whole batch. An empty mask gives 0. Padding may hold anything, NaN
included.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxpg import parallel
from jaxpg.types import Array

Aggregate = Callable[..., Array]
"""`(values, mask, weight=None, selected=None) -> scalar`."""


def decision_mean(
    values: Array, mask: Array, weight: Array | None = None, selected: Array | None = None
) -> Array:
    """Mean over all real decisions of the batch ("token mean").

    Args:
      values: `[B, T]` float.
      mask: `[B, T]`, 1 where a decision is real.
      weight: unused.
      selected: `[B, T]`, 1 where a decision is selected; None selects all.

    Returns:
      Scalar.

    >>> decision_mean(jnp.array([[1., 9.], [3., 5.]]), jnp.array([[1., 0.], [1., 1.]])).item()
    3.0
    """
    del weight
    safe, chosen = _masked(values, mask, selected)
    return jnp.sum(safe) / _count(jnp.sum(chosen))


def sequence_mean(
    values: Array, mask: Array, weight: Array | None = None, selected: Array | None = None
) -> Array:
    """Mean over each row's real decisions, then over the rows that have any.

    Args:
      values: `[B, T]` float.
      mask: `[B, T]`, 1 where a decision is real.
      weight: unused.
      selected: `[B, T]`, 1 where a decision is selected; None selects all.

    Returns:
      Scalar.

    >>> sequence_mean(jnp.array([[1., 9.], [3., 5.]]), jnp.array([[1., 0.], [1., 1.]])).item()
    2.5
    """
    del weight
    safe, chosen = _masked(values, mask, selected)
    rows = jnp.sum(safe, axis=-1) / jnp.maximum(jnp.sum(chosen, axis=-1), 1.0)
    return jnp.sum(rows) / _count(_num_rows(mask))


def row_sum_mean(
    values: Array, mask: Array, weight: Array | None = None, selected: Array | None = None
) -> Array:
    """Sum over each row, then the mean over rows: the policy gradient's own normalisation.

    A row without a real decision is padding and is not counted.

    Args:
      values: `[B, T]` float.
      mask: `[B, T]`, 1 where a decision is real.
      weight: unused.
      selected: `[B, T]`, 1 where a decision is selected; None selects all.

    Returns:
      Scalar.

    >>> row_sum_mean(jnp.array([[1., 9.], [3., 5.]]), jnp.array([[1., 0.], [1., 1.]])).item()
    4.5
    """
    return fixed_length_mean(1.0)(values, mask, weight, selected)


def fixed_length_mean(length: float) -> Aggregate:
    """Sum over each row divided by a constant length, then the mean over rows.

    A row without a real decision is padding and is not counted.

    Args:
      length: for instance the longest response that is allowed (Dr. GRPO's N = B T_max).

    Returns:
      An aggregation.

    >>> fixed_length_mean(4)(jnp.array([[1., 9.], [3., 5.]]), jnp.array([[1., 0.], [1., 1.]]))
    Array(1.125, dtype=float32)
    """

    def aggregate(
        values: Array, mask: Array, weight: Array | None = None, selected: Array | None = None
    ) -> Array:
        del weight
        safe, _ = _masked(values, mask, selected)
        return jnp.sum(safe) / (length * _count(_num_rows(mask)))

    return aggregate


def fixed_length_sum(length: float) -> Aggregate:
    """Sum over the whole batch divided by a constant length: a sum over rows, not a mean.

    Args:
      length: for instance the longest response that is allowed (HPT's RL half).

    Returns:
      An aggregation.
    """

    def aggregate(
        values: Array, mask: Array, weight: Array | None = None, selected: Array | None = None
    ) -> Array:
        del weight
        safe, _ = _masked(values, mask, selected)
        # `parallel.mean` of the shards has to be the sum over the whole batch.
        return parallel.num_shards() * jnp.sum(safe) / length

    return aggregate


def padded_length_mean(
    values: Array, mask: Array, weight: Array | None = None, selected: Array | None = None
) -> Array:
    """`fixed_length_mean` with the padded length T of the batch at hand.

    Args:
      values: `[B, T]` float.
      mask: `[B, T]`, 1 where a decision is real.
      weight: unused.
      selected: `[B, T]`, 1 where a decision is selected; None selects all.

    Returns:
      Scalar, the masked sum over `B T`, B being the rows with a real decision.
    """
    return fixed_length_mean(values.shape[1])(values, mask, weight, selected)


def padded_length_sum(
    values: Array, mask: Array, weight: Array | None = None, selected: Array | None = None
) -> Array:
    """`fixed_length_sum` with the padded length T of the batch at hand.

    Args:
      values: `[B, T]` float.
      mask: `[B, T]`, 1 where a decision is real.
      weight: unused.
      selected: `[B, T]`, 1 where a decision is selected; None selects all.

    Returns:
      Scalar.
    """
    return fixed_length_sum(values.shape[1])(values, mask, weight, selected)


def selected_mean(
    values: Array, mask: Array, weight: Array | None = None, selected: Array | None = None
) -> Array:
    """Mean over the decisions that the stabiliser kept.

    Args:
      values: `[B, T]` float, already weighted.
      mask: `[B, T]`, 1 where a decision is real.
      weight: `[B, T]`, a decision counts where it is not 0. None counts all.
      selected: `[B, T]`, 1 where a decision is selected; None selects all.

    Returns:
      Scalar, 0 if nothing counts.
    """
    safe, chosen = _masked(values, mask, selected)
    chosen = chosen if weight is None else chosen * (weight != 0)
    return jnp.sum(jnp.where(chosen > 0, safe, 0.0)) / _count(jnp.sum(chosen))


def scaled(aggregate: Aggregate, factor: float) -> Aggregate:
    """An aggregation times a constant.

    Args:
      aggregate: any.
      factor: above 0.

    Returns:
      An aggregation.
    """
    return lambda *arguments, **named: factor * aggregate(*arguments, **named)


def weights_of(aggregate: Aggregate, mask: Array, weight: Array | None = None) -> Array:
    """The factor that an aggregation gives to each decision.

    Computed on the whole batch it lets micro-batches sum up to the batch's loss exactly.

    Args:
      aggregate: one of this module's, or any that is linear in its values.
      mask: `[B, T]`.
      weight: `[B, T]` or None.

    Returns:
      `[B, T]` float, `aggregate(values, mask, weight) == sum(values * result)`.
    """
    zeros = jnp.zeros(mask.shape, jnp.result_type(mask, jnp.float32))
    return jax.grad(lambda values: aggregate(values, mask, weight))(zeros)


def _masked(values: Array, mask: Array, selected: Array | None) -> tuple[Array, Array]:
    chosen = mask > 0 if selected is None else (mask > 0) & (selected > 0)
    chex.assert_rank([values, mask], 2)
    chex.assert_equal_shape([values, mask, chosen])
    return jnp.where(chosen, values, 0.0), chosen.astype(values.dtype)


def _num_rows(mask: Array) -> Array:
    return jnp.sum(jnp.any(mask > 0, axis=-1))


def _count(local: Array) -> Array:
    return jnp.maximum(parallel.total(local), 1) / parallel.num_shards()
