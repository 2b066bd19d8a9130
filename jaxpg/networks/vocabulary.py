"""Log-probabilities and entropies of chosen tokens, without `[B, T, V]` in the backward pass."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxpg.networks.language_model import LanguageModel
from jaxpg.types import Array, PyTree

KEPT_LOGITS = 2**26
"""Logits (256 MiB in float32) up to which they are kept for the backward pass."""


def token_statistics(logits: Array, tokens: Array, temperature: float = 1.0):
    """What a distribution over tokens says about the tokens chosen.

    Args:
      logits: `[..., V]` float32.
      tokens: `[...]` int in `[0, V)`.
      temperature: above 0; the distribution is `softmax(logits / temperature)`.

    Returns:
      `(log_prob, entropy)`, both `[...]` float32, nats.

    >>> log_prob, entropy = token_statistics(jnp.log(jnp.array([1., 3.])), jnp.array(1), 0.5)
    >>> log_prob.item(), entropy.item()
    (-0.105361, 0.325083)
    """
    scaled = logits.astype(jnp.float32) / temperature
    largest = jax.lax.stop_gradient(jnp.max(scaled, axis=-1, keepdims=True))
    shifted = scaled - largest
    exponential = jnp.exp(shifted)
    normaliser = jnp.sum(exponential, axis=-1)
    log_normaliser = jnp.log(normaliser)
    # A comparison instead of a gather: its gradient is a product and not a scatter.
    chosen = tokens[..., None] == jnp.arange(logits.shape[-1])
    log_prob = jnp.sum(jnp.where(chosen, shifted, 0.0), axis=-1) - log_normaliser
    # An excluded token (-inf) has probability 0 and no part in the entropy.
    finite = jnp.where(jnp.isfinite(shifted), shifted, 0.0)
    entropy = log_normaliser - jnp.sum(exponential * finite, axis=-1) / normaliser
    return log_prob, entropy


def log_probs_of(
    model: LanguageModel,
    params: PyTree,
    hidden: Array,
    tokens: Array,
    temperature: float = 1.0,
    *,
    allowed: Array | None = None,
    chunk: int | None = None,
) -> tuple[Array, Array]:
    """Log-probabilities of tokens and entropies, from last hidden states.

    Args:
      model: gives `logits`.
      params: of the model.
      hidden: `[B, T, D]`; `hidden[:, t]` predicts `tokens[:, t]`.
      tokens: `[B, T]` int.
      temperature: above 0.
      allowed: `[T, V]` bool, tokens that can be drawn at each place; None allows all.
      chunk: positions of each row whose logits exist at one time; their part of the backward pass
        computes them again. 0 keeps all logits. None keeps them up to `KEPT_LOGITS` of them and
        else takes chunks of that size.

    Returns:
      `(log_prob, entropy)`, both `[B, T]` float32, nats.
    """
    rows, length, _ = hidden.shape
    if chunk is None:
        each = rows * model.vocabulary_size
        chunk = 0 if each * length <= KEPT_LOGITS else max(1, KEPT_LOGITS // each)

    def statistics(params: PyTree, hidden: Array, tokens: Array, allowed: Array | None):
        logits = model.logits(params, hidden)
        if allowed is not None:
            logits = jnp.where(allowed, logits, -jnp.inf)
        return token_statistics(logits, tokens, temperature)

    if chunk == 0 or chunk >= length:
        return statistics(params, hidden, tokens, allowed)
    padding = -length % chunk

    def pieces(x: Array, axis: int, fill: float = 0) -> Array:
        """Cuts time into chunks, which become the leading axis."""
        room = [(0, 0)] * x.ndim
        room[axis] = (0, padding)
        padded = jnp.pad(x, room, constant_values=fill)
        shape = (*x.shape[:axis], -1, chunk, *x.shape[axis + 1 :])
        return jnp.moveaxis(padded.reshape(shape), axis, 0)

    cut = (pieces(hidden, 1), pieces(tokens, 1))
    cut += (None if allowed is None else pieces(allowed, 0, True),)
    again = jax.checkpoint(functools.partial(statistics, params))
    results = jax.lax.map(lambda piece: again(*piece), cut)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape((rows, -1))[:, :length], results)
