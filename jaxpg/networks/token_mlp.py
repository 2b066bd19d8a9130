"""A multi-layer perceptron over all tokens so far, behind the `LanguageModel` interface."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpg.choices import at_least
from jaxpg.networks.language_model import LanguageModel, position_ids
from jaxpg.networks.mlp import orthogonal
from jaxpg.types import Array, PyTree

Cache = tuple[Array, Array]

LARGEST_ONE_HOT = 1024
"""Pairs of place and token up to which a product takes the place of a lookup."""


@dataclasses.dataclass(frozen=True)
class TokenMLPConfig:
    """Shape of a perceptron over tokens.

    Attributes:
      vocabulary_size: V.
      max_positions: longest row; the first layer has weights for each place.
      hidden: widths of the layers, at least one; the last is that of the hidden states.
      value_head: a critic on the last hidden state.
    """

    vocabulary_size: int
    max_positions: int
    hidden: tuple[int, ...] = (128, 64)
    value_head: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name in ("vocabulary_size", "max_positions"):
            at_least(name, getattr(self, name), 1)
        widths = self.hidden
        if not isinstance(widths, tuple) or not all(isinstance(w, int) and w >= 1 for w in widths):
            raise ValueError(
                f"hidden is {widths!r}, but it has to be a tuple of whole numbers of at least 1, "
                f"such as (128, 64)"
            )
        if not widths:
            raise ValueError("hidden is (), but at least one layer is needed, such as (128, 64)")


class TokenMLP(nn.Module):
    """One-hot tokens at their places and a one-hot place, layers with tanh, heads."""

    config: TokenMLPConfig

    def setup(self) -> None:
        """Declares the parameters."""
        config = self.config
        # Of the inputs of the first layer at most one for each place, and the place, are not 0.
        scale = nn.initializers.normal((config.max_positions + 1) ** -0.5)
        first = config.hidden[0]
        self.tokens = self.param(
            "tokens", scale, (config.max_positions, config.vocabulary_size, first)
        )
        self.places = self.param("places", scale, (config.max_positions, first))
        self.layers = [nn.Dense(width, kernel_init=orthogonal(1.0)) for width in config.hidden[1:]]
        self.head = nn.Dense(config.vocabulary_size, kernel_init=orthogonal(1.0))
        if config.value_head:
            self.value_head = nn.Dense(1, kernel_init=nn.initializers.zeros, name="value")

    def __call__(self, inputs: Array, mask: Array) -> tuple[Array, ...]:
        """Every output once; `init` runs it."""
        hidden = self.hidden(inputs, mask)
        outputs = (hidden, self.logits(hidden))
        return (*outputs, self.value(hidden)) if self.config.value_head else outputs

    def hidden(
        self,
        inputs: Array,
        mask: Array,
        positions: Array | None = None,
        segment_ids: Array | None = None,
    ) -> Array:
        """Hidden states `[B, T, D]`, see `LanguageModel.hidden`."""
        if positions is None:
            positions = position_ids(mask, segment_ids)
        each = jnp.where(mask[..., None], self._at_places(inputs, positions), 0.0)
        total = jnp.cumsum(each, axis=1)
        if segment_ids is not None:
            new = segment_ids[:, 1:] != segment_ids[:, :-1]
            index = jnp.arange(mask.shape[1])
            starts = jnp.where(new, index[1:], 0)
            starts = jax.lax.cummax(jnp.pad(starts, ((0, 0), (1, 0))), axis=1)
            total -= jnp.take_along_axis(total - each, starts[..., None], axis=1)
        return self._rest(total, positions)

    def prefill(self, inputs: Array, mask: Array) -> tuple[Array, Cache]:
        """Hidden states `[B, T, D]`; the sum `[B, H]` over the tokens and their number `[B]`."""
        each = self._at_places(inputs, position_ids(mask))
        total = jnp.sum(jnp.where(mask[..., None], each, 0.0), axis=1)
        return self.hidden(inputs, mask), (total, jnp.sum(mask, axis=1, dtype=jnp.int32))

    def step(self, cache: Cache, embedding: Array) -> tuple[Array, Cache]:
        """Hidden state `[B, D]` after one more token `[B, V]`, and the cache."""
        total, count = cache
        total += self._at_places(embedding[:, None], count[:, None])[:, 0]
        return self._rest(total, count), (total, count + 1)

    def logits(self, hidden: Array) -> Array:
        """Maps `[..., D]` to `[..., V]` float32."""
        return self.head(hidden)

    def value(self, hidden: Array) -> Array:
        """Maps `[..., D]` to `[...]` float32."""
        return self.value_head(hidden)[..., 0]

    def _at_places(self, inputs: Array, positions: Array) -> Array:
        """What each token gives to the first layer: `[B, T]` or `[B, T, V]` to `[B, T, H]`."""
        places, size, width = self.tokens.shape
        if inputs.ndim == 2:
            pair = positions * size + inputs
            if places * size > LARGEST_ONE_HOT:
                return self.tokens.reshape((-1, width))[pair]
            # The gradient of a lookup is a scatter, slower than a product this small.
            return jax.nn.one_hot(pair, places * size) @ self.tokens.reshape((-1, width))
        here = jax.nn.one_hot(positions, places)
        if places * size > LARGEST_ONE_HOT:
            return jnp.einsum("btv,btvh->bth", inputs, self.tokens[positions])
        pairs = (here[..., None] * inputs[..., None, :]).reshape((*inputs.shape[:2], -1))
        return pairs @ self.tokens.reshape((-1, width))

    def _rest(self, total: Array, positions: Array) -> Array:
        stream = nn.tanh(total + jax.nn.one_hot(positions, self.places.shape[0]) @ self.places)
        for layer in self.layers:
            stream = nn.tanh(layer(stream))
        return stream


def token_mlp(config: TokenMLPConfig) -> LanguageModel:
    """A perceptron over the one-hot tokens at every place so far, and the place: small and fast.

    Places are counted over the real tokens of a row, so that padding changes nothing. Embeddings
    are one-hot `[..., V]`, hidden states `[B, T, hidden[-1]]`; the cache is a sum, so a step costs
    the same anywhere.

    Args:
      config: see `TokenMLPConfig`.

    Returns:
      A `LanguageModel`.

    >>> model = token_mlp(TokenMLPConfig(vocabulary_size=7, max_positions=6))
    >>> params = model.init(jax.random.key(0))
    >>> hidden = model.hidden(params, jnp.zeros((2, 5), int), jnp.ones((2, 5), bool))
    >>> model.logits(params, hidden).shape
    (2, 5, 7)
    """
    module = TokenMLP(config)

    def init(key: Array) -> PyTree:
        return module.init(key, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))

    def hidden(params, inputs, mask, positions=None, segment_ids=None) -> Array:
        return module.apply(params, inputs, mask, positions, segment_ids, method="hidden")

    def prefill(params: PyTree, inputs: Array, mask: Array, length: int) -> tuple[Array, Cache]:
        del length
        return module.apply(params, inputs, mask, method="prefill")

    def step(params: PyTree, cache: Cache, embedding: Array, index: Array) -> tuple[Array, Cache]:
        del index
        return module.apply(params, cache, embedding, method="step")

    return LanguageModel(
        config=config,
        vocabulary_size=config.vocabulary_size,
        max_positions=config.max_positions,
        width=config.vocabulary_size,
        has_value=config.value_head,
        init=init,
        embed=lambda params, tokens: jax.nn.one_hot(tokens, config.vocabulary_size),
        hidden=hidden,
        logits=lambda params, states: module.apply(params, states, method="logits"),
        value=lambda params, states: module.apply(params, states, method="value"),
        for_decoding=lambda params: params,
        prefill=prefill,
        repeat=lambda cache, num: jax.tree.map(lambda x: jnp.repeat(x, num, axis=0), cache),
        step=step,
    )
