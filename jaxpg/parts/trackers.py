"""Trackers: how often each prompt is answered well, remembered as a Beta distribution of it.

Successes `alpha` and failures `beta` are counts that fade, so that the tracked value follows a
policy that learns. All of it is arithmetic on plain arrays, element by element; nothing here
carries a gradient.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxpg.types import Array


def initial(
    successes: Array, trials: Array, number: Array | float, *, smoothing: float = 0.5
) -> tuple[Array, Array]:
    """Counts to begin with, from trials made before.

    Args:
      successes: `[...]` float, in `[0, trials]`.
      trials: `[...]` float, at least 0.
      number: what the trials count for together, above 0, however many they were; see
        `stationary_number`.
      smoothing: successes and failures that are added to the trials' own, at least 0. 0.5 is the
        released code's; 0 is the paper's, whose value may be exactly 0 or 1.

    Returns:
      `(alpha, beta)`, both `[...]` float: they add up to `number`. Without a trial both are 0.5.

    Source: "Single-stream policy optimization", arXiv 2509.13232, and its released recipe.

    >>> alpha, beta = initial(jnp.array([6., 8., 0.]), jnp.array([8., 8., 0.]), 8.0)
    >>> alpha.tolist(), beta.tolist()
    ([5.7778, 7.5556, 0.5], [2.2222, 0.4444, 0.5])
    """
    chex.assert_equal_shape([successes, trials])
    share = (successes + smoothing) / jnp.maximum(trials + 2.0 * smoothing, 1e-6)
    tried = trials > 0
    return jnp.where(tried, number * share, 0.5), jnp.where(tried, number * (1.0 - share), 0.5)


def stationary_number(rho: Array | float) -> Array | float:
    """What the evidence counts for in the end, if a share `rho` of it is kept at every visit.

    Args:
      rho: `[...]` float in [0, 1).

    Returns:
      `[...]` float: the effective number n with `n = rho n + 1`.

    >>> stationary_number(0.875), stationary_number(0.96)
    (8.0, 25.0)
    """
    return 1.0 / (1.0 - rho)


def value(alpha: Array, beta: Array) -> Array:
    """Expected reward.

    Args:
      alpha: `[...]` float, above 0 where `beta` is 0.
      beta: `[...]` float, above 0 where `alpha` is 0.

    Returns:
      `[...]` float in [0, 1].

    >>> value(jnp.array([3.]), jnp.array([1.])).tolist()
    [0.75]
    """
    chex.assert_equal_shape([alpha, beta])
    return alpha / (alpha + beta)


def effective_number(alpha: Array, beta: Array) -> Array:
    """Visits that the counts stand for, the faded ones in part.

    Args:
      alpha: `[...]` float.
      beta: `[...]` float.

    Returns:
      `[...]` float.

    >>> effective_number(jnp.array([3.]), jnp.array([1.])).tolist()
    [4.0]
    """
    chex.assert_equal_shape([alpha, beta])
    return alpha + beta


def drift(log_prob_then: Array, log_prob_now: Array, mask: Array) -> Array:
    """How far the policy moved on a response: the mean absolute change of its log-probabilities.

    Signed changes are no substitute: their mean over samples is about 0.

    Args:
      log_prob_then: `[B, T]` float, nats, of the response when it was stored.
      log_prob_now: `[B, T]` float, nats, of the same response.
      mask: `[B, T]`, 1 where a token is real.

    Returns:
      `[B]` float, nats for each token; 0 for an empty response, such as one never stored.

    >>> drift(jnp.array([[-1., -2.]]), jnp.array([[-2., -1.]]), jnp.array([[1., 1.]])).tolist()
    [1.0]
    """
    chex.assert_rank([log_prob_then, log_prob_now, mask], 2)
    chex.assert_equal_shape([log_prob_then, log_prob_now, mask])
    real = mask > 0
    # Padding may hold anything, NaN as well.
    change = jnp.where(real, jnp.abs(log_prob_then - log_prob_now), 0.0)
    return jnp.sum(change, axis=-1) / jnp.maximum(jnp.sum(real, axis=-1), 1)


def forgetting(
    drift: Array, half_life: float = 0.06, rho_min: float = 0.875, rho_max: float = 0.96
) -> Array:
    """Share of the old evidence that is kept: the less, the farther the policy moved.

    Args:
      drift: `[...]` float, at least 0, nats.
      half_life: the drift that halves the evidence, above 0, nats.
      rho_min: kept after any drift.
      rho_max: kept without a drift.

    Returns:
      `[...]` float in `[rho_min, rho_max]`; `rho_min = rho_max` is a constant, and both 1 forget
      nothing.

    Source: arXiv 2509.13232, its released recipe.

    >>> forgetting(jnp.array([0., 0.06, 9.]), rho_min=0.1, rho_max=1.0).tolist()
    [1.0, 0.5, 0.1]
    """
    return jnp.clip(jnp.exp2(-drift / half_life), rho_min, rho_max)


def update(alpha: Array, beta: Array, reward: Array, rho: Array | float) -> tuple[Array, Array]:
    """Counts after one more response.

    The value moves to the reward by a step of `1 / (rho n + 1)`, n being the effective number:
    rewards between 0 and 1 therefore count as they should. With `rho = 1` the value is the
    posterior mean of a Bernoulli variable.

    Args:
      alpha: `[...]` float.
      beta: `[...]` float.
      reward: `[...]` float in [0, 1].
      rho: `[...]` or scalar, share of the evidence that is kept, see `forgetting`.

    Returns:
      `(alpha, beta)`.

    Source: arXiv 2509.13232, its released recipe.

    >>> alpha, beta = update(jnp.array([4.]), jnp.array([4.]), jnp.array([1.]), 0.5)
    >>> alpha.tolist(), beta.tolist()
    ([3.0], [2.0])
    """
    chex.assert_equal_shape([alpha, beta, reward])
    return rho * alpha + reward, rho * beta + (1.0 - reward)


def prompt_weights(
    value: Array, number: Array, *, exploration: float = 0.05, exponent: float = 0.0
) -> Array:
    """How much a prompt deserves to be drawn: the more, the less certain its outcome is.

    Args:
      value: `[N]` float in [0, 1].
      number: `[N]` float, the effective number, above 0.
      exploration: added to every weight, so that settled prompts come again.
      exponent: of the effective number that divides the spread, in [0, 1]. 0 is the released
        code's.

    Returns:
      `[N]` float, in proportion to the probabilities; largest at a value of 0.5.

    Source: arXiv 2509.13232.

    >>> prompt_weights(jnp.array([0.5, 1.0]), jnp.array([8., 8.])).tolist()
    [0.55, 0.05]
    """
    chex.assert_equal_shape([value, number])
    spread = jnp.sqrt(jnp.clip(value * (1.0 - value), 0.0))
    return spread / number**exponent + exploration


def last_of_each(ids: Array, size: int, valid: Array | None = None) -> Array:
    """Marks the last row of each prompt: the one that is remembered where several were drawn.

    Args:
      ids: `[B]` int in `[0, size)`.
      size: static, prompts that there are.
      valid: `[B]` bool, False for rows that count for nothing. Default: all count.

    Returns:
      `[B]` bool, at most one True for each prompt.

    >>> last_of_each(jnp.array([4, 7, 4]), 8).tolist()
    [False, True, True]
    """
    chex.assert_rank(ids, 1)
    valid = jnp.ones_like(ids, bool) if valid is None else valid
    place = jnp.arange(ids.shape[0])
    last = jax.ops.segment_max(jnp.where(valid, place, -1), ids, size)
    return valid & (last[ids] == place)
