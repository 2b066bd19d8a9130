"""Adam's moments of a policy's last layer, kept beside the optimiser to plan its next step.

Planning reads the moments and never changes them. Nothing here carries a gradient.

Source: Curvature-Aware Policy Optimization, arXiv 2510.00819, and its released code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpg import parallel
from jaxpg.parts.curvature import (
    LastLayer,
    Shifts,
    direction_shifts,
    in_chunks,
    shifts,
    summed_gradient,
)
from jaxpg.types import Array

DECAY_FIRST, DECAY_SECOND, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam."""


class Moments(NamedTuple):
    """Running means of the last layer's gradient and of its square.

    Attributes:
      first: `[V, D]` float.
      second: `[V, D]` float.
      count: int32, updates so far; with 0 there is nothing to plan with.
    """

    first: Array
    second: Array
    count: Array


def no_moments(vocabulary_size: int, width: int) -> Moments:
    """Moments before the first update.

    Args:
      vocabulary_size: V.
      width: D.

    Returns:
      `Moments` of zeros.
    """
    zeros = jnp.zeros((vocabulary_size, width))
    return Moments(zeros, jnp.zeros_like(zeros), jnp.zeros((), jnp.int32))


def planned_direction(gradient: Array, moments: Moments) -> Array:
    """Where Adam would go with this gradient; the moments stay as they are.

    Args:
      gradient: `[..., D]` float.
      moments: `first` and `second` of the gradient's shape.

    Returns:
      `[..., D]` float, ascent; the gradient itself where nothing is stored yet.

    >>> planned_direction(jnp.array([3.0]), Moments(jnp.ones(1), jnp.ones(1), 0)).tolist()
    [3.0]
    >>> planned_direction(jnp.array([3.0]), Moments(jnp.ones(1), jnp.ones(1), 9)).item()
    0.1831
    """
    chex.assert_equal_shape([gradient, moments.first, moments.second])
    first = DECAY_FIRST * moments.first + (1.0 - DECAY_FIRST) * gradient
    second = DECAY_SECOND * moments.second + (1.0 - DECAY_SECOND) * gradient**2
    count = jnp.asarray(moments.count, gradient.dtype) + 1.0
    first = first / (1.0 - DECAY_FIRST**count)
    second = second / (1.0 - DECAY_SECOND**count)
    adam = first / (jnp.sqrt(second) + EPSILON)
    return jax.lax.stop_gradient(jnp.where(count == 1.0, gradient, adam))


def adam_shifts(
    layer: LastLayer, learning_rate: Array | float, moments: Moments, chunk: int = 64
) -> Shifts:
    """Shifts of the step that Adam would take if each token were the whole batch.

    Args:
      layer: of N tokens.
      learning_rate: scalar.
      moments: of the last layer; of each token only the K kept rows are read.
      chunk: static, tokens at one time: memory is that of `chunk * K * D` numbers.

    Returns:
      `Shifts`, as those of `curvature.sgd_shifts` where nothing is stored yet. A token of advantage
      0 is moved by the old moments alone.

    >>> layer = LastLayer(jnp.ones((1, 2)), jnp.array([[0.5, 0.5]]), jnp.array([[0, 1]]),
    ...                   jnp.array([[0.5, -0.5]]), jnp.array([2.]))
    >>> adam_shifts(layer, 0.1, no_moments(3, 2)).policy.item()
    0.02
    """
    chex.assert_equal_shape([moments.first, moments.second])
    chex.assert_equal(moments.first.shape[1], layer.hidden.shape[1])

    def change(hidden: Array, tokens: Array, scale: Array) -> Array:
        kept = Moments(moments.first[tokens], moments.second[tokens], moments.count)
        return planned_direction(scale[:, None] * hidden, kept) @ hidden

    scale = layer.advantage[:, None] * layer.residual
    changes = in_chunks(change, chunk, layer.hidden, layer.tokens, scale)
    return shifts(layer, learning_rate, changes)


def unit_shifts(
    layer: LastLayer,
    learning_rate: Array | float,
    weight: Array,
    moments: Moments | None,
    vocabulary_size: int,
    *,
    chunk: int = 64,
    total: Callable[[Array], Array] = lambda tree: tree,
) -> Shifts:
    """Shifts of a sentence, or of a batch, that is accepted or rejected as one.

    Its step follows the mean of its tokens' gradients, and its shifts are the means of theirs by
    that step.

    Args:
      layer: of the unit's N tokens.
      learning_rate: scalar.
      weight: `[N]` float with a sum of 1 over the unit (or all 0: then every shift is 0).
      moments: plan with Adam; None goes along the gradient.
      vocabulary_size: V, static.
      chunk: static, tokens at one time.
      total: sums over devices, `parallel.total`, where the unit lies on several.

    Returns:
      `Shifts` of scalars.

    >>> layer = LastLayer(jnp.ones((1, 2)), jnp.array([[0.5, 0.5]]), jnp.array([[0, 1]]),
    ...                   jnp.array([[0.5, -0.5]]), jnp.array([2.]))
    >>> unit_shifts(layer, 0.1, jnp.ones(1), None, 3).policy.item()
    0.02
    """
    gradient = total(summed_gradient(layer, weight, vocabulary_size, chunk))
    direction = gradient if moments is None else planned_direction(gradient, moments)
    each = direction_shifts(layer, learning_rate, direction, chunk)
    sums = [jnp.sum(jnp.where(weight != 0, weight * shift, 0.0)) for shift in each]
    return Shifts(*total(sums))


def update_moments(moments: Moments, layer: LastLayer, accepted: Array, chunk: int = 64) -> Moments:
    """Takes the accepted tokens into the moments.

    The gradient of a row of the vocabulary is the mean over the accepted tokens that kept it, not
    over all tokens; a row that none kept stays as it is, without decay.

    Args:
      moments: before.
      layer: of N tokens, those of this device.
      accepted: `[N]` bool; a token that is not may hold anything.
      chunk: static, tokens at one time.

    Returns:
      `Moments` after, the same on every device; unchanged where nothing is accepted at all.

    >>> layer = LastLayer(jnp.ones((2, 1)), jnp.full((2, 2), 0.5), jnp.array([[0, 1], [0, 2]]),
    ...                   jnp.array([[0.5, -0.5], [0.5, -0.5]]), jnp.array([1., 3.]))
    >>> after = update_moments(no_moments(4, 1), layer, jnp.array([True, True]))
    >>> after.first.tolist(), after.count.item()
    ([[0.1], [-0.05], [-0.15], [0.0]], 1)
    """
    chex.assert_equal_shape([accepted, layer.advantage])
    vocabulary_size = moments.first.shape[0]
    counted = (accepted[:, None] & (layer.probabilities > 0)).astype(layer.hidden.dtype)
    occurrences = jnp.zeros(vocabulary_size, layer.hidden.dtype).at[layer.tokens].add(counted)
    summed = summed_gradient(layer, accepted.astype(layer.hidden.dtype), vocabulary_size, chunk)
    summed, occurrences = parallel.total((summed, occurrences))
    mean = summed / jnp.maximum(occurrences, 1.0)[:, None]

    def decayed(old: Array, new: Array, decay: float) -> Array:
        return jnp.where(occurrences[:, None] > 0, decay * old + (1.0 - decay) * new, old)

    return jax.lax.stop_gradient(
        Moments(
            decayed(moments.first, mean, DECAY_FIRST),
            decayed(moments.second, mean**2, DECAY_SECOND),
            moments.count + jnp.any(occurrences > 0).astype(moments.count.dtype),
        )
    )
