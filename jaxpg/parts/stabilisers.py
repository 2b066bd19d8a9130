"""Stabilisers: a weight for every decision, mostly 0 or 1, a constant to the gradient.

`clip_weight` and its neighbours are the primitives on plain arrays; `clip(...)` and its neighbours
make a part of an `Estimator` from them.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxpg.types import Array, Trajectory

Stabiliser = Callable[[Array, Array, Trajectory], Array]


def clip_weight(log_ratio: Array, advantage: Array, lower: float, upper: float) -> Array:
    """Where PPO's `min(r A, clip(r) A)` has a gradient.

    Args:
      log_ratio: `[...]` float, log of the probability ratio r.
      advantage: `[...]` float.
      lower: r below `1 - lower` is cut where the advantage is negative.
      upper: r above `1 + upper` is cut where the advantage is positive.

    Returns:
      `[...]` float, 0 where cut and 1 elsewhere.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7.

    >>> clip_weight(jnp.log(jnp.array([2., 2., .5, .5])), jnp.array([1., -1., 1., -1.]),
    ...             0.2, 0.2).tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    chex.assert_equal_shape([log_ratio, advantage])
    cut = (advantage > 0) & (log_ratio > jnp.log1p(upper))
    cut |= (advantage < 0) & (log_ratio < jnp.log1p(-lower))
    return jnp.where(cut, 0.0, 1.0).astype(log_ratio.dtype)


def dual_clip_weight(
    log_ratio: Array, advantage: Array, lower: float, upper: float, bound: float
) -> Array:
    """`clip_weight` that also cuts a negative advantage whose ratio is above `bound`.

    Args:
      log_ratio: `[...]` float.
      advantage: `[...]` float.
      lower: see `clip_weight`.
      upper: see `clip_weight`.
      bound: above 1; 3 is usual.

    Returns:
      `[...]` float, 0 or 1.

    Source: Ye et al. 2020, "Mastering complex control in MOBA games", eq. 5.
    """
    weight = clip_weight(log_ratio, advantage, lower, upper)
    return jnp.where((advantage < 0) & (log_ratio > jnp.log(bound)), 0.0, weight)


