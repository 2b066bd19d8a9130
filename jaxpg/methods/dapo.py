"""DAPO: overrides `collect` (dynamic sampling) and `score` (the overlong penalty)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg import batches, estimators
from jaxpg.choices import at_least
from jaxpg.description import recorded
from jaxpg.method import Method, Seams
from jaxpg.parts.rewards import overlong_penalty
from jaxpg.types import Array, Metrics, PyTree, Trajectory, last_decision


def mixed_rows(rows: Trajectory) -> Array:
    """Marks the rows whose group holds different rewards.

    Args:
      rows: group ids in `[0, B)`; rows without a real decision count for nothing.

    Returns:
      `[B]` bool.
    """
    reward, valid = rows.total_reward, jnp.any(rows.mask > 0, axis=-1)
    high, low = (
        sign
        * jax.ops.segment_max(
            jnp.where(valid, sign * reward, -jnp.inf), rows.group_ids, rows.num_rows
        )
        for sign in (1.0, -1.0)
    )
    return (high > low)[rows.group_ids]


def merge_mixed(kept: Trajectory, fresh: Trajectory) -> Trajectory:
    """Puts mixed groups first, those of `kept` before those of `fresh`, and cuts at B rows.

    Args:
      kept: `[B, T]`; the rows of a group stand side by side and all groups have the same size.
      fresh: alike.

    Returns:
      `[B, T]`, its groups numbered anew.
    """
    num_rows = kept.num_rows
    mixed = jnp.concatenate([mixed_rows(kept), mixed_rows(fresh)])
    order = jnp.argsort(~mixed, stable=True)[:num_rows]
    merged = batches.take(batches.join(kept, fresh), order)
    ids = merged.group_ids
    new_group = jnp.concatenate([jnp.zeros(1, bool), ids[1:] != ids[:-1]])
    return merged.replace(
        group_ids=jnp.cumsum(new_group, dtype=kept.group_ids.dtype),
        rollout_ids=jnp.arange(num_rows, dtype=kept.rollout_ids.dtype),
    )


@recorded
def dapo(
    lower: float = 0.2,
    upper: float = 0.28,
    *,
    max_rounds: int = 10,
    overlong_buffer: int | None = None,
    overlong_factor: float = 1.0,
    ddof: int = 1,
    epsilon: float = 1e-6,
) -> Method:
    """Clip-higher, token mean, dynamic sampling and the soft overlong penalty.

    Dynamic sampling asks for further prompts as long as groups of equal rewards, which have no
    gradient, fill the batch, and at most `max_rounds` times; what is still missing then is filled
    with such groups. Every round generates a whole batch. The filter looks at the task's reward,
    before the penalty.

    Args:
      lower: the ratio is cut below `1 - lower`.
      upper: the ratio is cut above `1 + upper`.
      max_rounds: at least 1; 1 samples once.
      overlong_buffer: tokens before the limit in which the penalty grows; None leaves it out.
      overlong_factor: of the penalty.
      ddof: of the group's standard deviation.
      epsilon: added to the standard deviation.

    Returns:
      A `Method`. Metrics besides the estimator's: `rounds`, and `filled_share` of the groups.

    Source: Yu et al. 2025, "DAPO", sections 3.1 to 3.4; the cap is the released recipe's
    `max_num_gen_batches`.
    """
    at_least("max_rounds", max_rounds, 1)
    estimator = estimators.dapo(lower, upper, ddof=ddof, epsilon=epsilon)

    def override(seams: Seams) -> Seams:
        def collect(
            key: Array, params: PyTree, world: PyTree, state: PyTree
        ) -> tuple[Trajectory, PyTree, Metrics]:
            # Every device fills the whole batch, so that one with many mixed groups helps others.
            def one_round(number: Array, world: PyTree):
                round_key = jax.random.fold_in(key, number)
                rows, world, metrics = seams.collect(round_key, params, world, state)
                return batches.of_all_devices(rows), world, metrics

            def missing(carry) -> Array:
                number, rows, _, _ = carry
                return (number < max_rounds) & ~jnp.all(mixed_rows(rows))

            def again(carry):
                number, rows, world, totals = carry
                fresh, world, metrics = one_round(number, world)
                totals = jax.tree.map(jnp.add, totals, metrics)
                return number + 1, merge_mixed(rows, fresh), world, totals

            first, world, metrics = one_round(jnp.zeros((), jnp.int32), world)
            begun = (jnp.ones((), jnp.int32), first, world, metrics)
            rounds, rows, world, totals = jax.lax.while_loop(missing, again, begun)
            rounds = rounds.astype(jnp.float32)
            metrics = jax.tree.map(lambda x: x / rounds, totals)
            metrics |= {"rounds": rounds, "filled_share": jnp.mean(mixed_rows(rows))}
            return batches.own_share(rows), world, metrics

        def score(params: PyTree, rows: Trajectory, state: PyTree) -> Trajectory:
            length = jnp.sum(rows.mask > 0, axis=-1)
            penalty = overlong_penalty(length, rows.num_decisions, overlong_buffer)
            last = last_decision(rows.mask)
            paid = rows.reward + jnp.where(last, overlong_factor * penalty[:, None], 0.0)
            return seams.score(params, rows.replace(reward=paid), state)

        return seams._replace(
            collect=collect if max_rounds > 1 else seams.collect,
            score=seams.score if overlong_buffer is None else score,
        )

    return Method("dapo", estimator, override, keeps_groups=True)
