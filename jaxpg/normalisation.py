"""Running mean and variance as explicit state, and what is normalised with them."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from jaxpg import parallel
from jaxpg.types import Array, PyTree

LIMIT = 10.0
"""Normalised values are cut at plus and minus this, in standard deviations."""


@struct.dataclass
class RunningStatistics:
    """Mean and variance of everything seen so far, element by element.

    Attributes:
      count: `[2]` uint32, high and low word: float32 stops counting at 2^24.
      mean: pytree of `[...]` float.
      squares: pytree of `[...]` float, sum of squared deviations divided by the count: the
        population variance.
    """

    count: Array
    mean: PyTree
    squares: PyTree

    @property
    def num_samples(self) -> Array:
        """The count as a float32, for weights and display."""
        high, low = self.count.astype(jnp.float32)
        return high * 2.0**32 + low

    @property
    def variance(self) -> PyTree:
        """Population variance; 1 before anything was seen."""
        seen = jnp.any(self.count > 0)
        return jax.tree.map(lambda x: jnp.where(seen, x, 1.0), self.squares)


def initial_statistics(example: PyTree) -> RunningStatistics:
    """Statistics of nothing: mean 0, variance 1.

    Args:
      example: pytree of one unbatched sample; leaves that are not floating keep statistics too,
        but `normalise` leaves them alone.

    Returns:
      `RunningStatistics`.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), example)
    return RunningStatistics(jnp.zeros(2, jnp.uint32), zeros, zeros)


def update_statistics(statistics: RunningStatistics, batch: PyTree) -> RunningStatistics:
    """Merges a batch (of all devices) into the statistics.

    Args:
      statistics: so far.
      batch: pytree of `[..., *shape]`, any number of leading axes.

    Returns:
      `RunningStatistics`.

    Source: Chan et al. 1979, the parallel algorithm for variances.

    >>> s = initial_statistics(jnp.zeros(2))
    >>> s = update_statistics(s, jnp.array([[0., 10.], [2., 30.]]))
    >>> s.mean.tolist(), s.variance.tolist()
    ([1.0, 20.0], [1.0, 100.0])
    """
    leaf, shape = jax.tree.leaves(batch)[0], jax.tree.leaves(statistics.mean)[0].shape
    # Counted by the leading axes: an entry of an observation may be empty.
    local = _size(leaf.shape[: leaf.ndim - len(shape)])
    added = local * parallel.num_shards()
    count = _add(statistics.count, added)
    before = statistics.num_samples
    share = added / (before + added)

    def merge(mean: Array, variance: Array, values: Array) -> tuple[Array, Array]:
        rows = values.reshape((local, *mean.shape)).astype(jnp.float32)
        batch_mean = parallel.mean(jnp.mean(rows, axis=0))
        batch_variance = parallel.mean(jnp.mean((rows - batch_mean) ** 2, axis=0))
        delta = batch_mean - mean
        merged = variance * (1 - share) + batch_variance * share + delta**2 * share * (1 - share)
        return mean + delta * share, merged

    merged = jax.tree.map(merge, statistics.mean, statistics.squares, batch)
    mean, squares = jax.tree.transpose(
        jax.tree.structure(statistics.mean), jax.tree.structure((0, 0)), merged
    )
    return RunningStatistics(count, mean, squares)


def normalise(statistics: RunningStatistics, sample: PyTree, epsilon: float = 1e-8) -> PyTree:
    """Centres and scales samples; integer and boolean leaves pass unchanged.

    Args:
      statistics: frozen here, whatever is normalised.
      sample: pytree of `[..., *shape]`.
      epsilon: added to the variance.

    Returns:
      Pytree of the same shapes, within plus and minus `LIMIT`. A dimension that never varied
      therefore stays finite when it moves.
    """

    def one(mean: Array, variance: Array, values: Array) -> Array:
        if not jnp.issubdtype(values.dtype, jnp.floating):
            return values
        scaled = (values - mean) * jax.lax.rsqrt(variance + epsilon)
        return jnp.clip(scaled, -LIMIT, LIMIT).astype(values.dtype)

    return jax.tree.map(one, statistics.mean, statistics.variance, sample)


def running_return(
    reward: Array, ended: Array, initial: Array, discount: float
) -> tuple[Array, Array]:
    """Discounted sum of the rewards of the running episode up to each step.

    Args:
      reward: `[B, T]` float.
      ended: `[B, T]` bool, terminated or truncated; the sum restarts after it.
      initial: `[B]` float, the sum before the first step.
      discount: in [0, 1].

    Returns:
      `([B, T], [B])`: the sums, and what to go on with.

    >>> r, last = running_return(jnp.ones((1, 3)), jnp.array([[False, True, False]]),
    ...                          jnp.zeros(1), 0.5)
    >>> r.tolist(), last.tolist()
    ([[1.0, 1.5, 1.0]], [1.0])
    """
    chex.assert_equal_shape([reward, ended])

    def step(total: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        reward_t, ended_t = at
        total = discount * total + reward_t
        return jnp.where(ended_t, 0.0, total), total

    last, sums = jax.lax.scan(step, initial, (reward.T, ended.T))
    return sums.T, last


def scale_reward(statistics: RunningStatistics, reward: Array, epsilon: float = 1e-8) -> Array:
    """Divides rewards by the standard deviation of the running return; the mean stays.

    Args:
      statistics: of the running return.
      reward: `[...]` float.
      epsilon: added to the variance.

    Returns:
      `[...]` float, within plus and minus `LIMIT`.
    """
    return jnp.clip(reward * jax.lax.rsqrt(statistics.variance + epsilon), -LIMIT, LIMIT)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def _add(count: Array, added: int) -> Array:
    high, low = count
    total = low + jnp.uint32(added)
    return jnp.stack([high + (total < low).astype(jnp.uint32), total])
