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


@jax.custom_vjp
def lean_elu(inputs: Array) -> Array:
    """`nn.elu` with less to remember: its derivative is computed from its output.

    In a loop over time that output is kept for the next layer anyway, so that the backward pass
    reads less memory. Reverse mode only.

    Args:
      inputs: any shape.

    Returns:
      Same shape, `x` where positive and `exp(x) - 1` elsewhere.
    """
    # The smaller exponent keeps what is not taken finite, and expm1 is slower on a CPU.
    return jnp.where(inputs > 0, inputs, jnp.exp(jnp.minimum(inputs, 0.0)) - 1.0)


def _lean_elu_forward(inputs: Array) -> tuple[Array, Array]:
    outputs = lean_elu(inputs)
    return outputs, outputs


def _lean_elu_backward(outputs: Array, cotangent: Array) -> tuple[Array]:
    return (jnp.where(outputs > 0, cotangent, cotangent * (outputs + 1.0)),)


lean_elu.defvjp(_lean_elu_forward, _lean_elu_backward)


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


Initialisers = Callable[[int], tuple[Initializer, Initializer]]
"""`(number of inputs) -> (initialiser of the kernel, initialiser of the bias)`."""


def orthogonal_without_bias(num_inputs: int) -> tuple[Initializer, Initializer]:
    """Orthogonal kernels for saturating units, and biases of 0.

    Args:
      num_inputs: of the layer.

    Returns:
      `(initialiser of the kernel, initialiser of the bias)`.
    """
    del num_inputs
    return orthogonal(HIDDEN_GAIN), nn.initializers.zeros


def uniform_by_fan_in(num_inputs: int) -> tuple[Initializer, Initializer]:
    """Kernel and bias uniform within plus and minus `1 / sqrt(num_inputs)`.

    Args:
      num_inputs: of the layer.

    Returns:
      `(initialiser of the kernel, initialiser of the bias)`.

    Source: the default of torch's linear layer.
    """
    bound = num_inputs**-0.5

    def draw(key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw, draw


def lecun_uniform(num_inputs: int) -> tuple[Initializer, Initializer]:
    """Uniform kernels whose outputs have the variance of the inputs, and biases of 0.

    Args:
      num_inputs: of the layer.

    Returns:
      `(initialiser of the kernel, initialiser of the bias)`.

    Source: LeCun et al. 1998, "Efficient backprop", section 4.6.
    """
    bound = (3.0 / num_inputs) ** 0.5

    def draw(key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw, nn.initializers.zeros


class Dense(nn.Module):
    """A linear layer whose inputs have their features last, or first.

    With the features first (`[D, N]`, rows along the last axis) XLA's products of a tall batch
    with narrow layers are faster on a CPU, forward and backward; parameters are the same.

    Attributes:
      features: number of outputs.
      kernel_init: initialiser of the `[inputs, features]` kernel.
      bias_init: initialiser of the bias.
      dtype: of the computation; parameters stay float32. None: that of inputs and parameters.
      features_first: inputs are `[D, N]` and outputs `[features, N]`.
    """

    features: int
    kernel_init: Initializer
    bias_init: Initializer = nn.initializers.zeros
    dtype: jnp.dtype | None = jnp.float32
    features_first: bool = False

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps `[..., D]` to `[..., features]`, or `[D, N]` to `[features, N]`."""
        size = inputs.shape[0 if self.features_first else -1]
        kernel = self.param("kernel", self.kernel_init, (size, self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        if self.dtype is not None:
            inputs, kernel, bias = (x.astype(self.dtype) for x in (inputs, kernel, bias))
        if self.features_first:
            return kernel.T @ inputs + bias[:, None]
        return inputs @ kernel + bias


class MLP(nn.Module):
    """Dense layers with an activation after each.

    Attributes:
      sizes: width of each layer.
      activation: a function of an array.
      dtype: see `Dense`.
      features_first: see `Dense`.
      initialisers: of the kernel and the bias of a layer, given the number of its inputs.
    """

    sizes: Sequence[int]
    activation: Callable[[Array], Array] = nn.tanh
    dtype: jnp.dtype | None = jnp.float32
    features_first: bool = False
    initialisers: Initialisers = orthogonal_without_bias

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps `[..., D]` to `[..., sizes[-1]]`, or `[D, N]` to `[sizes[-1], N]`."""
        hidden = inputs
        for size in self.sizes:
            kernel_init, bias_init = self.initialisers(
                hidden.shape[0 if self.features_first else -1]
            )
            layer = Dense(
                size,
                kernel_init=kernel_init,
                bias_init=bias_init,
                dtype=self.dtype,
                features_first=self.features_first,
            )
            hidden = self.activation(layer(hidden))
        return hidden
