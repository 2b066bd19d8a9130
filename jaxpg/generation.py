"""Sampling from a language model: one prefill, then a loop over tokens with a static cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxpg.choices import at_least
from jaxpg.networks.language_model import LanguageModel, last_real
from jaxpg.networks.vocabulary import token_statistics
from jaxpg.types import Array, PyTree

BLOCK = 128
"""Tokens of one block of the two-level draw."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; every field is static, but a temperature above 0 may be traced.

    The truncations apply in the order top-k, top-p, min-p, all to the distribution at
    `temperature`; ties at a threshold are kept.

    Attributes:
      temperature: the logits are divided by it; 0 takes the most probable token.
      top_k: keep the k most probable tokens; 0 keeps all.
      top_p: keep the smallest set of most probable tokens that holds this probability, in (0, 1].
      min_p: keep tokens of at least this share of the largest probability, in [0, 1).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not isinstance(self.temperature, jax.core.Tracer):
            at_least("temperature", self.temperature, 0)
        at_least("top_k", self.top_k, 0)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, but it has to be in (0, 1]")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p is {self.min_p}, but it has to be in [0, 1)")

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return not isinstance(self.temperature, jax.Array) and self.temperature == 0

    @property
    def truncates(self) -> bool:
        """Whether tokens are excluded that the policy gives a probability."""
        return self.greedy or self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@struct.dataclass
class StopTable:
    """An automaton over tokens that notices stop strings wherever they are cut into tokens.

    Attributes:
      transition: `[states, V]` int16, state 0 before anything; the last state is "found".
    """

    transition: Array


def stop_table(token_bytes: Sequence[bytes], stop_strings: Sequence[str]) -> StopTable:
    """Builds the automaton of Aho and Corasick, one transition for each token.

    Args:
      token_bytes: what every token of the vocabulary stands for.
      stop_strings: at least one, none empty.

    Returns:
      A `StopTable`.

    Raises:
      ValueError: no stop string, or an empty one.
    """
    if not stop_strings or not all(stop_strings):
        raise ValueError(f"stop_strings is {list(stop_strings)!r}, but it needs non-empty strings")
    words = [text.encode() for text in stop_strings]
    prefixes = sorted({word[:i] for word in words for i in range(len(word))}, key=len)
    number = {prefix: index for index, prefix in enumerate(prefixes)}
    found = len(prefixes)

    def follow(state: int, byte: int) -> int:
        read = prefixes[state] + bytes([byte])
        if any(read.endswith(word) for word in words):
            return found
        return next(number[read[i:]] for i in range(len(read) + 1) if read[i:] in number)

    single = np.array([[follow(s, b) for b in range(256)] for s in range(found)] + [[found] * 256])
    longest = max((len(piece) for piece in token_bytes), default=0)
    table = np.tile(np.arange(found + 1)[:, None], (1, len(token_bytes)))
    codes = np.full((len(token_bytes), longest), -1)
    for token, piece in enumerate(token_bytes):
        codes[token, : len(piece)] = list(piece)
    for column in codes.T:
        table = np.where(column >= 0, single[table, np.maximum(column, 0)], table)
    return StopTable(jnp.asarray(table, jnp.int16))


@struct.dataclass
class Generated:
    """B = N num_samples responses; the samples of a prompt stand side by side.

    Attributes:
      tokens: `[B, R]` int32; 0 after the end.
      mask: `[B, R]` bool, True up to and including the token that ended the response.
      log_prob: `[B, R]` float32 under the distribution that was sampled from, 0 after the end.
      policy_log_prob: `[B, R]` float32 under the untruncated distribution at temperature 1.
      finished: `[B]` bool, False where the length limit ended the response.
      entropy: `[B, R]` float32, nats, of the untruncated distribution at the sampling temperature
        (at 1 if greedy); None unless asked for.
      hidden: `[B, R, D]`, the state that each token was drawn from; None unless asked for.
    """

    tokens: Array
    mask: Array
    log_prob: Array
    policy_log_prob: Array
    finished: Array
    entropy: Array | None = None
    hidden: Array | None = None


