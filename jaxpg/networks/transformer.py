"""A decoder-only transformer of the Llama family: passes over rows, and over shared prompts.

RMS norms before attention and MLP, rotary positions, grouped queries, SwiGLU. By configuration it
is Llama, SmolLM2, Mistral, Qwen2 or Qwen3, or a tiny policy for a synthetic task.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpg.networks import rotary
from jaxpg.networks.language_model import attention_mask, last_real, position_ids
from jaxpg.networks.shared_prompts import attend_shared
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg.networks.transformer_layers import Attend, Block, Linear, RMSNorm
from jaxpg.types import Array, PyTree

SCANNED_FROM = 5
"""Layers from which on their passes are one scan: unrolled, they would compile for minutes."""
UNROLLED_ON = ("cpu",)
"""Backends without that scan: they compile fast, and slow down where it writes gradients."""


class Transformer(nn.Module):
    """The decoder: embedding, layers stacked on a leading axis, a last norm, heads."""

    config: TransformerConfig

    def setup(self) -> None:
        """Declares the parameters."""
        config = self.config
        kind = jnp.dtype(config.param_dtype)
        shape = (config.vocabulary_size, config.width)
        # Of unit length: with much smaller entries a narrow policy is slow to learn sums.
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

    def shared_states(
        self, prompts: Array, prompt_mask: Array, tokens: Array, mask: Array
    ) -> Array:
        """States `[N G, R, D]` that tokens are predicted from, see `response_states`."""
        num_prompts, rows, length = prompt_mask.shape[0], mask.shape[0], mask.shape[1] - 1
        if length:
            asked, answered = self._both(prompts, prompt_mask, tokens[:, :-1], mask[:, :-1])
        else:
            asked = self.hidden(prompts, prompt_mask)
            answered = jnp.zeros((0, asked.shape[-1]), asked.dtype)
        asked = asked.reshape((num_prompts, -1, asked.shape[-1]))
        first = jnp.take_along_axis(asked, last_real(prompt_mask)[:, None, None], axis=1)
        first = jnp.repeat(first, rows // num_prompts, axis=0)
        return jnp.concatenate([first, answered.reshape((rows, length, asked.shape[-1]))], axis=1)

    def _both(self, prompts, prompt_mask, tokens, mask) -> list[Array]:
        """States of prompts `[N P, D]` and of responses `[N G R, D]`."""
        # One stream: the maps of a layer work on prompts and responses at once.
        asked, answered = self._stream(prompts), self._stream(tokens)
        group_size = mask.shape[0] // prompt_mask.shape[0]
        count = jnp.sum(prompt_mask, axis=1, dtype=jnp.int32)
        after = jnp.repeat(count, group_size)[:, None] + position_ids(mask)
        stream, _ = self._layers(
            jnp.concatenate([asked, answered]),
            jnp.concatenate([position_ids(prompt_mask).reshape(-1), after.reshape(-1)]),
            functools.partial(attend_shared, prompt_mask, mask),
        )
        return jnp.split(stream, [asked.shape[0]])

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

        def attend(query: Array, key: Array, value: Array):
            del key, value
            return query.reshape((1, -1)), ()

        return jax.vmap(lambda k: block.init(k, stream, angle, angle, attend)["params"])(keys)

    def _pass(self, inputs, mask, positions, segment_ids, keep):
        stream = self._stream(inputs)
        rows, length = mask.shape
        if positions is None:
            positions = position_ids(mask, segment_ids)
        seen = attention_mask(mask, segment_ids)

        def attend(query: Array, key: Array, value: Array):
            heads = (x.reshape((rows, length, *x.shape[1:])) for x in (query, key, value))
            query, key, value = heads
            attended = jax.nn.dot_product_attention(query, key, value, mask=seen[:, None])
            return attended.reshape((rows * length, -1)), (key, value) if keep else ()

        stream, kept = self._layers(stream, positions.reshape(-1), attend)
        return stream.reshape((rows, length, -1)), kept

    def _stream(self, inputs: Array) -> Array:
        """Maps tokens or embeddings of rows to `[M, D]`."""
        embedded = inputs if inputs.ndim == 3 else self.embed(inputs)
        return embedded.reshape((-1, embedded.shape[-1])).astype(jnp.dtype(self.config.dtype))

    def _layers(self, stream: Array, positions: Array, attend: Attend) -> tuple[Array, Any]:
        """Every layer and the last norm on a stream `[M, D]` of tokens at positions `[M]`.

        Also returns what `attend` kept, one for each layer.
        """
        config = self.config
        cosine, sine = rotary.angles(
            positions, config.head_size, config.rope_theta, config.rope_scaling
        )
        block = Block(config, parent=None)

        def layer(stream: Array, parameters: PyTree):
            return block.apply({"params": parameters}, stream, cosine, sine, attend)

        if config.remat:
            layer = jax.checkpoint(layer)
        if isinstance(self.layers, tuple):
            stream, kept = _unrolled(layer, stream, self.layers)
        elif config.num_layers < SCANNED_FROM or jax.default_backend() in UNROLLED_ON:
            stream, kept = _unrolled(layer, stream, unstacked(self.layers, config.num_layers))
        else:
            stream, stacked = jax.lax.scan(layer, stream, self.layers)
            kept = unstacked(stacked, config.num_layers) if jax.tree.leaves(stacked) else ()
        return self.norm(stream), kept


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
