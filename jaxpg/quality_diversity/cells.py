"""Cells of a descriptor box: a grid, or the Voronoi cells of centroids.

A descriptor belongs to the cell with the nearest centre, the first of several. Distances are
measured in units of the box's sides, so that they do not depend on the units of the descriptors;
with equal sides these are Euclid's. Descriptors outside the box belong to cells like any others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxpg.choices import at_least
from jaxpg.types import Array


@struct.dataclass
class GridCells:
    """Boxes of one size, in the order of `numpy.ravel_multi_index`; `grid` builds them.

    Attributes:
      low: `[D]` float, lower corner of the box.
      high: `[D]` float, upper corner.
      shape: cells along each dimension, static.
    """

    low: Array
    high: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def num_cells(self) -> int:
        """K, static."""
        return math.prod(self.shape)

    def index(self, descriptors: Array) -> Array:
        """The cell of each descriptor.

        Args:
          descriptors: `[N, D]` float; those outside the box belong to the cells at its border.

        Returns:
          `[N]` int32 in `[0, K)`, arbitrary for descriptors that are not numbers.

        Raises:
          ValueError: the descriptors have another number of dimensions.
        """
        check_descriptors(self, descriptors)
        counts = jnp.asarray(self.shape, jnp.float32)
        steps = (descriptors - self.low) / (self.high - self.low) * counts
        # Rounded up less one: a border belongs to the first of its two cells. The comparison is
        # false for what is not a number, which has no integer.
        inside = jnp.where(steps > 0, jnp.minimum(jnp.ceil(steps) - 1, counts - 1), 0)
        strides = [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        return jnp.sum(inside.astype(jnp.int32) * jnp.asarray(strides, jnp.int32), axis=-1)

    def centres(self) -> Array:
        """Centres of the cells, `[K, D]` float."""
        axes = [(jnp.arange(count) + 0.5) / count for count in self.shape]
        units = jnp.stack([x.ravel() for x in jnp.meshgrid(*axes, indexing="ij")], axis=-1)
        return self.low + units * (self.high - self.low)


@struct.dataclass
class CentroidCells:
    """Voronoi cells; `centroidal` and `from_centroids` build them.

    Attributes:
      low: `[D]` float, lower corner of the box.
      high: `[D]` float, upper corner.
      centroids: `[K, D]` float.
    """

    low: Array
    high: Array
    centroids: Array

    @property
    def num_cells(self) -> int:
        """K, static."""
        return self.centroids.shape[-2]

    def index(self, descriptors: Array) -> Array:
        """The cell of each descriptor.

        Args:
          descriptors: `[N, D]` float.

        Returns:
          `[N]` int32 in `[0, K)`, arbitrary for descriptors that are not finite.

        Raises:
          ValueError: the descriptors have another number of dimensions.
        """
        check_descriptors(self, descriptors)
        # From the middle of the box numbers are small, and little is lost in `_nearest`.
        middle, side = (self.low + self.high) / 2, self.high - self.low
        return _nearest((descriptors - middle) / side, (self.centroids - middle) / side)

    def centres(self) -> Array:
        """The centroids, `[K, D]` float."""
        return self.centroids


Cells = GridCells | CentroidCells


def grid(low: Sequence[float], high: Sequence[float], shape: Sequence[int]) -> GridCells:
    """Boxes of one size.

    Args:
      low: `[D]`, lower corner of the box.
      high: `[D]`, upper corner.
      shape: cells along each of the D dimensions.

    Returns:
      `GridCells`.

    Raises:
      ValueError: a box without volume, or fewer than one cell along a dimension.

    >>> cells = grid([0., 0.], [1., 1.], (2, 3))
    >>> cells.index(jnp.array([[0.1, 0.5], [0.9, 7.]])).tolist()
    [1, 5]
    """
    low, high = _box(low, high)
    shape = tuple(int(count) for count in shape)
    if len(shape) != low.shape[0]:
        raise ValueError(f"shape is {shape}, but the box has {low.shape[0]} dimensions")
    for axis, count in enumerate(shape):
        at_least(f"shape[{axis}]", count, 1)
    return GridCells(low, high, shape)


def from_centroids(
    low: Sequence[float], high: Sequence[float], centroids: Sequence[Sequence[float]]
) -> CentroidCells:
    """Voronoi cells of given centroids.

    Args:
      low: `[D]`, lower corner of the box.
      high: `[D]`, upper corner.
      centroids: `[K, D]`.

    Returns:
      `CentroidCells`.

    Raises:
      ValueError: a box without volume, no centroid, or one that is not finite.
    """
    low, high = _box(low, high)
    centroids = np.asarray(centroids, np.float32)
    if centroids.ndim != 2 or centroids.shape[1] != low.shape[0] or not len(centroids):
        raise ValueError(
            f"centroids are of shape {centroids.shape}, but have to be [K, {low.shape[0]}] with at "
            f"least one row in a box of {low.shape[0]} dimensions"
        )
    if not np.all(np.isfinite(centroids)):
        row = int(np.argmin(np.all(np.isfinite(centroids), axis=1)))
        raise ValueError(f"centroids[{row}] is {centroids[row].tolist()}, but has to be finite")
    return CentroidCells(low, high, jnp.array(centroids))


def centroidal(
    key: Array,
    low: Sequence[float],
    high: Sequence[float],
    num_cells: int,
    num_samples: int = 50_000,
    num_iterations: int = 20,
) -> CentroidCells:
    """A centroidal Voronoi tessellation (CVT): cells of about one size in any dimension.

    The means of `k_means` on samples that are uniform in the box. They start from a sequence of
    low discrepancy, which is even over the whole box at once; from random starts that takes
    hundreds of iterations.

    Args:
      key: of the samples and the start.
      low: `[D]`, lower corner of the box.
      high: `[D]`, upper corner.
      num_cells: K.
      num_samples: at least K.
      num_iterations: of `k_means`, at most.

    Returns:
      `CentroidCells`.

    Raises:
      ValueError: a box without volume, fewer than one cell, or fewer samples than cells.

    Source: CVT-MAP-Elites, Vassiliades et al. 2018 (arXiv 1610.05729).
    """
    low, high = _box(low, high)
    at_least("num_cells", num_cells, 1)
    at_least("num_samples", num_samples, num_cells)
    at_least("num_iterations", num_iterations, 0)
    units = _tessellate(key, low.shape[0], num_cells, num_samples, num_iterations)
    return CentroidCells(low, high, (low + high) / 2 + units * (high - low))


def k_means(samples: Array, means: Array, num_iterations: int) -> tuple[Array, Array]:
    """Lloyd's algorithm: every mean moves to the mean of the samples that are nearest to it.

    Args:
      samples: `[S, D]` float.
      means: `[K, D]` float, where they start. One without samples stays where it is.
      num_iterations: at most; it ends sooner when no sample changes its mean.

    Returns:
      `(means, labels)`: `[K, D]` float and `[S]` int32, the mean to which each sample belonged when
      the means moved for the last time. So every mean is the mean of the samples with its label.
    """

    num_samples = len(samples)
    # In blocks: all distances at once would be S K numbers.
    blocks = jnp.pad(samples, ((0, -num_samples % _BLOCK), (0, 0)))
    blocks = blocks.reshape(-1, _BLOCK, samples.shape[1])

    def move(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        means, labels, _, iteration = carry
        new = jax.lax.map(lambda block: _nearest(block, means), blocks).ravel()[:num_samples]
        counts = jnp.zeros(len(means)).at[new].add(1.0)[:, None]
        sums = jnp.zeros_like(means).at[new].add(samples)
        means = jnp.where(counts > 0, sums / jnp.maximum(counts, 1.0), means)
        return means, new, jnp.any(new != labels), iteration + 1

    labels = jnp.full(num_samples, -1, jnp.int32)
    means, labels, _, _ = jax.lax.while_loop(
        lambda carry: carry[2] & (carry[3] < num_iterations),
        move,
        (means, labels, jnp.ones((), bool), jnp.zeros((), jnp.int32)),
    )
    return means, labels


def check_descriptors(cells: Cells, descriptors: Array) -> None:
    """Checks that descriptors are of the box.

    Args:
      cells: of D dimensions.
      descriptors: `[N, D]`.

    Raises:
      ValueError: naming both shapes.
    """
    dimensions = cells.low.shape[-1]
    if descriptors.ndim != 2 or descriptors.shape[1] != dimensions:
        raise ValueError(
            f"descriptors are of shape {descriptors.shape}, but have to be [N, {dimensions}] for "
            f"cells of {dimensions} dimensions"
        )


_BLOCK = 2048
"""Samples whose distances are in memory at once."""

_GROUP = 16
"""Centres that are compared at once."""

_FAR = 1e30
"""Farther than any centre, and finite: products with infinity are not numbers."""


@jax.jit
def _nearest(points: Array, centres: Array) -> Array:
    """Row of the nearest centre, `[N]` int32, for `[N, D]` points and `[K, D]` centres."""
    number = len(centres)
    # |c - p|^2 / 2 without |p|^2 / 2, as one product of matrices. Full precision: on accelerators
    # the default takes centres that are a cell apart for equal.
    halves = jnp.sum(centres**2, axis=1, keepdims=True) / 2
    rows = jnp.concatenate([centres, halves], axis=1)
    padding = jnp.zeros((-number % _GROUP, rows.shape[1])).at[:, -1].set(_FAR)
    distances = jnp.matmul(
        jnp.concatenate([rows, padding]),
        jnp.concatenate([-points, jnp.ones_like(points[:, :1])], axis=1).T,
        precision=jax.lax.Precision.HIGHEST,
    ).reshape(-1, _GROUP, len(points))
    # First the group with the nearest centre, then the centre in it: `argmin` over all of them
    # takes far longer. The barriers keep plain reductions over a leading axis, of many
    # columns at a time.
    group = _first_least(jax.lax.optimization_barrier(jnp.min(distances, axis=1)))
    of_group = jnp.take_along_axis(distances, group[None, None], axis=0, mode="clip")[0]
    centre = _first_least(jax.lax.optimization_barrier(of_group))
    # What is not a number is near to nothing.
    return jnp.minimum(group * _GROUP + centre, number - 1)


def _first_least(values: Array) -> Array:
    """Row of the least value of each column, the first of several; `[N]` int32."""
    rows = jnp.arange(len(values), dtype=jnp.int32)[:, None]
    least = jnp.min(values, axis=0)
    first = jnp.min(jnp.where(values <= least, rows, len(values)), axis=0)
    return jnp.minimum(first, len(values) - 1)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _tessellate(
    key: Array, dimensions: int, num_cells: int, num_samples: int, num_iterations: int
) -> Array:
    """Centroids `[K, D]` in the unit box around 0."""
    key_samples, key_start = jax.random.split(key)
    shape = (num_samples, dimensions)
    samples = jax.random.uniform(key_samples, shape, minval=-0.5, maxval=0.5)
    shift = jax.random.uniform(key_start, (dimensions,))
    means = (_even(num_cells, dimensions) + shift) % 1.0 - 0.5
    return k_means(samples, means, num_iterations)[0]


def _even(number: int, dimensions: int) -> np.ndarray:
    """Points of low discrepancy in the unit box: multiples of powers of the golden ratio.

    Its generalisation to D dimensions is the root above 1 of x^(D + 1) = x + 1 (Roberts 2018).
    """
    ratio = 2.0
    for _ in range(64):
        ratio = (1.0 + ratio) ** (1.0 / (dimensions + 1))
    steps = ratio ** -np.arange(1.0, dimensions + 1.0)
    # In double precision: multiples of large numbers keep few digits behind the point.
    return np.float32(np.arange(1, number + 1)[:, None] * steps % 1.0)


def _box(low: Sequence[float], high: Sequence[float]) -> tuple[Array, Array]:
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    if low.ndim != 1 or low.shape != high.shape or not low.size:
        raise ValueError(
            f"low and high are of shapes {low.shape} and {high.shape}, but have to be of one shape "
            f"[D] with D at least 1"
        )
    if not np.all(np.isfinite(low) & np.isfinite(high) & (low < high)):
        axis = int(np.argmin(np.isfinite(low) & np.isfinite(high) & (low < high)))
        raise ValueError(
            f"the box goes from {low[axis]} to {high[axis]} in dimension {axis}, but low has to be "
            f"below high, and both finite"
        )
    return jnp.array(low), jnp.array(high)
