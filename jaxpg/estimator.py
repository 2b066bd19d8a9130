"""The estimator algebra: a policy-gradient loss from four parts, an aggregation and regularisers.

loss = - aggregate[ stabiliser * exp(log pi_theta - log pi_ref) * advantage ]
       + sum_k coefficient_k * regulariser_k
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxpg.losses.divergences import LARGEST_EXPONENT
from jaxpg.parts import aggregates, likelihoods, references, stabilisers
from jaxpg.parts.regularisers import Regulariser
from jaxpg.types import (
    DEMONSTRATION,
    OWN_ROLLOUT,
    SELECTED,
    Array,
    Evaluation,
    Metrics,
    Trajectory,
)


@dataclasses.dataclass(frozen=True)
class Estimator:
    """A policy-gradient estimator, composed of pure functions.

    Attributes:
      name: what tables and metrics call it.
      advantage: `(trajectory) -> [B, T]` or `[B]`, computed once for each batch; or a dict of
        extras with at least `"advantage"` (an estimator with a critic adds `"value_target"`).
      likelihood: `(log_prob, mask) -> [B, T]`, see `parts.likelihoods`.
      reference: `(log_likelihood, trajectory) -> [B, T]`, see `parts.references`.
      stabiliser: `(log_ratio, advantage, trajectory) -> [B, T]`, see `parts.stabilisers`.
      aggregate: `(values, mask, weight=None, selected=None) -> scalar`, see `parts.aggregates`.
      regularisers: named terms added to the loss.
      needs: extras that `advantage` reads and that the `score` seam has to provide; `"value"`
        asks for a critic.
      whole_rows: the loss depends on whole rows, so a minibatch may not cut them.
      smallest_group: rows that a group needs before the advantage can be anything but 0.
      source: of the rows that the estimator learns from, `OWN_ROLLOUT` or `DEMONSTRATION`.
      settings: the numbers that the parts were made with, plain values, see
        `description.recorded`; a checkpoint of other settings is refused.
    """

    name: str
    advantage: Callable[[Trajectory], Array | Mapping[str, Array]]
    likelihood: likelihoods.Likelihood = likelihoods.decision
    reference: references.Reference = references.behaviour
    stabiliser: stabilisers.Stabiliser = stabilisers.none
    aggregate: aggregates.Aggregate = aggregates.decision_mean
    regularisers: tuple[Regulariser, ...] = ()
    needs: tuple[str, ...] = ()
    whole_rows: bool = False
    smallest_group: int = 1
    source: int = OWN_ROLLOUT
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def plus(self, *regularisers: Regulariser) -> Estimator:
        """Returns this estimator with more regularisers.

        Args:
          *regularisers: of `parts.regularisers`, or your own.

        Returns:
          An `Estimator`.

        Raises:
          ValueError: two regularisers would report under one name.
        """
        both = self.regularisers + regularisers
        names = [regulariser.name for regulariser in both]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"regularisers hold {twice[0]!r} twice, but each reports a metric under its name: "
                f"give one of them another name with dataclasses.replace"
            )
        return dataclasses.replace(self, regularisers=both)

    @property
    def required_extras(self) -> tuple[str, ...]:
        """Extras that the parts read, in order of appearance, without repetition."""
        every = self.needs + tuple(name for part in self.regularisers for name in part.needs)
        return tuple(dict.fromkeys(every))

    @property
    def needs_critic(self) -> bool:
        """Whether a part reads values."""
        return "value" in self.required_extras

    def score(self, trajectory: Trajectory) -> Trajectory:
        """Adds the extra `advantage` (and what else the advantage part returns).

        Args:
          trajectory: with the extras that the advantage part reads.

        Returns:
          The trajectory; nothing that was added carries a gradient.
        """
        result = self.advantage(_without_padding(trajectory))
        added = dict(result) if isinstance(result, Mapping) else {"advantage": result}
        advantage = added["advantage"]
        if advantage.ndim == 1:
            advantage = jnp.broadcast_to(advantage[:, None], trajectory.mask.shape)
        added["advantage"] = jnp.where(trajectory.mask > 0, advantage, 0.0)
        return trajectory.with_extras(**jax.lax.stop_gradient(added))

    def loss(self, evaluation: Evaluation, trajectory: Trajectory) -> tuple[Array, Metrics]:
        """The loss whose gradient is minus the policy-gradient estimate.

        The extra `selected` (`[B, T]`, 0 or 1), where a method's `select` left one, takes decisions
        out of every term and count. They stay parts of their rows' likelihoods.

        Args:
          evaluation: what the current parameters say about the trajectory.
          trajectory: scored (`score` is called here if it was not yet).

        Returns:
          `(loss, metrics)`: a scalar, and scalars by name: `policy_loss`, each regulariser
          before its coefficient, `approximate_kl` (nats, behaviour to current policy),
          `masked_share` (share of decisions that the stabiliser set to 0), `entropy` where known.
        """
        if "advantage" not in trajectory.extras:
            trajectory = self.score(trajectory)
        trajectory = _without_padding(trajectory)
        mask = trajectory.mask
        chex.assert_equal_shape([evaluation.log_prob, mask])
        real = mask > 0
        log_prob = jnp.where(real, evaluation.log_prob, 0.0)
        advantage = jax.lax.stop_gradient(trajectory.extra("advantage"))
        log_likelihood = jnp.where(real, self.likelihood(log_prob, mask), 0.0)
        fixed = jax.lax.stop_gradient(log_likelihood)
        reference = jax.lax.stop_gradient(self.reference(fixed, trajectory))
        log_ratio = jnp.where(real, log_likelihood - reference, 0.0)
        weight = self.stabiliser(jax.lax.stop_gradient(log_ratio), advantage, trajectory)
        weight = jax.lax.stop_gradient(weight)
        # A cut decision may have an infinite ratio; 0 * inf would be NaN.
        safe = jnp.where(weight != 0, log_ratio, 0.0)
        ratio = jnp.exp(jnp.minimum(safe, LARGEST_EXPONENT))
        chosen = {"selected": trajectory.extras[SELECTED]} if SELECTED in trajectory.extras else {}
        policy_loss = -self.aggregate(weight * ratio * advantage, mask, weight, **chosen)

        metrics = {"policy_loss": policy_loss}
        loss = policy_loss
        for part in self.regularisers:
            aggregate = part.aggregate or self.aggregate
            term = part.term(evaluation, trajectory)
            term = aggregate(term, part.mask(trajectory), weight, **chosen)
            metrics[part.name] = term
            loss = loss + part.scale(trajectory) * term
        metrics |= _diagnostics(evaluation, log_prob, trajectory, weight)
        return loss, jax.lax.stop_gradient(metrics)


def policy_gradient_loss(
    estimator: Estimator, log_prob: Array, trajectory: Trajectory, **evaluation: Any
) -> Array:
    """Loss of an estimator for someone else's pipeline: log-probabilities in, scalar out.

    Args:
      estimator: for instance `estimators.grpo()`.
      log_prob: `[B, T]` float under the current policy; the gradient flows through it.
      trajectory: see `types.trajectory`, which builds one from plain arrays.
      **evaluation: further fields of `Evaluation`, for instance `value=`, `entropy=`.

    Returns:
      Scalar.
    """
    return estimator.loss(Evaluation(log_prob, **evaluation), trajectory)[0]


def _without_padding(trajectory: Trajectory) -> Trajectory:
    """Zeros what stands on padding, so that NaN or absurd numbers there reach nothing."""
    real = trajectory.mask > 0

    def clean(leaf: Any) -> Any:
        if getattr(leaf, "shape", ())[:2] != real.shape or not jnp.issubdtype(
            jnp.result_type(leaf), jnp.floating
        ):
            return leaf
        return jnp.where(real.reshape(real.shape + (1,) * (leaf.ndim - 2)), leaf, 0.0)

    return trajectory.replace(
        log_prob=clean(trajectory.log_prob),
        reward=clean(trajectory.reward),
        extras=jax.tree.map(clean, dict(trajectory.extras)),
    )


def _diagnostics(
    evaluation: Evaluation, log_prob: Array, trajectory: Trajectory, weight: Array
) -> Metrics:
    log_ratio = jax.lax.stop_gradient(log_prob - trajectory.log_prob)
    bounded = jnp.minimum(log_ratio, LARGEST_EXPONENT)
    mean = aggregates.decision_mean
    # Nobody knows what probability a demonstration had where it came from.
    sampled = trajectory.mask * (trajectory.of_rows(trajectory.source) != DEMONSTRATION)
    metrics = {
        "approximate_kl": mean(jnp.expm1(bounded) - log_ratio, sampled),
        "masked_share": mean((weight == 0).astype(log_prob.dtype), trajectory.mask),
    }
    if evaluation.entropy is not None:
        metrics["entropy"] = mean(evaluation.entropy, trajectory.mask)
    return metrics
