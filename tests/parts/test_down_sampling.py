"""Down-sampling: the largest variance, exact counts, ties, and what does not change the choice."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.parts import down_sampling

choose = jax.jit(down_sampling.max_variance_rows)
inside = jax.jit(down_sampling.max_variance_rows_within, static_argnums=2)
top = jax.jit(down_sampling.top_tokens)


def best_variance(values, number):
    """Over all subsets, in float64."""
    subsets = itertools.combinations(np.asarray(values, np.float64), number)
    return max(np.var(subset) for subset in subsets)


def variance(values, chosen):
    return np.var(np.asarray(values, np.float64)[np.asarray(chosen)])


def standardised(rewards, group_size=4):
    groups = np.asarray(rewards, np.float64).reshape(-1, group_size)
    centred = groups - groups.mean(axis=1, keepdims=True)
    return (centred / (groups.std(axis=1, ddof=1, keepdims=True) + 1e-6)).ravel()


def draws(seed, size=8):
    """Continuous advantages, advantages of 0/1 rewards, small whole numbers, all equal."""
    numbers = np.random.default_rng(seed)
    return {
        "continuous": numbers.normal(size=size),
        "skewed": numbers.exponential(size=size) ** 2,
        "standardised": standardised(numbers.integers(0, 2, size)),
        "whole": numbers.integers(-2, 3, size).astype(float),
        "equal": np.full(size, 0.3),
    }


@pytest.mark.parametrize("kind", ["continuous", "skewed", "standardised", "whole", "equal"])
def test_no_subset_has_more_variance(kind):
    for seed in range(12):
        values = jnp.asarray(draws(seed)[kind], jnp.float32)
        for number in range(1, 9):
            chosen = choose(values, number)
            assert chosen.sum() == number
            found, best = variance(values, chosen), best_variance(values, number)
            np.testing.assert_allclose(found, best, rtol=3e-5, atol=1e-6, err_msg=str(values))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_neither_scale_nor_offset_matter(offset):
    values = jnp.asarray(np.random.default_rng(1).integers(-8, 9, 8), jnp.float32)
    for number in range(2, 9):
        expected = choose(values, number)
        np.testing.assert_array_equal(choose(64.0 * values + offset, number), expected)


def test_padding_is_not_chosen_and_changes_nothing():
    for seed in range(8):
        values = jnp.asarray(draws(seed)["continuous"], jnp.float32)
        valid = jnp.asarray(np.random.default_rng(seed).random(8) < 0.6)
        values = jnp.where(valid, values, jnp.nan)
        real = np.asarray(values)[np.asarray(valid)]
        for number in range(9):
            chosen = choose(values, number, valid)
            few = min(number, len(real))
            assert chosen.sum() == few and not np.any(chosen & ~valid)
            if few:
                np.testing.assert_allclose(
                    variance(values, chosen), best_variance(real, few), rtol=1e-5, atol=1e-7
                )


def test_symmetric_advantages_are_chosen_half_and_half():
    for size, number in ((8, 2), (8, 6), (4000, 1000), (4000, 3998)):
        values = jnp.asarray(
            np.random.default_rng(0).permutation(np.repeat([1.0, -1.0], size // 2))
        )
        chosen = choose(values, number)
        assert chosen.sum() == number and jnp.sum(values[chosen]) == 0


def test_ties_take_few_large_ones_and_low_indices():
    # Two of one sign and one of the other have one variance: the smaller number of large ones.
    values = jnp.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    assert choose(values, 3).tolist() == [True, True, False, True, False, False]
    assert choose(jnp.zeros(5), 3).tolist() == [True, True, True, False, False]


def test_what_rounding_alone_tells_apart_is_a_tie():
    numbers = np.random.default_rng(0)
    for seed in range(8):
        values = np.round(np.random.default_rng(seed).normal(size=12), 1).astype(np.float32)
        noisy = values * (1 + 2e-7 * numbers.normal(size=12).astype(np.float32))
        for number in (3, 4, 7):
            np.testing.assert_array_equal(choose(noisy, number), choose(values, number))
    keys = np.abs(np.round(numbers.normal(size=(6, 4)), 1)).astype(np.float32)
    noisy = keys * (1 + 2e-7 * numbers.normal(size=keys.shape).astype(np.float32))
    for fraction in (0.2, 0.5, 0.9):
        ones = jnp.ones_like(keys)
        np.testing.assert_array_equal(top(noisy, ones, fraction), top(keys, ones, fraction))


def test_advantages_far_from_zero_are_positive_and_negative_ones():
    """With enough of either sign the optimum is the largest and the smallest of each."""
    values = jnp.asarray(np.random.default_rng(3).permutation(np.arange(-20.0, 21.0)))
    assert sorted(values[choose(values, 6)].tolist()) == [-20, -19, -18, 18, 19, 20]


def test_the_variance_of_a_subset_of_some_sizes_is_below_that_of_all():
    values = jnp.array([-1.0, -1.0, 1.0, 1.0])
    found = [variance(values, choose(values, number)) for number in (2, 3, 4)]
    np.testing.assert_allclose(found, [1.0, 8 / 9, 1.0])


@pytest.mark.parametrize("number", [2, 3])
def test_one_pool_has_at_least_the_variance_of_a_choice_inside_groups(number):
    for seed in range(10):
        values = jnp.asarray(draws(seed, 12)["standardised"], jnp.float32)
        pool, groups = choose(values, 3 * number), inside(values, number, 4)
        assert groups.reshape(3, 4).sum(axis=1).tolist() == [number] * 3
        assert variance(values, pool) >= variance(values, groups) - 1e-6
        for group, chosen in zip(values.reshape(3, 4), groups.reshape(3, 4), strict=True):
            np.testing.assert_allclose(
                variance(group, chosen), best_variance(group, number), rtol=1e-5, atol=1e-7
            )


def test_a_group_s_reward_may_be_scaled_and_moved():
    numbers = np.random.default_rng(5)
    for _ in range(10):
        rewards = numbers.integers(0, 4, (3, 4)).astype(float)
        moved = numbers.uniform(1, 3, (3, 1)) * rewards + numbers.normal(size=(3, 1))
        # A group of equal rewards has advantage 0 up to rounding, which the library's zero exactly.
        for one, other in zip(rewards, moved, strict=True):
            other[:] = other[0] if np.ptp(one) == 0 else other
        for number in (2, 5, 7):
            both = [
                choose(jnp.asarray(standardised(x), jnp.float32), number) for x in (rewards, moved)
            ]
            np.testing.assert_array_equal(*both)
        # Inside a group rewards and advantages are chosen alike.
        alike = [inside(jnp.asarray(x.ravel(), jnp.float32), 2, 4) for x in (rewards, moved)]
        np.testing.assert_array_equal(*alike)
        by_advantage = inside(jnp.asarray(standardised(rewards), jnp.float32), 2, 4)
        np.testing.assert_array_equal(by_advantage, alike[0])


def test_permuted_rows_have_a_permuted_choice():
    numbers = np.random.default_rng(7)
    values, order = numbers.normal(size=9).astype(np.float32), numbers.permutation(9)
    for number in range(1, 10):
        np.testing.assert_array_equal(choose(values, number)[order], choose(values[order], number))
    keys, mask = numbers.random((9, 3)).astype(np.float32), numbers.random((9, 3)) < 0.8
    np.testing.assert_array_equal(top(keys, mask, 0.4)[order], top(keys[order], mask[order], 0.4))


@pytest.mark.parametrize("fraction", [1e-6, 0.1, 0.2, 0.5, 0.99, 1.0])
def test_the_tokens_kept_are_counted_exactly_and_are_the_highest(fraction):
    numbers = np.random.default_rng(2)
    for share in (0.0, 0.05, 0.6, 1.0):
        mask = (numbers.random((5, 6)) < share).astype(np.float32)
        # Keys with ties and zeros; padding may hold anything.
        keys = np.where(mask > 0, np.round(numbers.random((5, 6)), 1), np.nan).astype(np.float32)
        kept = np.asarray(top(keys, mask, fraction))
        count = math.ceil(round(fraction * float(mask.sum()), 9))
        assert kept.sum() == (max(count, 1) if mask.any() else 0)
        assert not kept[mask == 0].any()
        rejected = (mask > 0) & ~kept
        if kept.any() and rejected.any():
            assert keys[kept].min() >= keys[rejected].max()
            tied = (keys == keys[kept].min()).ravel()
            assert np.flatnonzero(tied & kept.ravel()).max() < min(
                np.flatnonzero(tied & rejected.ravel()), default=np.inf
            )


def test_a_whole_number_of_tokens_is_not_rounded_up():
    """Whatever a schedule's arithmetic makes of 0.2 and of all that lies between."""
    counted = jax.jit(
        lambda mask, fraction: jnp.sum(down_sampling.top_tokens(mask, mask, fraction))
    )
    mask = jnp.ones((10, 5))
    for step in range(41):
        fraction = down_sampling.schedule(step / 40, 0.2, 1.0)
        exactly = 0.2 * 50 + 0.8 * 50 * step / 40
        assert counted(mask, fraction) == math.ceil(round(exactly, 9)), step
    for number in range(1, 51):
        assert counted(mask, number / 50) == number
        few = jnp.asarray(np.arange(50).reshape(10, 5) < number, jnp.float32)
        assert counted(few, 0.2) == math.ceil(round(0.2 * number, 9))


