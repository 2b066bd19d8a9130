"""Sales that look like a supermarket's, and the weeks they are cut into."""

import jax
import numpy as np
import pytest

import jaxpg_envs
from jaxpg_envs.inventory import from_traces, products, retail_scenarios, retail_series

PRODUCTS, STORES = 200, 8


@pytest.fixture(scope="module")
def series():
    return retail_series(jax.random.key(0), PRODUCTS, STORES)


@pytest.fixture(scope="module")
def values(series):
    return np.asarray(series.values, float)


def test_sales_are_whole_weeks_of_every_product_and_store(series, values):
    assert values.shape == (PRODUCTS, 171, STORES)
    assert series.days_from_christmas.shape == (171,)
    assert (values >= 0).all()
    np.testing.assert_array_equal(values, values.round())
    # A week apart, but where the nearest Christmas becomes the next one.
    steps = np.diff(series.days_from_christmas)
    assert (steps[steps > 0] == 7).all() and (steps < 0).sum() == 4


def test_means_have_the_published_quantiles(values):
    found = np.quantile(values.mean(axis=1), [0.05, 0.25, 0.5, 0.75, 0.95])
    np.testing.assert_allclose(found, [10, 23, 46, 93, 287], rtol=0.15)


def test_variation_is_as_published(values):
    variation = values.std(axis=1) / values.mean(axis=1)
    np.testing.assert_allclose(np.quantile(variation, [0.05, 0.95]), [0.22, 0.77], atol=0.04)
    assert abs(np.median(variation) - 0.41) < 0.03


def test_weeks_and_stores_correlate_as_published(values):
    centred = (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)
    lag = (centred[:, 1:] * centred[:, :-1]).mean()
    assert abs(lag - 0.47) < 0.03
    stores = np.einsum("nts,ntr->nsr", centred, centred) / values.shape[1]
    pairs = stores[:, *np.triu_indices(STORES, 1)]
    assert abs(pairs.mean() - 0.27) < 0.03


def test_one_week_in_a_hundred_sells_nothing(values):
    assert abs((values == 0).mean() - 0.01) < 0.002


def test_more_is_sold_in_the_four_weeks_before_christmas(series, values):
    # Every series counts alike: the largest ones are few.
    total = (values / values.mean(axis=1, keepdims=True)).sum(axis=(0, 2))
    weeks_before = np.floor(-series.days_from_christmas / 7)
    usual = total[(weeks_before < 0) | (weeks_before > 3)].mean()
    boosts = [total[weeks_before == week].mean() / usual for week in (3, 2, 1, 0)]
    np.testing.assert_allclose(boosts, [1.10, 1.15, 1.21, 1.27], atol=0.03)


def test_weeks_are_cut_as_published(series):
    env, params = jaxpg_envs.make("inventory/one-store-retail")
    sales = series._replace(values=series.values[:10, :, :1])
    train, dev, test = retail_scenarios(env, products(params, 10), sales)
    spans = [(0, 111), (88, 141), (118, 171)]
    for scenarios, (first, last), steps in zip(
        (train, dev, test), spans, (95, 37, 37), strict=True
    ):
        np.testing.assert_array_equal(scenarios.demand.values, sales.values[:, first:last])
        assert (scenarios.demand.days[3] == sales.days_from_christmas[first:last]).all()
        assert (scenarios.demand.first == 16).all()
        assert (scenarios.max_steps_in_episode == steps).all()
        assert not scenarios.initial_stock.any()
        # What is known of the demand is what was known after training.
        np.testing.assert_array_equal(scenarios.mean_demand, train.mean_demand)
        np.testing.assert_array_equal(scenarios.demand_std, train.demand_std)


def test_products_have_prices_and_lead_times_of_their_own():
    _, params = jaxpg_envs.make("inventory/one-store-retail")
    batch = products(params, 300)
    assert set(np.unique(batch.lead_time)) == {4, 5, 6}
    assert batch.underage_cost.min() >= 6.3 and batch.underage_cost.max() <= 11.7
    assert len(np.unique(batch.underage_cost)) > 290
    np.testing.assert_array_equal(products(params, 3).underage_cost, batch.underage_cost[:3])


def test_ones_own_sales_replace_the_stand_in():
    sold = np.random.default_rng(0).poisson(30.0, (4, 50, 21))
    env, params = jaxpg_envs.make("inventory/many-warehouses-retail", traces=sold)
    np.testing.assert_array_equal(params.demand.values, sold[0])
    assert params.max_steps_in_episode == 34
    assert from_traces(env, params, sold).demand.values.shape == sold.shape


def test_weeks_that_are_not_there_are_refused(series):
    env, params = jaxpg_envs.make("inventory/one-store-retail")
    sales = series._replace(values=series.values[:1, :, :1])
    with pytest.raises(ValueError, match=r"weeks\['test'\] is \(118, 172\)"):
        weeks = {"train": (0, 111), "dev": (88, 141), "test": (118, 172)}
        retail_scenarios(env, params, sales, weeks)
    with pytest.raises(ValueError, match="num_weeks is 0"):
        retail_series(jax.random.key(0), 1, 1, 0)
