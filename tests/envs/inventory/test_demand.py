"""Models of demand, against their moments."""

import datetime

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.inventory import (
    PoissonDemand,
    TraceDemand,
    days_from_christmas,
    normal_demand,
    trace_demand,
)

KEYS = jax.random.split(jax.random.key(0), 20_000)
MEAN, STD = np.array([3.7, 4.8, 7.3]), np.array([1.8, 1.0, 2.7])


def drawn(demand):
    return np.asarray(jax.jit(jax.vmap(lambda key: demand.sample(key, 0)))(KEYS))


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.5, 1.0])
def test_normal_demand_has_its_moments_and_one_correlation(correlation):
    demand = normal_demand(MEAN, STD, correlation, clip=False)
    covariance = np.asarray(demand.factor, float) @ np.asarray(demand.factor, float).T
    expected = np.where(np.eye(3) > 0, 1.0, correlation) * STD[:, None] * STD
    np.testing.assert_allclose(covariance, expected, atol=1e-6)


def test_samples_follow_the_covariance_and_clipping_only_moves_what_is_negative():
    free, clipped = (drawn(normal_demand(MEAN, STD, 0.5, clip=clip)) for clip in (False, True))
    np.testing.assert_allclose(free.mean(axis=0), MEAN, atol=0.08)
    np.testing.assert_allclose(np.cov(free.T)[0, 1], 0.5 * STD[0] * STD[1], atol=0.08)
    assert (free < 0).any()
    np.testing.assert_array_equal(clipped, np.maximum(free, 0.0))


def test_poisson_demand_is_whole_and_has_its_mean_as_variance():
    values = drawn(PoissonDemand(jnp.array([5.0, 0.5])))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, values.round())
    np.testing.assert_allclose(values.mean(axis=0), [5.0, 0.5], rtol=0.03)
    np.testing.assert_allclose(values.var(axis=0), [5.0, 0.5], rtol=0.05)


def test_stores_draw_independently():
    values = drawn(PoissonDemand(jnp.array([5.0, 5.0])))
    assert np.abs(np.corrcoef(values.T)[0, 1]) < 0.03


def test_before_the_first_period_the_mean_was_seen():
    for demand in (PoissonDemand(jnp.array(MEAN)), normal_demand(MEAN, STD)):
        np.testing.assert_allclose(demand.history(2), [MEAN, MEAN], rtol=1e-6)
        assert demand.history(0).shape == (0, 3)


def test_a_trace_is_read_from_its_first_row_and_shows_where_it_ends():
    values = np.arange(10.0).reshape(5, 2)
    demand = trace_demand(values, first=2, days_from_christmas=[-9, -8, -7, -6, -5])
    sample = jax.jit(lambda time: demand.sample(None, time))
    np.testing.assert_array_equal([sample(0), sample(2)], [values[2], values[4]])
    assert np.isnan(sample(3)).all()
    np.testing.assert_array_equal(demand.history(2), values[:2])
    assert np.isnan(demand.history(3)[0]).all()
    np.testing.assert_array_equal(demand.future(1, 3), [values[3], values[4], [0, 0]])
    assert [demand.days_from_christmas(time).item() for time in (0, 2, 9)] == [-7, -5, -5]


def test_days_are_counted_from_the_nearest_christmas():
    start = datetime.date(2015, 1, 1)
    dates = [start + datetime.timedelta(days=i) for i in range(800)]
    days = days_from_christmas(dates)
    assert days.min() >= -182
    assert days.max() <= 183
    assert all(days[i] == 0 for i, date in enumerate(dates) if (date.month, date.day) == (12, 25))
    # One day later is one more, but for the middle of the year.
    assert sorted(set(np.diff(days))) in ([-365.0, -364.0, 1.0], [-365.0, 1.0], [-364.0, 1.0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(mean=[1.0, 1.0, 1.0], std=1.0, correlation=-0.6), "correlation is -0.6.*-0.5, 1"),
        (dict(mean=[1.0, 1.0], std=1.0, correlation=1.1), "correlation is 1.1"),
        (dict(mean=[1.0], std=-1.0), "std is -1.0"),
    ],
)
def test_demand_that_cannot_be_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        normal_demand(**arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(values=[1.0, 2.0]), r"values has shape \(2,\)"),
        (dict(values=[[1.0]], first=1), "first is 1, but the trace has the rows 0 to 0"),
        (dict(values=[[1.0]], days_from_christmas=[1, 2]), r"shape \(2,\), but \(1,\)"),
    ],
)
def test_a_trace_of_the_wrong_shape_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        trace_demand(**arguments)


def test_a_batch_of_traces_is_one_vmap():
    values = np.arange(12.0).reshape(2, 3, 2)
    demand = TraceDemand(jnp.array(values), jnp.array([0, 1]), jnp.zeros((2, 3)))
    found = jax.vmap(lambda d: d.sample(None, 1))(demand)
    np.testing.assert_array_equal(found, [values[0, 1], values[1, 2]])