def test_tokens_without_entropy_come_last():
    keys = jnp.array([[0.0, 1e-9, 0.0], [2.0, 0.0, 1e-30]])
    for fraction, count in ((0.5, 3), (0.34, 3), (0.67, 5)):
        kept = np.asarray(top(keys, jnp.ones((2, 3)), fraction))
        assert kept.sum() == count and kept[np.asarray(keys) > 0].all()


def test_the_schedule_is_a_line_between_exact_ends():
    progress = np.linspace(-0.5, 1.5, 21)
    expected = 0.2 + (0.9 - 0.2) * np.clip(progress, 0, 1)
    found = down_sampling.schedule(progress, 0.2, 0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[0] == np.float32(0.2) and found[-1] == np.float32(0.9)


def test_rows_are_a_whole_number_from_two_to_all():
    for size in (1, 2, 7, 128):
        numbers = down_sampling.num_kept(jnp.linspace(0.0, 1.0, 9), size)
        expected = np.clip(np.round(np.linspace(0, 1, 9) * size), min(2, size), size)
        np.testing.assert_array_equal(numbers, expected)
        assert numbers.dtype == jnp.int32


def test_counts_may_be_traced_and_change_no_shape():
    calls = []

    @jax.jit
    def both(progress, advantage, key, mask):
        calls.append(1)
        fraction = down_sampling.schedule(progress, 0.25, 1.0)
        rows = down_sampling.max_variance_rows(advantage, down_sampling.num_kept(fraction, 8))
        return rows, down_sampling.top_tokens(key, mask * rows[:, None], fraction)

    numbers = np.random.default_rng(0)
    arguments = numbers.normal(size=8), numbers.random((8, 4)), np.ones((8, 4))
    for step in range(5):
        rows, tokens = both(step / 4, *map(jnp.asarray, arguments))
        assert rows.sum() == round(8 * (0.25 + 0.75 * step / 4)) and rows.shape == (8,)
        assert not np.any(tokens & ~rows[:, None])
    assert len(calls) == 1


def test_a_group_size_that_does_not_divide_is_one_sentence():
    with pytest.raises(ValueError, match="group_size is 3, which does not divide the 8 rows"):
        down_sampling.max_variance_rows_within(jnp.zeros(8), 2, 3)
