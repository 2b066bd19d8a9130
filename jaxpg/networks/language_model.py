"""A policy over tokens as a record of pure functions: what generation and learning call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """Pure functions of one token policy; `params` is what `init` returns.

    B rows of T tokens. `mask` is True on real tokens; padding may stand on either side of a row
    and reaches no real token. In place of token ids `[B, T]` every function that reads inputs
    takes embeddings `[B, T, D]`.

    Attributes:
      config: what the model was built from, plain values.
      vocabulary_size: V.
      max_positions: longest row, prompt and response together.
      width: D, of embeddings.
      has_value: whether `value` may be called.
      init: `(key) -> params`.
      embed: `(params, tokens [...]) -> [..., D]`.
      hidden: `(params, inputs, mask, positions, segment_ids) -> [B, T, D]`: last hidden states,
        normalised, ready for `logits` and `value`. `positions` `[B, T]` int or None (counted over
        the real tokens of each segment); `segment_ids` `[B, T]` int or None: tokens of a row see
        only their own segment.
      logits: `(params, hidden [..., D]) -> [..., V]` float32.
      value: `(params, hidden [..., D]) -> [...]` float32.
      for_decoding: `(params) -> params`, an equivalent form in which single steps are fast;
        `embed`, `logits`, `value`, `prefill` and `step` accept it. Call it once, outside the loop.
      prefill: `(params, inputs, mask, length) -> (hidden [B, T, D], cache)`; `length` (static) is
        the number of tokens of prompt and response that the cache has room for.
      repeat: `(cache, num) -> cache`, every row `num` times, one after the other.
      step: `(params, cache, embedding [B, D], index) -> (hidden [B, D], cache)`: appends one token
        to every row; `index` (scalar int32) counts from 0 after the prefill.
      shared_states: `response_states` without the model, where a prompt can go through the layers
        once for all its responses; None passes whole rows through `hidden`.
    """

    config: Any
    vocabulary_size: int
    max_positions: int
    width: int
    has_value: bool
    init: Callable[[Array], PyTree]
    embed: Callable[[PyTree, Array], Array]
    hidden: Callable[..., Array]
    logits: Callable[[PyTree, Array], Array]
    value: Callable[[PyTree, Array], Array]
    for_decoding: Callable[[PyTree], PyTree]
    prefill: Callable[[PyTree, Array, Array, int], tuple[Array, PyTree]]
    repeat: Callable[[PyTree, int], PyTree]
    step: Callable[[PyTree, PyTree, Array, Array], tuple[Array, PyTree]]
    shared_states: Callable[[PyTree, Array, Array, Array, Array], Array] | None = None


def response_states(
    model: LanguageModel,
    params: PyTree,
    prompts: Array,
    prompt_mask: Array,
    tokens: Array,
    mask: Array,
) -> Array:
    """Last hidden states that the tokens of responses are predicted from.

    Args:
      model: any.
      params: of the model.
      prompts: `[N, P]` int or `[N, P, D]`.
      prompt_mask: `[N, P]` bool, padding on either side; every prompt has a real token.
      tokens: `[N G, R]` int or `[N G, R, D]`, G responses to each prompt, side by side.
      mask: `[N G, R]` bool, padding at the end.

    Returns:
      `[N G, R, D]`; the first of a row is that of the prompt's last token, and the last token of
      a response is not read.
    """
    if model.shared_states is not None:
        return model.shared_states(params, prompts, prompt_mask, tokens, mask)
    length, group_size = prompt_mask.shape[1], mask.shape[0] // prompt_mask.shape[0]
    prompts, prompt_mask = (jnp.repeat(x, group_size, axis=0) for x in (prompts, prompt_mask))
    states = model.hidden(
        params,
        jnp.concatenate([prompts, tokens[:, :-1]], axis=1),
        jnp.concatenate([prompt_mask, mask[:, :-1]], axis=1),
    )
    last = last_real(prompt_mask)
    first = jnp.take_along_axis(states[:, :length], last[:, None, None], axis=1)
    return jnp.concatenate([first, states[:, length:]], axis=1)


def last_real(mask: Array) -> Array:
    """Place of the last real token.

    Args:
      mask: `[B, T]` bool.

    Returns:
      `[B]` int32; 0 where there is none.

    >>> last_real(jnp.array([[1, 1, 0], [0, 1, 1]], bool)).tolist()
    [1, 2]
    """
    return jnp.argmax(jnp.where(mask, jnp.arange(mask.shape[1]), -1), axis=1)


def position_ids(mask: Array, segment_ids: Array | None = None) -> Array:
    """Counts the real tokens before each token, within its segment.

    Args:
      mask: `[B, T]` bool, True on real tokens.
      segment_ids: `[B, T]` int, or None for one segment in each row; a segment is contiguous.

    Returns:
      `[B, T]` int32; padding before the first token gets 0.

    >>> position_ids(jnp.array([[0, 0, 1, 1, 1]], bool)).tolist()
    [[0, 0, 0, 1, 2]]
    >>> position_ids(jnp.ones((1, 4), bool), jnp.array([[0, 0, 1, 1]])).tolist()
    [[0, 1, 0, 1]]
    """
    count = jnp.cumsum(mask.astype(jnp.int32), axis=-1)
    if segment_ids is not None:
        before = count - mask.astype(jnp.int32)
        starts = jnp.concatenate(
            [jnp.ones_like(mask[:, :1]), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1
        )
        count = count - jax.lax.cummax(jnp.where(starts, before, 0), axis=1)
    return jnp.maximum(count - 1, 0)


def attention_mask(mask: Array, segment_ids: Array | None = None) -> Array:
    """Which token sees which: real ones at or before it, of its own segment.

    Args:
      mask: `[B, T]` bool, True on real tokens.
      segment_ids: `[B, T]` int, or None.

    Returns:
      `[B, T, T]` bool, query first.
    """
    length = mask.shape[1]
    index = jnp.arange(length)
    seen = (index[None, :] <= index[:, None])[None] & mask[:, None, :]
    if segment_ids is not None:
        seen &= segment_ids[:, None, :] == segment_ids[:, :, None]
    return seen
