"""The layers of a transformer.

All linear maps work on rows flattened to two dimensions, and the maps that share an input share a
kernel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpg.networks import rotary
from jaxpg.networks.transformer_config import Parts, TransformerConfig, kernel_parts
from jaxpg.types import Array, PyTree


class RMSNorm(nn.Module):
    """Scales every vector to mean square 1, in float32."""

    epsilon: float
    param_dtype: Any

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps `[..., D]` to `[..., D]`, in the type of the inputs."""
        scale = self.param("scale", nn.initializers.ones, (inputs.shape[-1],), self.param_dtype)
        wide = inputs.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide * inverse * scale.astype(jnp.float32)).astype(inputs.dtype)


class Linear(nn.Module):
    """A linear map on rows `[M, inputs]`, with low-rank adapters where the parameters hold some.

    Attributes:
      parts: maps whose columns stand side by side, name and columns of each.
      use_bias: add a bias.
      gain: standard deviation of the kernel at the start, times the root of the inputs.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    parts: Parts
    use_bias: bool
    gain: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps `[M, inputs]` to `[M, outputs]`."""
        columns = sum(size for _, size in self.parts)
        init = nn.initializers.normal(self.gain / math.sqrt(inputs.shape[-1]))
        kernel = self.param("kernel", init, (inputs.shape[-1], columns), self.param_dtype)
        outputs = inputs @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (columns,), self.param_dtype)
            outputs = outputs + bias.astype(self.dtype)
        if self.has_variable("params", "lora"):
            outputs = outputs + self._low_rank(inputs, self.get_variable("params", "lora"))
        return outputs

    def _low_rank(self, inputs: Array, adapters: PyTree) -> Array:
        changes = []
        for part, size in self.parts:
            if part in adapters:
                a, b = (adapters[part][name].astype(self.dtype) for name in ("a", "b"))
                changes.append((inputs @ a) @ b)
            else:
                changes.append(jnp.zeros((inputs.shape[0], size), self.dtype))
        return jnp.concatenate(changes, axis=-1) if len(changes) > 1 else changes[0]


def merged_kernel(parameters: PyTree, parts: Parts) -> PyTree:
    """A linear map's parameters with its adapters added into the kernel.

    Args:
      parameters: of `Linear`, with or without a leading axis of layers.
      parts: of the `Linear`.

    Returns:
      The parameters without adapters.
    """
    if "lora" not in parameters:
        return parameters
    kernel, adapters = parameters["kernel"], parameters["lora"]
    changes = [
        adapters[part]["a"] @ adapters[part]["b"]
        if part in adapters
        else jnp.zeros((*kernel.shape[:-1], size), kernel.dtype)
        for part, size in parts
    ]
    change = jnp.concatenate(changes, axis=-1)
    rest = {name: leaf for name, leaf in parameters.items() if name != "lora"}
    return {**rest, "kernel": kernel + change.astype(kernel.dtype)}


Attend = Callable[[Array, Array, Array], tuple[Array, Any]]
"""Maps queries, keys and values `[M, heads, H]` to `([M, N H], what is kept)`."""


class Block(nn.Module):
    """One layer, in two halves around the attention, so that a cache can stand between them."""

    config: TransformerConfig

    def setup(self) -> None:
        """Builds the layer's maps."""
        config = self.config
        kinds = {"dtype": jnp.dtype(config.dtype), "param_dtype": jnp.dtype(config.param_dtype)}
        biases = {
            "qkv": config.attention_bias,
            "output": config.output_bias,
            "gate_up": config.mlp_bias,
            "down": config.mlp_bias,
        }
        # The residual stream adds 2 L outputs; it keeps its size whatever L is.
        gains = {"output": (2 * config.num_layers) ** -0.5, "down": (2 * config.num_layers) ** -0.5}
        for name, (_, parts) in kernel_parts(config).items():
            setattr(self, name, Linear(parts, biases[name], gains.get(name, 1.0), **kinds))
        norm = functools.partial(RMSNorm, config.norm_epsilon, kinds["param_dtype"])
        self.attention_norm, self.mlp_norm = norm(), norm()
        if config.query_key_norm:
            self.query_norm, self.key_norm = norm(), norm()

    def queries_keys_values(
        self, stream: Array, cosine: Array, sine: Array
    ) -> tuple[Array, Array, Array]:
        """Maps `[M, D]` to heads `[M, N, H]`, `[M, K, H]`, `[M, K, H]`, rotated."""
        config = self.config
        width, heads = config.head_size, config.num_heads
        every = self.qkv(self.attention_norm(stream)).reshape((stream.shape[0], -1, width))
        query, key, value = jnp.split(every, [heads, heads + config.kv_heads], axis=1)
        if config.query_key_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        cosine, sine = cosine[:, None], sine[:, None]
        return rotary.rotate(query, cosine, sine), rotary.rotate(key, cosine, sine), value

    def finish(self, stream: Array, attended: Array) -> Array:
        """Adds the attention's output `[M, N H]` and the MLP to the stream `[M, D]`."""
        stream = stream + self.output(attended)
        gate, up = jnp.split(self.gate_up(self.mlp_norm(stream)), 2, axis=-1)
        return stream + self.down(nn.silu(gate) * up)

    def __call__(self, stream: Array, cosine: Array, sine: Array, attend: Attend):
        """One layer; returns the stream `[M, D]` and what `attend` kept."""
        attended, kept = attend(*self.queries_keys_values(stream, cosine, sine))
        return self.finish(stream, attended), kept
