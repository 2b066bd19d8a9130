"""Rows of a batch: taken, joined, shared among devices, and numbered as groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import batches, parallel
from jaxpg.types import trajectory

needs_four = pytest.mark.skipif(jax.device_count() < 4, reason="four host devices")


def rows_of(group_ids, first=0):
    group_ids = jnp.asarray(group_ids)
    numbers = first + jnp.arange(len(group_ids), dtype=jnp.float32)
    return trajectory(
        jnp.tile(numbers[:, None], (1, 2)), numbers, group_ids=group_ids, name=numbers
    )


def together(group_ids):
    """Which rows are of one group, whatever it is called."""
    ids = np.asarray(group_ids)
    return ids[:, None] == ids[None, :]


def test_taken_rows_keep_their_company_and_have_small_numbers():
    rows = rows_of([0, 0, 2, 5, 5, 2])
    index = np.array([4, 5, 2, 1, 3])
    taken = jax.jit(batches.take)(rows, index)
    np.testing.assert_array_equal(taken.extras["name"], index)
    np.testing.assert_array_equal(
        together(taken.group_ids), together(rows.group_ids)[index][:, index]
    )
    assert np.asarray(taken.group_ids).max() < 5


def test_joined_groups_stay_apart():
    both = jax.jit(batches.join)(rows_of([0, 0, 2]), rows_of([0, 1], first=10))
    np.testing.assert_array_equal(both.extras["name"], [0, 1, 2, 10, 11])
    wanted = together([0, 0, 2, 7, 8])
    np.testing.assert_array_equal(together(both.group_ids), wanted)
    assert np.asarray(both.group_ids).max() < 5
    assert len(set(np.asarray(both.rollout_ids).tolist())) == 5


def test_one_device_holds_the_batch():
    rows = rows_of([0, 0, 2])
    for same in (batches.of_all_devices(rows), batches.own_share(rows)):
        for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(rows), strict=True):
            np.testing.assert_array_equal(a, b)


@needs_four
def test_devices_see_all_rows_and_get_their_own_back():
    rows = jax.vmap(lambda first: rows_of([0, 0, 1], first))(10.0 * jnp.arange(4))

    def both(rows):
        whole = batches.of_all_devices(rows)
        return whole, batches.own_share(whole), parallel.own_share(parallel.gather(rows.mask))

    whole, own, mask = jax.pmap(both, axis_name=parallel.AXIS)(rows)
    names = np.asarray(rows.extras["name"])
    for device in range(4):
        np.testing.assert_array_equal(whole.extras["name"][device], names.ravel())
        wanted = together([0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7])
        np.testing.assert_array_equal(together(whole.group_ids[device]), wanted)
    np.testing.assert_array_equal(own.extras["name"], names)
    np.testing.assert_array_equal(own.group_ids, rows.group_ids)
    np.testing.assert_array_equal(own.rollout_ids, rows.rollout_ids)
    np.testing.assert_array_equal(mask, rows.mask)
