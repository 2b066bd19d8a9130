"""A learned update rule in the place of an advantage estimate and a value target."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg.description import recorded
from jaxpg.estimator import Estimator
from jaxpg.losses import learned_rule as losses
from jaxpg.networks.lpg import LearnedRule
from jaxpg.parts import references
from jaxpg.parts.regularisers import Regulariser
from jaxpg.types import Array, Evaluation, PyTree, Trajectory


@recorded
def learned(rule: LearnedRule, params: PyTree, target: float = 0.5) -> Estimator:
    """The update of a learned policy gradient (LPG), for agents that it has never seen.

    The rule reads a row backwards and says how to change the probability of each action and what
    the critic, a categorical predictor without a given meaning, is to say.

    Args:
      rule: see `networks.lpg.learned_rule`.
      params: of the rule, as meta-learned.
      target: coefficient of the divergence of the critic from its target, at least 0.

    Returns:
      An `Estimator` for networks with `critic_outputs=rule.num_targets`. Rows have to be whole
      when they are scored, as those of `algorithms.on_policy` are.

    Source: LPG, Oh et al. 2020 (arXiv 2007.08794), in the form of GROOVE, Jackson et al. 2023
    (arXiv 2310.02782).
    """

    def advantage(trajectory: Trajectory) -> dict[str, Array]:
        update, targets = rule.apply(
            params,
            trajectory.reward,
            (trajectory.terminated | trajectory.truncated).astype(jnp.float32),
            jnp.exp(trajectory.log_prob),
            jax.nn.softmax(trajectory.extra("value")),
            jax.nn.softmax(trajectory.extra("next_value")),
        )
        # The rule's update is of a loss: minus it is an advantage.
        return {"advantage": -update, "target": targets}

    def divergence(evaluation: Evaluation, trajectory: Trajectory) -> Array:
        return losses.divergence(jax.nn.softmax(evaluation.value), trajectory.extra("target"))

    return Estimator(
        name="learned",
        advantage=advantage,
        reference=references.detached,
        regularisers=(Regulariser("target_divergence", target, divergence),),
        needs=("value", "next_value"),
    )