def generate(
    model: LanguageModel,
    params: PyTree,
    prompts: Array,
    prompt_mask: Array,
    key: Array,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    num_samples: int = 1,
    prompt_ids: Array | None = None,
    stop_tokens: Sequence[int] = (),
    stop_strings: StopTable | None = None,
    allowed: Array | None = None,
    entropy: bool = False,
    hidden: bool = False,
) -> Generated:
    """Samples responses; jit it with everything but arrays static.

    The draw of a token depends on `key`, its prompt's id, the sample's number and its place in the
    response, and on nothing else: not on the order of the batch, nor on its split over devices.

    Args:
      model: any `LanguageModel`.
      params: of the model.
      prompts: `[N, P]` int, or embeddings `[N, P, D]`.
      prompt_mask: `[N, P]` bool, True on real tokens; padding on either side.
      key: of this call.
      max_new_tokens: R, static.
      sampling: see `Sampling`; None draws from the policy at temperature 1.
      num_samples: responses for each prompt; the prefill is done once.
      prompt_ids: `[N]` int, for the keys; None numbers the prompts.
      stop_tokens: ids that end a response, kept in it.
      stop_strings: see `stop_table`; the token that completes one ends the response.
      allowed: bool, tokens that may be drawn: `[V]`, `[R, V]`, or `[N, R, V]`.
      entropy: also return entropies.
      hidden: also return hidden states.

    Returns:
      `Generated`.

    Raises:
      ValueError: prompt and response are longer than the model's positions, or a size is wrong.
    """
    sampling = sampling or Sampling()
    at_least("max_new_tokens", max_new_tokens, 1)
    at_least("num_samples", num_samples, 1)
    num_prompts, prompt_length = prompt_mask.shape
    chex.assert_equal_shape_prefix([prompts, prompt_mask], 2)
    length = prompt_length + max_new_tokens
    if length > model.max_positions:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}, which with a prompt of {prompt_length} tokens is "
            f"beyond the model's {model.max_positions} positions"
        )
    wrong = [token for token in stop_tokens if not 0 <= token < model.vocabulary_size]
    if wrong:
        raise ValueError(
            f"stop_tokens holds {wrong[0]}, but the vocabulary has {model.vocabulary_size} tokens"
        )
    loop = _Loop(model, model.for_decoding(params), sampling, tuple(stop_tokens), stop_strings)
    mask = prompt_mask.astype(bool)
    states, cache = model.prefill(loop.params, prompts, mask, length)
    first = jnp.take_along_axis(states, last_real(mask)[:, None, None], axis=1)[:, 0]
    ids = jnp.arange(num_prompts) if prompt_ids is None else prompt_ids
    keys = jax.vmap(
        lambda i: jax.vmap(lambda j: jax.random.fold_in(jax.random.fold_in(key, i), j))(
            jnp.arange(num_samples)
        )
    )(ids)
    return loop.run(
        jnp.repeat(first, num_samples, axis=0),
        model.repeat(cache, num_samples),
        keys.reshape(-1),
        max_new_tokens,
        _each_row(allowed, num_prompts, num_samples, max_new_tokens, model.vocabulary_size),
        entropy,
        hidden,
    )


def sampling_logits(logits: Array, sampling: Sampling, allowed: Array | None = None) -> Array:
    """Logits of the distribution that is sampled from; excluded tokens get -inf.

    Args:
      logits: `[B, V]` float32.
      sampling: not greedy.
      allowed: `[V]` or `[B, V]` bool, applied first; None allows all.

    Returns:
      `[B, V]` float32.
    """
    scaled = logits / sampling.temperature
    if allowed is not None:
        scaled = jnp.where(allowed, scaled, -jnp.inf)
    size = logits.shape[-1]
    if 0 < sampling.top_k < size:
        threshold = jax.lax.top_k(scaled, sampling.top_k)[0][..., -1:]
        scaled = jnp.where(scaled >= threshold, scaled, -jnp.inf)
    if sampling.top_p < 1:
        ordered = -jnp.sort(-scaled, axis=-1)
        probability = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        kept = jnp.where(before < sampling.top_p, ordered, jnp.inf)
        scaled = jnp.where(scaled >= jnp.min(kept, axis=-1, keepdims=True), scaled, -jnp.inf)
    if sampling.min_p > 0:
        largest = jnp.max(scaled, axis=-1, keepdims=True)
        scaled = jnp.where(scaled >= largest + np.log(sampling.min_p), scaled, -jnp.inf)
    return scaled


