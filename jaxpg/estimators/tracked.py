"""Estimators whose baseline was remembered before the batch was drawn."""

from __future__ import annotations

import jax.numpy as jnp

from jaxpg.choices import one_of
from jaxpg.description import recorded
from jaxpg.estimator import Estimator
from jaxpg.parts import advantages, aggregates, stabilisers
from jaxpg.types import Array, Trajectory

WEIGHTS = ("responses", "tokens")


@recorded
def spo(
    lower: float = 0.2,
    upper: float = 0.28,
    bound: float = 10.0,
    *,
    whiten_over: str = "responses",
    ddof: int = 1,
    epsilon: float = 1e-8,
) -> Estimator:
    """The loss of single-stream policy optimisation: a known baseline, whitened over the batch.

    Reads the extra `start_value`, `[B]`: what each row was expected to earn before it began.

    Args:
      lower: the ratio is cut below `1 - lower`.
      upper: the ratio is cut above `1 + upper`.
      bound: of the dual clip, above 1.
      whiten_over: "responses" gives every row the same weight in mean and standard deviation, as
        published. "tokens" counts a row once for each of its tokens (SPO++), which makes the
        advantages of the token mean add up to 0 where lengths differ.
      ddof: of the batch's standard deviation.
      epsilon: added to the standard deviation.

    Returns:
      An `Estimator`.

    Raises:
      ValueError: another `whiten_over`.

    Source: "Single-stream policy optimization", arXiv 2509.13232; SPO++, arXiv 2608.24870.
    """
    one_of("whiten_over", whiten_over, WEIGHTS)

    def advantage(trajectory: Trajectory) -> Array:
        surprise = trajectory.total_reward - trajectory.extra("start_value")
        real = trajectory.mask > 0
        if whiten_over == "responses":
            real = jnp.any(real, axis=-1)
        else:
            surprise = jnp.broadcast_to(surprise[:, None], real.shape)
        return advantages.whiten(surprise, real, ddof=ddof, epsilon=epsilon)

    return Estimator(
        name="spo",
        advantage=advantage,
        stabiliser=stabilisers.dual_clip(lower, upper, bound),
        aggregate=aggregates.decision_mean,
        needs=("start_value",),
    )
