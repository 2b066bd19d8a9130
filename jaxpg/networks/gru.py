"""A recurrent policy over tokens: gated recurrent units behind the `LanguageModel` interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpg.choices import at_least
from jaxpg.networks.language_model import LanguageModel
from jaxpg.networks.mlp import orthogonal
from jaxpg.types import Array, PyTree

Cache = tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class GRUConfig:
    """Shape of a recurrent token policy.

    Attributes:
      vocabulary_size: V.
      embedding_width: E, of the tokens' embeddings.
      width: D, of the carry and of the hidden states.
      num_layers: L.
      max_positions: longest row.
      tied: the embedding, over the root of its width, is also the output's kernel; E is D then.
      value_head: a critic on the last hidden state.
    """

    vocabulary_size: int
    embedding_width: int = 64
    width: int = 64
    num_layers: int = 1
    max_positions: int = 2048
    tied: bool = False
    value_head: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name in (
            "vocabulary_size",
            "embedding_width",
            "width",
            "num_layers",
            "max_positions",
        ):
            at_least(name, getattr(self, name), 1)
        if self.tied and self.embedding_width != self.width:
            raise ValueError(
                f"tied is True, but embedding_width is {self.embedding_width} and width is "
                f"{self.width}: they have to be the same"
            )


class Layer(nn.Module):
    """One gated recurrent unit, in two halves: what does not wait for the carry comes first.

    Attributes:
      width: D.
    """

    width: int

    def setup(self) -> None:
        """Declares the parameters; columns: reset gate, update gate, candidate, each of D."""
        self.inputs = nn.Dense(3 * self.width, name="inputs")
        self.kernel = self.param("kernel", _three_orthogonal, (self.width, 3 * self.width))
        self.bias = self.param("bias", nn.initializers.zeros, (self.width,))

    def from_inputs(self, inputs: Array) -> Array:
        """The inputs' part of gates and candidate: `[M, E]` gives `[M, 3 D]`."""
        return self.inputs(inputs)

    def step(self, carry: Array, from_inputs: Array) -> Array:
        """The next carry: `[B, D]` and `[B, 3 D]` give `[B, D]`.

        Source: Cho et al. 2014, eqs. 5-8, with the reset after the product as in cuDNN.
        """
        gates, candidate = jnp.split(carry @ self.kernel, [2 * self.width], axis=-1)
        gates_in, candidate_in = jnp.split(from_inputs, [2 * self.width], axis=-1)
        reset, update = jnp.split(nn.sigmoid(gates + gates_in), 2, axis=-1)
        new = jnp.tanh(candidate_in + reset * (candidate + self.bias))
        return (1.0 - update) * new + update * carry

    def __call__(self, inputs: Array, mask: Array, starts: Array) -> tuple[Array, Array]:
        """Runs over `[T, B, E]`, from an empty carry.

        Args:
          inputs: `[T, B, E]`.
          mask: `[T, B]` bool; where it is False the carry stays.
          starts: `[T, B]` bool; where it is True the carry is emptied first.

        Returns:
          `(carry [B, D], carries [T, B, D])`.
        """
        length, rows, size = inputs.shape
        before = self.from_inputs(inputs.reshape((length * rows, size)))

        def one(carry: Array, at: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            from_inputs, real, start = at
            carry = jnp.where(start[:, None], 0.0, carry)
            carry = jnp.where(real[:, None], self.step(carry, from_inputs), carry)
            return carry, carry

        empty = jnp.zeros((rows, self.width))
        return jax.lax.scan(one, empty, (before.reshape((length, rows, -1)), mask, starts))


class Recurrent(nn.Module):
    """Embedding, layers, heads."""

    config: GRUConfig

    def setup(self) -> None:
        """Declares the parameters."""
        config = self.config
        shape = (config.vocabulary_size, config.embedding_width)
        self.embedding = self.param("embedding", nn.initializers.normal(1.0), shape)
        self.layers = [Layer(config.width) for _ in range(config.num_layers)]
        if not config.tied:
            self.head = nn.Dense(config.vocabulary_size, use_bias=False)
        if config.value_head:
            self.value_head = nn.Dense(1, kernel_init=nn.initializers.zeros, name="value")

    def __call__(self, inputs: Array, mask: Array) -> tuple[Array, ...]:
        """Every output once; `init` runs it."""
        hidden, _ = self.unroll(inputs, mask)
        outputs = (hidden, self.logits(hidden))
        return (*outputs, self.value(hidden)) if self.config.value_head else outputs

    def embed(self, tokens: Array) -> Array:
        """Maps tokens `[...]` to `[..., E]`."""
        if self.config.vocabulary_size <= 256:
            # The gradient of a gather is a scatter, slower than a product this small.
            return jax.nn.one_hot(tokens, self.config.vocabulary_size) @ self.embedding
        return self.embedding[tokens]

    def unroll(
        self, inputs: Array, mask: Array, segment_ids: Array | None = None
    ) -> tuple[Array, Cache]:
        """Hidden states `[B, T, D]`, see `LanguageModel.hidden`, and the last carries."""
        stream = inputs if inputs.ndim == 3 else self.embed(inputs)
        # Time first: what the scan reads at one step lies together.
        stream, mask = jnp.swapaxes(stream, 0, 1), mask.T
        starts = jnp.zeros_like(mask)
        if segment_ids is not None:
            starts = starts.at[1:].set((segment_ids[:, 1:] != segment_ids[:, :-1]).T)
        carries = []
        for layer in self.layers:
            carry, stream = layer(stream, mask, starts)
            carries.append(carry)
        return jnp.swapaxes(stream, 0, 1), tuple(carries)

    def step(self, carries: Cache, embedding: Array) -> tuple[Array, Cache]:
        """Hidden state `[B, D]` after one more token `[B, E]`, and the carries."""
        stream, after = embedding, []
        for layer, carry in zip(self.layers, carries, strict=True):
            stream = layer.step(carry, layer.from_inputs(stream))
            after.append(stream)
        return stream, tuple(after)

    def logits(self, hidden: Array) -> Array:
        """Maps `[..., D]` to `[..., V]` float32."""
        rows = hidden.reshape((-1, hidden.shape[-1]))
        if self.config.tied:
            scores = rows @ self.embedding.T * self.config.width**-0.5
        else:
            scores = self.head(rows)
        return scores.reshape((*hidden.shape[:-1], -1))

    def value(self, hidden: Array) -> Array:
        """Maps `[..., D]` to `[...]` float32."""
        return self.value_head(hidden)[..., 0]


def gru(config: GRUConfig) -> LanguageModel:
    """A recurrent policy over tokens; the cache is the carry, so a step costs the same anywhere.

    Padding leaves the carry as it is, on either side; a new segment empties it. Positions are
    not read: the carry counts. Hidden states are `[B, T, width]`, embeddings
    `[..., embedding_width]`.

    Args:
      config: see `GRUConfig`.

    Returns:
      A `LanguageModel`.

    >>> model = gru(GRUConfig(vocabulary_size=12))
    >>> params = model.init(jax.random.key(0))
    >>> hidden = model.hidden(params, jnp.zeros((2, 5), int), jnp.ones((2, 5), bool))
    >>> model.logits(params, hidden).shape
    (2, 5, 12)
    """
    module = Recurrent(config)

    def init(key: Array) -> PyTree:
        return module.init(key, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))

    def hidden(params, inputs, mask, positions=None, segment_ids=None) -> Array:
        del positions
        return module.apply(params, inputs, mask, segment_ids, method="unroll")[0]

    def prefill(params: PyTree, inputs: Array, mask: Array, length: int) -> tuple[Array, Cache]:
        del length
        return module.apply(params, inputs, mask, method="unroll")

    def step(params: PyTree, cache: Cache, embedding: Array, index: Array) -> tuple[Array, Cache]:
        del index
        return module.apply(params, cache, embedding, method="step")

    return LanguageModel(
        config=config,
        vocabulary_size=config.vocabulary_size,
        max_positions=config.max_positions,
        width=config.embedding_width,
        has_value=config.value_head,
        init=init,
        embed=lambda params, tokens: module.apply(params, tokens, method="embed"),
        hidden=hidden,
        logits=lambda params, states: module.apply(params, states, method="logits"),
        value=lambda params, states: module.apply(params, states, method="value"),
        for_decoding=lambda params: params,
        prefill=prefill,
        repeat=lambda cache, num: jax.tree.map(lambda x: jnp.repeat(x, num, axis=0), cache),
        step=step,
    )


def _three_orthogonal(key: Array, shape: Sequence[int]) -> Array:
    """Orthogonal kernels of the two gates and the candidate, side by side."""
    square = (shape[0], shape[0])
    return jnp.concatenate(
        [orthogonal(1.0)(one, square) for one in jax.random.split(key, 3)], axis=1
    )
