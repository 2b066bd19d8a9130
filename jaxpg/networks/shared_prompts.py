"""Attention of responses that share prompts: a prompt's keys and values exist once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg.networks.language_model import attention_mask
from jaxpg.types import Array


def attend_shared(
    prompt_mask: Array, mask: Array, query: Array, key: Array, value: Array
) -> tuple[Array, tuple[()]]:
    """Attention over N prompts and G responses to each, all in one stream.

    Prompts see themselves, responses see their prompt and themselves.

    Args:
      prompt_mask: `[N, P]` bool.
      mask: `[N G, R]` bool.
      query: `[M, heads, H]`, M = N P + N G R; the tokens of all prompts, then of all responses.
      key: `[M, K, H]`.
      value: `[M, K, H]`.

    Returns:
      `([M, heads H], ())`.
    """
    num_prompts, prompt_length = prompt_mask.shape
    rows, length = mask.shape
    place = num_prompts * prompt_length
    asked = [
        x[:place].reshape((num_prompts, prompt_length, *x.shape[1:])) for x in (query, key, value)
    ]
    answered = [x[place:].reshape((rows, length, *x.shape[1:])) for x in (query, key, value)]
    seen = attention_mask(prompt_mask)
    on_prompts = jax.nn.dot_product_attention(*asked, mask=seen[:, None])
    on_both = _on_both(answered, asked[1:], prompt_mask, attention_mask(mask))
    heads = (x.reshape((-1, query.shape[1] * query.shape[2])) for x in (on_prompts, on_both))
    return jnp.concatenate(list(heads)), ()


def _on_both(answered: list[Array], asked: list[Array], prompt_mask: Array, seen: Array) -> Array:
    """Maps `[N G, R, heads, H]` to the same."""
    query, key, value = answered
    num_prompts, prompt_length, kv_heads, width = asked[0].shape
    rows, length, heads, _ = query.shape
    group = rows // num_prompts
    query = query.reshape((num_prompts, group, length, kv_heads, -1, width))
    key, value = (x.reshape((num_prompts, group, length, kv_heads, width)) for x in (key, value))
    lowest = jnp.finfo(jnp.float32).min
    scale = width**-0.5
    first = jnp.einsum("ngtkqh,npkh->ngktqp", query, asked[0]).astype(jnp.float32) * scale
    first = jnp.where(prompt_mask[:, None, None, None, None], first, lowest)
    second = jnp.einsum("ngtkqh,ngskh->ngktqs", query, key).astype(jnp.float32) * scale
    seen = seen.reshape((num_prompts, group, 1, length, 1, length))
    second = jnp.where(seen, second, lowest)
    weights = jax.nn.softmax(jnp.concatenate([first, second], axis=-1), axis=-1)
    first, second = jnp.split(weights.astype(value.dtype), [prompt_length], axis=-1)
    attended = jnp.einsum("ngktqp,npkh->ngtkqh", first, asked[1])
    attended += jnp.einsum("ngktqs,ngskh->ngtkqh", second, value)
    return attended.reshape((rows, length, heads, width))
