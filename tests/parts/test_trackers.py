"""Trackers of success against closed forms, posteriors and enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.parts import trackers


@pytest.fixture(scope="module")
def counts():
    numbers = np.random.default_rng(0)
    return numbers.uniform(0.1, 9.0, (3, 40)), numbers.uniform(0.0, 1.0, (2, 40))


def test_the_value_moves_to_the_reward_by_one_over_what_is_known(counts):
    (alpha, beta, _), (rho, reward) = counts
    with jax.enable_x64(True):
        new = trackers.update(*map(jnp.asarray, (alpha, beta, reward, rho)))
        value, number = trackers.value(*new), trackers.effective_number(*new)
    before, known = alpha / (alpha + beta), alpha + beta
    expected = before + (reward - before) / (rho * known + 1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(number, rho * known + 1.0, rtol=1e-14)


@pytest.mark.parametrize(("rho", "memory"), [(0.5, 2.0), (0.875, 8.0), (0.96, 25.0)])
def test_what_is_known_settles_where_it_begins(rho, memory):
    step = lambda _, state: trackers.update(*state, jnp.ones(1), rho)
    settled = jax.lax.fori_loop(0, 400, step, (jnp.full(1, 0.5), jnp.full(1, 0.5)))
    np.testing.assert_allclose(trackers.effective_number(*settled), memory, rtol=1e-5)
    np.testing.assert_allclose(trackers.stationary_number(rho), memory, rtol=1e-6)
    trials = jnp.arange(1.0, 9.0)
    begun = trackers.initial(trials / 2, trials, trackers.stationary_number(rho))
    np.testing.assert_allclose(trackers.effective_number(*begun), memory, rtol=1e-6)
    kept = trackers.update(*begun, jnp.ones(8), rho)
    np.testing.assert_allclose(trackers.effective_number(*kept), memory, rtol=1e-6)


def test_without_forgetting_it_is_the_posterior_of_a_bernoulli_variable():
    rewards = np.random.default_rng(1).integers(0, 2, 30)
    alpha, beta = jnp.array([0.5]), jnp.array([0.5])
    for count, reward in enumerate(rewards, 1):
        rho = trackers.forgetting(jnp.array([7.0]), rho_min=1.0, rho_max=1.0)
        alpha, beta = trackers.update(alpha, beta, jnp.array([float(reward)]), rho)
        wins = rewards[:count].sum()
        np.testing.assert_allclose(
            [alpha[0], beta[0], trackers.value(alpha, beta)[0]],
            [wins + 0.5, count - wins + 0.5, (wins + 0.5) / (count + 1)],
            rtol=1e-6,
        )


def test_trials_are_smoothed_as_the_code_does_or_not_as_the_paper_does():
    for trials in (1, 8):
        wins = np.arange(trials + 1)
        given = jnp.asarray(wins, jnp.float32), jnp.full(trials + 1, float(trials))
        code, paper = (trackers.initial(*given, 8.0, smoothing=s) for s in (0.5, 0.0))
        smoothed = (wins + 0.5) / (trials + 1)
        np.testing.assert_allclose(code, 8 * np.stack([smoothed, 1 - smoothed]), rtol=1e-5)
        share = wins / trials
        np.testing.assert_allclose(paper, 8 * np.stack([share, 1 - share]), atol=1e-6)
        assert 0 < trackers.value(*code).min() and trackers.value(*code).max() < 1


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_without_a_trial_nothing_is_known(smoothing):
    untried = trackers.initial(jnp.zeros(3), jnp.zeros(3), 8.0, smoothing=smoothing)
    np.testing.assert_array_equal(untried, np.full((2, 3), 0.5))


def test_evidence_halves_with_the_half_life_between_its_bounds():
    drifts = np.linspace(0.0, 1.0, 50)
    free = trackers.forgetting(jnp.asarray(drifts), 0.06, 0.0, 1.0)
    np.testing.assert_allclose(free, 0.5 ** (drifts / 0.06), rtol=1e-4)
    assert trackers.forgetting(jnp.array(0.06), 0.06, 0.0, 1.0) == 0.5
    bounded = np.asarray(trackers.forgetting(jnp.asarray(drifts)))
    assert bounded[0] == np.float32(0.96) and bounded[-1] == np.float32(0.875)
    assert (np.diff(bounded) <= 0).all() and (np.diff(np.asarray(free)) < 0).all()
    constant = trackers.forgetting(jnp.array([0.0, 9.0]), 1.0, 0.875, 0.875)
    np.testing.assert_array_equal(constant, [0.875, 0.875])


def test_drift_is_the_mean_size_of_the_changes_of_real_tokens():
    numbers = np.random.default_rng(2)
    then, now = numbers.normal(-1.0, 0.5, (2, 6, 4)).astype(np.float32)
    lengths = np.array([4, 1, 3, 2, 4, 0])
    mask = np.arange(4) < lengths[:, None]
    changes = zip(np.abs(then - now), lengths, strict=True)
    by_hand = [change[:length].mean() if length else 0.0 for change, length in changes]
    for padding in (0.0, np.nan, -1e30):
        found = trackers.drift(np.where(mask, then, padding), np.where(mask, now, 0.0), mask)
        np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_signed_changes_would_cancel_over_samples_and_the_drift_does_not():
    # Two policies that differ by a small turn; every token weighted by its probability.
    logits = np.array([0.3, -0.2, 0.5, 0.0])
    turned = logits + 0.05 * np.array([1.0, -1.0, 0.5, -0.5])
    then, now = (x - np.log(np.exp(x).sum()) for x in (logits, turned))
    probability = np.exp(then)
    each = trackers.drift(then[:, None], now[:, None], np.ones((4, 1)))
    signed, size = probability @ (then - now), probability @ np.asarray(each)
    assert abs(signed) < 1e-3 < 2e-2 < size


def test_any_baseline_fixed_before_the_response_leaves_the_gradient_unbiased():
    """And one that has seen the response does not."""
    logits = jnp.array([0.2, -0.4, 0.9, 0.1])
    reward = jnp.array([1.0, 0.0, 0.0, 1.0])
    exact = jax.grad(lambda x: jax.nn.softmax(x) @ reward)(logits)
    scores = jax.jacobian(jax.nn.log_softmax)(logits)

    def expected(advantage):
        return (jax.nn.softmax(logits) * advantage) @ scores

    alpha, beta = jnp.full(4, 3.0), jnp.full(4, 1.0)
    value = trackers.value(alpha, beta)
    for baseline in (0.0, 0.4, -3.0, value):
        np.testing.assert_allclose(expected(reward - baseline), exact, atol=1e-6)
    leaked = trackers.value(*trackers.update(alpha, beta, reward, 0.875))
    assert np.abs(expected(reward - leaked) - exact).max() > 0.1 * np.abs(exact).max()


def test_weights_of_the_example_and_their_bounds():
    example = trackers.prompt_weights(jnp.array([0.5, 1.0]), jnp.array([8.0, 8.0]))
    np.testing.assert_allclose(example / example.sum(), [0.55 / 0.60, 0.05 / 0.60], rtol=1e-6)
    values = jnp.linspace(0.0, 1.0, 101)
    for exponent in (0.0, 0.5, 1.0):
        weights = np.asarray(trackers.prompt_weights(values, jnp.full(101, 8.0), exponent=exponent))
        shares = weights / weights.sum()
        np.testing.assert_allclose(shares.sum(), 1.0, rtol=1e-5)
        assert (shares >= 0.05 / weights.sum() - 1e-9).all() and shares.argmax() == 50
        np.testing.assert_allclose(weights[[0, 50, 100]], [0.05, 0.5 / 8**exponent + 0.05, 0.05])


def test_what_is_less_known_is_drawn_more_with_an_exponent():
    known = jnp.array([1.0, 4.0, 25.0])
    weights = trackers.prompt_weights(jnp.full(3, 0.5), known, exploration=0.0, exponent=0.5)
    np.testing.assert_allclose(weights, 0.5 / np.sqrt([1.0, 4.0, 25.0]), rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_last_valid_row_of_each_prompt_is_marked(seed):
    numbers = np.random.default_rng(seed)
    ids, valid = numbers.integers(0, 6, 15), numbers.random(15) < 0.6
    last = {prompt: row for row, prompt in enumerate(ids.tolist()) if valid[row]}
    expected = [valid[row] and last[ids[row]] == row for row in range(15)]
    assert 0 < sum(expected) < valid.sum()
    np.testing.assert_array_equal(trackers.last_of_each(ids, 6, jnp.asarray(valid)), expected)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(AssertionError):
        trackers.update(jnp.ones(3), jnp.ones(3), jnp.ones(2), 1.0)
    with pytest.raises(AssertionError):
        trackers.drift(jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.ones((2, 3)))
