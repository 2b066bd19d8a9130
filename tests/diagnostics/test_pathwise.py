"""Both estimates of a gradient through a simulator are those of the enumerated expectation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxpg_envs
from jaxpg import policies
from jaxpg.diagnostics import compare_gradients, gradient_samplers

PERIODS, NOISE, RAW, MEAN = 3, 0.6, 2.0, 1.0
HOLDING, UNDERAGE = 1.0, 4.0


def expected_cost(raw):
    """Mean cost per period, lead time 1: all demands, and a grid over the noise that matters."""
    points = np.linspace(-5.0, 5.0, 241)
    density = stats.norm.pdf(points)
    weights = density / density.sum()
    first, second = np.meshgrid(points, points, indexing="ij")
    level = [np.log1p(np.exp(raw + NOISE * noise)) for noise in (first, second)]
    probability = stats.poisson.pmf(np.arange(8), MEAN)
    total = 0.0
    for demand in itertools.product(range(8), repeat=PERIODS):
        on_hand, arriving, cost = np.full_like(first, 2.0), np.zeros_like(first), 0.0
        for period, wanted in enumerate(demand):
            order = 0.0
            if period < 2:  # The last order arrives too late to matter.
                order = np.maximum(level[period] - on_hand - arriving, 0.0)
            left = np.maximum(on_hand - wanted, 0.0)
            cost = cost + HOLDING * left + UNDERAGE * np.maximum(wanted - on_hand, 0.0)
            on_hand, arriving = left + arriving + order, 0.0
        total += np.prod(probability[list(demand)]) * (weights @ cost @ weights)
    return total / PERIODS


def test_both_are_unbiased_and_the_pathwise_one_varies_less():
    env, params = jaxpg_envs.make(
        "inventory/one-store-lost", lead_time=1, underage_cost=UNDERAGE, mean=MEAN
    )
    params = params.replace(initial_stock=jnp.array([[2.0, 0.0]]))
    policy = policies.base_stock()
    samplers = gradient_samplers(
        env, policy, jnp.array([RAW]), params, num_steps=PERIODS, noise=NOISE, batch_size=32
    )
    step = 0.05
    exact = (expected_cost(RAW + step) - expected_cost(RAW - step)) / (2 * step)
    found = compare_gradients(samplers, np.array([exact]), num_batches=1000)
    for name in ("pathwise", "score function"):
        assert found[name].unbiased, (name, found[name])
        assert found[name].scale == pytest.approx(1.0, abs=4 * found[name].scale_error)
    assert found["score function"].variance > 10 * found["pathwise"].variance


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"noise": 0.0}, "noise is 0.0, but it has to be above 0"),
        ({"batch_size": 1}, "batch_size is 1, but it has to be at least 2"),
        ({"num_steps": 0}, "num_steps is 0, but it has to be at least 1"),
    ],
)
def test_sizes_out_of_range_are_refused(sizes, sentence):
    env, params = jaxpg_envs.make("inventory/one-store-lost")
    policy = policies.base_stock()
    sizes = {"num_steps": 2, "noise": 1.0, "batch_size": 4} | sizes
    with pytest.raises(ValueError, match=sentence):
        gradient_samplers(env, policy, policy.init(jax.random.key(0)), params, **sizes)
