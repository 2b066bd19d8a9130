"""DCPO: overrides `score` (the pull towards a tempered self) and `after` (the entropy)."""

from __future__ import annotations

import jax.numpy as jnp

from jaxpg import estimators, parallel
from jaxpg.choices import at_least
from jaxpg.description import recorded
from jaxpg.method import Method, Seams
from jaxpg.parts import entropy_control
from jaxpg.types import Array, Metrics, PyTree, Trajectory


@recorded
def dcpo(
    target_entropy: float = 0.5,
    high: float = 1.2,
    low: float = 0.8,
    *,
    largest_distance: float = 0.1,
    success: float = 1.0,
    **estimator: float,
) -> Method:
    """Distribution-centric policy optimisation: AEPO's control on the rows of one rollout.

    The tokens of correct rows are weighted by how much likelier the tempered policy makes them,
    the more the further the entropy is from its target.

    Args:
      target_entropy: nats for each token, above 0.
      high: temperature up to the target, for training at temperature 1.
      low: temperature above the target, at most `high`.
      largest_distance: of the entropy from its target, beyond which the pull no longer grows; nats,
        at least 0. At 0 it is GRPO.
      success: a reward of at least this is correct.
      **estimator: of `estimators.aepo`.

    Returns:
      A `Method` whose state is the entropy, 0 at first. Metrics besides the estimator's:
      `entropy_estimate`, `temperature`, `distribution_weight`.

    Raises:
      ValueError: a setting out of range.

    Source: the code released with "Arbitrary entropy policy optimization", arXiv 2510.08141.
    """
    entropy_control.check_target(target_entropy, high, low)
    at_least("largest_distance", largest_distance, 0)

    def right(rows: Trajectory) -> Array:
        return (rows.total_reward >= success) & jnp.any(rows.mask > 0, axis=-1)

    def weight_of(rows: Trajectory, entropy: Array) -> Array:
        counts = jnp.sum(right(rows)), jnp.sum(jnp.any(rows.mask > 0, axis=-1))
        correct, real = parallel.total(counts)
        share = correct / jnp.maximum(real, 1)
        return entropy_control.distribution_weight(entropy, target_entropy, share, largest_distance)

    def override(seams: Seams) -> Seams:
        def score(params: PyTree, rows: Trajectory, state: Array) -> Trajectory:
            rows = seams.score(params, rows, state)
            now = entropy_control.temperature(state, target_entropy, high, low)
            tempered = seams.evaluate(params, rows, temperature=now).log_prob
            real = rows.mask > 0
            advantage = entropy_control.distribution_centric(
                rows.extra("advantage"),
                right(rows),
                jnp.where(real, rows.log_prob, 0.0),
                jnp.where(real, tempered, 0.0),
                weight_of(rows, state),
            )
            return rows.with_extras(advantage=jnp.where(real, advantage, 0.0))

        def after(
            params: PyTree, rows: Trajectory, metrics: Metrics, state: Array
        ) -> tuple[Array, Metrics]:
            entropy = entropy_control.sampled_entropy(rows.log_prob, rows.mask)
            return entropy, {
                "entropy_estimate": entropy,
                "temperature": entropy_control.temperature(state, target_entropy, high, low),
                "distribution_weight": weight_of(rows, state),
            }

        return seams._replace(init=lambda key, params: jnp.zeros(()), score=score, after=after)

    return Method("dcpo", estimators.aepo(**estimator), override, keeps_groups=True)
