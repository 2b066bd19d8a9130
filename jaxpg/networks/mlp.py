"""Multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpg.types import Array

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "silu": nn.silu, "gelu": nn.gelu}
Initializer = Callable[..., Array]
HIDDEN_GAIN = 2.0**0.5


def orthogonal(gain: float) -> Initializer:
    """Orthogonal matrices times a gain, drawn one after the other under `vmap`.

    On a CPU a batch of QR decompositions waits in the thread pool for work of its own: with few
    cores two such batches at once, from two layers, wait for ever.

    Args:
      gain: factor.

    Returns:
      A Flax initialiser.
    """
    initialiser = nn.initializers.orthogonal(gain)

    def draw(key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.custom_batching.sequential_vmap(lambda key: initialiser(key, shape, dtype))(key)

    return draw


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
            dense = nn.Dense(size, kernel_init=orthogonal(HIDDEN_GAIN), dtype=self.dtype)
            hidden = self.activation(dense(hidden))
        return hidden
