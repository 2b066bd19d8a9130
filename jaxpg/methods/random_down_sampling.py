"""Random down-sampling: overrides what D3S does, and chooses as many rows and tokens blindly."""

from __future__ import annotations

import jax

from jaxpg.description import recorded
from jaxpg.estimator import Estimator
from jaxpg.method import Method
from jaxpg.methods.d3s import down_sampled
from jaxpg.parts import down_sampling
from jaxpg.types import Array


@recorded
def random_down_sampling(
    num_updates: int,
    rows: tuple[float, float] = (0.25, 1.0),
    tokens: tuple[float, float] = (0.2, 1.0),
    estimator: Estimator | None = None,
) -> Method:
    """The control of a method that selects: the same numbers of rows and tokens, at random.

    Every subset of the batch of all devices is equally likely, whatever the advantages are.

    Args:
      num_updates: length of the schedule; later updates are like its end.
      rows: share of the batch at the first update and at the end, in (0, 1]; at least 2 rows.
        `(1, 1)` drops none.
      tokens: share of the chosen rows' tokens, alike; at least 1.
      estimator: None takes GRPO with the mean over tokens, `estimators.dapo(0.2, 0.2)`.

    Returns:
      A `Method`, with the metrics of `d3s`.

    Raises:
      ValueError: a share or a length out of range.
      TypeError: the estimator is none.

    Source: the control of D3S, arXiv 2509.22115.
    """

    def choose_rows(
        key: Array, advantage: Array, valid: Array, fraction: Array, group_size: int
    ) -> Array:
        del group_size
        number = down_sampling.num_kept(fraction, advantage.shape[0])
        return down_sampling.highest(jax.random.uniform(key, advantage.shape), number, valid)

    def choose_tokens(key: Array, score: Array, real: Array, fraction: Array) -> Array:
        return down_sampling.top_tokens(jax.random.uniform(key, score.shape), real, fraction)

    return down_sampled(
        "random_down_sampling", num_updates, rows, tokens, estimator, choose_rows, choose_tokens
    )