def uniforms(keys: Array, num_tokens: int) -> Array:
    """The chance that every token of every row is drawn with.

    All at once, before the loop: within it a few numbers would cost as much as all of them.

    Args:
      keys: `[B]`.
      num_tokens: R.

    Returns:
      `[R, B, 2]` float32 in (0, 1).
    """

    def one(index: Array, key: Array) -> Array:
        # Never 0, which would give the first token at least 2^-23, however improbable it is.
        return jax.random.uniform(jax.random.fold_in(key, index), (2,), minval=2.0**-24)

    every_row = jax.vmap(one, in_axes=(None, 0))
    return jax.vmap(every_row, in_axes=(0, None))(jnp.arange(num_tokens), keys)


def draw(uniform: Array, logits: Array) -> Array:
    """Draws a token of each row by inverting its distribution function.

    Two uniform numbers choose a block of tokens and a token in it: no noise for each entry of the
    vocabulary. Probabilities are met to within about 2^-23; an excluded token is never drawn.

    Args:
      uniform: `[B, 2]` float32 in (0, 1).
      logits: `[B, V]` float32, -inf where excluded; at least one is finite.

    Returns:
      `[B]` int32.
    """
    rows, size = logits.shape
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    if size <= BLOCK:
        return _invert(weights, uniform[:, 0])
    padded = jnp.pad(weights, ((0, 0), (0, -size % BLOCK))).reshape((rows, -1, BLOCK))
    block = _invert(jnp.sum(padded, axis=-1), uniform[:, 0])
    inside = jnp.take_along_axis(padded, block[:, None, None], axis=1)[:, 0]
    return block * BLOCK + _invert(inside, uniform[:, 1])


def _invert(weights: Array, uniform: Array) -> Array:
    """The first index with weight at which the cumulative weights pass `uniform` of their total."""
    cumulative = jnp.cumsum(weights, axis=-1)
    passed = cumulative > uniform[:, None] * cumulative[:, -1:]
    # A long cumulative sum is added up in pieces: it may rise at an entry of weight 0, and its
    # rounding may carry past the last entry that has weight.
    real = weights > 0
    index = jnp.arange(weights.shape[-1], dtype=jnp.int32)
    first = jnp.min(jnp.where(passed & real, index, weights.shape[-1]), axis=-1)
    return jnp.minimum(first, jnp.max(jnp.where(real, index, 0), axis=-1))


@jax.custom_batching.custom_vmap
def _any(flags: Array) -> Array:
    """Whether any is True; under `vmap` over all of the mapped axis too.

    A loop whose condition differs between seeds would choose between old and new of its whole
    carry, cache included, at every step.
    """
    return jnp.any(flags)


