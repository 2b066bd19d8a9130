"""Estimators on demonstrations: fine-tuning, the offline halves of SRFT and LUFFY, and HPT."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxpg.description import recorded
from jaxpg.estimator import Estimator
from jaxpg.parts import (
    advantages,
    aggregates,
    likelihoods,
    references,
    regularisers,
    stabilisers,
)
from jaxpg.types import DEMONSTRATION, OWN_ROLLOUT, Array, Trajectory


@recorded
def sft() -> Estimator:
    """Supervised fine-tuning: the negative log-likelihood of what was done, mean over decisions.

    Its loss value is -1 where the likelihood's would be `-log pi`; the gradients are equal.

    Returns:
      An `Estimator`.

    Source: Lv et al. 2025, "Towards a unified view of LLM post-training", table 1.
    """
    return Estimator(
        name="sft",
        advantage=lambda trajectory: jnp.ones_like(trajectory.reward),
        reference=references.detached,
        aggregate=aggregates.decision_mean,
        source=DEMONSTRATION,
    )


@recorded
def srft_offline(*, ddof: int = 1, epsilon: float = 1e-6) -> Estimator:
    """SRFT's term on demonstrations: raw probability times group-normalised advantage.

    The demonstration is a row of its prompt's group, so its reward is in the mean and the
    standard deviation. Rows from other sources get no gradient here.

    Args:
      ddof: of the group's standard deviation.
      epsilon: added to the standard deviation.

    Returns:
      An `Estimator`.

    Source: Lv et al. 2025, table 1.
    """

    def advantage(trajectory: Trajectory) -> Array:
        return advantages.group_normalised(
            trajectory.total_reward,
            trajectory.group_ids,
            trajectory.num_rows,
            ddof=ddof,
            epsilon=epsilon,
            valid=jnp.any(trajectory.mask > 0, axis=-1),
        )

    return Estimator(
        name="srft_offline",
        advantage=advantage,
        reference=references.one,
        stabiliser=stabilisers.from_source(DEMONSTRATION),
        aggregate=aggregates.selected_mean,
    )


@recorded
def luffy_offline(gamma: float = 0.1, *, ddof: int = 1, epsilon: float = 1e-6) -> Estimator:
    """LUFFY's term on demonstrations: SRFT's with the probability shaped to `pi/(pi + gamma)`.

    Args:
      gamma: above 0.
      ddof: of the group's standard deviation.
      epsilon: added to the standard deviation.

    Returns:
      An `Estimator`.

    Source: Yan et al. 2025, "Learning to reason under off-policy guidance", eq. 6.
    """
    base = srft_offline(ddof=ddof, epsilon=epsilon)
    return dataclasses.replace(base, name="luffy_offline", likelihood=likelihoods.shaped(gamma))


@recorded
def hpt(
    sft_coefficient: float = 1.0,
    entropy_coefficient: float = 1e-3,
    *,
    rows_in_sum: int | None = None,
    length: int | None = None,
) -> Estimator:
    """The loss of hybrid post-training on a batch of rollouts and demonstrations.

    Rollouts: advantages without the standard deviation, the importance ratio without a clip, and
    the sum over rows and tokens over the longest length. Demonstrations, which belong to no group:
    the mean negative log-likelihood of their tokens. The first grows with the rows summed up and
    the second does not, so their number decides which of the two is heard. The released code sums
    over one micro-batch of one device and averages over those: `rows_in_sum`.

    Args:
      sft_coefficient: of the demonstrations' term.
      entropy_coefficient: of the entropy bonus, a mean over all tokens.
      rows_in_sum: m; the rollouts' term is m times the mean over rows. None sums over the whole
        minibatch.
      length: that the rollouts' sum is divided by; None takes the padded length.

    Returns:
      An `Estimator`.

    Source: Lv et al. 2025, "Towards a unified view of LLM post-training", section 4, and its
    released code.
    """

    def advantage(trajectory: Trajectory) -> Array:
        rollout = trajectory.source == OWN_ROLLOUT
        return advantages.group_mean_only(
            trajectory.total_reward,
            trajectory.group_ids,
            trajectory.num_rows,
            valid=rollout & jnp.any(trajectory.mask > 0, axis=-1),
        )

    if rows_in_sum is None:
        fixed, padded = aggregates.fixed_length_sum, aggregates.padded_length_sum
    else:
        fixed, padded = aggregates.fixed_length_mean, aggregates.padded_length_mean
    aggregate = padded if length is None else fixed(length)
    return Estimator(
        name="hpt",
        advantage=advantage,
        smallest_group=2,
        stabiliser=stabilisers.from_source(OWN_ROLLOUT),
        aggregate=aggregate if rows_in_sum is None else aggregates.scaled(aggregate, rows_in_sum),
        regularisers=(
            regularisers.imitation(sft_coefficient),
            regularisers.entropy(entropy_coefficient, aggregate=aggregates.decision_mean),
        ),
    )
