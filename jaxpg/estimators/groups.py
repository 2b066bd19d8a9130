"""Estimators on one reward for each row and a baseline from its group: the GRPO family."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp

from jaxpg.description import recorded
from jaxpg.estimator import Estimator
from jaxpg.parts import advantages, aggregates, likelihoods, references, stabilisers
from jaxpg.types import Array, Trajectory


@recorded
def rloo() -> Estimator:
    """REINFORCE with the mean reward of the other rows of the group as baseline; unbiased.

    Returns:
      An `Estimator`.

    Source: Ahmadian et al. 2024, "Back to basics", section 2.3.
    """
    return Estimator(
        name="rloo",
        advantage=_on_groups(advantages.leave_one_out),
        smallest_group=2,
        reference=references.detached,
        aggregate=aggregates.row_sum_mean,
        whole_rows=True,
    )


@recorded
def grpo(clip: float = 0.2, *, ddof: int = 1, epsilon: float = 1e-6) -> Estimator:
    """Group relative policy optimisation. Its KL term is `.plus(regularisers.kl(0.04))`.

    Args:
      clip: the ratio is cut outside of `[1 - clip, 1 + clip]`.
      ddof: 1 for torch's standard deviation (the released code), 0 for the population's.
      epsilon: added to the standard deviation.

    Returns:
      An `Estimator`.

    Source: Shao et al. 2024, "DeepSeekMath", eq. 3.
    """
    return Estimator(
        name="grpo",
        advantage=_normalised(ddof, epsilon),
        smallest_group=2,
        stabiliser=stabilisers.clip(clip),
        aggregate=aggregates.sequence_mean,
        whole_rows=True,
    )


@recorded
def dr_grpo(clip: float = 0.2, *, length: int | None = None) -> Estimator:
    """GRPO without the two biases: no division by the standard deviation nor by the length.

    Args:
      clip: the ratio is cut outside of `[1 - clip, 1 + clip]`.
      length: constant that divides each row's sum; None takes the padded length.

    Returns:
      An `Estimator`.

    Source: Liu et al. 2025, "Understanding R1-Zero-like training", section 3.2.
    """
    constant = aggregates.padded_length_mean
    return Estimator(
        name="dr_grpo",
        advantage=_on_groups(advantages.group_mean_only),
        smallest_group=2,
        stabiliser=stabilisers.clip(clip),
        aggregate=constant if length is None else aggregates.fixed_length_mean(length),
        whole_rows=True,
    )


@recorded
def dapo(
    lower: float = 0.2, upper: float = 0.28, *, ddof: int = 1, epsilon: float = 1e-6
) -> Estimator:
    """The loss of DAPO: clip-higher and the mean over all tokens of the batch.

    Its dynamic sampling and its overlong penalty belong to collection, not to the loss.

    Args:
      lower: the ratio is cut below `1 - lower`.
      upper: the ratio is cut above `1 + upper`.
      ddof: of the group's standard deviation.
      epsilon: added to the standard deviation.

    Returns:
      An `Estimator`.

    Source: Yu et al. 2025, "DAPO", eq. 8.
    """
    return Estimator(
        name="dapo",
        advantage=_normalised(ddof, epsilon),
        smallest_group=2,
        stabiliser=stabilisers.clip(lower, upper),
        aggregate=aggregates.decision_mean,
    )


@recorded
def aepo(
    clip: float = 0.2, bound: float = 3.0, *, ddof: int = 1, epsilon: float = 1e-6
) -> Estimator:
    """The loss that AEPO builds on: GRPO with a dual clip and the mean over all tokens.

    Args:
      clip: the ratio is cut outside of `[1 - clip, 1 + clip]`.
      bound: largest ratio at a negative advantage, above 1.
      ddof: of the group's standard deviation.
      epsilon: added to the standard deviation.

    Returns:
      An `Estimator`.

    Source: "Arbitrary entropy policy optimization", arXiv 2510.08141, its released code.
    """
    return Estimator(
        name="aepo",
        advantage=_normalised(ddof, epsilon),
        smallest_group=2,
        stabiliser=stabilisers.dual_clip(clip, clip, bound),
        aggregate=aggregates.decision_mean,
    )


@recorded
def gspo(
    lower: float = 3e-4, upper: float = 4e-4, *, ddof: int = 1, epsilon: float = 1e-6
) -> Estimator:
    """GRPO with the length-normalised probability ratio of the whole sequence.

    Args:
      lower: the sequence ratio is cut below `1 - lower`.
      upper: the sequence ratio is cut above `1 + upper`.
      ddof: of the group's standard deviation.
      epsilon: added to the standard deviation.

    Returns:
      An `Estimator`.

    Source: Zheng et al. 2025, "Group Sequence Policy Optimization", eq. 5 to 7.
    """
    return Estimator(
        name="gspo",
        advantage=_normalised(ddof, epsilon),
        smallest_group=2,
        likelihood=likelihoods.sequence_mean,
        reference=references.behaviour_sequence,
        stabiliser=stabilisers.clip(lower, upper),
        aggregate=aggregates.sequence_mean,
        whole_rows=True,
    )


@recorded
def cispo(upper: float = 0.28, *, ddof: int = 1, epsilon: float = 1e-6) -> Estimator:
    """Clipped importance sampling: the weight is cut, the gradient of every token stays.

    Args:
      upper: the weight is `min(r, 1 + upper)`.
      ddof: of the group's standard deviation.
      epsilon: added to the standard deviation.

    Returns:
      An `Estimator`.

    Source: MiniMax 2025, "MiniMax-M1", eq. 4 and 5. The unified table of Lv et al. 2025
    (arXiv 2509.04419) writes another form, `cispo_masked`; on cut tokens the gradients differ.
    """
    return Estimator(
        name="cispo",
        advantage=_normalised(ddof, epsilon),
        smallest_group=2,
        reference=references.truncated_behaviour(upper),
        aggregate=aggregates.decision_mean,
    )


@recorded
def cispo_masked(
    lower: float = 0.2, upper: float = 0.28, *, ddof: int = 1, epsilon: float = 1e-6
) -> Estimator:
    """CISPO as a mask on the clip's set, the form of the unified table.

    Args:
      lower: bound below 1.
      upper: bound above 1.
      ddof: of the group's standard deviation.
      epsilon: added to the standard deviation.

    Returns:
      An `Estimator`.

    Source: Lv et al. 2025, "Towards a unified view of LLM post-training", table 1.
    """
    return Estimator(
        name="cispo_masked",
        advantage=_normalised(ddof, epsilon),
        smallest_group=2,
        stabiliser=stabilisers.clip(lower, upper),
        aggregate=aggregates.decision_mean,
    )


@recorded
def reinforce_whitened(clip: float = 0.2, *, ddof: int = 0, epsilon: float = 1e-8) -> Estimator:
    """REINFORCE++: rewards whitened over the whole batch, PPO's clip, no groups.

    Args:
      clip: the ratio is cut outside of `[1 - clip, 1 + clip]`.
      ddof: of the batch's standard deviation.
      epsilon: added to the standard deviation.

    Returns:
      An `Estimator`.

    Source: Hu 2025, "REINFORCE++", section 3.
    """

    def advantage(trajectory: Trajectory) -> Array:
        rows = jnp.any(trajectory.mask > 0, axis=-1)
        return advantages.whiten(trajectory.total_reward, rows, ddof=ddof, epsilon=epsilon)

    return Estimator(
        name="reinforce_whitened",
        advantage=advantage,
        stabiliser=stabilisers.clip(clip),
        aggregate=aggregates.decision_mean,
    )


def _on_groups(primitive: Callable[..., Array]) -> Callable[[Trajectory], Array]:
    # A row without a real decision is padding: its reward of 0 belongs to no group.
    return lambda trajectory: primitive(
        trajectory.total_reward,
        trajectory.group_ids,
        trajectory.num_rows,
        valid=jnp.any(trajectory.mask > 0, axis=-1),
    )


def _normalised(ddof: int, epsilon: float) -> Callable[[Trajectory], Array]:
    return _on_groups(functools.partial(advantages.group_normalised, ddof=ddof, epsilon=epsilon))
