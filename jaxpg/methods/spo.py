"""SPO: overrides `collect` (which prompts), `score` (hands out values) and `after` (remembers)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg import curricula, estimators, parallel
from jaxpg.choices import at_least
from jaxpg.description import recorded
from jaxpg.method import Method, Seams
from jaxpg.parts import trackers
from jaxpg.types import Array, Metrics, PyTree, Trajectory

BASELINE = "start_value"


@struct.dataclass
class Memory:
    """What is known about each of N prompts, the same on every device.

    Attributes:
      alpha: `[N]` float32, faded successes.
      beta: `[N]` float32, faded failures.
      action: `[N, T]` int32, tokens of the response at the last visit.
      mask: `[N, T]` bool, which of them are real: none before the first visit.
      log_prob: `[N, T]` float32, of the tokens under the policy right after that visit's update.
    """

    alpha: Array
    beta: Array
    action: Array
    mask: Array
    log_prob: Array

    @property
    def value(self) -> Array:
        """`[N]` float32 in [0, 1], what a response to each prompt is expected to earn."""
        return trackers.value(self.alpha, self.beta)


@recorded
def spo(
    half_life: float = 0.06,
    rho_min: float = 0.875,
    rho_max: float = 0.96,
    *,
    exploration: float = 0.05,
    exponent: float = 0.0,
    offline_trials: int = 8,
    chunk_size: int = 64,
    **estimator: Any,
) -> Method:
    """Single-stream policy optimisation: the baseline of a prompt is a value tracked over visits.

    No prompt needs a group: `rlvr(..., num_prompts=128, group_size=1)`. Prompts whose outcome is
    uncertain are drawn more often, and the evidence about a prompt fades with how far the policy
    has moved, on the response that was stored, since the prompt's last visit.

    Rewards are to lie in [0, 1], as those of verifiers do: for the tracker, others are cut to that
    range. Rows without a valid reward change no tracker. Where a prompt comes several times in one
    update, the last row is the one remembered.

    Args:
      half_life: drift that halves the evidence, above 0, nats for each token.
      rho_min: share of the evidence that is kept after any drift, above 0.
      rho_max: share of the evidence that is kept without a drift, at most 1.
      exploration: added to the weight of every prompt, above 0.
      exponent: of the evidence that divides the weights, in [0, 1].
      offline_trials: responses of the starting policy to every prompt of the pool, with which the
        trackers begin; 0 begins without. They count as much as the evidence that stays at
        `rho_min`, or as what they are if that is 1.
      chunk_size: prompts at once in those trials; changes memory and time, and no result.
      **estimator: of `estimators.spo`.

    Returns:
      A `Method` whose state is a `Memory`. Metrics besides the estimator's: `tracked_value`, mean
      of the pool; `kept_evidence` and `drift`, means of the batch; `seen_share` of the pool.

    Raises:
      ValueError: a setting out of range; or, when an algorithm is built with it, an algorithm
        without a pool of prompts.

    Source: "Single-stream policy optimization", arXiv 2509.13232, and its released recipe.
    """
    _check(half_life, rho_min, rho_max, exploration, exponent)
    at_least("offline_trials", offline_trials, 0)
    at_least("chunk_size", chunk_size, 1)
    number = trackers.stationary_number(rho_min) if rho_min < 1 else offline_trials + 1.0

    def override(seams: Seams) -> Seams:
        size = seams.num_prompts
        if not size:
            raise ValueError(
                "method 'spo' tracks prompts by their numbers, but this algorithm has no pool of "
                "prompts: use it with algorithms.rlvr"
            )

        def init(key: Array, params: PyTree) -> Memory:
            first = functools.partial(seams.collect, key, params, None, (), num_samples=1)
            rows, _, _ = jax.eval_shape(lambda: first(ids=jnp.zeros(1, jnp.int32)))
            shape = (size, rows.num_decisions)
            tried = jnp.zeros(size), jnp.zeros(size)
            if offline_trials:
                tried = _try(seams, key, params, offline_trials, min(chunk_size, size))
            alpha, beta = trackers.initial(*tried, number)
            empty = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool), jnp.zeros(shape)
            return Memory(alpha, beta, *empty)

        def collect(
            key: Array, params: PyTree, world: PyTree, state: Memory
        ) -> tuple[Trajectory, PyTree, Metrics]:
            weights = trackers.prompt_weights(
                state.value,
                trackers.effective_number(state.alpha, state.beta),
                exploration=exploration,
                exponent=exponent,
            )
            key_prompts, key = jax.random.split(key)
            ids = curricula.prioritised(key_prompts, weights, seams.prompts_per_update)
            return seams.collect(key, params, world, (), ids=ids)

        def score(params: PyTree, rows: Trajectory, state: Memory) -> Trajectory:
            expected = state.value[rows.extra("prompt_ids")]
            return seams.score(params, rows.with_extras(**{BASELINE: expected}), state)

        def after(
            params: PyTree, rows: Trajectory, metrics: Metrics, state: Memory
        ) -> tuple[Memory, Metrics]:
            ids = rows.extra("prompt_ids")
            old = jax.tree.map(lambda leaf: leaf[ids], state)
            again = rows.replace(action=old.action, mask=old.mask.astype(rows.mask.dtype))
            drift = trackers.drift(old.log_prob, seams.evaluate(params, again).log_prob, old.mask)
            rho = trackers.forgetting(drift, half_life, rho_min, rho_max)
            reward = jnp.clip(rows.total_reward, 0.0, 1.0)
            alpha, beta = trackers.update(old.alpha, old.beta, reward, rho)
            real = rows.mask > 0
            now = jnp.where(real, seams.evaluate(params, rows).log_prob, 0.0)
            new, valid = Memory(alpha, beta, rows.action, real, now), jnp.any(real, axis=-1)
            ids, new, valid, rho, drift = parallel.gather((ids, new, valid, rho, drift))
            # A place beyond the pool is not written to.
            place = jnp.where(trackers.last_of_each(ids, size, valid), ids, size)
            state = jax.tree.map(
                lambda old, new: old.at[place].set(new.astype(old.dtype), mode="drop"), state, new
            )
            return state, {
                "tracked_value": jnp.mean(state.value),
                "kept_evidence": _mean(rho, valid),
                "drift": _mean(drift, valid),
                "seen_share": jnp.mean(jnp.any(state.mask, axis=-1)),
            }

        return seams._replace(init=init, collect=collect, score=score, after=after)

    return Method("spo", estimators.spo(**estimator), override, keeps_groups=True)


def _try(
    seams: Seams, key: Array, params: PyTree, num_trials: int, chunk_size: int
) -> tuple[Array, Array]:
    """Successes and valid trials of every prompt, `[N]` each."""
    size = seams.num_prompts
    num_chunks = -(-size // chunk_size)

    def chunk(ids: Array) -> tuple[Array, Array]:
        rows, _, _ = seams.collect(key, params, None, (), ids=ids, num_samples=num_trials)
        valid = jnp.any(rows.mask > 0, axis=-1)
        reward = jnp.where(valid, jnp.clip(rows.total_reward, 0.0, 1.0), 0.0)
        return jax.tree.map(
            lambda x: jnp.sum(x.reshape(-1, num_trials), axis=1, dtype=jnp.float32),
            (reward, valid),
        )

    # The last chunk is filled up with prompts that were tried before.
    ids = jnp.arange(num_chunks * chunk_size, dtype=jnp.int32) % size
    tried = jax.lax.map(chunk, ids.reshape(num_chunks, chunk_size))
    return jax.tree.map(lambda x: x.reshape(-1)[:size], tried)


def _mean(x: Array, valid: Array) -> Array:
    return jnp.sum(jnp.where(valid, x, 0.0)) / jnp.maximum(jnp.sum(valid), 1)


def _check(
    half_life: float, rho_min: float, rho_max: float, exploration: float, exponent: float
) -> None:
    for name, given in (("half_life", half_life), ("exploration", exploration)):
        if not given > 0:
            raise ValueError(f"{name} is {given!r}, but it has to be above 0")
    if not 0 < rho_min <= rho_max <= 1:
        raise ValueError(
            f"rho_min is {rho_min!r} and rho_max {rho_max!r}, but 0 < rho_min <= rho_max <= 1 is "
            f"needed"
        )
    if not 0 <= exponent <= 1:
        raise ValueError(f"exponent is {exponent!r}, but it has to be in [0, 1]")
