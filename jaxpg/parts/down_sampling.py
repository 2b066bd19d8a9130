"""Down-sampling: which rows and which decisions of a batch an update is made of.

Counts may be traced: masks come back, and shapes stay as they are. Ties have a rule, because they
are everywhere (rows of a group with one reward share their advantage): the lower index wins.
Numbers that rounding alone tells apart are ties, so that the choice does not depend on how a batch
was cut into parts when the numbers were computed.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxpg.types import Array

ROUNDING = 1e-5
"""Relative distance within which two numbers count as equal; 80 times that of float32."""


def schedule(progress: float | Array, first: float, last: float) -> Array:
    """A line from the first value to the last.

    Args:
      progress: `[...]` float, cut to [0, 1].
      first: at progress 0, exactly.
      last: at progress 1, exactly.

    Returns:
      `[...]` float.

    Source: D3S, "Learning more with less", arXiv 2509.22115.

    >>> schedule(jnp.array([-1., 0., 0.5, 2.]), 0.25, 1.0).tolist()
    [0.25, 0.25, 0.625, 1.0]
    """
    progress = jnp.clip(jnp.asarray(progress, jnp.float32), 0.0, 1.0)
    return (1.0 - progress) * first + progress * last


def num_kept(fraction: float | Array, num_rows: int) -> Array:
    """How many rows a fraction is: at least two, without which there is no variance.

    Args:
      fraction: float in [0, 1].
      num_rows: B, static; where it is 1 the result is 1.

    Returns:
      int32, rounded to the nearest whole number (halves to the even one).

    >>> [num_kept(fraction, 8).item() for fraction in (0.1, 0.3, 0.6, 1.0)]
    [2, 2, 5, 8]
    """
    count = jnp.round(jnp.asarray(fraction, jnp.float32) * num_rows).astype(jnp.int32)
    return jnp.minimum(jnp.maximum(count, 2), num_rows)


def highest(score: Array, count: int | Array, valid: Array | None = None) -> Array:
    """The entries with the highest scores.

    Args:
      score: `[B]` float, finite where valid.
      count: int, may be traced; more than there are valid entries takes them all.
      valid: `[B]` bool; None takes all.

    Returns:
      `[B]` bool, exactly `min(count, valid entries)` times True; ties go to the lower index.

    >>> highest(jnp.array([1., 3., 2., 3., 3.]), 2).tolist()
    [False, True, False, True, False]
    """
    chex.assert_rank(score, 1)
    valid = _all(score) if valid is None else valid
    chex.assert_equal_shape([score, valid])
    descending = jnp.sort(jnp.where(valid, score, -jnp.inf))[::-1]
    count = jnp.clip(count, 0, jnp.sum(valid))
    threshold = descending[jnp.maximum(count - 1, 0)]
    return _first(score, valid, count, threshold, ROUNDING * jnp.abs(threshold))


def max_variance_rows(advantage: Array, num_rows: int | Array, valid: Array | None = None) -> Array:
    """The subset of a given size whose advantages have the largest variance.

    It consists of the k largest and the `num_rows - k` smallest for some k, and the variance has
    one peak as k grows: one more large and one less small row change it by a number of the sign
    of `(n - 1) h + (n + 1) l - 2 S`, with n rows that sum up to S before, h coming and l going,
    and that number never grows. Its sign is told where differences of variances are long below
    rounding. Among splits of one variance the smallest k is taken, and among rows of one
    advantage (to `ROUNDING` of the largest distance from the mean) the lower indices.

    Args:
      advantage: `[B]` float, finite where valid. Their scale and offset do not matter.
      num_rows: int, may be traced; more than there are valid rows takes them all.
      valid: `[B]` bool, False for rows that are padding; None takes all.

    Returns:
      `[B]` bool, exactly `min(num_rows, valid rows)` times True. O(B log B).

    Source: D3S, arXiv 2509.22115; that the optimum is such a split: PODS, arXiv 2504.13818.

    >>> max_variance_rows(jnp.array([0., 2., -1., 1., -2., 0.]), 3).tolist()
    [False, True, True, False, True, False]
    """
    chex.assert_rank(advantage, 1)
    valid = _all(advantage) if valid is None else valid
    chex.assert_equal_shape([advantage, valid])
    size = advantage.shape[0]
    total = jnp.sum(valid)
    count = jnp.clip(num_rows, 0, total)
    mean = jnp.sum(jnp.where(valid, advantage, 0.0)) / jnp.maximum(total, 1)
    centred = jnp.where(valid, advantage - mean, 0.0)
    scale = jnp.max(jnp.abs(centred))
    ascending = jnp.sort(jnp.where(valid, centred, jnp.inf))
    ascending = jnp.where(jnp.arange(size) < total, ascending, 0.0)
    sums = jnp.concatenate([jnp.zeros(1), jnp.cumsum(ascending)])

    def at(index: Array) -> Array:
        return ascending[jnp.clip(index, 0, size - 1)]

    k = jnp.arange(size)
    coming, going = at(total - k - 1), at(count - k - 1)
    selected = sums[jnp.maximum(count - k, 0)] + sums[total] - sums[jnp.maximum(total - k, 0)]
    slope = (count - 1) * coming + (count + 1) * going - 2.0 * selected
    # Rounding of a prefix sum grows with the number of rows.
    rises = (slope > 0.1 * ROUNDING * scale * count) & (coming - going > 4 * ROUNDING * scale)
    num_largest = jnp.max(jnp.where(rises & (k < count), k + 1, 0))
    num_smallest = count - num_largest

    largest = _first(centred, valid, num_largest, at(total - num_largest), ROUNDING * scale)
    smallest = _first(-centred, valid, num_smallest, -at(num_smallest - 1), ROUNDING * scale)
    return largest | smallest


def max_variance_rows_within(
    advantage: Array, num_rows: int | Array, group_size: int, valid: Array | None = None
) -> Array:
    """`max_variance_rows` inside each group.

    Args:
      advantage: `[B]` float, the rows of a group side by side.
      num_rows: int, of each group, may be traced.
      group_size: static, divides B.
      valid: `[B]` bool; None takes all.

    Returns:
      `[B]` bool, `min(num_rows, valid rows)` times True in each group.

    Raises:
      ValueError: the group size does not divide B.

    Source: D3S, arXiv 2509.22115 (its variant inside groups), and PODS, arXiv 2504.13818: inside
    a group the reward and the standardised advantage have the same order and the same optimum.

    >>> max_variance_rows_within(jnp.array([0., 1., 1., 3., 0., 0.]), 2, 3).tolist()
    [True, True, False, True, True, False]
    """
    chex.assert_rank(advantage, 1)
    if advantage.shape[0] % group_size:
        raise ValueError(
            f"group_size is {group_size}, which does not divide the {advantage.shape[0]} rows of "
            f"advantage"
        )
    valid = _all(advantage) if valid is None else valid
    groups = jax.tree.map(lambda x: x.reshape((-1, group_size)), (advantage, valid))
    inside = jax.vmap(max_variance_rows, in_axes=(0, None, 0))
    return inside(groups[0], num_rows, groups[1]).reshape(-1)


def top_tokens(key: Array, mask: Array, fraction: float | Array) -> Array:
    """The share of the real decisions with the highest keys, pooled over all rows.

    The count is `ceil(fraction * real decisions)`, at least one if any is real. A product that is
    a whole number but for rounding is that number: 0.2 of 25 is 5.

    Args:
      key: `[B, T]` float, finite where real, for instance |advantage| x entropy.
      mask: `[B, T]`, 1 where a decision is real.
      fraction: in [0, 1], may be traced; 1 takes them all.

    Returns:
      `[B, T]` bool, exactly the count times True and none of them padding; ties go to the lower
      index, earlier rows first.

    Source: D3S, arXiv 2509.22115.

    >>> top_tokens(jnp.array([[3., 1.], [2., 9.]]), jnp.array([[1., 1.], [1., 0.]]), 0.5).tolist()
    [[True, False], [True, False]]
    """
    chex.assert_rank([key, mask], 2)
    chex.assert_equal_shape([key, mask])
    real = mask > 0
    exact = fraction * jnp.sum(real).astype(jnp.float32)
    whole = jnp.round(exact)
    near = jnp.abs(exact - whole) <= 1e-6 * exact
    count = jnp.where(near, whole, jnp.ceil(exact)).astype(jnp.int32)
    return highest(key.ravel(), jnp.maximum(count, 1), real.ravel()).reshape(mask.shape)


def _first(score: Array, valid: Array, count: Array, threshold: Array, tie: Array) -> Array:
    """Marks `count` entries from the highest on, the last of which scores the threshold."""
    above = valid & (score > threshold + tie)
    tied = valid & (jnp.abs(score - threshold) <= tie)
    taken = tied & (jnp.cumsum(tied) <= count - jnp.sum(above))
    return (above | taken) & (count > 0)


def _all(scores: Array) -> Array:
    return jnp.ones(scores.shape, bool)
