"""Forecast quantiles, their inverse, and the orders that they lead to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpg import policies
from jaxpg.policies.forecaster import Forecaster, quantile_at
from jaxpg.policies.newsvendor import levels
from jaxpg.policies.perceptron import perceptron

PROBABILITIES = np.arange(1, 20) / 20


def test_the_inverse_is_linear_interpolation_with_ends_that_go_on():
    draw = np.random.default_rng(0)
    quantiles = np.sort(draw.uniform(0, 9, (3, 19)), axis=1).astype(np.float32)
    ends = 2 * quantiles[:, [0, -1]] - quantiles[:, [1, -2]]
    knots = np.concatenate([ends[:, :1], quantiles, ends[:, 1:]], axis=1)
    at = np.concatenate([np.linspace(0, 1, 21), draw.uniform(size=30)]).astype(np.float32)
    run = jax.jit(jax.vmap(quantile_at, (None, 0)))
    found = run(quantiles, np.repeat(at[:, None], 3, axis=1))
    for row in range(3):
        expected = np.interp(at, np.linspace(0, 1, 21), knots[row])
        np.testing.assert_allclose(found[:, row], expected, atol=2e-5)


def test_the_inverse_has_a_slope_at_a_knot_too():
    quantiles = jnp.arange(1.0, 20.0) ** 2
    slope = jax.vmap(jax.grad(quantile_at, argnums=1), (None, 0))(
        quantiles, jnp.array([0.0, 0.5, 0.51, 1.0])
    )
    # 20 (11^2 - 10^2) to the right of 0.5; the first and the last piece go on.
    np.testing.assert_allclose(slope, [20 * 3, 20 * 21, 20 * 21, 20 * 37], rtol=1e-5)


def test_the_pinball_loss_is_least_at_the_quantile():
    sample = np.random.default_rng(0).exponential(size=601).astype(np.float32)
    candidates = np.sort(sample)
    for probability in (0.1, 0.75):
        losses = policies.pinball_loss(candidates, sample, jnp.float32(probability))
        best = candidates[np.argmin(np.mean(losses, axis=0))]
        assert abs(best - np.quantile(sample, probability)) < 2e-2


FIT = {
    "lead_times": (1, 3),
    "history": 2,
    "hidden": (16,),
    "num_steps": 400,
    "batch_size": 128,
    "learning_rate": 3e-2,
}


@pytest.fixture(scope="module")
def fitted():
    draw = np.random.default_rng(0)
    values = draw.normal(50, 10, (200, 40)).astype(np.float32)
    days = np.linspace(-150, 130, 40).astype(np.float32)
    return values, days, policies.fit_forecaster(jax.random.key(0), values, days, **FIT)


def test_a_fit_finds_the_quantiles_of_a_known_distribution(fitted):
    values, days, (forecaster, losses) = fitted
    assert losses[-50:].mean() < 0.5 * losses[:5].mean()
    found = forecaster.quantiles(values[:50, 5:7], np.full(50, days[7]))
    assert found.shape == (50, 2, 19)
    for column, length in enumerate((2, 4)):
        expected = stats.norm(50 * length, 10 * length**0.5).ppf(PROBABILITIES)
        # In every forecast, not on average: 0.3 standard deviations of what is forecast.
        error = np.abs(found[:, column] - expected)
        assert error.max() < 0.3 * 10 * length**0.5


def test_units_do_not_matter(fitted):
    values, days, (forecaster, losses) = fitted
    # A power of two, so that not even a rounding differs.
    larger, same = policies.fit_forecaster(jax.random.key(0), 1024 * values, days, **FIT)
    np.testing.assert_allclose(same, losses, rtol=1e-5)
    assert larger.scale == pytest.approx(1024 * float(forecaster.scale), rel=1e-6)


def test_series_that_are_too_short_are_refused(fitted):
    values, days, _ = fitted
    fit = lambda values, days, **changes: policies.fit_forecaster(
        jax.random.key(0), values, days, **(FIT | changes)
    )
    with pytest.raises(ValueError, match=r"values has shape \(200, 5\) and days \(5,\), but"):
        fit(values[:, :5], days[:5])
    with pytest.raises(ValueError, match=r"days \(39,\), but \[N, T\] and \[T\] are needed"):
        fit(values, days[1:])
    with pytest.raises(ValueError, match=r"lead_times is -1, but it has to be at least 0"):
        fit(values, days, lead_times=(2, -1))
    with pytest.raises(ValueError, match=r"lead_times is \(\), but at least one is needed"):
        fit(values, days, lead_times=())


@pytest.fixture(scope="module")
def case(weights, supply, observe):
    """A forecaster, what two stores see, and by hand the level at any probability."""
    params = weights(perceptron(3, (5,), 2 * 19))
    # Its forecasts: about 3 periods' demand in total, and quantiles that rise.
    bias = np.tile(np.linspace(0.4, 1.6, 19), 2).astype(np.float32)
    params["params"]["Dense_0"]["bias"] = bias
    params["params"]["Dense_0"]["kernel"] *= 0.1
    forecaster = Forecaster(params, jnp.float32(2.0), (2, 4), 2, (5,))
    seen = observe(supply(num_stores=2), history=3)
    seen["lead_time"] = np.array([[2, 4], [4, 4], [2, 2], [4, 2]], np.float32)[:, :, None]

    def level(probability):
        found = np.zeros((4, 2))
        for row, store in np.ndindex(4, 2):
            past = seen["past_demand"][row, 1:, store] / 2.0
            inputs = np.append(past, seen["days_from_christmas"][row] / 183.0)
            tree = params["params"]
            hidden = inputs @ tree["MLP_0"]["Dense_0"]["kernel"] + tree["MLP_0"]["Dense_0"]["bias"]
            hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
            out = (hidden @ tree["Dense_0"]["kernel"] + bias).reshape(2, 19)
            lead = int(seen["lead_time"][row, store, 0])
            quantiles = np.maximum(out[lead // 2 - 1] * 2.0 * (lead + 1), 0)
            first, last = 2 * quantiles[[0, -1]] - quantiles[[1, -2]]
            knots = [first, *quantiles, last]
            found[row, store] = np.interp(probability[row, store], np.linspace(0, 1, 21), knots)
        return found

    return forecaster, seen, level


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_orders_are_what_the_position_is_short_of_the_quantile(case, decide):
    forecaster, seen, level = case
    ratio = seen["underage_cost"] / (seen["underage_cost"] + seen["holding_cost"])
    short = level(ratio) - seen["stores"].sum(axis=-1)
    assert (short > 0).any() and (short < 0).any()
    found = decide(policies.quantile_newsvendor(forecaster, 2), (), seen)
    np.testing.assert_allclose(found["stores"][..., 0], np.maximum(short, 0), atol=1e-4)
    returned = decide(policies.returns_newsvendor(forecaster, 2), (), seen)
    np.testing.assert_allclose(returned["stores"][..., 0], short, atol=1e-4)


def test_a_fixed_quantile_is_one_number(case, decide):
    forecaster, seen, level = case
    policy = policies.fixed_quantile(forecaster, 2, initial=0.8)
    params = policy.init(jax.random.key(0))
    assert params.shape == () and not params.weak_type
    found = decide(policy, params, seen)
    short = level(np.full((4, 2), 0.8)) - seen["stores"].sum(axis=-1)
    np.testing.assert_allclose(found["stores"][..., 0], np.maximum(short, 0), atol=1e-4)


def test_a_transformed_quantile_is_a_function_of_the_ratio_alone(case, decide, weights):
    forecaster, seen, level = case
    policy = policies.transformed_newsvendor(forecaster, 2)
    params = weights(policy)
    ratio = seen["underage_cost"] / (seen["underage_cost"] + seen["holding_cost"])
    logits = perceptron(1, (32, 32), 1).apply(params, ratio.reshape(-1, 1)).reshape(4, 2)
    short = level(sigmoid(np.asarray(logits))) - seen["stores"].sum(axis=-1)
    found = decide(policy, params, seen)
    np.testing.assert_allclose(found["stores"][..., 0], np.maximum(short, 0), atol=1e-4)


def test_what_a_forecaster_does_not_know_is_not_guessed(case, supply, observe):
    forecaster, seen, _ = case
    other = seen["lead_time"].copy()
    other[1, 0] = 3.0
    level = jax.jit(lambda seen: levels(forecaster, jnp.full((4, 2), 0.5), seen))
    found = level(seen | {"lead_time": other})
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 0]]
    policy = policies.quantile_newsvendor(forecaster, 2)
    with pytest.raises(ValueError, match="the policy reads 2 periods"):
        policy.apply((), observe(supply(num_stores=2), history=1))
    with pytest.raises(ValueError, match="this policy is for stores that order from outside"):
        policy.apply((), observe(supply([[1], [1]]), history=2))
    with pytest.raises(ValueError, match=r"initial is 1.0, but it has to be between 0 and 1"):
        policies.fixed_quantile(forecaster, initial=1.0)
