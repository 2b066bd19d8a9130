"""CAPO: overrides `score` (shifts), `select` (the mask) and `after` (moments), and has a state."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg import estimators, parallel
from jaxpg.algorithms.learner import as_schedule
from jaxpg.algorithms.token_seams import HIDDEN, TOP_LOGITS, TOP_TOKENS
from jaxpg.choices import at_least, one_of
from jaxpg.description import recorded
from jaxpg.estimator import Estimator
from jaxpg.method import Method, Seams
from jaxpg.parts.curvature import LastLayer, Shifts, accept, last_layer, sgd_shifts
from jaxpg.parts.shadow_moments import (
    Moments,
    adam_shifts,
    no_moments,
    unit_shifts,
    update_moments,
)
from jaxpg.types import SELECTED, Array, Metrics, PyTree, Trajectory

OBJECTIVE_SHIFT, POLICY_SHIFT = "objective_shift", "policy_shift"
"""Extras `[B, T]` that `score` leaves: m_H and m_F."""

MODELS, LEVELS = ("adam", "sgd"), ("token", "sentence", "batch")
EVERY_TOKEN = 2**30


@struct.dataclass
class CapoState:
    """What CAPO remembers.

    Attributes:
      steps: int32, gradient steps taken.
      moments: of the last layer; `()` without an Adam model.
    """

    steps: Array
    moments: Moments | tuple


@recorded
def capo(
    estimator: Estimator | None = None,
    *,
    tau_h: float = 0.01,
    tau_f: float = 1e-4,
    model: str = "adam",
    level: str = "token",
    top: int = 50,
    learning_rate: Any = None,
    chunk: int = 64,
) -> Method:
    """Leaves out the tokens whose own step would change objective or policy too much.

    The step is planned with a second-order model of the last layer, once for a batch: with several
    gradient steps in an update, all take the mask of the first. A sequence of which nothing is
    accepted counts as 0 in the mean over sequences. The thresholds belong to one learning rate, one
    width and one model: calibrate them anew for another.

    Args:
      estimator: whose tokens are filtered; None takes GRPO.
      tau_h: bound of the objective shift's size; 0 leaves this test out.
      tau_f: bound of the policy shift, nats; 0 leaves this test out.
      model: "adam" plans with moments of its own, "sgd" along the gradient.
      level: what is accepted or rejected as one: "token", "sentence" or "batch".
      top: logits kept of each token, at least 2; all in a smaller vocabulary.
      learning_rate: of the optimiser, a number or a schedule in gradient steps; None takes that of
        the algorithm.
      chunk: tokens at one time: memory is that of `chunk * top * width` numbers.

    Returns:
      A `Method`. Metrics besides the estimator's: `rejected_share` of the tokens, also of those of
      positive and of negative advantage, and the means of `policy_shift` and `objective_shift`.

    Raises:
      ValueError: a setting out of range; later, a learning rate that nobody knows, or a batch
        without prompts.

    Source: "Stabilizing policy gradients for sample-efficient reinforcement learning in LLM
    reasoning", arXiv 2510.00819, and its released code.
    """
    for name, given, least in (
        ("tau_h", tau_h, 0),
        ("tau_f", tau_f, 0),
        ("top", top, 2),
        ("chunk", chunk, 1),
    ):
        at_least(name, given, least)
    one_of("model", model, MODELS)
    one_of("level", level, LEVELS)
    estimator = estimators.grpo(epsilon=1e-4) if estimator is None else estimator

    def override(seams: Seams) -> Seams:
        rate = _rate(seams, learning_rate)

        def init(key: Array, params: PyTree) -> CapoState:
            def one_row(key: Array, params: PyTree) -> Trajectory:
                ids = jnp.zeros(1, jnp.int32)
                return seams.collect(key, params, None, (), ids=ids, num_samples=1)[0]

            rows = jax.eval_shape(one_row, key, params)
            moments = no_moments(*_head_shape(seams, params, rows)) if model == "adam" else ()
            return CapoState(jnp.zeros((), jnp.int32), moments)

        def score(params: PyTree, rows: Trajectory, state: CapoState) -> Trajectory:
            scored = seams.score(params, rows, state)
            extras = seams.evaluate(params, scored, top=top).extras
            seen = scored.with_extras(**jax.lax.stop_gradient(dict(extras)))
            plan = _Plan(rate(state.steps), state.moments, chunk)
            if level == "token":
                found = plan.of_tokens(seen)
            else:
                vocabulary_size, _ = _head_shape(seams, params, scored)
                found = plan.of_units(seen, vocabulary_size, whole_batch=level == "batch")
            kept = seen if model == "adam" else scored
            return kept.with_extras(
                **{OBJECTIVE_SHIFT: found.objective, POLICY_SHIFT: found.policy}
            )

        def select(rows: Trajectory, state: CapoState) -> Trajectory:
            rows = seams.select(rows, state)
            accepted = accept(rows.extra(OBJECTIVE_SHIFT), rows.extra(POLICY_SHIFT), tau_h, tau_f)
            taken = accepted & (rows.extras.get(SELECTED, rows.mask) > 0)
            return rows.with_extras(**{SELECTED: taken.astype(rows.mask.dtype)})

        def after(
            params: PyTree, rows: Trajectory, metrics: Metrics, state: CapoState
        ) -> tuple[CapoState, Metrics]:
            taken = metrics.get("steps_taken", seams.steps_per_update)
            moments = state.moments
            if model == "adam":
                accepted = (rows.mask > 0) & (rows.extra(SELECTED) > 0)
                moments = update_moments(moments, _layer(rows), accepted.reshape(-1), chunk)
            return CapoState(state.steps + jnp.asarray(taken, jnp.int32), moments), _told(rows)

        return seams._replace(init=init, score=score, select=select, after=after)

    return Method("capo", estimator, override, keeps_groups=True)


@recorded
def dr_capo(*, tau_h: float = 5e-4, tau_f: float = 1e-3, **settings: Any) -> Method:
    """CAPO on Dr. GRPO: each sequence is divided by the longest length.

    Args:
      tau_h: see `capo`.
      tau_f: see `capo`.
      **settings: the others of `capo`.

    Returns:
      A `Method`.

    Source: see `capo`.
    """
    method = capo(estimators.dr_grpo(), tau_h=tau_h, tau_f=tau_f, **settings)
    return dataclasses.replace(method, name="dr_capo")


@recorded
def rein_capo(*, tau_h: float = 0.1, tau_f: float = 1e-5, **settings: Any) -> Method:
    """CAPO on REINFORCE: the raw reward in place of a group's advantage.

    Args:
      tau_h: see `capo`.
      tau_f: see `capo`.
      **settings: the others of `capo`.

    Returns:
      A `Method`.

    Source: see `capo`.
    """
    raw = dataclasses.replace(
        estimators.grpo(),
        name="raw_reward",
        advantage=lambda rows: rows.total_reward,
        smallest_group=1,
    )
    method = capo(raw, tau_h=tau_h, tau_f=tau_f, **settings)
    return dataclasses.replace(method, name="rein_capo")


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The coming step: its rate, and the moments of an Adam model."""

    rate: Array
    moments: Moments | tuple
    chunk: int

    def of_tokens(self, rows: Trajectory) -> Shifts:
        layer = _layer(rows)
        if self.moments:
            found = adam_shifts(layer, self.rate, self.moments, self.chunk)
        else:
            found = sgd_shifts(layer, self.rate)
        return jax.tree.map(lambda shift: shift.reshape(rows.mask.shape), found)

    def of_units(self, rows: Trajectory, vocabulary_size: int, whole_batch: bool) -> Shifts:
        real = (rows.mask > 0).astype(rows.mask.dtype)
        length = jnp.sum(real, axis=1, keepdims=True)
        weight = real / jnp.maximum(length, 1.0)
        layer, moments = _layer(rows), self.moments or None

        def shifts_of(layer: LastLayer, weight: Array, **total: Any) -> Shifts:
            return unit_shifts(
                layer, self.rate, weight, moments, vocabulary_size, chunk=self.chunk, **total
            )

        if whole_batch:
            weight = weight / jnp.maximum(parallel.total(jnp.sum(length > 0)), 1)
            found = shifts_of(layer, weight.reshape(-1), total=parallel.total)
        else:
            apart = jax.tree.map(lambda x: x.reshape((*real.shape, *x.shape[1:])), layer)
            found = jax.lax.map(lambda row: shifts_of(*row), (apart, weight))
            found = jax.tree.map(lambda shift: shift[:, None], found)
        return jax.tree.map(lambda shift: jnp.broadcast_to(shift, real.shape), found)


