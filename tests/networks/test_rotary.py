"""Rotary positions: published frequencies, rotations as complex numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.networks import rotary
from jaxpg.networks.rotary import RopeScaling


@pytest.mark.parametrize(
    ("head_width", "factor", "ratios"),
    [
        (64, 32.0, {0: 1.0, 15: 0.605573, 16: 0.303743, 17: 0.103448, 31: 1 / 32}),
        (128, 8.0, {29: 0.828168, 32: 0.371122, 63: 1 / 8}),
    ],
)
def test_llama3_scaling_has_the_published_frequencies(head_width, factor, ratios):
    scaling = RopeScaling("llama3", factor)
    scaled = rotary.frequencies(head_width, 5e5, scaling)
    ratio = scaled / rotary.frequencies(head_width, 5e5)
    for pair, expected in ratios.items():
        np.testing.assert_allclose(ratio[pair], expected, atol=1e-6)


def test_linear_scaling_divides_every_frequency():
    plain = 1e4 ** (-2 * np.arange(16) / 32)
    np.testing.assert_allclose(rotary.frequencies(32, 1e4), plain, rtol=1e-7)
    scaled = rotary.frequencies(32, 1e4, RopeScaling("linear", 4.0))
    np.testing.assert_allclose(scaled, plain / 4, rtol=1e-7)


def test_angles_are_float32_at_far_positions():
    """1044.268 radians; with the frequency in bfloat16 it would be 1044.56."""
    exact = 1857 * 1e4 ** (-2 / 32)
    np.testing.assert_allclose(exact, 1044.268, atol=5e-4)
    cosine, sine = rotary.angles(jnp.array([1857]), 32, 1e4)
    assert cosine.dtype == sine.dtype == jnp.float32
    np.testing.assert_allclose(
        [cosine[0, 1], sine[0, 1]], [np.cos(exact), np.sin(exact)], atol=2e-4
    )


def test_a_rotation_is_a_product_of_complex_numbers():
    heads = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    positions = np.array([0, 1, 2, 50, 999])
    turned = rotary.rotate(heads, *rotary.angles(jnp.asarray(positions), 8, 100.0))
    phase = np.exp(1j * positions[:, None] * 100.0 ** (-np.arange(4) / 4))
    expected = (heads[:, :4] + 1j * heads[:, 4:]) * phase
    np.testing.assert_allclose(turned, np.hstack([expected.real, expected.imag]), atol=2e-4)


def test_scores_depend_on_the_distance_alone():
    query, key = np.random.default_rng(1).normal(size=(2, 1, 16)).astype(np.float32)

    @jax.jit
    def scores(at, other):
        turned = (
            rotary.rotate(head, *rotary.angles(positions, 16, 1e4))
            for head, positions in ((query, at), (key, other))
        )
        return jnp.sum(jnp.multiply(*turned), axis=-1)

    near, far, other = scores(np.array([7, 104, 7]), np.array([3, 100, 4]))
    np.testing.assert_allclose(near, far, atol=1e-4)
    assert abs(near - other) > 1e-2


def test_rotated_heads_keep_their_type():
    heads = jnp.ones((1, 4), jnp.bfloat16)
    assert rotary.rotate(heads, *rotary.angles(jnp.array([3]), 4, 1e4)).dtype == jnp.bfloat16


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ValueError, match=r"rope_scaling.kind is 'lama3'.*did you mean 'llama3'"):
        RopeScaling("lama3", 8.0)


def test_odd_heads_are_refused():
    with pytest.raises(ValueError, match="head_width is 5"):
        rotary.frequencies(5, 1e4)
