"""What customers want: models of demand that an environment samples, and stored traces.

A model is a pytree with three methods: `sample(key, time) -> [S]`, `history(length) ->
[length, S]`, the demand of the periods before the first one, oldest first, and
`days_from_christmas(time)`. A model of one's own needs nothing else.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import ArrayLike

Array = jax.Array


@struct.dataclass
class PoissonDemand:
    """Independent Poisson demand at every store.

    Attributes:
      mean: `[S]` float, at least 0.

    >>> PoissonDemand(jnp.array([5.0])).sample(jax.random.key(0), 0).shape
    (1,)
    """

    mean: Array

    def sample(self, key: Array, time: Array) -> Array:
        """`[S]` float whole numbers."""
        del time
        return jax.random.poisson(key, self.mean).astype(float)

    def history(self, length: int) -> Array:
        """`[length, S]`, the mean in every period: nothing was seen before."""
        return jnp.broadcast_to(self.mean, (length, *self.mean.shape)).astype(float)

    def days_from_christmas(self, time: Array) -> Array:
        """0: these periods have no date."""
        del time
        return jnp.zeros(())


@struct.dataclass
class NormalDemand:
    """Normal demand, correlated between stores, independent between periods.

    Attributes:
      mean: `[S]` float.
      factor: `[S, S]` float, lower triangular Cholesky factor of the covariance; see
        `normal_demand`.
      clip: static, no demand is negative.
    """

    mean: Array
    factor: Array
    clip: bool = struct.field(pytree_node=False, default=True)

    def sample(self, key: Array, time: Array) -> Array:
        """`[S]` float."""
        del time
        drawn = self.mean + self.factor @ jax.random.normal(key, self.mean.shape)
        return jax.nn.relu(drawn) if self.clip else drawn

    def history(self, length: int) -> Array:
        """`[length, S]`, the mean in every period: nothing was seen before."""
        return jnp.broadcast_to(self.mean, (length, *self.mean.shape)).astype(float)

    def days_from_christmas(self, time: Array) -> Array:
        """0: these periods have no date."""
        del time
        return jnp.zeros(())


def normal_demand(
    mean: ArrayLike, std: ArrayLike, correlation: float = 0.0, clip: bool = True
) -> NormalDemand:
    """Normal demand of which every two stores have the same correlation.

    Args:
      mean: `[S]` or one number.
      std: `[S]` or one number, at least 0; before clipping.
      correlation: in `[-1 / (S - 1), 1]`, of every two stores.
      clip: no demand is negative.

    Returns:
      A `NormalDemand`.

    Raises:
      ValueError: a negative standard deviation, or a correlation that S stores cannot have.

    >>> normal_demand([5.0, 5.0], [1.0, 2.0], correlation=0.5).factor
    Array([[1.       , 0.       ],
           [1.       , 1.7320508]], dtype=float32)
    """
    mean, std = np.broadcast_arrays(np.atleast_1d(mean), np.atleast_1d(std))
    if not (std >= 0).all():
        raise ValueError(f"std is {std[~(std >= 0)][0]}, but it has to be at least 0")
    num_stores = len(mean)
    lowest = -1.0 / (num_stores - 1) if num_stores > 1 else -1.0
    if not lowest <= correlation <= 1.0:
        raise ValueError(
            f"correlation is {correlation!r}, but that of {num_stores} stores is in "
            f"[{lowest:.3g}, 1]"
        )
    return NormalDemand(
        mean=jnp.asarray(mean, float),
        factor=jnp.asarray(std[:, None] * _equicorrelation(num_stores, correlation), float),
        clip=clip,
    )


def _equicorrelation(size: int, correlation: float) -> np.ndarray:
    """Cholesky factor of a matrix of ones and correlations, also where it is singular."""
    factor = np.zeros((size, size))
    rest = 1.0
    for column in range(size):
        # Every column below its diagonal is one number, and all rows have the same rest.
        diagonal = np.sqrt(max(rest, 0.0))
        factor[column, column] = diagonal
        below = (correlation - (1.0 - rest)) / diagonal if diagonal > 1e-7 else 0.0
        factor[column + 1 :, column] = below
        rest -= below**2
    return factor


@struct.dataclass
class TraceDemand:
    """Stored demand, which draws nothing: time 0 is row `first`.

    Past the end a sample is NaN, and so is the history before the start: a wrong length shows.

    Attributes:
      values: `[T0, S]` float.
      first: int32, row of time 0; the rows before it are history.
      days: `[T0]` float, days of each row from the nearest 25 December, negative before it. Past
        the end the last one stays.
    """

    values: Array
    first: Array
    days: Array

    def sample(self, key: Array, time: Array) -> Array:
        """`[S]` float, the stored row."""
        del key
        return self._rows(self.first + time, jnp.nan)

    def history(self, length: int) -> Array:
        """`[length, S]`, the rows before time 0, oldest first."""
        return self._rows(self.first - length + jnp.arange(length), jnp.nan)

    def future(self, time: Array, length: int) -> Array:
        """`[length, S]`, this period's demand and the next ones; 0 past the end."""
        return self._rows(self.first + time + jnp.arange(length), 0.0)

    def days_from_christmas(self, time: Array) -> Array:
        """Scalar float, stored."""
        return self.days.at[self.first + time].get(mode="clip").astype(float)

    def _rows(self, index: Array, outside: float) -> Array:
        chex.assert_rank(self.values, 2)
        # A negative index would count from the end; past the end it is outside.
        index = jnp.where(index < 0, self.values.shape[0], index)
        return self.values.at[index].get(mode="fill", fill_value=outside).astype(float)


def trace_demand(
    values: ArrayLike, first: int = 0, days_from_christmas: ArrayLike | None = None
) -> TraceDemand:
    """Stored demand of one scenario.

    Args:
      values: `[T0, S]`.
      first: row of time 0, in `[0, T0)`.
      days_from_christmas: `[T0]`; None gives 0.

    Returns:
      A `TraceDemand`.

    Raises:
      ValueError: shapes that do not fit, or `first` outside the trace.
    """
    values = jnp.asarray(values, float)
    if values.ndim != 2:
        raise ValueError(
            f"values has shape {values.shape}, but [num_periods, num_stores] is needed"
        )
    if not 0 <= first < len(values):
        raise ValueError(f"first is {first!r}, but the trace has the rows 0 to {len(values) - 1}")
    days = np.zeros(len(values)) if days_from_christmas is None else days_from_christmas
    if np.shape(days) != (len(values),):
        raise ValueError(
            f"days_from_christmas has shape {np.shape(days)}, but ({len(values)},) is needed: one "
            f"number for each period"
        )
    return TraceDemand(values, jnp.asarray(first, jnp.int32), jnp.asarray(days, float))


def days_from_christmas(dates: Sequence[datetime.date]) -> np.ndarray:
    """Signed days from the nearest 25 December, negative before it.

    Args:
      dates: `[T]`.

    Returns:
      `[T]` float64 in `[-182, 183]`.

    >>> days_from_christmas([datetime.date(2016, 12, 20), datetime.date(2017, 1, 4)])
    array([-5., 10.])
    """
    found = []
    for date in dates:
        of_years = (date.year - 1, date.year, date.year + 1)
        distances = [(date - datetime.date(year, 12, 25)).days for year in of_years]
        found.append(min(distances, key=abs))
    return np.array(found, float)
