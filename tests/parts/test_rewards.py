"""The overlong penalty against the three cases of its source."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.parts.rewards import overlong_penalty


def test_the_table_of_the_source():
    lengths = jnp.array([0, 15, 16, 17, 18, 19, 20, 21, 99])
    expected = [0, 0, 0, -0.25, -0.5, -0.75, -1, -1, -1]
    np.testing.assert_allclose(overlong_penalty(lengths, 20, 4), expected)


@pytest.mark.parametrize(("longest", "buffer"), [(7, 1), (7, 7), (16384, 4096), (20480, 4096)])
def test_the_three_cases(longest, buffer):
    def by_cases(length):
        if length <= longest - buffer:
            return 0.0
        return ((longest - buffer) - length) / buffer if length <= longest else -1.0

    lengths = np.linspace(0, longest + 2, 60).round().astype(int)
    expected = [by_cases(int(length)) for length in lengths]
    np.testing.assert_allclose(overlong_penalty(jnp.asarray(lengths), longest, buffer), expected)


@pytest.mark.parametrize("buffer", [0, -1, 21])
def test_a_buffer_longer_than_the_response_is_refused(buffer):
    sentence = f"buffer is {buffer}, but it has to be between 1 and longest=20"
    with pytest.raises(ValueError, match=sentence):
        overlong_penalty(jnp.array([1]), 20, buffer)
