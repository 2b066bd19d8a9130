"""Estimators on returns and learned values: REINFORCE, A2C, PPO, IMPALA."""

from __future__ import annotations

import jax.numpy as jnp

from jaxpg.description import recorded
from jaxpg.estimator import Estimator
from jaxpg.parts import advantages, aggregates, references, regularisers, stabilisers
from jaxpg.types import Array, Trajectory

VALUES = ("value", "next_value")


@recorded
def reinforce(discount: float = 0.99, entropy: float = 0.0) -> Estimator:
    """REINFORCE with the return from each decision on, no baseline.

    A decision whose episode does not end inside its row has an unknown return and is left out
    of the mean.

    Args:
      discount: in [0, 1].
      entropy: coefficient of the entropy bonus.

    Returns:
      An `Estimator`.

    Source: Williams 1992, "Simple statistical gradient-following algorithms".
    """

    def advantage(trajectory: Trajectory) -> dict[str, Array]:
        returns = _returns(trajectory, discount)
        return {"advantage": returns, "complete": _complete(trajectory)}

    return Estimator(
        name="reinforce",
        advantage=advantage,
        reference=references.detached,
        stabiliser=stabilisers.selected("complete"),
        aggregate=aggregates.selected_mean,
        regularisers=_entropy(entropy),
    )


@recorded
def reinforce_batch_mean(discount: float = 1.0, entropy: float = 0.0) -> Estimator:
    """REINFORCE with the mean return of the other rows at the same decision as its baseline.

    For episodes that begin together and end inside their rows; a decision whose episode does not is
    left out of the mean.

    Args:
      discount: in [0, 1].
      entropy: coefficient of the entropy bonus.

    Returns:
      An `Estimator`.

    Source: the score-function baseline of HDPO, Alvo et al. 2023 (arXiv 2306.11246), whose exact
    variants are not known; leave-one-out keeps it unbiased.
    """

    def advantage(trajectory: Trajectory) -> dict[str, Array]:
        complete = _complete(trajectory) * trajectory.mask
        returns = _returns(trajectory, discount)
        return {
            "advantage": advantages.over_others_in_time(returns, complete),
            "complete": complete,
        }

    return Estimator(
        name="reinforce_batch_mean",
        advantage=advantage,
        reference=references.detached,
        stabiliser=stabilisers.selected("complete"),
        aggregate=aggregates.selected_mean,
        regularisers=_entropy(entropy),
    )


@recorded
def reinforce_with_baseline(
    discount: float = 0.99, value: float = 0.5, entropy: float = 0.0
) -> Estimator:
    """REINFORCE with the return minus a learned value, bootstrapped where a row is cut.

    Args:
      discount: in [0, 1].
      value: coefficient of the critic's loss.
      entropy: coefficient of the entropy bonus.

    Returns:
      An `Estimator`.

    Source: Williams 1992; Sutton and Barto 2018, section 13.4.
    """

    def advantage(trajectory: Trajectory) -> dict[str, Array]:
        returns = _returns(trajectory, discount, trajectory.extra("next_value"))
        return {"advantage": returns - trajectory.extra("value"), "value_target": returns}

    return Estimator(
        name="reinforce_with_baseline",
        advantage=advantage,
        reference=references.detached,
        regularisers=(regularisers.critic(value), *_entropy(entropy)),
        needs=VALUES,
    )


@recorded
def a2c(
    discount: float = 0.99, trace_decay: float = 1.0, value: float = 0.5, entropy: float = 0.01
) -> Estimator:
    """Advantage actor-critic, the synchronous form of A3C.

    Args:
      discount: in [0, 1].
      trace_decay: lambda of the advantage; 1 is the n-step advantage of the source.
      value: coefficient of the critic's loss.
      entropy: coefficient of the entropy bonus.

    Returns:
      An `Estimator`.

    Source: Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning".
    """
    return Estimator(
        name="a2c",
        advantage=_generalised(discount, trace_decay, normalise=False),
        reference=references.detached,
        regularisers=(regularisers.critic(value), *_entropy(entropy)),
        needs=VALUES,
    )


