import numpy as np
import pytest

from jaxpg.types import last_decision, trajectory

ZEROS = np.zeros((3, 4), np.float32)
MASK = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]], np.float32)


def test_one_reward_for_a_row_is_paid_at_its_last_real_decision():
    batch = trajectory(ZEROS, np.array([1.0, 2.0, 3.0]), mask=MASK)
    expected = [[0, 0, 1, 0], [0, 0, 0, 2], [0, 0, 0, 0]]
    np.testing.assert_array_equal(batch.reward, expected)
    np.testing.assert_array_equal(batch.total_reward, [1, 2, 0])
    np.testing.assert_array_equal(last_decision(batch.mask), np.array(expected) > 0)


def test_the_reward_on_padding_is_in_no_total():
    reward = np.where(MASK > 0, 1.0, np.nan).astype(np.float32)
    np.testing.assert_array_equal(trajectory(ZEROS, reward, mask=MASK).total_reward, [3, 3, 0])


@pytest.mark.parametrize("length", [1, 4])
def test_another_number_of_rewards_than_rows_is_refused(length):
    with pytest.raises(ValueError, match=f"reward has {length} entries for 3 rows"):
        trajectory(ZEROS, np.ones(length, np.float32))


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(AssertionError, match=r"\(3, 2\)"):
        trajectory(ZEROS, ZEROS[:, :2])


def test_a_missing_extra_is_named_beside_those_that_exist():
    batch = trajectory(ZEROS, value=ZEROS)
    assert batch.extra("value") is ZEROS
    with pytest.raises(KeyError, match=r"no extra 'entropy'; it has \['value'\]: the `score` seam"):
        batch.extra("entropy")
    with pytest.raises(KeyError, match="it has none"):
        trajectory(ZEROS).extra("entropy")


def test_extras_are_added_to_a_copy():
    batch = trajectory(ZEROS)
    assert set(batch.with_extras(value=ZEROS).extras) == {"value"}
    assert not batch.extras
