"""Random levels: ranges, shapes of the distributions, and walls that leave room."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxpg_envs import make
from jaxpg_envs.gridworld import ALL, ALL_SHORT_LIFE, SMALL, LevelDistribution, check, sample

NUM = 512


def drawn(distribution, max_size=10, max_objects=5, num=NUM, seed=0):
    keys = jax.random.split(jax.random.key(seed), num)
    levels, lifetimes = jax.vmap(lambda key: sample(key, distribution, max_size, max_objects))(keys)
    return jax.tree.map(np.asarray, levels), np.asarray(lifetimes)


LEVELS, LIFETIMES = drawn(ALL)


def used(levels):
    return np.arange(levels.object_cells.shape[1]) < levels.num_objects[:, None]


def quantiles_match(values, low, high, transform):
    """Whether the transformed values are spread evenly from low to high (Kolmogorov-Smirnov)."""
    shares = np.sort((transform(values) - transform(low)) / (transform(high) - transform(low)))
    gap = np.abs(shares - (np.arange(len(shares)) + 0.5) / len(shares)).max()
    return shares[0] >= -1e-6 and shares[-1] <= 1 + 1e-6 and gap < 1.95 / len(shares) ** 0.5


def test_every_level_is_one_with_start_and_objects_in_distinct_free_cells():
    check(LEVELS)
    for i in range(NUM):
        cells = [int(LEVELS.start[i]), *LEVELS.object_cells[i, : LEVELS.num_objects[i]].tolist()]
        assert len(set(cells)) == len(cells) == LEVELS.num_objects[i] + 1


def test_sizes_and_numbers_of_objects_are_uniform_with_their_bounds():
    for values, low, high in ((LEVELS.size, 4, 10), (LEVELS.num_objects, 1, 5)):
        counts = np.bincount(values, minlength=high + 1)
        assert counts.sum() == counts[low : high + 1].sum()
        expected = NUM / (high - low + 1)
        np.testing.assert_allclose(counts[low : high + 1], expected, atol=4 * expected**0.5)


def test_rewards_are_uniform_and_the_first_is_never_negative():
    others = LEVELS.object_rewards[:, 1:][used(LEVELS)[:, 1:]]
    identity = lambda value: value
    assert quantiles_match(LEVELS.object_rewards[:, 0], 0.0, 1.0, identity)
    assert quantiles_match(others, -1.0, 1.0, identity)


def test_probabilities_steps_and_lifetimes_are_log_uniform():
    mask = used(LEVELS)
    assert quantiles_match(LEVELS.object_terminate[mask], 0.01, 1.0, np.log)
    assert quantiles_match(LEVELS.object_respawn[mask], 0.001, 0.1, np.log)
    assert quantiles_match(LEVELS.max_steps_in_episode, 20, 750, np.log)
    # Rounding moves the small lifetimes, by less than the gap that is allowed.
    assert quantiles_match(LIFETIMES, 10, 250, np.log)
    assert LIFETIMES.dtype == np.int32


def test_uniform_lifetimes_and_fixed_ones():
    uniform = dataclasses.replace(SMALL, log_uniform=False)
    _, lifetimes = drawn(uniform)
    assert quantiles_match(lifetimes, 50, 100, lambda value: value)
    assert set(drawn(ALL_SHORT_LIFE, num=8)[1].tolist()) == {250}


def test_walls_are_a_share_of_the_cells_of_the_largest_grid():
    assert (LEVELS.walls.sum(1)[LEVELS.size == 10] == 15).all()
    for size in range(4, 10):
        walls = LEVELS.walls[LEVELS.size == size]
        assert not walls[:, size**2 :].any()
        # 15 draws of 100 without replacement hit the size^2 first cells so often.
        deviation = (15 * (size**2 / 100) * (1 - size**2 / 100) / len(walls)) ** 0.5
        assert walls.sum(1).mean() == pytest.approx(0.15 * size**2, abs=4 * deviation)


def test_what_lies_beyond_the_number_of_objects_is_zero():
    beyond = ~used(LEVELS)
    for name in ("object_cells", "object_rewards", "object_terminate", "object_respawn"):
        assert not getattr(LEVELS, name)[beyond].any()


def test_walls_give_way_where_start_and_objects_need_the_room():
    cramped = LevelDistribution(sizes=(2, 3), objects=(3, 3), num_walls=9)
    levels, _ = drawn(cramped, max_size=3, max_objects=3, num=64)
    check(levels)
    free = levels.size**2 - levels.walls.sum(1)
    assert (free == 4).all()
    # The cells that became free are any of the grid's.
    starts = np.bincount(levels.start[levels.size == 3], minlength=9)
    assert (starts > 0).all()


def test_larger_arrays_hold_the_same_level():
    wide, lifetime = sample(jax.random.key(3), SMALL, 13, 5)
    check(wide)
    assert wide.walls.shape == (169,) and wide.object_cells.shape == (5,)
    assert 4 <= wide.size <= 6 and wide.num_objects <= 3 and 50 <= lifetime <= 100


def test_one_key_is_one_level_and_keys_are_not_reused():
    with jax.debug_key_reuse(True):
        one, _ = sample(jax.random.key(7), SMALL, 6, 3)
    again, _ = sample(jax.random.key(7), SMALL, 6, 3)
    other, _ = sample(jax.random.key(8), SMALL, 6, 3)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert (one.object_rewards != other.object_rewards).any()


def test_the_registered_random_level_is_fixed_by_its_seed():
    env, params = make("gridworld/random", seed=3)
    wanted, _ = sample(jax.random.key(3), ALL, 13, 5)
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    assert env.num_states == 13**2 * 2**5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sizes": (6, 4)}, r"sizes=\(6, 4\) must be \(low, high\), low first"),
        ({"sizes": (1, 4)}, r"sizes=\(1, 4\) must begin at 2 or above"),
        ({"objects": (1, 16)}, "need 17 cells, but sizes=.* has only 16 in the smallest grid"),
        ({"terminate": (0.0, 0.5)}, r"terminate=\(0.0, 0.5\) must lie in \(0, 1\]"),
        ({"respawn": (0.5, 1.5)}, r"respawn=\(0.5, 1.5\) must lie in"),
        ({"num_walls": 101}, "num_walls=101 is outside 0 to 100"),
        ({"lifetimes": (0, 5)}, r"lifetimes=\(0, 5\) must begin at 1"),
    ],
)
def test_a_distribution_out_of_range_is_one_sentence(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LevelDistribution(**kwargs)


def test_arrays_without_room_for_the_distribution_are_refused():
    with pytest.raises(ValueError, match="max_size=9 is below 10"):
        sample(jax.random.key(0), ALL, 9, 5)
    with pytest.raises(ValueError, match="max_objects=4 is below 5"):
        sample(jax.random.key(0), ALL, 10, 4)
