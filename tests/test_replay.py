"""The ring buffer against a deque: wrap-around, partial filling, uniform draws, no copies."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import replay


def numbered(first, number):
    """Items that know their number in two leaves of different type."""
    numbers = np.arange(first, first + number, dtype=np.int32)
    return {"number": numbers, "twice": np.repeat(2.0 * numbers[:, None], 2, axis=1)}


add = jax.jit(replay.add, donate_argnums=0)
sample = jax.jit(replay.sample, static_argnums=2)


EXAMPLE = jax.tree.map(lambda x: x[0], numbered(0, 1))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_contents_are_those_of_a_deque(size):
    buffer, model = replay.init(EXAMPLE, 5), collections.deque(maxlen=5)
    for start in range(0, 7 * size, size):
        buffer = add(buffer, numbered(start, size))
        model.extend(range(start, start + size))
        held = buffer.items["number"][: int(buffer.size)]
        assert sorted(held.tolist()) == list(model)
        np.testing.assert_array_equal(
            buffer.items["twice"], np.repeat(2.0 * buffer.items["number"][:, None], 2, axis=1)
        )
        oldest = int(buffer.position) if buffer.size == 5 else 0
        assert buffer.items["number"][oldest] == model[0]


def test_a_buffer_filled_exactly_is_full():
    buffer = add(replay.init(EXAMPLE, 5), numbered(0, 5))
    assert buffer.size == 5 and buffer.position == 0 and buffer.capacity == 5


def test_what_was_never_written_is_never_drawn():
    buffer = add(replay.init(EXAMPLE, 100), numbered(1, 3))
    drawn = sample(jax.random.key(0), buffer, 1000)
    assert set(drawn["number"].tolist()) == {1, 2, 3}
    np.testing.assert_array_equal(drawn["twice"][:, 0], 2 * drawn["number"])


@pytest.mark.parametrize("added", [6, 17])
def test_draws_are_uniform(added):
    buffer = add(replay.init(EXAMPLE, 10), numbered(0, 6))
    for number in range(6, added):
        buffer = add(buffer, numbered(number, 1))
    held, draws = min(added, 10), 20_000
    drawn = sample(jax.random.key(1), buffer, draws)["number"]
    numbers, counts = np.unique(drawn, return_counts=True)
    assert numbers.tolist() == list(range(added - held, added))
    # A chi-squared statistic of 9 degrees of freedom is beyond 30 once in 2,000 times.
    expected = draws / held
    assert np.sum((counts - expected) ** 2 / expected) < 30.0


def test_an_empty_buffer_is_refused_and_a_batch_too_large_as_well():
    buffer = replay.init(EXAMPLE, 4)
    with pytest.raises(ValueError, match="the buffer is empty"):
        replay.sample(jax.random.key(0), buffer, 2)
    with pytest.raises(ValueError, match="batch has 5 items, but the buffer holds 4"):
        replay.add(buffer, numbered(0, 5))
    with pytest.raises(ValueError, match="capacity is 0, but it has to be at least 1"):
        replay.init(EXAMPLE, 0)


def test_seeds_in_a_batch_equal_seeds_alone():
    def run(key, offset):
        buffer = replay.init(EXAMPLE, 4)
        for start in (0, 3):
            buffer = replay.add(buffer, jax.tree.map(lambda x: x + offset, numbered(start, 3)))
        return replay.sample(key, buffer, 8)

    keys, offsets = jax.random.split(jax.random.key(0), 3), jnp.arange(3)
    together = jax.jit(jax.vmap(run))(keys, offsets)
    for index in range(3):
        alone = jax.jit(run)(keys[index], offsets[index])
        np.testing.assert_array_equal(together["number"][index], alone["number"])


def test_every_device_keeps_a_shard_of_its_own():
    def run(key, batch):
        buffer = replay.add(replay.init(EXAMPLE, 3), batch)
        return replay.sample(key, buffer, 50)["number"]

    batches = jax.tree.map(lambda x: x.reshape((4, 3, *x.shape[1:])), numbered(0, 12))
    drawn = jax.pmap(run)(jax.random.split(jax.random.key(0), 4), batches)
    for device in range(4):
        assert set(drawn[device].tolist()) == set(range(3 * device, 3 * device + 3))


def test_a_donated_buffer_is_changed_in_place():
    buffer = jax.jit(lambda: replay.init(EXAMPLE, 1000))()
    where = buffer.items["twice"].unsafe_buffer_pointer()
    after = add(buffer, numbered(0, 3))
    assert after.items["twice"].unsafe_buffer_pointer() == where
    assert buffer.items["twice"].is_deleted()


def test_what_is_not_real_is_left_out_without_gaps():
    """Contents are those of a deque that got only the real items, also across the last slot."""
    buffer, model = replay.init(EXAMPLE, 5), collections.deque(maxlen=5)
    some = jax.jit(replay.add, donate_argnums=0)
    patterns = [[0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1]]
    for start, real in enumerate(patterns):
        buffer = some(buffer, numbered(4 * start, 4), jnp.array(real, bool))
        model.extend(4 * start + i for i in range(4) if real[i])
        held = buffer.items["number"][: int(buffer.size)]
        assert sorted(held.tolist()) == sorted(model) and buffer.size == len(model)
        np.testing.assert_array_equal(
            buffer.items["twice"], np.repeat(2.0 * buffer.items["number"][:, None], 2, axis=1)
        )
