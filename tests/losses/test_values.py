import jax
import numpy as np
import optax
import pytest

from jaxpg.losses import values


@jax.jit
def clipped(value, target, old_value, clip):
    return jax.value_and_grad(values.clipped, argnums=(0, 1, 2))(value, target, old_value, clip)


def test_the_squared_loss_is_optax_s():
    value, target = np.array([1.0, -2.0, 0.5], np.float32), np.array([0.0, 3.0, 0.5], np.float32)
    np.testing.assert_allclose(
        jax.jit(values.squared)(value, target), jax.jit(optax.l2_loss)(value, target)
    )


def test_the_target_is_a_constant():
    # V(s) = V(s') = theta = 2, r = 1, discount 0.9: -0.8 when stopped, -0.08 when it leaks.
    slope = jax.jit(jax.grad(lambda theta: values.squared(theta, 1.0 + 0.9 * theta)))(2.0)
    np.testing.assert_allclose(slope, -0.8, rtol=1e-6)


def test_the_value_clip_acts():
    loss, slopes = clipped(1.0, 2.0, 0.0, 0.2)
    np.testing.assert_allclose(2 * loss, 3.24, rtol=1e-6)
    assert [float(slope) for slope in slopes] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("value", "target", "old_value"),
    [(0.1, 2.0, 0.0), (1.0, -2.0, 0.0), (-1.0, -0.5, 0.0), (0.3, 0.2, 0.0), (-0.3, 0.5, 0.0)],
)
def test_the_clipped_loss_is_the_larger_of_two_squares(value, target, old_value):
    def native(value):
        near = np.clip(value, old_value - 0.2, old_value + 0.2)
        return 0.5 * max((value - target) ** 2, (near - target) ** 2)

    loss, slopes = clipped(value, target, old_value, 0.2)
    np.testing.assert_allclose(loss, native(value), rtol=1e-6)
    difference = (native(value + 1e-6) - native(value - 1e-6)) / 2e-6
    np.testing.assert_allclose(slopes[0], difference, rtol=1e-5, atol=1e-6)
    assert slopes[1] == slopes[2] == 0.0
