"""Weekly sales that look like those of a supermarket chain, drawn at random."""

from __future__ import annotations

import datetime
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg_envs.inventory.demand import days_from_christmas

Array = jax.Array

FIRST_WEEK = datetime.date(2014, 5, 5)
"""Monday of week 0."""

# Log of a series' mean: 5/25/50/75/95 % of the series are at 10/23/46/93/287 units.
_MEAN_CENTRE, _MEAN_SPREAD, _MEAN_SKEW = np.log(46.0), 1.015, 0.056
# Log of a series' standard deviation over its mean: 90 % are in [0.22, 0.77].
_VARIATION_CENTRE, _VARIATION_SPREAD = np.log(0.415), 0.38
# Fitted so that weeks and stores correlate as published once zeros and seasons are in.
_WEEK_CORRELATION, _STORE_CORRELATION = 0.55, 0.30
_ZEROS = 0.01
_BEFORE_CHRISTMAS = np.array([1.10, 1.15, 1.21, 1.27])


class RetailSeries(NamedTuple):
    """Sales of products in stores.

    Attributes:
      values: `[N, T, S]` float, whole numbers, units sold of each product, week and store.
      days_from_christmas: `[T]` float64, see `demand.days_from_christmas`.
    """

    values: Array
    days_from_christmas: np.ndarray


def retail_series(
    key: jax.Array, num_products: int, num_stores: int, num_weeks: int = 171
) -> RetailSeries:
    """Draws weekly sales with the statistics of the published retail data.

    A series is its mean times a log-normal factor, autoregressive from week to week and partly
    common to the stores of a product, times a season that ends at Christmas; one week in a hundred
    sells nothing; the rest is rounded. Means of series are independent.

    Args:
      key: random key.
      num_products: N, at least 1.
      num_stores: S, at least 1.
      num_weeks: T, at least 1; week 0 begins at `FIRST_WEEK`.

    Returns:
      `RetailSeries`. Over many series: 5, 25, 50, 75 and 95 % of their means at 10, 23, 46, 93 and
      287 units; standard deviation about 0.41 of the mean, 0.22 to 0.77 for nine in ten; lag-1
      autocorrelation about 0.47; 1 % zeros; mean correlation of two stores 0.27; in the four weeks
      before Christmas 10, 15, 21 and 27 % more than in the others.

    Raises:
      ValueError: a size below 1.

    Source: statistics of the series used in HDPO, Alvo et al. 2023 (arXiv 2306.11246). The form of
    the model is ours.
    """
    for name, size in (
        ("num_products", num_products),
        ("num_stores", num_stores),
        ("num_weeks", num_weeks),
    ):
        if size < 1:
            raise ValueError(f"{name} is {size!r}, but it has to be at least 1")
    week = datetime.timedelta(weeks=1)
    days = days_from_christmas([FIRST_WEEK + i * week for i in range(num_weeks)])
    return RetailSeries(_draw(key, jnp.asarray(days, float), num_products, num_stores), days)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw(key: jax.Array, days: Array, num_products: int, num_stores: int) -> Array:
    key_mean, key_variation, key_product, key_series, key_zeros = jax.random.split(key, 5)
    shape = (num_products, num_stores)
    normal = jax.random.normal(key_mean, shape)
    mean = jnp.exp(_MEAN_CENTRE + _MEAN_SPREAD * normal + _MEAN_SKEW * normal**2)
    season = _season(days)
    spread = _spread_of_log(key_variation, shape, season)
    common = _autoregression(key_product, (num_products, 1), len(days))
    own = _autoregression(key_series, shape, len(days))
    weight = _STORE_CORRELATION
    latent = jnp.sqrt(weight) * common + jnp.sqrt(1.0 - weight) * own
    factor = jnp.exp(spread * latent - 0.5 * spread**2)
    sold = jax.random.uniform(key_zeros, factor.shape) >= _ZEROS
    # Divided by what zeros and seasons do to the mean.
    level = mean / ((1.0 - _ZEROS) * jnp.mean(season))
    values = jnp.round(level * season[:, None, None] * factor * sold)
    return jnp.moveaxis(values, 0, 1)


def _season(days: Array) -> Array:
    """`[T]`, 1 but in the four weeks that end at Christmas."""
    weeks_before = jnp.floor(-days / 7.0).astype(int)
    before = (days <= 0) & (weeks_before < 4)
    boost = jnp.asarray(_BEFORE_CHRISTMAS[::-1].copy(), float)[jnp.clip(weeks_before, 0, 3)]
    return jnp.where(before, boost, 1.0)


def _spread_of_log(key: jax.Array, shape: tuple[int, ...], season: Array) -> Array:
    """Standard deviation of the log-normal factor, given that of the whole series.

    Squares of variations: (1 + whole) = (1 + factor) (1 + season) (1 + zeros).
    """
    drawn = jax.random.normal(key, shape)
    whole = jnp.exp(2.0 * (_VARIATION_CENTRE + _VARIATION_SPREAD * drawn))
    of_season = jnp.var(season) / jnp.mean(season) ** 2
    of_zeros = _ZEROS / (1.0 - _ZEROS)
    factor = (1.0 + whole) / ((1.0 + of_season) * (1.0 + of_zeros))
    # At least a little noise, where a draw leaves none for the factor.
    return jnp.sqrt(jnp.log(jnp.maximum(factor, 1.0025)))


def _autoregression(key: jax.Array, shape: tuple[int, ...], length: int) -> Array:
    """`[length, *shape]`, standard normal at every time."""
    noise = jax.random.normal(key, (length, *shape))
    innovation = jnp.sqrt(1.0 - _WEEK_CORRELATION**2)

    def step(value: Array, drawn: Array) -> tuple[Array, Array]:
        value = _WEEK_CORRELATION * value + innovation * drawn
        return value, value

    _, rest = jax.lax.scan(step, noise[0], noise[1:])
    return jnp.concatenate([noise[:1], rest])
