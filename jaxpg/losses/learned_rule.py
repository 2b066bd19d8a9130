"""What a learned update rule does to an agent, and what the rule itself is judged by.

An agent has a policy and a predictor `y` of a categorical target; its own loss, `inner_loss`, is
made of what the rule says (`networks.learned_rule`). The rule learns from the agent's return after
some of these updates, `meta_policy_loss`, beside a few `meta_regularisers`.

Everything here is about one agent, `vmap` it over agents: means are never taken over agents, nor
over devices, which hold different ones. A mask, where given, is 1 where a step is real; what stands
elsewhere may be anything, NaN included, and an empty mask gives 0.

Source: GROOVE, Jackson et al. 2023 (arXiv 2310.02782); LPG, Oh et al. 2020 (arXiv 2007.08794).
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpg.types import Array

EPSILON = 1e-8
"""Added to every probability before its logarithm: a probability of 0 has finite gradients."""


class MetaCoefficients(NamedTuple):
    """How much each regulariser of the rule weighs; all at least 0.

    Attributes:
      policy_entropy: of the entropy of the agents' policies, which is rewarded.
      target_entropy: of the entropy of the agents' predictors, which is rewarded.
      policy_update: of the squares of what the rule says to the policy.
      target_update: of the squares of the target that it gives.

    Source: LPG, Oh et al. 2020 (arXiv 2007.08794), with GROOVE's numbers.
    """

    policy_entropy: float | Array = 0.05
    target_entropy: float | Array = 1e-3
    policy_update: float | Array = 5e-3
    target_update: float | Array = 1e-3


META_COEFFICIENTS = MetaCoefficients()


def divergence(probabilities: Array, reference: Array) -> Array:
    """`KL(probabilities || reference)` of categorical distributions.

    Args:
      probabilities: `[..., m]` float, on the simplex.
      reference: `[..., m]` float, on the simplex.

    Returns:
      `[...]` float, in nats, at most `-log(1e-8)`; exactly 0 where the two are equal.

    >>> divergence(jnp.array([0.8, 0.2]), jnp.array([0.5, 0.5])).item()
    0.192745
    """
    chex.assert_equal_shape([probabilities, reference])
    return jnp.sum(probabilities * (_log(probabilities) - _log(reference)), axis=-1)


def entropy(probabilities: Array) -> Array:
    """Entropy of categorical distributions.

    Args:
      probabilities: `[..., m]` float, on the simplex.

    Returns:
      `[...]` float, in nats.

    >>> entropy(jnp.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [0.693147, 0.0]
    """
    return -jnp.sum(probabilities * _log(probabilities), axis=-1)


def inner_loss(
    probabilities: Array,
    targets: Array,
    policy_update: Array,
    target_update: Array,
    mask: Array | None = None,
    *,
    target_coefficient: float | Array = 0.5,
) -> tuple[Array, dict[str, Array]]:
    """Loss by which an agent learns from a learned rule.

    `mean[policy_update log(pi + 1e-8)] + target_coefficient mean[KL(y || target_update)]`. It is
    minimised: a negative `policy_update` makes its action more likely, and with `policy_update =
    -A` and a coefficient of 0 this is REINFORCE with the advantage A. What the rule says is not
    stopped here, so that an outer gradient reaches the rule; for the agent's own gradient it is a
    constant, because `networks.learned_rule` stops its inputs.

    Args:
      probabilities: `[N, T]` float, of the action taken under the policy that learns.
      targets: `[N, T, m]` float, the predictions y of the predictor that learns, on the simplex.
      policy_update: `[N, T]` float, of the rule.
      target_update: `[N, T, m]` float, of the rule, on the simplex.
      mask: `[N, T]`, 1 where a step is real; None takes all.
      target_coefficient: of the divergence, at least 0.

    Returns:
      `(loss, terms)`, scalars: terms are `policy` and `target` (nats), without the coefficient.

    Source: LPG, Oh et al. 2020 (arXiv 2007.08794), with GROOVE's signs and numbers.

    >>> y = jnp.array([[[0.8, 0.2]]])
    >>> loss, terms = inner_loss(jnp.array([[0.5]]), y, jnp.array([[-2.0]]), jnp.full_like(y, 0.5))
    >>> loss.item(), terms["policy"].item(), terms["target"].item()
    (1.48267, 1.38629, 0.192745)
    """
    chex.assert_rank([probabilities, targets], [2, 3])
    real = _real(policy_update, mask)
    chex.assert_equal_shape([probabilities, policy_update, real])
    chex.assert_equal_shape([targets, target_update])
    chex.assert_shape(targets, (*real.shape, None))
    weighted = _kept(policy_update, real) * _log(_kept(probabilities, real))
    apart = divergence(_kept(targets, real), _kept(target_update, real))
    terms = {"policy": _mean(weighted, real), "target": _mean(apart, real)}
    return terms["policy"] + target_coefficient * terms["target"], terms


def meta_policy_loss(probabilities: Array, advantages: Array, mask: Array | None = None) -> Array:
    """Loss of the rule: minus what the updated policy gains on a rollout of its own.

    Args:
      probabilities: `[N, T]` float, of the action taken under the updated policy, through whose
        parameters the gradient reaches the rule.
      advantages: `[N, T]` float, of the actions, see `normalised`; constants to the gradient.
      mask: `[N, T]`, 1 where a step is real; None takes all.

    Returns:
      Scalar, `-mean[log(pi + 1e-8) A]`.

    Source: GROOVE, Jackson et al. 2023 (arXiv 2310.02782); LPG, Oh et al. 2020 (arXiv 2007.08794).

    >>> meta_policy_loss(jnp.array([[0.5, 0.25]]), jnp.array([[1.0, -1.0]])).item()
    -0.346574
    """
    chex.assert_rank(probabilities, 2)
    real = _real(advantages, mask)
    chex.assert_equal_shape([probabilities, advantages, real])
    advantages = jax.lax.stop_gradient(_kept(advantages, real))
    return -_mean(_log(_kept(probabilities, real)) * advantages, real)


def meta_regularisers(
    policies: Array,
    targets: Array,
    policy_update: Array,
    target_update: Array,
    mask: Array | None = None,
    coefficients: MetaCoefficients = META_COEFFICIENTS,
) -> tuple[Array, dict[str, Array]]:
    """What is added to `meta_policy_loss` so that rules stay gentle and agents explore.

    Over several inner updates, give them as leading axes or average the results: either is the
    same when no step is masked.

    Args:
      policies: `[..., N, T, num_actions]` float, of the policy after the update at the rollout's
        observations, on the simplex.
      targets: `[..., N, T, m]` float, of the predictor after the update there, on the simplex.
      policy_update: `[..., N, T]` float, what the rule said for the update.
      target_update: `[..., N, T, m]` float, likewise.
      mask: `[..., N, T]`, 1 where a step is real; None takes all.
      coefficients: see `MetaCoefficients`.

    Returns:
      `(loss, terms)`, scalars: terms are the means `policy_entropy` and `target_entropy` (nats),
      `policy_update` (squares) and `target_update` (squares, summed over the m entries), all
      without sign and coefficient; the entropies are subtracted, the squares added.

    Source: LPG, Oh et al. 2020 (arXiv 2007.08794), with GROOVE's numbers.

    >>> even = jnp.full((1, 1, 2), 0.5)
    >>> loss, terms = meta_regularisers(even, even, jnp.array([[3.0]]), even)
    >>> loss.item(), [round(terms[name].item(), 4) for name in MetaCoefficients._fields]
    (0.010149, [0.6931, 0.6931, 9.0, 0.5])
    """
    real = _real(policy_update, mask)
    chex.assert_equal_shape([policy_update, real])
    chex.assert_equal_shape([targets, target_update])
    chex.assert_equal_shape_prefix([policies, targets, policy_update], policy_update.ndim)
    chex.assert_rank([policies, targets], policy_update.ndim + 1)
    terms = {
        "policy_entropy": _mean(entropy(_kept(policies, real)), real),
        "target_entropy": _mean(entropy(_kept(targets, real)), real),
        "policy_update": _mean(_kept(policy_update, real) ** 2, real),
        "target_update": _mean(jnp.sum(_kept(target_update, real) ** 2, axis=-1), real),
    }
    signs = MetaCoefficients(-1.0, -1.0, 1.0, 1.0)
    loss = sum(
        sign * coefficient * terms[name]
        for name, sign, coefficient in zip(terms, signs, coefficients, strict=True)
    )
    return loss, terms


def normalised(advantages: Array, mask: Array | None = None) -> Array:
    """Advantages of one agent over their own mean and standard deviation.

    `parts.advantages.whiten` takes them over all devices, which is another agent's matter here.

    Args:
      advantages: `[N, T]` float.
      mask: `[N, T]`, 1 where a step is real; None takes all.

    Returns:
      `[N, T]` float, a constant to the gradient: population deviation plus 1e-8 below the line, 0
      where masked; equal advantages give exactly 0.

    >>> normalised(jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[-1.3416, -0.4472], [0.4472, 1.3416]]
    """
    chex.assert_rank(advantages, 2)
    real = _real(advantages, mask)
    chex.assert_equal_shape([advantages, real])
    safe = jax.lax.stop_gradient(jnp.where(real, advantages, 0.0))
    high = jnp.max(jnp.where(real, safe, -jnp.inf))
    low = jnp.min(jnp.where(real, safe, jnp.inf))
    # The mean of n equal floats need not be that float: say "no signal" exactly.
    centred = jnp.where(real & (high > low), safe - _mean(safe, real), 0.0)
    return centred / (jnp.sqrt(_mean(centred**2, real)) + EPSILON)


def _log(probabilities: Array) -> Array:
    return jnp.log(probabilities + EPSILON)


def _real(values: Array, mask: Array | None) -> Array:
    return jnp.ones(values.shape, bool) if mask is None else mask > 0


def _kept(values: Array, real: Array) -> Array:
    """Values of real steps; 1 elsewhere, whose functions and gradients are finite."""
    return jnp.where(jnp.expand_dims(real, tuple(range(real.ndim, values.ndim))), values, 1.0)


def _mean(values: Array, real: Array) -> Array:
    return jnp.sum(jnp.where(real, values, 0.0)) / jnp.maximum(jnp.sum(real), 1)