def gate_weight(num_correct: Array, gate: int | Array) -> Array:
    """Which prompts are learnt from by reinforcement: those solved more often than the gate.

    The others are learnt from a demonstration. The gate is a count of correct rollouts and no
    share of them.

    Args:
      num_correct: `[...]` int, correct rollouts of each prompt.
      gate: at least -1 (reinforcement alone); the number of rollouts or more is demonstrations
        alone.

    Returns:
      `[...]` float, 1 for reinforcement and 0 for demonstrations.

    Source: HPT, Lv et al. 2025, "Towards a unified view of LLM post-training", eq. 9 and 10, with
    the strict inequality of the released code.

    >>> gate_weight(jnp.array([0, 1, 2, 3]), 2).tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    return (num_correct > gate).astype(jnp.float32)


def top_fraction_weight(scores: Array, mask: Array, fraction: float) -> Array:
    """Selects the decisions with the highest scores of the batch.

    Args:
      scores: `[B, T]` float, for instance entropies.
      mask: `[B, T]`, 1 where a decision is real.
      fraction: in (0, 1], share of the real decisions that is kept (at least one, if any is real).

    Returns:
      `[B, T]` float, 1 where selected; ties at the threshold are all kept.
    """
    chex.assert_equal_shape([scores, mask])
    real = mask > 0
    ranked = jnp.sort(jnp.where(real, scores, -jnp.inf).ravel())[::-1]
    count = jnp.sum(real)
    kept = jnp.clip(jnp.ceil(fraction * count - 1e-4).astype(jnp.int32), 1, ranked.shape[0])
    return jnp.where(real & (scores >= ranked[kept - 1]), 1.0, 0.0).astype(scores.dtype)


def none(log_ratio: Array, advantage: Array, trajectory: Trajectory) -> Array:
    """Every decision counts in full.

    Args:
      log_ratio: `[B, T]` float, gives the shape.
      advantage: unused.
      trajectory: unused.

    Returns:
      `[B, T]` ones.
    """
    del advantage, trajectory
    return jnp.ones_like(log_ratio)


def clip(lower: float = 0.2, upper: float | None = None) -> Stabiliser:
    """PPO's clip. With a sequence likelihood it cuts whole sequences.

    Args:
      lower: bound below 1, in [0, 1).
      upper: bound above 1, at least 0; None takes `lower`.

    Returns:
      A stabiliser, see `clip_weight`.
    """
    upper = lower if upper is None else upper
    _check_bounds(lower, upper)
    return lambda log_ratio, advantage, trajectory: clip_weight(log_ratio, advantage, lower, upper)


def dual_clip(lower: float = 0.2, upper: float | None = None, bound: float = 3.0) -> Stabiliser:
    """PPO's clip with a third bound for negative advantages.

    Args:
      lower: bound below 1.
      upper: bound above 1; None takes `lower`.
      bound: largest ratio at a negative advantage, above 1.

    Returns:
      A stabiliser, see `dual_clip_weight`.

    Raises:
      ValueError: a bound is out of range.
    """
    upper = lower if upper is None else upper
    _check_bounds(lower, upper)
    if _is_number(bound) and bound <= 1:
        raise ValueError(f"bound is {bound}, but the dual clip needs a bound above 1 (3 is usual)")
    return lambda log_ratio, advantage, trajectory: dual_clip_weight(
        log_ratio, advantage, lower, upper, bound
    )


def selected(name: str) -> Stabiliser:
    """Weights that an earlier seam stored in the trajectory's extras.

    Args:
      name: of a `[B, T]` or `[B]` extra.

    Returns:
      A stabiliser.
    """

    def stabiliser(log_ratio: Array, advantage: Array, trajectory: Trajectory) -> Array:
        del advantage
        weight = jnp.asarray(trajectory.extra(name), log_ratio.dtype)
        weight = weight[:, None] if weight.ndim == 1 else weight
        return jnp.broadcast_to(weight, log_ratio.shape)

    return stabiliser


def from_source(source: int) -> Stabiliser:
    """Keeps the rows of one source: own rollouts, demonstrations or replay.

    Args:
      source: `OWN_ROLLOUT`, `DEMONSTRATION` or `REPLAY` of `jaxpg.types`.

    Returns:
      A stabiliser.
    """

    def stabiliser(log_ratio: Array, advantage: Array, trajectory: Trajectory) -> Array:
        del advantage
        keep = (trajectory.of_rows(trajectory.source) == source).astype(log_ratio.dtype)
        return jnp.broadcast_to(keep, log_ratio.shape)

    return stabiliser


def product(*stabilisers: Stabiliser) -> Stabiliser:
    """Multiplies the weights of several stabilisers.

    Args:
      *stabilisers: at least one.

    Returns:
      A stabiliser.
    """

    def stabiliser(log_ratio: Array, advantage: Array, trajectory: Trajectory) -> Array:
        weights = [part(log_ratio, advantage, trajectory) for part in stabilisers]
        return jnp.prod(jnp.stack(weights), axis=0)

    return stabiliser


def _is_number(value: object) -> bool:
    return not isinstance(value, jax.core.Tracer)


def _check_bounds(lower: float, upper: float) -> None:
    if _is_number(lower) and not 0 <= lower < 1:
        raise ValueError(
            f"lower is {lower}, but a clip bound below 1 lies in [0, 1): the ratio is cut at "
            f"1 - lower"
        )
    if _is_number(upper) and upper < 0:
        raise ValueError(
            f"upper is {upper}, but a clip bound above 1 is at least 0: the ratio is cut at "
            f"1 + upper"
        )