@_any.def_vmap
def _any_of_all(axis_size: int, in_batched: Any, flags: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return _any(flags.reshape(-1)), False


@dataclasses.dataclass(frozen=True)
class _Loop:
    model: LanguageModel
    params: PyTree
    sampling: Sampling
    stop_tokens: tuple[int, ...]
    stop_strings: StopTable | None

    def run(self, state, cache, keys, num_tokens, allowed, entropy, hidden) -> Generated:
        rows = keys.shape[0]
        chances = None if self.sampling.greedy else uniforms(keys, num_tokens)
        names = ["log_prob", "policy_log_prob"] + ["entropy"] * entropy
        buffers = {name: jnp.zeros((rows, num_tokens)) for name in names}
        buffers |= {
            "tokens": jnp.zeros((rows, num_tokens), jnp.int32),
            "mask": jnp.zeros((rows, num_tokens), bool),
        }
        if hidden:
            buffers["hidden"] = jnp.zeros((rows, num_tokens, state.shape[-1]), state.dtype)

        def one_token(index, state, automaton, done, buffers):
            token, numbers = self._choose(state, chances, index, allowed)
            token = jnp.where(done, 0, token)
            written = {name: jnp.where(done, 0.0, x) for name, x in numbers.items()}
            written |= {"tokens": token, "mask": ~done}
            if hidden:
                written["hidden"] = jnp.where(done[:, None], 0, state)
            buffers = {
                name: jax.lax.dynamic_update_index_in_dim(buffer, written[name], index, axis=1)
                for name, buffer in buffers.items()
            }
            ended, automaton = self._ends(token, automaton)
            return index + 1, token, automaton, done | ended, buffers

        def unfinished(carry) -> Array:
            (index, _, _, done, _), _ = carry
            return (index < num_tokens) & _any(~done)

        def body(carry):
            (index, token, *rest), cache = carry
            embedding = self.model.embed(self.params, token)
            state, cache = self.model.step(self.params, cache, embedding, index - 1)
            return one_token(index, state, *rest), cache

        automaton = jnp.zeros((rows,), jnp.int16)
        begun = one_token(
            jnp.zeros((), jnp.int32), state, automaton, jnp.zeros((rows,), bool), buffers
        )
        (*_, done, buffers), _ = jax.lax.while_loop(unfinished, body, (begun, cache))
        return Generated(finished=done, **buffers)

    def _choose(self, state, chances, index, allowed):
        logits = self.model.logits(self.params, state)
        here = None
        if allowed is not None:
            at = jnp.minimum(index, allowed.shape[-2] - 1)
            here = jax.lax.dynamic_index_in_dim(allowed, at, axis=-2, keepdims=False)
        sampling = self.sampling
        if sampling.greedy:
            open_logits = logits if here is None else jnp.where(here, logits, -jnp.inf)
            token = jnp.argmax(open_logits, axis=-1).astype(jnp.int32)
            policy, entropy = token_statistics(logits, token)
            return token, {
                "log_prob": jnp.zeros_like(policy),
                "policy_log_prob": policy,
                "entropy": entropy,
            }
        drawn_from = sampling_logits(logits, sampling, here)
        chance = jax.lax.dynamic_index_in_dim(chances, index, keepdims=False)
        token = draw(chance, drawn_from)
        policy, entropy = token_statistics(logits, token)
        plain = here is None and not sampling.truncates
        untempered = not isinstance(sampling.temperature, jax.Array) and sampling.temperature == 1
        if not untempered:
            _, entropy = token_statistics(logits, token, sampling.temperature)
        if plain and untempered:
            log_prob = policy
        else:
            log_prob, _ = token_statistics(drawn_from, token)
        return token, {"log_prob": log_prob, "policy_log_prob": policy, "entropy": entropy}

    def _ends(self, token, automaton):
        ended = jnp.zeros(token.shape, bool)
        for stop in self.stop_tokens:
            ended |= token == stop
        if self.stop_strings is not None:
            table = self.stop_strings.transition
            automaton = table[automaton, token]
            ended |= automaton == table.shape[0] - 1
        return ended, automaton


def _each_row(allowed, num_prompts, num_samples, num_tokens, size) -> Array | None:
    """Broadcastable to `[B, R, V]`, or None."""
    if allowed is None:
        return None
    allowed = jnp.asarray(allowed, bool)
    shapes = [(size,), (num_tokens, size), (num_prompts, num_tokens, size)]
    if allowed.shape not in shapes:
        raise ValueError(
            f"allowed has shape {allowed.shape}, but the choices are {', '.join(map(str, shapes))}"
        )
    if allowed.ndim == 1:
        return allowed[None]
    return jnp.repeat(allowed, num_samples, axis=0) if allowed.ndim == 3 else allowed
