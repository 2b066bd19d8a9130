"""D3S: overrides `select` (rows, then decisions) and `after`; its state is how far training is."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg import estimators, parallel
from jaxpg.choices import at_least
from jaxpg.description import recorded
from jaxpg.estimator import Estimator
from jaxpg.method import Method, Seams
from jaxpg.parts import down_sampling
from jaxpg.types import SELECTED, Array, Metrics, PyTree, Trajectory

ALL = (1.0, 1.0)


@struct.dataclass
class Progress:
    """State of a method that follows a schedule.

    Attributes:
      num_updates: int32, done so far.
      key: of the random choices; every update folds its number in.
    """

    num_updates: Array
    key: Array


@recorded
def d3s(
    num_updates: int,
    rows: tuple[float, float] = (0.25, 1.0),
    tokens: tuple[float, float] = (0.2, 1.0),
    estimator: Estimator | None = None,
    within_groups: bool = False,
) -> Method:
    """Dynamic dual-level down-sampling: few telling rows and tokens at first, all at the end.

    An update learns from the rows whose advantages have the largest variance, and of their tokens
    from those with the largest |advantage| x entropy (of the policy that acted). Both are chosen
    from the batch of all devices. Advantages are those of the whole groups: they are not
    standardised again, which would cancel the point. All responses are still generated; rows that
    are not chosen are left out of the update's passes through the model.

    `rows=(f, f)` and `tokens=(k, k)` choose without a schedule (D2S), `tokens=(1, 1)` chooses rows
    alone (D1S-Cross, and with `within_groups` D1S). With an estimator on sequence ratios a token
    that is not chosen stays a part of its row's ratio, and so of the gradient.

    Args:
      num_updates: length of the schedule; later updates are like its end.
      rows: share of the batch at the first update and at the end, in (0, 1]; at least 2 rows.
      tokens: share of the chosen rows' tokens, alike; at least 1.
      estimator: one advantage for each row (of single decisions, the mean counts); None takes
        GRPO with the mean over tokens, `estimators.dapo(0.2, 0.2)`.
      within_groups: choose the same number of rows, at least 2, in each group.

    Returns:
      A `Method`. Metrics besides the estimator's: `rows_share` of the batch, `tokens_share` of the
      chosen rows, `useful_share` of the chosen rows that have an advantage other than 0, and
      `trained_tokens`, the number in this update.

    Raises:
      ValueError: a share or a length out of range.
      TypeError: the estimator is none.

    Source: "Learning more with less", arXiv 2509.22115. The paper's schedule values are not known.
    """

    def choose_rows(
        key: Array, advantage: Array, valid: Array, fraction: Array, group_size: int
    ) -> Array:
        del key
        if within_groups:
            number = down_sampling.num_kept(fraction, group_size)
            return down_sampling.max_variance_rows_within(advantage, number, group_size, valid)
        number = down_sampling.num_kept(fraction, advantage.shape[0])
        return down_sampling.max_variance_rows(advantage, number, valid)

    def choose_tokens(key: Array, score: Array, real: Array, fraction: Array) -> Array:
        del key
        return down_sampling.top_tokens(score, real, fraction)

    return down_sampled("d3s", num_updates, rows, tokens, estimator, choose_rows, choose_tokens)


def down_sampled(
    name: str,
    num_updates: int,
    rows: tuple[float, float],
    tokens: tuple[float, float],
    estimator: Estimator | None,
    choose_rows: Callable[[Array, Array, Array, Array, int], Array],
    choose_tokens: Callable[[Array, Array, Array, Array], Array],
) -> Method:
    """A method that learns from a share of the rows and tokens, on a schedule.

    Args:
      name: of the method.
      num_updates: see `d3s`.
      rows: see `d3s`.
      tokens: see `d3s`.
      estimator: see `d3s`.
      choose_rows: `(key, advantage [B], valid [B], fraction, group_size) -> [B] bool`, on the
        batch of all devices.
      choose_tokens: `(key, |advantage| x entropy [B, T], real [B, T], fraction) -> [B, T] bool`;
        real are the tokens of the chosen rows.

    Returns:
      A `Method`.

    Raises:
      ValueError: a share or a length out of range.
      TypeError: the estimator is none.
    """
    estimator = estimators.dapo(0.2, 0.2) if estimator is None else estimator
    _check(num_updates, rows, tokens, estimator)

    def override(seams: Seams) -> Seams:
        def init(key: Array, params: PyTree) -> Progress:
            return Progress(jnp.zeros((), jnp.int32), key)

        def select(trajectory: Trajectory, state: Progress) -> Trajectory:
            key_rows, key_tokens = jax.random.split(
                jax.random.fold_in(state.key, state.num_updates)
            )
            progress = state.num_updates / num_updates
            advantage, real = _row_advantage(trajectory), trajectory.mask > 0
            score = jnp.abs(advantage)[:, None] * trajectory.extra("entropy")
            advantage, real, score = parallel.gather((advantage, real, score))
            kept = choose_rows(
                key_rows,
                advantage,
                jnp.any(real, axis=1),
                down_sampling.schedule(progress, *rows),
                seams.group_size,
            )
            fraction = down_sampling.schedule(progress, *tokens)
            selected = choose_tokens(key_tokens, score, real & kept[:, None], fraction)
            kept, selected = parallel.own_share((kept, selected))
            mask = jnp.where(kept[:, None], trajectory.mask, 0.0)
            return trajectory.replace(mask=mask).with_extras(
                **{SELECTED: selected.astype(mask.dtype)}
            )

        def after(
            params: PyTree, trajectory: Trajectory, metrics: Metrics, state: Progress
        ) -> tuple[Progress, Metrics]:
            state = state.replace(num_updates=state.num_updates + 1)
            return state, _counts(trajectory)

        return seams._replace(init=init, select=select, after=after)

    drops = tuple(rows) != ALL
    # Dropped rows leave gaps in the groups of a minibatch.
    return Method(name, estimator, override, keeps_groups=not drops, drops_rows=drops)


def _row_advantage(trajectory: Trajectory) -> Array:
    real = trajectory.mask > 0
    total = jnp.sum(jnp.where(real, trajectory.extra("advantage"), 0.0), axis=1)
    return jax.lax.stop_gradient(total / jnp.maximum(jnp.sum(real, axis=1), 1))


def _counts(trajectory: Trajectory) -> Metrics:
    """Of the batch of all devices, after the selection."""
    real = trajectory.mask > 0
    kept = jnp.any(real, axis=1)
    useful = kept & (_row_advantage(trajectory) != 0)
    counted = (kept, useful, real, trajectory.extra(SELECTED))
    num_rows, num_useful, num_tokens, trained = parallel.total(
        jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.float32), counted)
    )
    batch = parallel.num_shards() * trajectory.num_rows
    return {
        "rows_share": num_rows / batch,
        "tokens_share": trained / jnp.maximum(num_tokens, 1.0),
        "useful_share": num_useful / jnp.maximum(num_rows, 1.0),
        "trained_tokens": trained,
    }


def _check(num_updates: int, rows: tuple, tokens: tuple, estimator: Estimator) -> None:
    at_least("num_updates", num_updates, 1)
    for name, shares in (("rows", rows), ("tokens", tokens)):
        pair = isinstance(shares, tuple | list) and len(shares) == 2
        if not pair or not all(0 < share <= 1 for share in shares):
            raise ValueError(
                f"{name} is {shares!r}, but it has to be two shares in (0, 1]: at the first update "
                f"and at the end"
            )
    if not isinstance(estimator, Estimator):
        raise TypeError(
            f"estimator is {estimator!r}, but an Estimator is needed, such as estimators.gspo()"
        )
