"""Three-phase transformations against their matrices, and what holds of rotations."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg_envs.motor import transforms

ROOT = math.sqrt(3.0) / 2.0
T23 = 2.0 / 3.0 * np.array([[1.0, -0.5, -0.5], [0.0, ROOT, -ROOT]])
T32 = np.array([[1.0, 0.0], [-0.5, ROOT], [-0.5, -ROOT]])


def rotation(angle):
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def test_transformations_are_their_matrices():
    rng = np.random.default_rng(0)
    phases, vector, angle = rng.normal(size=3), rng.normal(size=2), 0.7
    given = tuple(phases.tolist()), tuple(vector.tolist()), angle

    @jax.jit
    def ours(phases, vector, angle):
        return (
            transforms.abc_to_alpha_beta(phases),
            transforms.alpha_beta_to_abc(vector),
            transforms.abc_to_dq(phases, angle),
            transforms.dq_to_abc(vector, angle),
            transforms.dq_to_alpha_beta(vector, angle),
            transforms.alpha_beta_to_dq(vector, angle),
        )

    expected = (
        T23 @ phases,
        T32 @ vector,
        rotation(-angle) @ T23 @ phases,
        T32 @ rotation(angle) @ vector,
        rotation(angle) @ vector,
        rotation(-angle) @ vector,
    )
    with jax.enable_x64(True):
        found = jax.device_get(ours(*given))
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-14)


def test_three_phases_of_sum_zero_come_back_and_their_common_part_is_lost():
    zero_sum = (0.3, -1.1, 0.8)
    back = transforms.alpha_beta_to_abc(transforms.abc_to_alpha_beta(zero_sum))
    np.testing.assert_allclose(back, zero_sum, rtol=1e-14)
    shifted = tuple(x + 5.0 for x in zero_sum)
    back = transforms.alpha_beta_to_abc(transforms.abc_to_alpha_beta(shifted))
    np.testing.assert_allclose(back, zero_sum, rtol=1e-13)


def test_amplitudes_are_kept():
    angles = np.linspace(-3.0, 3.0, 7)
    phases = tuple(2.0 * np.cos(angles - k * 2.0 * np.pi / 3.0) for k in range(3))
    alpha, beta = transforms.abc_to_alpha_beta(phases)
    np.testing.assert_allclose(alpha, 2.0 * np.cos(angles), atol=1e-14)
    np.testing.assert_allclose(beta, 2.0 * np.sin(angles), atol=1e-14)


def test_turning_back_undoes_turning_and_keeps_lengths():
    direction = (0.6, -0.8)
    turned = transforms.turn((3.0, 2.0), direction)
    np.testing.assert_allclose(transforms.turn_back(turned, direction), (3.0, 2.0), rtol=1e-14)
    assert math.hypot(*turned) == math.hypot(3.0, 2.0)


def test_a_vector_and_its_angle_have_one_direction():
    vectors = jnp.array([[1.0, 0.0], [-2.0, 1e-3], [0.0, -3.0], [1e-8, 1e-8], [0.0, 0.0]]).T

    @jax.jit
    def ours(x, y):
        return transforms.unit_along((x, y)), transforms.unit(transforms.angle_of((x, y)))

    one, two = ours(*vectors)
    np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_array_equal(jnp.array(one)[:, -1], [1.0, 0.0])


def test_the_zero_vector_has_no_gradient():
    @jax.jit
    @jax.grad
    def slopes(vector):
        return sum(transforms.unit_along(vector)) + transforms.angle_of(vector)

    zero = (jnp.zeros(()), jnp.zeros(()))
    assert slopes(zero) == zero
    # d/dx of cos + sin + angle at (0, 1) is 1 - 1, d/dy is 0.
    np.testing.assert_allclose(slopes((jnp.zeros(()), jnp.ones(()))), (0.0, 0.0), atol=1e-6)


def test_wrapped_angles_are_above_minus_pi_and_at_most_pi():
    pi = math.pi
    given = [0.0, pi, -pi, 3 * pi, 1.5 * pi, -1.5 * pi, 2 * pi, 100.0, -100.0]
    expected = [0.0, pi, pi, pi, -0.5 * pi, 0.5 * pi, 0.0, 100 - 32 * pi, 32 * pi - 100]
    with jax.enable_x64(True):
        found, slopes = jax.jit(jax.vmap(jax.value_and_grad(transforms.wrap)))(jnp.array(given))
        np.testing.assert_allclose(found, expected, atol=1e-13)
        np.testing.assert_array_equal(slopes, 1.0)
