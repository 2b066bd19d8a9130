"""Entropy held at a target by samples of the policy's own distribution at another temperature."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxpg import parallel
from jaxpg.parts.aggregates import decision_mean
from jaxpg.types import Array


def temperature(
    entropy: Array | float, target: float, high: float = 1.2, low: float = 0.8
) -> Array:
    """The temperature whose samples move the entropy towards its target.

    Args:
      entropy: `[...]` float, nats for each token, of the policy.
      target: nats for each token.
      high: above 1, flattens the policy.
      low: below 1, sharpens it.

    Returns:
      `[...]` float32: `high` up to the target and at it, `low` beyond.

    Source: "Arbitrary entropy policy optimization", arXiv 2510.08141, eq. 2.

    >>> temperature(jnp.array([0.4, 0.5, 0.6]), 0.5).tolist()
    [1.2, 1.2, 0.8]
    """
    return jnp.where(jnp.asarray(entropy) <= target, jnp.float32(high), jnp.float32(low))


def num_tempered(kept: Array, most: int, entropy: Array | float, target: float) -> Array:
    """How many tempered rows enter a batch.

    Args:
      kept: scalar int, rows that could.
      most: at least 0.
      entropy: scalar, nats for each token, of the policy.
      target: nats for each token.

    Returns:
      Scalar int32: up to the target and at it as many as there are, at most `most`; beyond it
      half of that, rounded down.

    Source: the code released with arXiv 2510.08141.

    >>> [int(num_tempered(jnp.array(5), 8, entropy, 0.5)) for entropy in (0.4, 0.6)]
    [5, 2]
    """
    number = jnp.minimum(jnp.asarray(kept, jnp.int32), most)
    return jnp.where(jnp.asarray(entropy) <= target, number, number // 2)


def mixed_rows(keep: Array, num_rows: int, num_tempered: Array | int) -> Array:
    """Which rows make a batch in which tempered rows take the first places.

    Args:
      keep: `[C]` bool, the tempered rows that may enter.
      num_rows: B on-policy rows, which is also the size of the batch; static.
      num_tempered: scalar int, at least 0: places that tempered rows take, if there are as many
        and B has room for them.

    Returns:
      `[B]` int32 into the B on-policy rows followed by the C tempered ones: the first kept rows in
      their order, then the on-policy rows, of which as many are gone from the front. Where none is
      kept it is the on-policy batch.

    Source: the code released with arXiv 2510.08141, which cannot go on where none is kept.

    >>> mixed_rows(jnp.array([False, True, True]), 4, 1).tolist()
    [5, 1, 2, 3]
    """
    chex.assert_rank(keep, 1)
    places = jnp.arange(num_rows, dtype=jnp.int32)
    order = jnp.argsort(~keep, stable=True).astype(jnp.int32)
    entering = jnp.minimum(jnp.asarray(num_tempered, jnp.int32), jnp.sum(keep, dtype=jnp.int32))
    tempered = num_rows + order[jnp.minimum(places, keep.shape[0] - 1)]
    return jnp.where(places < entering, tempered, places)


def sampled_entropy(log_prob: Array, mask: Array) -> Array:
    """Estimate of the policy's entropy from what was sampled, over all devices.

    Args:
      log_prob: `[B, T]` float, of the sampled tokens under the policy.
      mask: `[B, T]`, 1 where a token is real.

    Returns:
      Scalar, nats for each token; 0 if no token is real. It is unbiased for rows of one length
      that the policy drew itself, and too large for rows that were drawn at a higher temperature.

    >>> sampled_entropy(jnp.log(jnp.array([[.5, .25, .1]])), jnp.array([[1., 1., 0.]])).item()
    1.03972
    """
    return parallel.mean(decision_mean(-log_prob, mask))


def distribution_weight(
    entropy: Array | float, target: float, correct_share: Array, largest_distance: float = 0.1
) -> Array:
    """How much of the advantages the regulariser of `distribution_centric` takes.

    Args:
      entropy: scalar, nats for each token, of the policy.
      target: nats for each token.
      correct_share: scalar in [0, 1], of the rows.
      largest_distance: distance from the target beyond which the weight no longer grows, nats.

    Returns:
      Scalar in [0, 1): `x / (1 + x)`, x the distance over the share; 0 where no row is correct.

    Source: the code released with arXiv 2510.08141 ("DCPO").

    >>> distribution_weight(0.4, 0.5, jnp.array(0.1)).item()
    0.5
    """
    distance = jnp.minimum(jnp.abs(target - jnp.asarray(entropy)), largest_distance)
    # x / (1 + x) with x = distance / share, so that a share of 0 divides nothing.
    weight = distance / jnp.maximum(distance + correct_share, jnp.finfo(jnp.float32).tiny)
    return jnp.where(correct_share > 0, weight, 0.0)


def distribution_centric(
    advantage: Array, correct: Array, log_prob: Array, tempered_log_prob: Array, weight: Array
) -> Array:
    """Advantages that pull the policy towards its tempered self, without a second rollout.

    The expectation over rows of the policy is that over rows of the tempered distribution, token
    by token; all of them carry the gradient of the policy itself.

    Args:
      advantage: `[B, T]` float.
      correct: `[B]` bool.
      log_prob: `[B, T]` float, of the sampled tokens under the policy.
      tempered_log_prob: `[B, T]` float, of the same tokens at the other temperature.
      weight: scalar in [0, 1], see `distribution_weight`.

    Returns:
      `[B, T]` float, `(1 - weight) advantage`, and on correct rows `weight` times the probability
      ratio more.

    Source: the code released with arXiv 2510.08141 ("DCPO").

    >>> distribution_centric(jnp.array([[1.], [-1.]]), jnp.array([True, False]), jnp.zeros((2, 1)),
    ...                      jnp.log(jnp.array([[2.], [2.]])), 0.5).tolist()
    [[1.5], [-0.5]]
    """
    chex.assert_rank(correct, 1)
    chex.assert_equal_shape([advantage, log_prob, tempered_log_prob])
    ratio = jnp.exp(tempered_log_prob - log_prob)
    return (1.0 - weight) * advantage + jnp.where(correct[:, None], weight * ratio, 0.0)


def check_target(target_entropy: float, high: float, low: float) -> None:
    """Refuses settings by which nothing is steered.

    Args:
      target_entropy: nats for each token.
      high: temperature.
      low: temperature.

    Raises:
      ValueError: the target or a temperature is not above 0, or the temperatures are swapped.
    """
    for name, given in (("target_entropy", target_entropy), ("low", low)):
        if not given > 0:
            raise ValueError(f"{name} is {given!r}, but it has to be above 0")
    if not high >= low:
        raise ValueError(f"high is {high!r}, but it has to be at least low={low!r}")
