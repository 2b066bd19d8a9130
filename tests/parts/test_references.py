import jax
import numpy as np
import pytest

from jaxpg.parts import references
from jaxpg.types import trajectory

OLD = np.array([[-1.0, -2.0, np.nan], [-0.5, -0.25, -0.75]], np.float32)
MASK = np.array([[1, 1, 0], [1, 1, 1]], np.float32)
NOW = np.array([[-0.5, -4.0, 0.0], [-0.5, -0.2, -0.9]], np.float32)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (references.behaviour, OLD),
        (references.behaviour_sequence, [[-1.5] * 3, [-0.5] * 3]),
        (references.behaviour_sequence_sum, [[-3.0] * 3, [-1.5] * 3]),
        (references.detached, NOW),
        (references.one, np.zeros((2, 3))),
    ],
)
def test_a_reference_is_the_log_of_its_denominator(reference, expected):
    result = jax.jit(lambda now, old: reference(now, trajectory(old, mask=MASK)))(NOW, OLD)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize(("lower", "least"), [(None, 0.0), (0.2, 0.8)])
def test_the_truncated_reference_leaves_a_cut_ratio(lower, least):
    reference = references.truncated_behaviour(0.28, lower)
    result = jax.jit(lambda now, old: now - reference(now, trajectory(old, mask=MASK)))(NOW, OLD)
    ratio = np.exp(NOW - OLD)
    np.testing.assert_allclose(
        np.exp(result)[MASK > 0], np.clip(ratio, least, 1.28)[MASK > 0], rtol=1e-5
    )
