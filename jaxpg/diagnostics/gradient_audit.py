"""The gradient audit: estimators against the exact policy gradient of an enumerable problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.diagnostics.finite import Problem
from jaxpg.diagnostics.moments import moments
from jaxpg.diagnostics.report import Report, Result
from jaxpg.estimator import Estimator
from jaxpg.losses.divergences import LARGEST_EXPONENT
from jaxpg.method import Method
from jaxpg.parts import aggregates
from jaxpg.types import Array, Trajectory

DECISIONS_AT_ONCE = 2**17
"""Decisions whose gradients are computed together: as fast as more, at bounded memory."""

Audited = Estimator | Method


def audit(
    estimators: Audited | Sequence[Audited] | Mapping[str, Audited],
    problem: Problem,
    *,
    batch_size: int = 64,
    group_size: int = 8,
    num_batches: int = 2000,
    staleness: float = 0.0,
    regularisers: bool = False,
    seed: int = 0,
) -> Report:
    """Measures bias and variance of gradient estimators on batches sampled from a problem.

    All estimators see the same batches, so that they compare in pairs. An estimate is minus the
    gradient of the loss with respect to the policy's logits, times a constant that is known
    beforehand: `1 / (batch_size * w)`, where w is the mean weight that the aggregation and the
    likelihood give to a decision of a batch without padding. It takes out that one method averages
    where another one sums, and nothing else: on rows of unequal length a mean over decisions or
    over a row's length shows its bias. The exact gradient is that of the undiscounted expected
    return, so a discount below 1 shows up as a bias, too.

    Whether a bias is real is decided by `moments.significance`: an estimator counts as unbiased
    when its bias is within 4 standard errors of the mean over batches.

    Args:
      estimators: one, several, or several by name. Of a `Method` the estimator is audited: what
        it changes in other seams needs a training run.
      problem: `token_tree()`, `bandit()`, `tabular_mdp()` or `random_mdp()`.
      batch_size: rows of a batch.
      group_size: rows that share a start or prompt; divides `batch_size`.
      num_batches: at least 2; the Monte-Carlo error falls with its square root.
      staleness: root mean square, over all logits, of the difference between the policy that acts
        and the current one. Its direction is random, fixed by `seed`; 0 is on-policy.
      regularisers: also differentiate the entropy bonus and what else is added to the loss. The
        critic has no parameters here.
      seed: of the batches and of the stale policy.

    Returns:
      A `Report`: `print` shows it as a table; it has `rows`, `to_json()` and `plot()`.

    Raises:
      TypeError: something is no estimator.
      ValueError: a size is out of range, two estimators of one name, an estimator that needs an
        extra the problem does not have, or a problem whose exact gradient is 0.

    >>> from jaxpg import estimators
    >>> from jaxpg.diagnostics import bandit
    >>> report = audit(estimators.rloo(), bandit(3), num_batches=200)
    >>> report["rloo"]["unbiased"]
    True
    """
    named = _named(estimators)
    _check_sizes(batch_size, group_size, num_batches, staleness)
    if not regularisers:
        named = {k: dataclasses.replace(part, regularisers=()) for k, part in named.items()}
    params = problem.params
    exact, expected_return = jax.jit(_solve, static_argnums=0)(problem, params)
    exact = np.asarray(exact).ravel()
    if not np.linalg.norm(exact) > 0:
        raise ValueError(
            f"problem is {problem.name!r}, but its exact gradient is 0, so there is no direction "
            f"to compare with: give it rewards that differ between actions"
        )
    batch_key, stale_key = jax.random.split(jax.random.key(seed))
    behaviour = params + staleness * _displacement(stale_key, params)

    def sample(key: Array) -> Trajectory:
        batch = problem.sample(key, behaviour, batch_size, group_size)
        return batch.with_extras(current_log_prob=problem.evaluate(params, batch).log_prob)

    extras = sorted(jax.eval_shape(sample, batch_key).extras)
    for name, estimator in named.items():
        _check_extras(name, estimator, extras)
    batches, kl = _sample_all(sample, batch_key, num_batches, batch_size, problem, behaviour)
    results = tuple(
        _audit_one(name, estimator, problem, batches, num_batches, exact, group_size)
        for name, estimator in named.items()
    )
    return Report(
        problem=problem.name,
        batch_size=batch_size,
        group_size=group_size,
        num_batches=num_batches,
        staleness=float(staleness),
        behaviour_kl=kl,
        expected_return=float(expected_return),
        exact_norm=float(np.linalg.norm(exact)),
        seed=seed,
        results=results,
    )


def normalisation(estimator: Estimator, num_rows: int, num_decisions: int) -> Array:
    """The constant that turns an estimator's gradient into an estimate of the policy gradient.

    Args:
      estimator: any.
      num_rows: B.
      num_decisions: T.

    Returns:
      Scalar `1 / (B w)`, with w the mean weight of a decision's log-probability in a batch without
      padding: T for a mean over decisions, 1 for a mean over rows of sums.
    """

    def aggregate(values: Array, mask: Array, weight: Array | None) -> Array:
        return estimator.aggregate(estimator.likelihood(values, mask), mask, weight)

    full = jnp.ones((num_rows, num_decisions))
    return 1.0 / (num_rows * jnp.mean(aggregates.weights_of(aggregate, full)))


def _named(estimators: Audited | Sequence[Audited] | Mapping[str, Audited]) -> dict[str, Estimator]:
    if isinstance(estimators, Mapping):
        pairs = list(estimators.items())
    else:
        several = estimators if isinstance(estimators, Sequence) else [estimators]
        pairs = [(getattr(each, "name", ""), each) for each in several]
    if not pairs:
        raise ValueError("estimators is empty, but the audit needs one, such as estimators.rloo()")
    named: dict[str, Estimator] = {}
    for name, each in pairs:
        if not isinstance(each, Audited):
            called = getattr(each, "__name__", None)
            hint = f"call it, {called}()" if callable(each) and called else "estimators.rloo()"
            raise TypeError(
                f"estimators holds {each!r}, but an Estimator or a Method is needed: {hint}"
            )
        if name in named:
            raise ValueError(
                f"estimators holds {name!r} twice, but a report needs names that differ: pass a "
                f"dict, {{'{name}': ..., '{name}, changed': ...}}"
            )
        named[name] = each.estimator if isinstance(each, Method) else each
    return named


def _check_sizes(batch_size: int, group_size: int, num_batches: int, staleness: float) -> None:
    if group_size < 1:
        raise ValueError(f"group_size is {group_size}, but a group has at least 1 row")
    if batch_size < 1 or batch_size % group_size:
        nearest = max(1, round(batch_size / group_size)) * group_size
        raise ValueError(
            f"batch_size is {batch_size}, but it has to be a multiple of group_size={group_size}, "
            f"such as {nearest}"
        )
    if num_batches < 2:
        raise ValueError(f"num_batches is {num_batches}, but a variance needs at least 2")
    if staleness < 0:
        raise ValueError(f"staleness is {staleness}, but a root mean square is at least 0")


def _check_extras(name: str, estimator: Estimator, has: list[str]) -> None:
    for extra in estimator.needs:
        if extra not in has:
            raise ValueError(
                f"estimator {name!r} needs the extra {extra!r}, but the audit's problems have {has}"
            )


def _solve(problem: Problem, params: Array) -> tuple[Array, Array]:
    return problem.exact_gradient(params), problem.expected_return(params)


def _displacement(key: Array, params: Array) -> Array:
    """Random direction of root mean square 1, without what a softmax does not see."""
    direction = jax.random.normal(key, params.shape, params.dtype)
    direction -= jnp.mean(direction, axis=-1, keepdims=True)
    return direction / jnp.sqrt(jnp.mean(direction**2))


def _sample_all(
    sample: Callable[[Array], Trajectory],
    key: Array,
    num_batches: int,
    batch_size: int,
    problem: Problem,
    behaviour: Array,
) -> tuple[Trajectory, float]:
    """At least `num_batches` batches, as `[chunks, batches of a chunk]`, and the mean KL."""
    num_chunks = -(-num_batches * batch_size * problem.horizon // DECISIONS_AT_ONCE)
    keys = jax.random.split(key, num_chunks * -(-num_batches // num_chunks))
    log_acted, log_current = (jax.nn.log_softmax(logits) for logits in (behaviour, problem.params))
    divergence = jnp.sum(jnp.exp(log_acted) * (log_acted - log_current), axis=-1)

    @jax.jit
    def run(keys: Array) -> tuple[Trajectory, Array]:
        batches = jax.lax.map(jax.vmap(sample), keys)
        real = batches.mask > 0
        kl = jnp.where(real, divergence[batches.observation], 0.0)
        return batches, jnp.sum(kl) / jnp.sum(real)

    batches, kl = run(keys.reshape(num_chunks, -1))
    return batches, float(kl)


def _loss(estimator: Estimator, problem: Problem):
    def loss(params: Array, batch: Trajectory) -> tuple[Array, dict[str, Array]]:
        evaluation = problem.evaluate(params, batch)
        value, metrics = estimator.loss(evaluation, batch)
        fixed = jax.lax.stop_gradient(evaluation.log_prob)
        share = _effective_share(_weights(estimator, fixed, batch), batch.mask)
        return value, {"masked_share": metrics["masked_share"], "effective_share": share}

    return loss


def _audit_one(
    name: str,
    estimator: Estimator,
    problem: Problem,
    batches: Trajectory,
    num_batches: int,
    exact: np.ndarray,
    group_size: int,
) -> Result:
    def estimate(batch: Trajectory) -> tuple[Array, dict[str, Array]]:
        gradient = jax.grad(_loss(estimator, problem), has_aux=True)
        return gradient(problem.params, estimator.score(batch))

    @jax.jit
    def run(batches: Trajectory) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        factor = normalisation(estimator, *batches.mask.shape[-2:])
        return factor, jax.lax.map(jax.vmap(estimate), batches)

    try:
        factor, (gradients, metrics) = run(batches)
    except KeyError as missing:
        raise ValueError(
            f"estimator {name!r} reads an extra that the audit's problems lack; they have "
            f"{sorted(batches.extras)}: {missing.args[0]}"
        ) from missing
    factor = float(factor)
    if not 0 < factor < np.inf:
        raise ValueError(
            f"the aggregation of {name!r} gives the decisions of a batch without padding a mean "
            f"weight that is not above 0, but a loss averages or sums over them"
        )
    estimates = -factor * np.asarray(gradients).reshape(-1, exact.size)[:num_batches]
    masked, effective = (
        float(np.mean(np.asarray(metrics[key]).ravel()[:num_batches]))
        for key in ("masked_share", "effective_share")
    )
    return Result(
        name=name,
        factor=factor,
        effective_sample_size=effective,
        masked_share=masked,
        note="" if np.any(estimates) else _why_zero(masked, group_size),
        moments=moments(estimates, exact),
    )


def _weights(estimator: Estimator, log_prob: Array, batch: Trajectory) -> Array:
    """Stabiliser times ratio: what the estimator multiplies each advantage with."""
    real = batch.mask > 0
    log_likelihood = estimator.likelihood(jnp.where(real, log_prob, 0.0), batch.mask)
    log_ratio = jnp.where(real, log_likelihood - estimator.reference(log_likelihood, batch), 0.0)
    weight = estimator.stabiliser(log_ratio, batch.extra("advantage"), batch)
    return jnp.where(real, weight * jnp.exp(jnp.minimum(log_ratio, LARGEST_EXPONENT)), 0.0)


def _effective_share(weights: Array, mask: Array) -> Array:
    """Kish's effective sample size, as a share of the decisions."""
    squares = jnp.sum(weights**2) * jnp.sum(mask)
    return jnp.where(squares > 0, jnp.sum(weights) ** 2 / jnp.where(squares > 0, squares, 1), 0.0)


def _why_zero(masked_share: float, group_size: int) -> str:
    if masked_share == 1:
        return "0 in every batch: all decisions are masked"
    if group_size == 1:
        return "0 in every batch: group_size=1 leaves nothing to compare a row with"
    return "0 in every batch"
