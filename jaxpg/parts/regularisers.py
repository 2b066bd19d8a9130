"""Regularisers: named terms that are added to a policy-gradient loss, each with a coefficient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpg.losses import divergences, values
from jaxpg.parts.aggregates import Aggregate, decision_mean
from jaxpg.types import DEMONSTRATION, Array, Evaluation, Trajectory


@dataclasses.dataclass(frozen=True)
class Regulariser:
    """One named term of a loss.

    Attributes:
      name: of the metric that reports the term before its coefficient.
      coefficient: a number, or the name of a scalar or `[B]` extra that holds it (the same number
        in every row), so that a method can adapt it.
      term: `(evaluation, trajectory) -> [B, T]`, minimised.
      needs: extras that the term reads.
      aggregate: None takes the estimator's own, so that the term's weight against the policy
        term does not depend on lengths.
      source: of the rows that the term is about, such as `DEMONSTRATION`; None takes all.
    """

    name: str
    coefficient: float | str
    term: Callable[[Evaluation, Trajectory], Array]
    needs: tuple[str, ...] = ()
    aggregate: Aggregate | None = None
    source: int | None = None

    def mask(self, trajectory: Trajectory) -> Array:
        """`[B, T]`, 1 where a decision is real and the term is about it."""
        if self.source is None:
            return trajectory.mask
        return trajectory.mask * (trajectory.of_rows(trajectory.source) == self.source)

    def scale(self, trajectory: Trajectory) -> Array | float:
        """The coefficient, read from the trajectory if it is adaptive."""
        if isinstance(self.coefficient, str):
            return jnp.ravel(trajectory.extra(self.coefficient))[0]
        return self.coefficient


def entropy(coefficient: float | str = 0.01, *, aggregate: Aggregate | None = None) -> Regulariser:
    """Rewards entropy: the term is minus the entropy of each decision, in nats.

    Args:
      coefficient: at least 0.
      aggregate: see `Regulariser`.

    Returns:
      A regulariser whose metric `negative_entropy` is minus the mean entropy.
    """

    def term(evaluation: Evaluation, trajectory: Trajectory) -> Array:
        del trajectory
        return -_present(evaluation.entropy, "entropy")

    return Regulariser("negative_entropy", coefficient, term, aggregate=aggregate)


def imitation(
    coefficient: float | str = 1.0, *, aggregate: Aggregate = decision_mean
) -> Regulariser:
    """Raises the likelihood of the demonstrations in the batch: supervised fine-tuning as a term.

    Args:
      coefficient: at least 0.
      aggregate: over the decisions of the demonstrations; their mean by default.

    Returns:
      A regulariser whose metric `imitation` is the negative log-likelihood, nats; exactly 0, with
      no gradient, where the batch holds no demonstration.
    """

    def term(evaluation: Evaluation, trajectory: Trajectory) -> Array:
        return -jnp.where(trajectory.mask > 0, evaluation.log_prob, 0.0)

    return Regulariser("imitation", coefficient, term, aggregate=aggregate, source=DEMONSTRATION)


def kl(
    coefficient: float | str = 0.01,
    *,
    estimator: str = "k3",
    reference: str = "reference_log_prob",
    importance_weighted: bool = False,
) -> Regulariser:
    """Keeps the policy near a reference policy, by samples of the behaviour policy.

    Args:
      coefficient: at least 0, or the name of an extra.
      estimator: `"k1"`, `"k2"` or `"k3"`; see `losses.divergences` for their gradients.
      reference: name of the `[B, T]` extra with the reference's log-probabilities.
      importance_weighted: multiply by the stopped ratio pi/behaviour, which makes the expectation
        one under pi when the batch is stale.

    Returns:
      A regulariser whose metric `kl` is the estimate in nats.

    Raises:
      ValueError: an unknown `estimator`.
    """
    if estimator not in divergences.ESTIMATORS:
        raise ValueError(
            f"estimator is {estimator!r}, but the KL estimators are "
            f"{sorted(divergences.ESTIMATORS)}"
        )

    def term(evaluation: Evaluation, trajectory: Trajectory) -> Array:
        here = trajectory.mask > 0
        log_prob = jnp.where(here, evaluation.log_prob, 0.0)
        there = jnp.where(here, trajectory.extra(reference), 0.0)
        estimate = divergences.ESTIMATORS[estimator](log_prob, jax.lax.stop_gradient(there))
        if importance_weighted:
            acted = jnp.where(here, trajectory.log_prob, 0.0)
            ratio = jnp.exp(jnp.minimum(log_prob - acted, divergences.LARGEST_EXPONENT))
            estimate = jax.lax.stop_gradient(ratio) * estimate
        return estimate

    return Regulariser("kl", coefficient, term, needs=(reference,))


def behaviour_kl(coefficient: float | str = 1.0) -> Regulariser:
    """KL(behaviour || pi) from the behaviour policy's own samples, as in PPO's penalty form.

    Its gradient is exact in expectation: the samples are the behaviour policy's, which does not
    move.

    Args:
      coefficient: at least 0, or the name of an extra.

    Returns:
      A regulariser whose metric `behaviour_kl` is the k3 estimate in nats.
    """

    def term(evaluation: Evaluation, trajectory: Trajectory) -> Array:
        here = trajectory.mask > 0
        log_prob = jnp.where(here, evaluation.log_prob, 0.0)
        acted = jnp.where(here, trajectory.log_prob, 0.0)
        return divergences.k3(jax.lax.stop_gradient(acted), log_prob)

    return Regulariser("behaviour_kl", coefficient, term)


def critic(coefficient: float = 0.5, clip: float | None = None) -> Regulariser:
    """The critic's loss on the extra `value_target`.

    Args:
      coefficient: at least 0.
      clip: keeps the value within this distance of the value at collection, see
        `losses.values.clipped`; None does not.

    Returns:
      A regulariser whose metric `value_loss` is half the mean squared error.
    """

    def term(evaluation: Evaluation, trajectory: Trajectory) -> Array:
        real = trajectory.mask > 0
        value = jnp.where(real, _present(evaluation.value, "value"), 0.0)
        target = jnp.where(real, trajectory.extra("value_target"), 0.0)
        if clip is None:
            return values.squared(value, target)
        return values.clipped(value, target, jnp.where(real, trajectory.extra("value"), 0.0), clip)

    return Regulariser("value_loss", coefficient, term, needs=("value", "value_target"))


def _present(array: Array | None, name: str) -> Array:
    if array is None:
        raise ValueError(
            f"evaluation.{name} is None, but a regulariser reads it: the policy has to return it"
        )
    return array
