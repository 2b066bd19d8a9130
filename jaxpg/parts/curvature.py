"""What one optimiser step would do to a policy, by a second-order model of its last layer.

Only the linear map from the last hidden state to the logits is modelled, every layer below it is
taken as fixed. N tokens; of each the K largest logits are kept (all of them in a small
vocabulary). A step of length `learning_rate` along a direction G `[V, D]` changes a token's logits
by `learning_rate * G h`. Nothing here carries a gradient.

Source: Curvature-Aware Policy Optimization, arXiv 2510.00819, and its released code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpg.types import Array


class LastLayer(NamedTuple):
    """What the last layer says about N tokens.

    Attributes:
      hidden: `[N, D]` float, what the logits of each token were computed from.
      probabilities: `[N, K]` float, of the kept logits alone: each row sums to 1. One of 0 belongs
        to a token that may not be drawn.
      tokens: `[N, K]` int, which ones were kept.
      residual: `[N, K]` float, 1 at the chosen token minus the probabilities, so that the gradient
        of the chosen token's log-probability is the outer product of `residual` and `hidden`.
        Where the chosen token was not kept it is minus the probabilities.
      advantage: `[N]` float.
    """

    hidden: Array
    probabilities: Array
    tokens: Array
    residual: Array
    advantage: Array


class Shifts(NamedTuple):
    """What a step is expected to change, for each of N tokens.

    Attributes:
      objective: `[N]` float, m_H: the change of `advantage * ratio`, up to the second order.
      policy: `[N]` float, m_F: one sample's estimate of KL(policy || policy after the step), nats.
        Where the step comes from the sample itself it is biased upwards.
      expected_policy: `[N]` float, the same averaged over what could have been drawn in place of
        the chosen token, the direction held fixed.
    """

    objective: Array
    policy: Array
    expected_policy: Array


def last_layer(
    hidden: Array, logits: Array, tokens: Array, chosen: Array, advantage: Array
) -> LastLayer:
    """Builds a `LastLayer` from the logits that were kept.

    Args:
      hidden: `[N, D]` float, divided by the temperature if there is one: the states that predict
        the chosen tokens, not those that follow them.
      logits: `[N, K]` float, the largest; minus infinity for a token that may not be drawn.
      tokens: `[N, K]` int, the tokens of these logits.
      chosen: `[N]` int.
      advantage: `[N]` float.

    Returns:
      A `LastLayer` without gradient.

    >>> layer = last_layer(jnp.ones((1, 3)), jnp.zeros((1, 2)), jnp.array([[4, 7]]),
    ...                    jnp.array([7]), jnp.array([2.]))
    >>> layer.residual.tolist()
    [[-0.5, 0.5]]
    """
    chex.assert_rank([hidden, logits, tokens, chosen, advantage], [2, 2, 2, 1, 1])
    chex.assert_equal_shape([logits, tokens])
    chex.assert_equal_shape_prefix([hidden, logits, chosen, advantage], 1)
    probabilities = jax.nn.softmax(logits, axis=-1)
    residual = (tokens == chosen[:, None]).astype(probabilities.dtype) - probabilities
    return jax.lax.stop_gradient(LastLayer(hidden, probabilities, tokens, residual, advantage))


def shifts(layer: LastLayer, learning_rate: Array | float, change: Array) -> Shifts:
    """Objective and policy shifts from what a step of length 1 does to the kept logits.

    Args:
      layer: of N tokens.
      learning_rate: scalar, of the coming step (the scheduled one, not the peak).
      change: `[N, K]` float, `G h` at the kept tokens.

    Returns:
      `Shifts`.

    >>> layer = last_layer(jnp.ones((1, 1)), jnp.zeros((1, 2)), jnp.array([[0, 1]]),
    ...                    jnp.array([0]), jnp.array([2.]))
    >>> [x.item() for x in shifts(layer, 0.1, jnp.array([[1., -1.]]))]
    [0.2, 0.005, 0.005]
    """
    chex.assert_equal_shape([layer.probabilities, change])
    rate = jnp.asarray(learning_rate, change.dtype)
    chex.assert_rank(rate, 0)
    along = jnp.sum(layer.residual * change, axis=-1)
    mean = jnp.sum(layer.probabilities * change, axis=-1, keepdims=True)
    fisher = jnp.sum(layer.probabilities * (change - mean) ** 2, axis=-1)
    half = 0.5 * rate**2
    objective = layer.advantage * (rate * along + half * (along**2 - fisher))
    return jax.lax.stop_gradient(Shifts(objective, half * along**2, half * fisher))


def sgd_shifts(layer: LastLayer, learning_rate: Array | float) -> Shifts:
    """Shifts of gradient ascent on each token alone, in closed form: no `[V, D]` array.

    Args:
      layer: of N tokens.
      learning_rate: scalar.

    Returns:
      `Shifts`; all are 0 where the advantage is.

    >>> layer = last_layer(jnp.array([[3.]]), jnp.zeros((1, 2)), jnp.array([[0, 1]]),
    ...                    jnp.array([0]), jnp.array([2.]))
    >>> sgd_shifts(layer, 0.1).policy.item()  # 0.5 (0.1 * 2 * |v|^2 |h|^2)^2
    0.405
    """
    square = jnp.sum(layer.hidden**2, axis=-1)
    change = (layer.advantage * square)[:, None] * layer.residual
    return shifts(layer, learning_rate, change)


def direction_shifts(
    layer: LastLayer, learning_rate: Array | float, direction: Array, chunk: int = 64
) -> Shifts:
    """Shifts of each token by one step along a given direction.

    Args:
      layer: of N tokens.
      learning_rate: scalar.
      direction: `[V, D]` float.
      chunk: static, tokens at one time: memory is that of `chunk * K * D` numbers.

    Returns:
      `Shifts`.

    >>> layer = last_layer(jnp.array([[1., 2.]]), jnp.zeros((1, 2)), jnp.array([[0, 1]]),
    ...                    jnp.array([0]), jnp.array([1.]))
    >>> direction_shifts(layer, 0.1, jnp.array([[1., 0.], [0., -1.]])).policy.item()
    0.01125
    """
    chex.assert_rank(direction, 2)
    chex.assert_equal(direction.shape[1], layer.hidden.shape[1])
    change = in_chunks(
        lambda hidden, tokens: direction[tokens] @ hidden, chunk, layer.hidden, layer.tokens
    )
    return shifts(layer, learning_rate, change)


def accept(
    objective: Array,
    policy: Array,
    tau_h: float | Array,
    tau_f: float | Array,
    *,
    symmetric: bool = True,
) -> Array:
    """Which tokens take part in the update, in the form of the released code.

    Args:
      objective: `[...]` float, objective shifts.
      policy: `[...]` float, policy shifts.
      tau_h: bound of the objective shift, itself not accepted; 0 leaves this test out.
      tau_f: bound of the policy shift, itself not accepted; 0 leaves this test out.
      symmetric: the objective shift lies in `(-tau_h, tau_h)`; else in `[0, tau_h)`.

    Returns:
      `[...]` bool. A shift that is not a number is accepted by no test.

    >>> objective, policy = jnp.array([-2., -0.5, 0.5]), jnp.array([0., 0., 3.])
    >>> accept(objective, policy, 1.0, 1.0).tolist()
    [False, True, False]
    >>> accept(objective, policy, 1.0, 0.0, symmetric=False).tolist()
    [False, False, True]
    """
    chex.assert_equal_shape([objective, policy])
    low = objective > -tau_h if symmetric else objective >= 0
    inside = low & (objective < tau_h)
    return (inside | (jnp.asarray(tau_h) == 0)) & ((policy < tau_f) | (jnp.asarray(tau_f) == 0))


def accept_between(
    objective: Array,
    policy: Array,
    lowest: float | Array,
    highest: float | Array,
    largest: float | Array,
) -> Array:
    """Which tokens take part in the update, in the form of the paper.

    Args:
      objective: `[...]` float, objective shifts.
      policy: `[...]` float, policy shifts.
      lowest: objective shift, itself accepted.
      highest: objective shift, itself accepted.
      largest: policy shift, itself accepted.

    Returns:
      `[...]` bool.

    >>> accept_between(jnp.array([0., 0.5, 2.]), jnp.array([0., 1., 0.]), 0.0, 1.0, 0.5).tolist()
    [True, False, False]
    """
    chex.assert_equal_shape([objective, policy])
    return (objective >= lowest) & (objective <= highest) & (policy <= largest)


def summed_gradient(
    layer: LastLayer, weight: Array, vocabulary_size: int, chunk: int = 64
) -> Array:
    """Weighted sum of the tokens' gradients of `advantage * log-probability`.

    Args:
      layer: of N tokens, those of this device.
      weight: `[N]` float; a token of weight 0 may hold anything.
      vocabulary_size: V, static.
      chunk: static, tokens at one time.

    Returns:
      `[V, D]` float.

    >>> layer = last_layer(jnp.array([[1., 2.]]), jnp.zeros((1, 2)), jnp.array([[2, 0]]),
    ...                    jnp.array([0]), jnp.array([4.]))
    >>> summed_gradient(layer, jnp.ones(1), 3).tolist()
    [[2.0, 4.0], [0.0, 0.0], [-2.0, -4.0]]
    """
    chex.assert_equal_shape([weight, layer.advantage])
    real = (weight != 0)[:, None]
    scale = jnp.where(real, (weight * layer.advantage)[:, None] * layer.residual, 0.0)
    hidden = jnp.where(real, layer.hidden, 0.0)
    num_tokens, width = hidden.shape
    chunk = min(chunk, num_tokens)

    def pieces(leaf: Array) -> Array:
        padded = jnp.pad(leaf, ((0, -num_tokens % chunk), (0, 0)))
        return padded.reshape((-1, chunk, leaf.shape[-1]))

    def add(total: Array, piece: tuple[Array, Array, Array]) -> tuple[Array, None]:
        hidden, tokens, scale = piece
        spread = jnp.zeros((chunk, vocabulary_size), hidden.dtype)
        spread = spread.at[jnp.arange(chunk)[:, None], tokens].add(scale)
        return total + spread.T @ hidden, None

    begun = jnp.zeros((vocabulary_size, width), hidden.dtype)
    cut = tuple(pieces(leaf) for leaf in (hidden, layer.tokens, scale))
    return jax.lax.stop_gradient(jax.lax.scan(add, begun, cut)[0])


def in_chunks(function: Callable[..., Array], chunk: int, *arrays: Array) -> Array:
    """Maps over leading axes, a few entries at one time.

    Args:
      function: of one entry of each array.
      chunk: static, entries at one time.
      *arrays: `[N, ...]`.

    Returns:
      `[N, ...]`.

    >>> in_chunks(lambda x: 2 * x, 2, jnp.arange(5)).tolist()
    [0, 2, 4, 6, 8]
    """
    size = min(chunk, arrays[0].shape[0])
    return jax.lax.map(lambda entry: function(*entry), arrays, batch_size=size)
