"""HPT: overrides `collect`: a demonstration takes the place of an unsolved prompt's rollouts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg import estimators, parallel
from jaxpg.choices import at_least
from jaxpg.description import recorded
from jaxpg.method import Method, Seams
from jaxpg.parts.stabilisers import gate_weight
from jaxpg.types import DEMONSTRATION, Array, Metrics, PyTree, Trajectory


def num_correct(rows: Trajectory, group_size: int, success: float) -> Array:
    """Correct rollouts of each group.

    Args:
      rows: `[B, T]`, the rows of a group side by side.
      group_size: n, static.
      success: a reward of at least this is correct.

    Returns:
      `[B / n]` int32; a row without a real decision is not correct.
    """
    correct = (rows.total_reward >= success) & jnp.any(rows.mask > 0, axis=-1)
    return jnp.sum(correct.reshape((-1, group_size)), axis=-1, dtype=jnp.int32)


def demonstrate(rows: Trajectory, demonstrations: Trajectory, unsolved: Array) -> Trajectory:
    """Replaces the rollouts of some prompts by one demonstration each.

    Args:
      rows: `[B, T]`, the n rollouts of each of Q prompts side by side.
      demonstrations: `[Q, T]`, one to each prompt, with the same extras.
      unsolved: `[Q]` bool, the prompts.

    Returns:
      `[B, T]`; the demonstration is the first row of its group, the others hold no real decision.
    """
    group_size = rows.num_rows // demonstrations.num_rows
    replaced = jnp.repeat(unsolved, group_size)
    first = jnp.arange(rows.num_rows) % group_size == 0

    def put(demonstrated: Array, rollout: Array) -> Array:
        there = (replaced & first).reshape((-1,) + (1,) * (rollout.ndim - 1))
        return jnp.where(there, jnp.repeat(demonstrated, group_size, axis=0), rollout)

    merged = jax.tree.map(put, demonstrations, rows)
    return merged.replace(
        mask=jnp.where((replaced & ~first)[:, None], 0.0, merged.mask),
        group_ids=rows.group_ids,
        rollout_ids=rows.rollout_ids,
    )


@recorded
def hpt(
    gate: int = 0,
    *,
    sft_coefficient: float = 1.0,
    entropy_coefficient: float = 1e-3,
    rows_in_sum: int | None = 8,
    success: float = 1.0,
) -> Method:
    """Hybrid post-training: each prompt by its rollouts, or by a demonstration if it is too hard.

    A prompt of which at most `gate` rollouts are correct leaves the reinforcement and sends one
    demonstration of the task instead. An update with large gradients was skipped in the released
    code (norm above 80); that is a matter of the optimiser here.

    Args:
      gate: a count of correct rollouts, at least -1. -1 is reinforcement alone, the group size or
        more is supervised fine-tuning alone.
      sft_coefficient: of the demonstrations' term.
      entropy_coefficient: of the entropy bonus.
      rows_in_sum: see `estimators.hpt`: the weight of rollouts against demonstrations. 8 is one
        group of the published size; with the sum over a large batch (None) rewards of chance
        drown the demonstrations.
      success: a reward of at least this is correct.

    Returns:
      A `Method`. Metrics besides the estimator's: `demonstrated_share` of the prompts.

    Raises:
      ValueError: the gate is no whole number of at least -1.

    Source: Lv et al. 2025, "Towards a unified view of LLM post-training", section 4.
    """
    if not isinstance(gate, int):
        raise ValueError(
            f"gate is {gate!r}, but it is a number of correct rollouts and no share of them: give "
            f"a whole number of at least -1"
        )
    at_least("gate", gate, -1)
    estimator = estimators.hpt(sft_coefficient, entropy_coefficient, rows_in_sum=rows_in_sum)

    def override(seams: Seams) -> Seams:
        def collect(
            key: Array, params: PyTree, world: PyTree, state: PyTree
        ) -> tuple[Trajectory, PyTree, Metrics]:
            key_rollouts, key_demonstrations = jax.random.split(key)
            rows, world, metrics = seams.collect(key_rollouts, params, world, state)
            ids = parallel.gather(rows.extra("prompt_ids")[:: seams.group_size])
            demonstrations, _, _ = seams.collect(
                key_demonstrations,
                params,
                world,
                state,
                ids=ids,
                num_samples=1,
                source=DEMONSTRATION,
            )
            solved = gate_weight(num_correct(rows, seams.group_size, success), gate)
            share = parallel.mean(jnp.mean(1.0 - solved))
            rows = demonstrate(rows, demonstrations, solved == 0)
            return rows, world, metrics | {"demonstrated_share": share}

        return seams._replace(collect=collect)

    return Method("hpt", estimator, override, keeps_groups=True)
