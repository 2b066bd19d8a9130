"""Activations of perceptrons."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpg.networks.mlp import lean_elu


def test_lean_elu_has_the_values_and_the_derivatives_of_elu():
    inputs = jnp.array([-200.0, -3.0, -1e-3, 0.0, 1e-3, 2.0, 200.0])
    np.testing.assert_allclose(lean_elu(inputs), nn.elu(inputs), atol=1e-7)
    slopes, expected = (jax.vmap(jax.grad(f))(inputs) for f in (lean_elu, nn.elu))
    np.testing.assert_allclose(slopes, expected, atol=1e-6)