def _rate(seams: Seams, given: Any) -> Any:
    rate = as_schedule(seams.learning_rate if given is None else given)
    if rate is None:
        raise ValueError(
            "learning_rate is None, but capo plans the optimiser's step and the optimiser is not "
            "the algorithm's own: give its learning rate, a number or a schedule in gradient steps"
        )
    if not seams.num_prompts:
        raise ValueError(
            "capo models the last layer of a language model, but this algorithm has no prompts: "
            "use algorithms.rlvr"
        )
    return rate


def _head_shape(seams: Seams, params: PyTree, rows: PyTree) -> tuple[int, int]:
    """V and D; nothing is computed."""
    extras = jax.eval_shape(
        lambda params, rows: seams.evaluate(params, rows, top=EVERY_TOKEN).extras, params, rows
    )
    return extras[TOP_LOGITS].shape[-1], extras[HIDDEN].shape[-1]


def _layer(rows: Trajectory) -> LastLayer:
    def flat(leaf: Array) -> Array:
        return leaf.reshape((-1, *leaf.shape[2:]))

    return last_layer(
        flat(rows.extra(HIDDEN)).astype(jnp.float32),
        flat(rows.extra(TOP_LOGITS)),
        flat(rows.extra(TOP_TOKENS)),
        flat(rows.action),
        flat(rows.extra("advantage")),
    )


def _told(rows: Trajectory) -> Metrics:
    """Shares of the batch's real tokens that were rejected, and the mean shifts."""
    real, advantage = rows.mask > 0, rows.extra("advantage")
    rejected = (rows.extra(SELECTED) == 0).astype(jnp.float32)

    def mean(values: Array, here: Array) -> Array:
        sums = (jnp.sum(jnp.where(here, values, 0.0)), jnp.sum(here))
        part, count = parallel.total(sums)
        return part / jnp.maximum(count, 1)

    return {
        "rejected_share": mean(rejected, real),
        "rejected_share_positive": mean(rejected, real & (advantage > 0)),
        "rejected_share_negative": mean(rejected, real & (advantage < 0)),
        **{name: mean(rows.extra(name), real) for name in (OBJECTIVE_SHIFT, POLICY_SHIFT)},
    }
