"""PPO with an adaptive KL penalty: overrides `score` (to hand out) and `after` (to adapt)."""

from __future__ import annotations

import jax.numpy as jnp

from jaxpg.description import recorded
from jaxpg.estimators import ppo_penalty
from jaxpg.method import Method, Seams
from jaxpg.types import Array, Metrics, PyTree, Trajectory

COEFFICIENT = "penalty_coefficient"


def adapt_penalty(coefficient: Array, kl: Array, target_kl: float) -> Array:
    """Doubles the coefficient after too large a step and halves it after too small a one.

    Args:
      coefficient: scalar, above 0.
      kl: KL(behaviour || policy) of the update, nats.
      target_kl: nats.

    Returns:
      Scalar: doubled above 1.5 target_kl, halved below target_kl / 1.5.

    Source: Schulman et al. 2017, section 4.

    >>> [float(adapt_penalty(1.0, kl, 0.01)) for kl in (0.001, 0.01, 0.1)]
    [0.5, 1.0, 2.0]
    """
    doubled = jnp.where(kl > 1.5 * target_kl, 2.0 * coefficient, coefficient)
    return jnp.where(kl < target_kl / 1.5, 0.5 * coefficient, doubled)


@recorded
def ppo_adaptive_penalty(
    target_kl: float = 0.01, initial_coefficient: float = 1.0, **estimator: float
) -> Method:
    """Proximal policy optimisation with the penalty form and its adaptive coefficient.

    Args:
      target_kl: nats; what the penalty is steered to.
      initial_coefficient: of the first update.
      **estimator: of `estimators.ppo_penalty`.

    Returns:
      A `Method` whose state is the coefficient.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", section 4.
    """

    def override(seams: Seams) -> Seams:
        def score(params: PyTree, trajectory: Trajectory, state: Array) -> Trajectory:
            handed_out = jnp.broadcast_to(state, trajectory.mask.shape[:1])
            return seams.score(params, trajectory, state).with_extras(**{COEFFICIENT: handed_out})

        def after(
            params: PyTree, trajectory: Trajectory, metrics: Metrics, state: Array
        ) -> tuple[Array, Metrics]:
            adapted = adapt_penalty(state, metrics["behaviour_kl"], target_kl)
            return adapted, {COEFFICIENT: state}

        return seams._replace(
            init=lambda key, params: jnp.asarray(initial_coefficient, jnp.float32),
            score=score,
            after=after,
        )

    return Method(
        "ppo_adaptive_penalty", ppo_penalty(COEFFICIENT, **estimator), override, keeps_groups=True
    )
