"""Estimates from samples, against enumeration of every choice of k samples."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpg import evaluation


def over_subsets(samples, k, value):
    """Mean of a value over all sets of k samples."""
    return np.mean([value(list(chosen)) for chosen in itertools.combinations(samples, k)])


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(4, 1, 4, 1.0), (4, 1, 2, 0.5), (10, 3, 5, 0.9166667), (200, 1, 100, 0.5), (4, 0, 2, 0.0)],
)
def test_pass_at_k_of_known_counts(n, c, k, expected):
    correct = np.arange(n) < c
    assert evaluation.pass_at_k(correct, k) == pytest.approx(expected)
    assert evaluation.pass_at_k_from_counts(n, c, k) == pytest.approx(expected)
    assert float(evaluation.pass_at_k(jnp.array(correct), k)) == pytest.approx(expected, abs=1e-5)


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample():
    for n, c, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if c <= n and k <= n:
            expected = over_subsets([1] * c + [0] * (n - c), k, max)
            assert evaluation.pass_at_k_from_counts(n, c, k) == pytest.approx(expected)


def test_pass_at_k_does_not_overflow():
    n, c, k = 5000, 7, 2000
    exact = 1 - math.comb(n - c, k) / math.comb(n, k)
    assert evaluation.pass_at_k_from_counts(n, c, k) == pytest.approx(exact, rel=1e-9)
    in_jax = evaluation.pass_at_k_from_counts(jnp.array(n), jnp.array(c), k)
    assert float(in_jax) == pytest.approx(exact, rel=1e-4)


def test_problems_are_averaged_not_pooled():
    correct = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
    assert evaluation.pass_at_k(correct, 2).mean() == 0.5
    pooled = evaluation.pass_at_k(correct.reshape(-1), 2)
    assert pooled == pytest.approx(1 - 6 / 28)


def test_more_samples_than_there_are_raise():
    with pytest.raises(ValueError, match="k is 5, but with 4 samples"):
        evaluation.pass_at_k(np.ones((2, 4)), 5)
    with pytest.raises(ValueError, match="k is 5, but with 4 samples"):
        jax.jit(lambda correct: evaluation.pass_at_k(correct, 5))(jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="only 4 samples"):
        evaluation.pass_at_k_from_counts([9, 4], [1, 1], 5)
    with pytest.raises(ValueError, match="holds 3 of 2 samples"):
        evaluation.pass_at_k_from_counts([2, 2], [1, 3], 1)
    with pytest.raises(ValueError, match="between 1 and 4"):
        evaluation.best_at_k(np.ones((2, 4)), 0)


def test_traced_counts_below_k_give_nan():
    estimate = jax.jit(lambda n, c: evaluation.pass_at_k_from_counts(n, c, 3))
    result = estimate(jnp.array([2, 3, 4]), jnp.array([2, 3, 1]))
    assert np.isnan(result[0])
    np.testing.assert_allclose(result[1:], [1.0, 0.75])


def test_estimates_are_the_same_in_numpy_and_jitted():
    scores = np.random.default_rng(0).random((3, 6)).astype(np.float32)
    for estimate in (
        lambda x: evaluation.pass_at_k(x > 0.5, 3),
        lambda x: evaluation.best_at_k(x, 3),
        evaluation.mean_at_k,
        lambda x: evaluation.mean_at_k(x, x > 0.3),
    ):
        in_numpy = estimate(scores)
        assert isinstance(in_numpy, np.ndarray)
        np.testing.assert_allclose(jax.jit(estimate)(scores), in_numpy, rtol=1e-5)


def test_best_at_k_is_the_mean_of_the_largest_over_subsets():
    scores = [0.3, -1.0, 2.0, 0.3, 5.5]
    for k in range(1, 6):
        expected = over_subsets(scores, k, max)
        assert evaluation.best_at_k(np.array(scores), k) == pytest.approx(expected)


def test_best_at_k_of_zeros_and_ones_is_pass_at_k():
    correct = np.random.default_rng(1).random((5, 300)) < 0.02
    np.testing.assert_allclose(
        evaluation.best_at_k(correct, 100), evaluation.pass_at_k(correct, 100), rtol=1e-9
    )


def test_mean_at_k_leaves_masked_samples_out():
    scores = np.array([[1.0, np.nan, 0.0], [np.nan, np.nan, np.nan]])
    mean = evaluation.mean_at_k(scores, ~np.isnan(scores))
    assert mean[0] == 0.5
    assert np.isnan(mean[1])


def vote(gold):
    """Probability that the most frequent answer of a list is the right one, ties split evenly."""

    def value(answers):
        counts = {a: answers.count(a) for a in answers if a >= 0}
        best = [a for a, number in counts.items() if number == max(counts.values())]
        return float(gold in best) / len(best) if best else 0.0

    return value


@pytest.mark.parametrize("seed", range(4))
def test_majority_at_k_is_the_mean_vote_over_subsets(seed):
    answers = np.random.default_rng(seed).integers(-1, 4, size=8)
    for k in range(1, 9):
        expected = over_subsets(answers.tolist(), k, vote(2))
        found = evaluation.majority_at_k(answers[None], [2], k)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_majority_of_one_is_the_share_of_right_answers():
    answers = np.array([[7, 7, 1, -1], [3, 3, 3, 3], [-1, -1, -1, -1]])
    np.testing.assert_allclose(evaluation.majority_at_k(answers, [7, 0, -1], 1), [0.5, 0.0, 0.0])


def test_majority_of_two_answers_is_a_hypergeometric_tail():
    answers = np.repeat([0, 1], [520, 480])[None]
    found = evaluation.majority_at_k(answers, [0], 501)
    np.testing.assert_allclose(found, stats.hypergeom(1000, 520, 501).sf(250), rtol=1e-9)


def test_majority_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="at most 1000"):
        evaluation.majority_at_k(np.zeros((1, 1001), int), [0], 1)
    with pytest.raises(ValueError, match="have to be"):
        evaluation.majority_at_k(np.zeros((1, 3), int), [0, 1], 1)


def test_summary_counts_real_tokens_only():
    mask = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    entropy = jnp.where(mask == 1, math.log(4), jnp.nan)
    summary = jax.jit(evaluation.response_summary)(
        mask, jnp.array([True, False, True, True]), entropy
    )
    assert summary["entropy"] == pytest.approx(1.386294)
    assert (summary["length_mean"], summary["length_median"], summary["length_max"]) == (
        7 / 4,
        1.5,
        4,
    )
    assert summary["truncated"] == 0.25
    empty = evaluation.response_summary(jnp.zeros((2, 3)), jnp.ones(2), jnp.zeros((2, 3)))
    assert empty["entropy"] == 0.0
