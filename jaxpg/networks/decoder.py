"""A transformer as a `LanguageModel`: its functions, and single steps with a cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg.networks import rotary
from jaxpg.networks.language_model import LanguageModel
from jaxpg.networks.transformer import Transformer, unstacked
from jaxpg.networks.transformer_config import TransformerConfig, kernel_parts
from jaxpg.networks.transformer_layers import Block, merged_kernel
from jaxpg.types import Array, PyTree


@struct.dataclass
class Cache:
    """Keys and values of the tokens so far.

    Attributes:
      keys: one `[B, K, S, H]` for each layer; slot P + i holds the i-th token after the prefill.
      values: like `keys`.
      seen: `[B, S]` bool, the slots of the prompt that hold real tokens; True after the prompt.
      count: `[B]` int32, real tokens of the prompt.
      cosine: `[S, H/2]` float32, of the rotation at every position. In the loop that steps it would
        be computed again in every layer, for every head.
      sine: like `cosine`.
      prompt_length: P, static.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    seen: Array
    count: Array
    cosine: Array
    sine: Array
    prompt_length: int = struct.field(pytree_node=False)


def transformer(config: TransformerConfig) -> LanguageModel:
    """A transformer policy.

    Args:
      config: see `TransformerConfig`.

    Returns:
      A `LanguageModel`.

    >>> model = transformer(TransformerConfig(vocabulary_size=12))
    >>> params = model.init(jax.random.key(0))
    >>> hidden = model.hidden(params, jnp.zeros((2, 5), int), jnp.ones((2, 5), bool))
    >>> model.logits(params, hidden).shape
    (2, 5, 12)
    """
    module = Transformer(config)
    block = Block(config)

    def init(key: Array) -> PyTree:
        return module.init(key, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))

    def hidden(params, inputs, mask, positions=None, segment_ids=None) -> Array:
        return module.apply(params, inputs, mask, positions, segment_ids, method="hidden")

    def for_decoding(params: PyTree) -> PyTree:
        tree = dict(params["params"])
        layers = tree["layers"]
        for name, (_, parts) in kernel_parts(config).items():
            layers = {**layers, name: merged_kernel(layers[name], parts)}
        # One array for each layer: the slice of a stack would be copied at every token.
        tree["layers"] = unstacked(layers, config.num_layers)
        dtype = jnp.dtype(config.dtype)
        return {"params": jax.tree.map(lambda x: x.astype(dtype), tree)}

    def prefill(params: PyTree, inputs: Array, mask: Array, length: int) -> tuple[Array, Cache]:
        rows, prompt_length = mask.shape
        states, kept = module.apply(params, inputs, mask, method="hidden_and_cache")
        room = ((0, 0), (0, 0), (0, length - prompt_length), (0, 0))
        keys, values = (
            tuple(jnp.pad(jnp.swapaxes(layer[which], 1, 2), room) for layer in kept)
            for which in (0, 1)
        )
        after = jnp.ones((rows, length - prompt_length), bool)
        seen = jnp.concatenate([mask, after], axis=1)
        count = jnp.sum(mask, axis=1, dtype=jnp.int32)
        cosine, sine = rotary.angles(
            jnp.arange(length), config.head_size, config.rope_theta, config.rope_scaling
        )
        return states, Cache(keys, values, seen, count, cosine, sine, prompt_length)

    def repeat(cache: Cache, num: int) -> Cache:
        repeated = jax.tree.map(lambda x: jnp.repeat(x, num, axis=0), cache)
        return repeated.replace(cosine=cache.cosine, sine=cache.sine)

    def step(params: PyTree, cache: Cache, embedding: Array, index: Array) -> tuple[Array, Cache]:
        slot = cache.prompt_length + index
        position = cache.count + index
        cosine, sine = cache.cosine[position], cache.sine[position]
        slots = jnp.arange(cache.seen.shape[1])
        seen = cache.seen & (slots <= slot)
        stream = embedding.astype(jnp.dtype(config.dtype))
        keys, values = list(cache.keys), list(cache.values)
        for number, parameters in enumerate(params["params"]["layers"]):
            variables = {"params": parameters}
            query, key, value = block.apply(
                variables, stream, cosine, sine, method="queries_keys_values"
            )
            keys[number] = _put(keys[number], key, slot)
            values[number] = _put(values[number], value, slot)
            attended = _attend(query, keys[number], values[number], seen)
            stream = block.apply(variables, stream, attended, method="finish")
        state = module.apply(params, stream, method=lambda bound, x: bound.norm(x))
        return state, cache.replace(keys=tuple(keys), values=tuple(values))

    return LanguageModel(
        config=config,
        vocabulary_size=config.vocabulary_size,
        max_positions=config.max_positions,
        width=config.width,
        has_value=config.value_head,
        init=init,
        embed=lambda params, tokens: module.apply(params, tokens, method="embed"),
        hidden=hidden,
        logits=lambda params, states: module.apply(params, states, method="logits"),
        value=lambda params, states: module.apply(params, states, method="value"),
        for_decoding=for_decoding,
        prefill=prefill,
        repeat=repeat,
        step=step,
        shared_states=lambda params, *rows: module.apply(params, *rows, method="shared_states"),
    )


def _put(slots: Array, new: Array, slot: Array) -> Array:
    """Writes `[B, K, H]` at one slot of `[B, K, S, H]`."""
    return jax.lax.dynamic_update_slice_in_dim(slots, new[:, :, None], slot, axis=2)


def _attend(query: Array, keys: Array, values: Array, seen: Array) -> Array:
    """Attention of one token: `[B, N, H]` on `[B, K, S, H]` gives `[B, N H]`."""
    rows, heads, width = query.shape
    grouped = query.reshape((rows, keys.shape[1], -1, width))
    scores = jnp.einsum("bkgh,bksh->bkgs", grouped, keys).astype(jnp.float32) * width**-0.5
    scores = jnp.where(seen[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    return jnp.einsum("bkgs,bksh->bkgh", weights, values).reshape((rows, heads * width))
