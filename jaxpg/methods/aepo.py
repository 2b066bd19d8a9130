"""AEPO: correct rows of a tempered second rollout hold the entropy; overrides all but the loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg import batches, estimators, parallel
from jaxpg.choices import at_least
from jaxpg.description import recorded
from jaxpg.method import Method, Seams
from jaxpg.parts import entropy_control
from jaxpg.types import Array, Metrics, PyTree, Trajectory

TEMPERED, KEPT = "tempered", "kept"
"""Extras: `[B]` bool, the row is of the second rollout; `[B]` float, how many could have entered.
"""
SECOND_ROLLOUT = 2**32 - 1
"""Folded into the key: no prompt has this number."""


@recorded
def aepo(
    target_entropy: float = 0.5,
    high: float = 1.2,
    low: float = 0.8,
    *,
    most: int = 60,
    share: float = 0.25,
    threshold: float = 0.05,
    **estimator: float,
) -> Method:
    """Arbitrary entropy policy optimisation: GRPO whose entropy is steered to a target.

    The first prompts of each batch are answered a second time, at the higher temperature while the
    entropy is at or below its target and at the lower one while it is above. Correct answers of
    that rollout take the first places of the batch, with advantage 1 and no correction for the
    temperature: that mismatch pulls the policy towards a flatter or a sharper self. Where no answer
    enters, the update is GRPO's.

    Not "Agentic entropy-balanced policy optimization", which has the same initials.

    Args:
      target_entropy: nats for each token, above 0. What GRPO with the higher temperature throughout
        does not reach is out of reach.
      high: temperature below the target, for training at temperature 1.
      low: temperature above the target, at most `high`. With two equal temperatures only the number
        of rows depends on the target.
      most: rows of the second rollout that may enter, at least 0; half of that above the target. As
        few as still steer: 60 were of 2560 in the source.
      share: of the prompts that are answered twice, in (0, 1]; at least one is. Their number has to
        be a multiple of the number of devices.
      threshold: group advantage above which a row may enter, at least 0; so a row of a group that
        is all correct does not.
      **estimator: of `estimators.aepo`.

    Returns:
      A `Method` whose state is the entropy, 0 at first. Metrics besides the estimator's:
      `entropy_estimate`, from the batch that was learned from and so too large at the higher
      temperature (`sampling_entropy` is not); `temperature`; `num_tempered` rows that entered and
      `kept` that could have; those of the second rollout, whose names begin with `tempered_`.

    Raises:
      ValueError: a setting out of range; or, when an update is traced, prompts that do not divide.

    Source: "Arbitrary entropy policy optimization", arXiv 2510.08141, and its released code.
    """
    entropy_control.check_target(target_entropy, high, low)
    if not 0 < share <= 1:
        raise ValueError(f"share is {share!r}, but it has to be in (0, 1]")
    at_least("most", most, 0)
    at_least("threshold", threshold, 0)

    def override(seams: Seams) -> Seams:
        def collect(
            key: Array, params: PyTree, world: PyTree, state: Array
        ) -> tuple[Trajectory, PyTree, Metrics]:
            rows, world, metrics = seams.collect(key, params, world, state)
            ids = parallel.gather(rows.extra("prompt_ids")[:: seams.group_size])
            number = num_twice(seams.prompts_per_update, share)
            if number % parallel.num_shards():
                raise ValueError(
                    f"share is {share!r}, by which {number} of {len(ids)} prompts are answered "
                    f"twice, but {parallel.num_shards()} devices do not divide them"
                )
            tempered, _, found = seams.collect(
                jax.random.fold_in(key, SECOND_ROLLOUT),
                params,
                world,
                state,
                ids=ids[:number],
                temperature=entropy_control.temperature(state, target_entropy, high, low),
            )
            both = batches.join(_marked(rows, False), _marked(tempered, True))
            return both, world, metrics | {f"{TEMPERED}_{name}": x for name, x in found.items()}

        def score(params: PyTree, rows: Trajectory, state: Array) -> Trajectory:
            # The policy's own for tempered rows too, so that every ratio begins at 1.
            now = jax.lax.stop_gradient(seams.evaluate(params, rows).log_prob)
            return seams.score(params, rows.replace(log_prob=now), state)

        def select(rows: Trajectory, state: Array) -> Trajectory:
            every = batches.of_all_devices(rows)
            num_rows = seams.prompts_per_update * seams.group_size
            # The rows of each device's second rollout stand behind those of its first.
            order = jnp.argsort(every.extra(TEMPERED), stable=True)
            keep = jnp.max(every.extra("advantage")[order[num_rows:]], axis=1) > threshold
            kept = jnp.sum(keep)
            entering = entropy_control.num_tempered(kept, most, state, target_entropy)
            index = order[entropy_control.mixed_rows(keep, num_rows, entering)]
            mixed = batches.take(every, parallel.own_share(index))
            fixed = mixed.extra(TEMPERED)[:, None] & (mixed.mask > 0)
            return mixed.with_extras(
                advantage=jnp.where(fixed, 1.0, mixed.extra("advantage")),
                **{KEPT: jnp.full(mixed.num_rows, kept, jnp.float32)},
            )

        def after(
            params: PyTree, rows: Trajectory, metrics: Metrics, state: Array
        ) -> tuple[Array, Metrics]:
            entropy = entropy_control.sampled_entropy(rows.log_prob, rows.mask)
            return entropy, {
                "entropy_estimate": entropy,
                "temperature": entropy_control.temperature(state, target_entropy, high, low),
                "num_tempered": parallel.total(jnp.sum(rows.extra(TEMPERED), dtype=jnp.float32)),
                "kept": rows.extra(KEPT)[0],
            }

        return seams._replace(
            init=lambda key, params: jnp.zeros(()),
            collect=collect,
            score=score,
            select=select,
            after=after,
        )

    return Method("aepo", estimators.aepo(**estimator), override)


def num_twice(num_prompts: int, share: float) -> int:
    """Prompts that are answered twice.

    Args:
      num_prompts: of the batch.
      share: in (0, 1].

    Returns:
      Rounded down, but at least 1.

    >>> [num_twice(number, 0.25) for number in (2, 4, 24, 27)]
    [1, 1, 6, 6]
    """
    # 0.29 * 100 is 28.999999999999996: not 28 prompts.
    return max(1, int(share * num_prompts + 1e-9))


def _marked(rows: Trajectory, tempered: bool) -> Trajectory:
    return rows.with_extras(**{TEMPERED: jnp.full(rows.num_rows, tempered)})
