"""Multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn

from jaxpg.types import Array

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "silu": nn.silu, "gelu": nn.gelu}
HIDDEN_GAIN = 2.0**0.5


class MLP(nn.Module):
    """Dense layers with an activation after each, orthogonally initialised.

    Attributes:
      sizes: width of each layer.
      activation: a function of an array.
      dtype: of the computation; parameters stay float32.
    """

    sizes: Sequence[int]
    activation: Callable[[Array], Array] = nn.tanh
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps `[..., D]` to `[..., sizes[-1]]` (`[..., D]` where there is no layer)."""
        hidden = inputs
        for size in self.sizes:
            dense = nn.Dense(
                size, kernel_init=nn.initializers.orthogonal(HIDDEN_GAIN), dtype=self.dtype
            )
            hidden = self.activation(dense(hidden))
        return hidden
