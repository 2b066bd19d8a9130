"""The order of prompts: every item once in a pass, no stored list; and draws by weight."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpg.curricula import occurrence, prioritised, shuffled

KEY = jax.random.key(0)
order = jax.jit(shuffled, static_argnums=2)
# The network permutes powers of 4, so the pools stand on both sides of powers of 2 and of 4.
SIZES = [1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 64, 65]


@pytest.mark.parametrize("size", SIZES)
def test_every_pass_visits_every_item_once(size):
    passes = np.asarray(order(KEY, jnp.arange(3 * size), size)).reshape(3, size)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(size), (3, 1)))
    if size > 8:
        assert len({tuple(one) for one in passes.tolist()}) == 3


def test_passes_and_keys_have_orders_of_their_own():
    keys = jax.random.split(KEY, 3)
    orders = jax.vmap(lambda key: order(key, jnp.arange(40), 20))(keys).reshape(6, 20)
    assert len({tuple(one) for one in orders.tolist()}) == 6
    for first, second in itertools.combinations(orders.tolist(), 2):
        assert sum(a == b for a, b in zip(first, second, strict=True)) < 10


def test_an_item_is_looked_up_alone_or_in_a_batch_or_across_a_pass():
    together = order(KEY, jnp.arange(30), 10)
    alone = [order(KEY, np.array([place]), 10).item() for place in range(30)]
    assert together.tolist() == alone
    assert order(KEY, jnp.arange(7, 13), 10).tolist() == together[7:13].tolist()
    one = lambda place: shuffled(KEY, place[None], 10)[0]
    swept = jax.jit(jax.vmap(one))(jnp.arange(30))
    np.testing.assert_array_equal(swept, together)
    assert together.dtype == jnp.int32


def test_orders_of_three_items_are_equally_likely():
    keys = jax.random.split(KEY, 3000)
    orders = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, jnp.arange(3), 3)))(keys))
    counts = [(orders == one).all(axis=1).sum() for one in itertools.permutations(range(3))]
    assert sum(counts) == 3000 and stats.chisquare(counts).pvalue > 1e-3


def test_a_pool_of_a_million_is_as_cheap_as_one_of_ten():
    size = 1_000_003
    items = np.asarray(order(KEY, jnp.arange(size - 500, size + 500), size))
    assert items.min() >= 0 and items.max() < size
    assert len(set(items[:500].tolist())) == len(set(items[500:].tolist())) == 500
    # Uniform items have mean (size - 1) / 2 and standard deviation size / sqrt(12).
    assert abs(items.mean() - (size - 1) / 2) < 5 * size / np.sqrt(12 * 1000)


def test_occurrence_counts_equal_items_before():
    items = np.random.default_rng(0).integers(0, 5, 30)
    expected = [list(items[:place]).count(item) for place, item in enumerate(items)]
    assert jax.jit(occurrence)(jnp.asarray(items)).tolist() == expected


def drawn(weights, num, count):
    keys = jax.random.split(KEY, count)
    return np.asarray(jax.jit(jax.vmap(lambda key: prioritised(key, weights, num)))(keys))


def test_draws_without_replacement_have_the_probabilities_of_one_after_the_other():
    weights = np.array([0.5, 2.0, 1.0, 0.25])
    found = drawn(jnp.asarray(weights), 2, 4000)
    pairs = list(itertools.permutations(range(4), 2))
    total = weights.sum()
    expected = [weights[a] / total * weights[b] / (total - weights[a]) for a, b in pairs]
    counts = [(found == pair).all(axis=1).sum() for pair in pairs]
    assert sum(counts) == 4000
    assert stats.chisquare(counts, 4000 * np.array(expected)).pvalue > 1e-3


def test_the_whole_pool_can_be_drawn_and_comes_once():
    found = drawn(jnp.array([1e-3, 5.0, 1.0, 0.0, 2.0]), 5, 50)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(5), (50, 1)))
    assert (found[:, -1] == 3).all() and found.dtype == np.int32


def test_more_than_the_pool_is_drawn_with_replacement_in_proportion():
    weights = np.array([0.5, 2.0, 1.0, 0.0])
    counts = np.bincount(drawn(jnp.asarray(weights), 5, 800).ravel(), minlength=4)
    assert counts[3] == 0
    expected = 4000 * weights[:3] / weights.sum()
    assert stats.chisquare(counts[:3], expected).pvalue > 1e-3


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        (0, "size is 0, but it has to be at least 1"),
        (2**30, "size is 1073741824, but it has to be below"),
    ],
)
def test_a_pool_that_cannot_be_numbered_is_one_sentence(size, sentence):
    with pytest.raises(ValueError, match=sentence):
        shuffled(KEY, jnp.arange(2), size)
