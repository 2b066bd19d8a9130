"""What samples of a model say: pass@k, best@k, maj@k, means and lengths.

N problems have n samples each. An estimate is made for each problem, `[N]`, and then averaged:
samples of different problems are never pooled.

    per_problem = evaluation.pass_at_k(correct, k=8)
    mean, low, high = intervals.bootstrap(per_problem)

What is given NumPy arrays (or lists) computes in float64, what is given jax's in float32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from jaxpg.types import Array

MOST_SAMPLES = 1000
"""Samples of a problem up to which `majority_at_k` counts in float64 without overflow."""


def pass_at_k(correct: Array, k: int) -> Array:
    """Probability that at least one of k samples is correct, unbiased.

    Args:
      correct: `[..., n]` bool or 0 and 1, whether each sample of a problem is correct.
      k: static, in `[1, n]`: the estimate looks at k of the n samples, without replacement.

    Returns:
      `[...]` float, one for each problem. Jits.

    Raises:
      ValueError: k out of range.

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", eq. 1.

    >>> pass_at_k(np.array([[1, 0, 0, 0], [0, 0, 0, 0]]), k=2)
    array([0.5, 0. ])
    """
    library, _ = _library(correct)
    correct = library.asarray(correct)
    num_samples = _samples(correct, k)
    return pass_at_k_from_counts(num_samples, library.sum(correct != 0, axis=-1), k)


def pass_at_k_from_counts(num_samples: ArrayLike, num_correct: ArrayLike, k: int) -> Array:
    """`pass_at_k` from the counts of each problem, which may have different numbers of samples.

    Args:
      num_samples: `[...]` int, n: samples of each problem. Not the number of problems.
      num_correct: `[...]` int, c in `[0, n]`: how many of them are correct.
      k: static, in `[1, n]` for every problem.

    Returns:
      `[...]` float, one for each problem. Jits; counts that are traced cannot be refused, and give
      NaN where k is above n.

    Raises:
      ValueError: k above n, or c out of range.

    Source: Chen et al. 2021, eq. 1.

    >>> pass_at_k_from_counts([10, 200], [3, 1], 5).tolist()
    [0.916667, 0.025]
    """
    library, precision = _library(num_samples, num_correct)
    _check_counts(num_samples, num_correct, k)
    number = library.asarray(num_samples, precision)[..., None]
    wrong = number - library.asarray(num_correct, precision)[..., None]
    drawn = library.arange(k, dtype=precision)
    # All k are wrong: the draws without replacement one after the other, none of which overflows.
    left = number - drawn
    all_wrong = library.prod(
        library.maximum(wrong - drawn, 0.0) / library.maximum(left, 1.0), axis=-1
    )
    return library.where(left[..., -1] > 0, 1.0 - all_wrong, np.nan)


def best_at_k(scores: Array, k: int) -> Array:
    """Expected largest score of k samples, unbiased; for scores of 0 and 1 it is `pass_at_k`.

    Args:
      scores: `[..., n]` float.
      k: static, in `[1, n]`.

    Returns:
      `[...]` float, one for each problem. Jits.

    Raises:
      ValueError: k out of range.

    Source: the sample at rank i (from 1, the smallest) is the largest of C(i-1, k-1) of the C(n, k)
    sets of k samples.

    >>> best_at_k(np.array([1.0, 2.0, 4.0]), k=2)
    np.float64(3.3333)
    """
    library, precision = _library(scores)
    scores = library.asarray(scores, precision)
    num_samples = _samples(scores, k)
    below = np.arange(num_samples)
    logs = _log_choose(below, k - 1) - _log_choose(num_samples, k)
    weights = np.exp(logs).astype(precision)
    return library.sum(library.sort(scores, axis=-1) * weights, axis=-1)


def mean_at_k(scores: Array, mask: Array | None = None) -> Array:
    """Mean score of a problem's samples, which is mean@k for every k.

    Args:
      scores: `[..., n]` float or bool.
      mask: `[..., n]`, 0 where there is no sample, or no score; None takes all.

    Returns:
      `[...]` float, one for each problem; NaN for one without any sample. Jits.

    >>> mean_at_k(np.array([[1, 0], [1, 7]]), mask=np.array([[1, 1], [1, 0]]))
    array([0.5, 1. ])
    """
    library, precision = _library(scores, mask)
    scores = library.asarray(scores, precision)
    kept = library.ones_like(scores, bool) if mask is None else library.asarray(mask) != 0
    number = library.sum(kept, axis=-1, dtype=precision)
    total = library.sum(library.where(kept, scores, 0.0), axis=-1)
    return library.where(number > 0, total / library.maximum(number, 1.0), np.nan)


def majority_at_k(answers: ArrayLike, gold: ArrayLike, k: int) -> np.ndarray:
    """Probability that the answer given most often by k samples is right, exactly.

    It is the mean over all sets of k of the n samples, none of which is drawn: there is no seed.
    Among answers given equally often one is chosen at random, all with the same probability.

    Args:
      answers: `[N, n]` int, equal numbers for equal answers of a problem; negative where a sample
        gives no answer, which counts among the k but is never chosen.
      gold: `[N]` int, the right answer; negative where there is none.
      k: in `[1, n]`.

    Returns:
      `[N]` float64, on the host, one for each problem; 0 where no sample is right.

    Raises:
      ValueError: k out of range, shapes that do not fit, or more than 1000 samples.

    Source: Wang et al. 2023, "Self-Consistency Improves Chain of Thought Reasoning".

    >>> majority_at_k([[5, 5, 7, 8]], [5], k=4), majority_at_k([[5, 5, 7, 7]], [5], k=4)
    (array([1.]), array([0.5]))
    """
    answers, gold = np.asarray(answers), np.asarray(gold)
    if answers.ndim != 2 or gold.shape != answers.shape[:1]:
        raise ValueError(
            f"answers has shape {answers.shape} and gold {gold.shape}, but they have to be [N, n] "
            f"and [N]"
        )
    num_samples = _samples(answers, k)
    if num_samples > MOST_SAMPLES:
        raise ValueError(
            f"answers has {num_samples} samples of a problem, but at most {MOST_SAMPLES} can be "
            f"counted"
        )
    results = np.zeros(len(answers))
    for index, (given, right) in enumerate(zip(answers, gold, strict=True)):
        counts = np.unique(given[(given >= 0) & (given != right)], return_counts=True)[1]
        silent = int((given < 0).sum())
        num_right = int((given == right).sum()) if right >= 0 else 0
        results[index] = _chosen(num_right, counts.tolist(), silent, k)
    return results


def response_summary(
    mask: Array, finished: Array, entropy: Array | None = None
) -> dict[str, Array]:
    """Lengths of responses, how many were cut off, and how undecided the policy was.

    Args:
      mask: `[B, R]`, 1 where a token is real.
      finished: `[B]` bool, False where the length limit cut a response off.
      entropy: `[B, R]` nats; may be anything where the mask is 0.

    Returns:
      Scalars: `length_mean`, `length_median`, `length_max` (tokens), `truncated` (share of the
      responses) and, with `entropy`, `entropy` (mean over tokens; 0 without any). Jits.

    >>> summary = response_summary(jnp.array([[1, 1, 0], [1, 1, 1]]), jnp.array([True, False]))
    >>> {name: value.item() for name, value in summary.items()}
    {'length_mean': 2.5, 'length_median': 2.5, 'length_max': 3.0, 'truncated': 0.5}
    """
    kept = jnp.asarray(mask) != 0
    lengths = jnp.sum(kept, axis=-1).astype(jnp.float32)
    summary = {
        "length_mean": jnp.mean(lengths),
        "length_median": jnp.median(lengths),
        "length_max": jnp.max(lengths),
        "truncated": jnp.mean(1.0 - jnp.asarray(finished, jnp.float32)),
    }
    if entropy is not None:
        total = jnp.sum(jnp.where(kept, entropy, 0.0))
        summary["entropy"] = total / jnp.maximum(jnp.sum(lengths), 1.0)
    return summary


def _library(*arrays: Any) -> tuple[Any, Any]:
    """The library to compute with, and its floating-point type."""
    if any(isinstance(array, jax.Array) for array in arrays):
        return jnp, jnp.float32
    return np, np.float64


def _samples(array: Any, k: int) -> int:
    if array.ndim < 1:
        raise ValueError("one value for each sample is needed, but a single number was given")
    num_samples = array.shape[-1]
    if not 1 <= k <= num_samples:
        raise ValueError(
            f"k is {k}, but with {num_samples} samples of a problem it has to be between 1 and "
            f"{num_samples}"
        )
    return num_samples


def _check_counts(num_samples: ArrayLike, num_correct: ArrayLike, k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}, but has to be at least 1")
    if any(isinstance(counts, jax.core.Tracer) for counts in (num_samples, num_correct)):
        return
    number, correct = np.broadcast_arrays(np.asarray(num_samples), np.asarray(num_correct))
    if (number < k).any():
        raise ValueError(
            f"k is {k}, but a problem has only {number.min()} samples: draw more, or lower k"
        )
    wrong = (correct < 0) | (correct > number)
    if wrong.any():
        raise ValueError(
            f"num_correct holds {correct[wrong][0]} of {number[wrong][0]} samples; it has to be "
            f"between 0 and their number"
        )


def _log_choose(n: ArrayLike, k: int) -> np.ndarray:
    """Logarithm of the binomial coefficient; minus infinity where k is above n."""
    n = np.asarray(n, float)
    smallest = np.maximum(n - k, 0.0)
    logs = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(smallest + 1)
    return np.where(n >= k, logs, -np.inf)


def _chosen(num_right: int, others: list[int], silent: int, k: int) -> float:
    """Probability that the right answer wins among k of the samples, ties split evenly."""
    number = num_right + sum(others) + silent
    total = 0.0
    for votes in range(1, min(num_right, k) + 1):
        # ways[t, s]: choices of s samples of the others, t answers level with the right one and
        # none above it.
        ways = np.zeros((len(others) + 1, k - votes + 1))
        ways[0] = special.comb(silent, np.arange(k - votes + 1))
        for count in others:
            ways = _with_answer(ways, count, votes)
        wins = (ways[:, -1] / (1 + np.arange(len(ways)))).sum()
        total += special.comb(num_right, votes) * wins
    return float(total / special.comb(number, k))


def _with_answer(ways: np.ndarray, count: int, votes: int) -> np.ndarray:
    """Let one more answer, given `count` times, have at most `votes` of the samples chosen."""
    room = ways.shape[1]
    extended = np.zeros_like(ways)
    for taken in range(min(count, votes, room - 1) + 1):
        part = ways[:, : room - taken] * special.comb(count, taken)
        level = int(taken == votes)
        extended[level:, taken:] += part[: len(ways) - level]
    return extended
