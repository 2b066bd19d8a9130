"""A decoder-only transformer of the Llama family: configuration, layers, and a pass over rows.

RMS norms before attention and MLP, rotary positions, grouped queries, SwiGLU. By configuration it
is Llama, SmolLM2, Mistral, Qwen2 or Qwen3, or a tiny policy for a synthetic task. All linear maps
work on rows flattened to two dimensions, and the maps that share an input share a kernel.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpg.choices import at_least, one_of
from jaxpg.networks import rotary
from jaxpg.networks.language_model import attention_mask, position_ids
from jaxpg.networks.rotary import RopeScaling
from jaxpg.types import Array, PyTree

DTYPES = ("float32", "bfloat16")
SCANNED_FROM = 5
"""Layers from which on their passes are one scan: unrolled, they would compile for minutes."""
UNROLLED_ON = ("cpu",)
"""Backends without that scan: they compile fast, and slow down where it writes gradients."""


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape and arithmetic of a transformer.

    Attributes:
      vocabulary_size: V.
      num_layers: L.
      width: D, of the residual stream.
      num_heads: N, of the queries.
      num_kv_heads: K, of keys and values; divides N. None takes N.
      head_width: H, even. None takes D / N.
      mlp_width: F.
      max_positions: longest row.
      rope_theta: base of the rotary frequencies.
      rope_scaling: of the rotary frequencies, see `rotary.RopeScaling`.
      norm_epsilon: added to mean squares.
      tied: the embedding is also the output's kernel.
      attention_bias: queries, keys and values have biases.
      output_bias: the attention's output has one.
      mlp_bias: the MLP's maps have them.
      query_key_norm: queries and keys are normalised within each head.
      value_head: a critic on the last hidden state.
      dtype: `"float32"` or `"bfloat16"`, of the computation; norms, softmax and logits are float32.
      param_dtype: of the parameters that `init` draws.
      remat: layers are computed again in the backward pass instead of being kept.
    """

    vocabulary_size: int
    num_layers: int = 2
    width: int = 64
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_width: int | None = None
    mlp_width: int = 256
    max_positions: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5
    tied: bool = True
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    value_head: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name in ("vocabulary_size", "num_layers", "width", "num_heads", "mlp_width"):
            at_least(name, getattr(self, name), 1)
        at_least("max_positions", self.max_positions, 1)
        one_of("dtype", self.dtype, DTYPES)
        one_of("param_dtype", self.param_dtype, DTYPES)
        if self.head_width is None and self.width % self.num_heads:
            raise ValueError(
                f"num_heads is {self.num_heads}, which does not divide width={self.width}: name "
                f"head_width"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_kv_heads is {self.num_kv_heads}, which does not divide "
                f"num_heads={self.num_heads}"
            )
        if self.head_size % 2:
            raise ValueError(
                f"head_width is {self.head_size}, but rotary positions need an even number"
            )

    @property
    def kv_heads(self) -> int:
        """K."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        """H."""
        return self.head_width or self.width // self.num_heads


Parts = tuple[tuple[str, int], ...]


def kernel_parts(config: TransformerConfig) -> dict[str, tuple[int, Parts]]:
    """The kernels of a layer: inputs of each, and the maps whose columns stand side by side.

    Args:
      config: of the transformer.

    Returns:
      name -> `(inputs, ((part, columns), ...))`.
    """
    queries = config.num_heads * config.head_size
    keys = config.kv_heads * config.head_size
    return {
        "qkv": (config.width, (("q", queries), ("k", keys), ("v", keys))),
        "output": (queries, (("o", config.width),)),
        "gate_up": (config.width, (("gate", config.mlp_width), ("up", config.mlp_width))),
        "down": (config.mlp_width, (("down", config.width),)),
    }


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

    def __call__(self, stream: Array, cosine: Array, sine: Array, seen: Array):
        """One layer over whole rows; returns the stream `[B T, D]` and its keys and values."""
        rows, length = seen.shape[0], seen.shape[1]
        heads = self.queries_keys_values(stream, cosine, sine)
        query, key, value = (x.reshape((rows, length, *x.shape[1:])) for x in heads)
        attended = jax.nn.dot_product_attention(query, key, value, mask=seen[:, None])
        return self.finish(stream, attended.reshape((rows * length, -1))), (key, value)


class Transformer(nn.Module):
    """The decoder: embedding, layers stacked on a leading axis, a last norm, heads."""

    config: TransformerConfig

    def setup(self) -> None:
        """Declares the parameters."""
        config = self.config
        kind = jnp.dtype(config.param_dtype)
        shape = (config.vocabulary_size, config.width)
        # Of unit length: with entries of 0.02 a narrow policy takes twice as long to learn sums.
        init = nn.initializers.normal(config.width**-0.5)
        self.embedding = self.param("embedding", init, shape, kind)
        # Read as they are: with adapters, or as a tuple for decoding, they are not as drawn.
        drawn = self.has_variable("params", "layers")
        self.layers = (
            self.get_variable("params", "layers")
            if drawn
            else self.param("layers", self._init_layers)
        )
        self.norm = RMSNorm(config.norm_epsilon, kind)
        if not config.tied:
            parts = (("head", config.vocabulary_size),)
            self.head = Linear(parts, False, 1.0, jnp.dtype(config.dtype), kind)
        if config.value_head:
            self.value_head = nn.Dense(
                1, kernel_init=nn.initializers.zeros, param_dtype=kind, name="value"
            )

    def __call__(self, inputs: Array, mask: Array, *rest: Any) -> tuple[Array, ...]:
        """Every output once; `init` runs it."""
        hidden = self.hidden(inputs, mask, *rest)
        outputs = (hidden, self.logits(hidden))
        return (*outputs, self.value(hidden)) if self.config.value_head else outputs

    def embed(self, tokens: Array) -> Array:
        """Maps tokens `[...]` to `[..., D]`."""
        dtype = jnp.dtype(self.config.dtype)
        if self.config.vocabulary_size <= 256:
            # The gradient of a gather is a scatter, slower than a product this small.
            chosen = jax.nn.one_hot(tokens, self.config.vocabulary_size, dtype=dtype)
            return chosen @ self.embedding.astype(dtype)
        return self.embedding[tokens].astype(dtype)

    def hidden(
        self,
        inputs: Array,
        mask: Array,
        positions: Array | None = None,
        segment_ids: Array | None = None,
    ) -> Array:
        """Last hidden states `[B, T, D]`, see `LanguageModel.hidden`."""
        return self._pass(inputs, mask, positions, segment_ids, keep=False)[0]

    def hidden_and_cache(self, inputs: Array, mask: Array) -> tuple[Array, Any]:
        """Last hidden states, and keys and values of every layer, each `[B, T, K, H]`."""
        return self._pass(inputs, mask, None, None, keep=True)

    def logits(self, hidden: Array) -> Array:
        """Maps `[..., D]` to `[..., V]` float32."""
        rows = hidden.reshape((-1, hidden.shape[-1]))
        if self.config.tied:
            kernel = self.embedding.astype(hidden.dtype)
            scores = jax.lax.dot_general(rows, kernel, (((1,), (1,)), ((), ())))
        else:
            scores = self.head(rows)
        return scores.astype(jnp.float32).reshape((*hidden.shape[:-1], -1))

    def value(self, hidden: Array) -> Array:
        """Maps `[..., D]` to `[...]` float32."""
        return self.value_head(hidden.astype(jnp.float32))[..., 0]

    def _init_layers(self, key: Array) -> PyTree:
        block = Block(self.config)
        stream = jnp.zeros((1, self.config.width), jnp.dtype(self.config.dtype))
        angle = jnp.zeros((1, self.config.head_size // 2))
        keys = jax.random.split(key, self.config.num_layers)
        seen = jnp.ones((1, 1, 1), bool)
        return jax.vmap(lambda k: block.init(k, stream, angle, angle, seen)["params"])(keys)

    def _pass(self, inputs, mask, positions, segment_ids, keep):
        config = self.config
        stream = inputs if inputs.ndim == 3 else self.embed(inputs)
        rows, length, width = stream.shape
        if positions is None:
            positions = position_ids(mask, segment_ids)
        cosine, sine = rotary.angles(
            positions.reshape(-1), config.head_size, config.rope_theta, config.rope_scaling
        )
        seen = attention_mask(mask, segment_ids)
        block = Block(config, parent=None)

        def layer(stream: Array, parameters: PyTree):
            stream, kept = block.apply({"params": parameters}, stream, cosine, sine, seen)
            return stream, kept if keep else ()

        if config.remat:
            layer = jax.checkpoint(layer)
        stream = stream.reshape((rows * length, width)).astype(jnp.dtype(config.dtype))
        if isinstance(self.layers, tuple):
            stream, kept = _unrolled(layer, stream, self.layers)
        elif config.num_layers < SCANNED_FROM or jax.default_backend() in UNROLLED_ON:
            stream, kept = _unrolled(layer, stream, unstacked(self.layers, config.num_layers))
        else:
            stream, stacked = jax.lax.scan(layer, stream, self.layers)
            kept = unstacked(stacked, config.num_layers) if keep else ()
        return self.norm(stream).reshape((rows, length, width)), kept


def unstacked(tree: PyTree, num_layers: int) -> tuple[PyTree, ...]:
    """Splits the leading axis of layers into a tuple.

    Args:
      tree: leaves `[L, ...]`.
      num_layers: L.

    Returns:
      L trees.
    """
    # Not by indices: their gradients would be added up, each of the size of the whole stack.
    leaves, structure = jax.tree.flatten(tree)
    parts = [[jnp.squeeze(one, 0) for one in jnp.split(leaf, num_layers)] for leaf in leaves]
    return tuple(jax.tree.unflatten(structure, layer) for layer in zip(*parts, strict=True))


def _unrolled(layer, stream: Array, layers: tuple[PyTree, ...]):
    kept = []
    for parameters in layers:
        stream, one = layer(stream, parameters)
        kept.append(one)
    return stream, tuple(kept)