@recorded
def ppo(
    clip: float = 0.2,
    *,
    discount: float = 0.99,
    trace_decay: float = 0.95,
    normalise: bool = True,
    value: float = 0.5,
    value_clip: float | None = None,
    entropy: float = 0.01,
) -> Estimator:
    """Proximal policy optimisation with the clipped surrogate.

    The gradient of `min(r A, clip(r) A)` is `r A grad log pi` where the clip does not bind and 0
    where it does, so the surrogate is a ratio with a 0-1 weight.

    Args:
      clip: the ratio is cut outside of `[1 - clip, 1 + clip]`.
      discount: in [0, 1].
      trace_decay: lambda of the generalised advantage.
      normalise: whiten the advantages over the whole batch of all devices.
      value: coefficient of the critic's loss.
      value_clip: see `regularisers.critic`; None does not clip.
      entropy: coefficient of the entropy bonus.

    Returns:
      An `Estimator`.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7 and 9.
    """
    return Estimator(
        name="ppo",
        advantage=_generalised(discount, trace_decay, normalise),
        stabiliser=stabilisers.clip(clip),
        regularisers=(regularisers.critic(value, value_clip), *_entropy(entropy)),
        needs=VALUES,
    )


@recorded
def ppo_penalty(
    coefficient: float | str = 1.0,
    *,
    discount: float = 0.99,
    trace_decay: float = 0.95,
    normalise: bool = True,
    value: float = 0.5,
    entropy: float = 0.01,
) -> Estimator:
    """PPO with a penalty on KL(behaviour || policy) instead of the clip.

    `methods.ppo_adaptive_penalty` adapts the coefficient.

    Args:
      coefficient: of the penalty, or the name of the extra that holds it.
      discount: in [0, 1].
      trace_decay: lambda of the generalised advantage.
      normalise: whiten the advantages over the whole batch.
      value: coefficient of the critic's loss.
      entropy: coefficient of the entropy bonus.

    Returns:
      An `Estimator`.

    Source: Schulman et al. 2017, eq. 8.
    """
    terms = (regularisers.behaviour_kl(coefficient), regularisers.critic(value))
    return Estimator(
        name="ppo_penalty",
        advantage=_generalised(discount, trace_decay, normalise),
        regularisers=(*terms, *_entropy(entropy)),
        needs=VALUES,
    )


@recorded
def impala(
    discount: float = 0.99,
    *,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    value: float = 0.5,
    entropy: float = 0.01,
) -> Estimator:
    """V-trace actor-critic for data of an older policy.

    Args:
      discount: in [0, 1].
      clip_rho: bound of the ratio in the temporal differences and the policy gradient.
      clip_c: bound of the ratio in the trace.
      value: coefficient of the critic's loss.
      entropy: coefficient of the entropy bonus.

    Returns:
      An `Estimator`.

    Source: Espeholt et al. 2018, "IMPALA", section 4.
    """

    def advantage(trajectory: Trajectory) -> dict[str, Array]:
        target, corrected = advantages.v_trace(
            trajectory.extra("current_log_prob") - trajectory.log_prob,
            trajectory.reward,
            trajectory.extra("value"),
            trajectory.extra("next_value"),
            trajectory.terminated,
            trajectory.truncated,
            trajectory.mask,
            discount=discount,
            clip_rho=clip_rho,
            clip_c=clip_c,
        )
        return {"advantage": corrected, "value_target": target}

    return Estimator(
        name="impala",
        advantage=advantage,
        reference=references.detached,
        regularisers=(regularisers.critic(value), *_entropy(entropy)),
        needs=(*VALUES, "current_log_prob"),
    )


def _entropy(coefficient: float) -> tuple[regularisers.Regulariser, ...]:
    # A traced coefficient is kept: only a plain 0 means "no bonus".
    if isinstance(coefficient, int | float) and coefficient == 0:
        return ()
    return (regularisers.entropy(coefficient),)


def _generalised(discount: float, trace_decay: float, normalise: bool):
    def advantage(trajectory: Trajectory) -> dict[str, Array]:
        value = trajectory.extra("value")
        estimate = advantages.generalised_advantage(
            trajectory.reward,
            value,
            trajectory.extra("next_value"),
            trajectory.terminated,
            trajectory.truncated,
            trajectory.mask,
            discount=discount,
            trace_decay=trace_decay,
        )
        whitened = advantages.whiten(estimate, trajectory.mask) if normalise else estimate
        return {"advantage": whitened, "value_target": estimate + value}

    return advantage


def _returns(trajectory: Trajectory, discount: float, next_value: Array | None = None) -> Array:
    return advantages.discounted_return(
        trajectory.reward,
        trajectory.terminated,
        trajectory.truncated,
        trajectory.mask,
        next_value,
        discount=discount,
    )


def _complete(trajectory: Trajectory) -> Array:
    """1 where the episode of a decision ends inside the row."""
    ends = (trajectory.terminated | trajectory.truncated) & (trajectory.mask > 0)
    later_ends = jnp.flip(jnp.cumsum(jnp.flip(ends, -1), -1), -1)
    return (later_ends > 0).astype(trajectory.reward.dtype)
