"""Advantages: how good a decision was. Plain arrays in, plain arrays out, time last.

Every function here is a constant to the gradient when it is used inside an `Estimator`; called
alone, it is an ordinary differentiable function of its inputs, and the caller stops what has to
be stopped (`generalised_advantage(stop_gradient(value), ...)`).

Episode ends. `terminated` means that nothing follows: the bootstrap is zero. `truncated` means
that the episode went on unseen: the bootstrap is the value of the final observation. Both cut the
recursion, so that nothing flows from one episode into the one before it. If both are set,
termination wins. The bootstrap of every step comes in as `next_value`; see `next_values`.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxpg import parallel
from jaxpg.types import Array


def next_values(value: Array, last_value: Array, truncated: Array, final_value: Array) -> Array:
    """Value that each step bootstraps from.

    Args:
      value: `[B, T]` float, V of the observation before each step.
      last_value: `[B]` float, V of the observation after the last step.
      truncated: `[B, T]` bool.
      final_value: `[B, T]` float, V of the final observation; read where `truncated` only.

    Returns:
      `[B, T]` float: the next step's value, or the final observation's where truncated.

    >>> next_values(jnp.array([[1., 2.]]), jnp.array([3.]), jnp.array([[True, False]]),
    ...             jnp.array([[9., 9.]])).tolist()
    [[9.0, 3.0]]
    """
    chex.assert_equal_shape([value, truncated, final_value])
    following = jnp.concatenate([value[:, 1:], last_value[:, None]], axis=1)
    return jnp.where(truncated, final_value, following)


def generalised_advantage(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    mask: Array | None = None,
    *,
    discount: float = 0.99,
    trace_decay: float = 0.95,
) -> Array:
    """Generalised advantage estimate of every decision.

    Args:
      reward: `[B, T]` float.
      value: `[B, T]` float, V of the observation before the decision.
      next_value: `[B, T]` float, V of the observation after it, see `next_values`.
      terminated: `[B, T]` bool.
      truncated: `[B, T]` bool.
      mask: `[B, T]`, 1 where a decision is real. Padding gets 0 and is stepped over: the
        recursion goes on to the next real decision.
      discount: in [0, 1].
      trace_decay: lambda, in [0, 1].

    Returns:
      `[B, T]` float.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized
    advantage estimation", eq. 16.

    >>> no = jnp.array([[False, False]])
    >>> generalised_advantage(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.zeros((1, 2)), no, no,
    ...                       discount=0.5, trace_decay=1.0).tolist()
    [[1.5, 1.0]]
    """
    mask = jnp.ones_like(reward) if mask is None else mask
    chex.assert_rank(reward, 2)
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated, mask])
    real = mask > 0
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    keep = discount * trace_decay * jnp.where(terminated | truncated, 0.0, 1.0)
    return _backward(delta, keep.astype(delta.dtype), real)


def discounted_return(
    reward: Array,
    terminated: Array,
    truncated: Array,
    mask: Array | None = None,
    next_value: Array | None = None,
    *,
    discount: float = 1.0,
) -> Array:
    """Monte-Carlo return from every decision on.

    Args:
      reward: `[B, T]` float.
      terminated: `[B, T]` bool.
      truncated: `[B, T]` bool.
      mask: `[B, T]`, 1 where a decision is real.
      next_value: `[B, T]` float, added (discounted) where an episode is truncated and at the last
        real decision of a row that does not end there. Default: nothing is added.
      discount: in [0, 1].

    Returns:
      `[B, T]` float, 0 on padding.

    >>> end = jnp.array([[False, True]])
    >>> discounted_return(jnp.array([[1., 2.]]), end, ~end & False, discount=0.5).tolist()
    [[2.0, 2.0]]
    """
    mask = jnp.ones_like(reward) if mask is None else mask
    chex.assert_equal_shape([reward, terminated, truncated, mask])
    real = mask > 0
    later_real = jnp.flip(jnp.cumsum(jnp.flip(real, -1), -1), -1) > 1
    open_end = (truncated | ~later_real) & ~terminated
    tail = 0.0 if next_value is None else jnp.where(open_end, next_value, 0.0)
    keep = discount * jnp.where(terminated | truncated, 0.0, 1.0)
    return _backward(reward + discount * tail, keep.astype(reward.dtype), real)


def n_step_return(
    reward: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    mask: Array | None = None,
    *,
    num_steps: int,
    discount: float = 0.99,
) -> Array:
    """Sum of up to `num_steps` discounted rewards plus the value of what follows them.

    The sum stops early at an episode's end, before padding and at the end of the row, with the
    discount's power that belongs to the number of rewards taken.

    Args:
      reward: `[B, T]` float.
      next_value: `[B, T]` float, value after each step, see `next_values`.
      terminated: `[B, T]` bool.
      truncated: `[B, T]` bool.
      mask: `[B, T]`, 1 where a decision is real.
      num_steps: at least 1, static.
      discount: in [0, 1].

    Returns:
      `[B, T]` float, 0 on padding.

    Raises:
      ValueError: `num_steps` is below 1.

    Source: Sutton and Barto 2018, eq. 7.1.

    >>> no = jnp.zeros((1, 3), bool)
    >>> n_step_return(jnp.array([[1., 2., 3.]]), jnp.full((1, 3), 10.), no, no, num_steps=3,
    ...               discount=0.9)[0, 0].item()
    12.52
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}, but an n-step return needs at least 1")
    mask = jnp.ones_like(reward) if mask is None else mask
    chex.assert_equal_shape([reward, next_value, terminated, truncated, mask])
    real = mask > 0
    bootstrap = jnp.where(terminated, 0.0, next_value)
    next_real = jnp.concatenate([real[:, 1:], jnp.zeros_like(real[:, :1])], axis=1)
    stop = terminated | truncated | ~next_real
    result = reward + discount * bootstrap
    for _ in range(num_steps - 1):
        following = jnp.concatenate([result[:, 1:], result[:, -1:]], axis=1)
        result = reward + discount * jnp.where(stop, bootstrap, following)
    return jnp.where(real, result, 0.0)


def v_trace(
    log_ratio: Array,
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    mask: Array | None = None,
    *,
    discount: float = 0.99,
    trace_decay: float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
) -> tuple[Array, Array]:
    """Off-policy corrected value target and advantage.

    Args:
      log_ratio: `[B, T]` float, log pi(a|s) - log mu(a|s), a constant to the gradient.
      reward: `[B, T]` float.
      value: `[B, T]` float.
      next_value: `[B, T]` float, see `next_values`.
      terminated: `[B, T]` bool.
      truncated: `[B, T]` bool.
      mask: `[B, T]`, 1 where a decision is real.
      discount: in [0, 1].
      trace_decay: lambda, multiplies the trace coefficients c.
      clip_rho: upper bound of the ratio that weights each temporal difference.
      clip_c: upper bound of the ratio that carries the trace back.

    Returns:
      `(target, advantage)`, both `[B, T]` float: the value target `v_s`, and
      `rho (r + discount v_{s+1} - V(s))`, which already holds the clipped ratio: use it with the
      detached reference, or divide the ratio out. Both are 0 on padding.

    Source: Espeholt et al. 2018, "IMPALA", eq. 1 and section 4.2.
    """
    mask = jnp.ones_like(reward) if mask is None else mask
    chex.assert_equal_shape([log_ratio, reward, value, next_value, terminated, truncated, mask])
    real = mask > 0
    ratio = jnp.exp(jnp.where(real, log_ratio, 0.0))
    rho = jnp.minimum(ratio, clip_rho)
    trace = trace_decay * jnp.minimum(ratio, clip_c)
    ends = terminated | truncated
    bootstrap = jnp.where(terminated, 0.0, next_value)
    delta = rho * (reward + discount * bootstrap - value)
    keep = discount * trace * jnp.where(ends, 0.0, 1.0)
    correction, following = _backward_with_next(delta, keep, real)
    next_target = bootstrap + jnp.where(ends, 0.0, following)
    advantage = rho * (reward + discount * next_target - value)
    return jnp.where(real, value + correction, 0.0), jnp.where(real, advantage, 0.0)


def group_normalised(
    rewards: Array,
    group_ids: Array,
    num_groups: int,
    *,
    ddof: int = 1,
    epsilon: float = 1e-6,
    valid: Array | None = None,
) -> Array:
    """Reward of each row, centred and divided by the standard deviation of its group.

    Args:
      rewards: `[B]` float, one scalar for each row.
      group_ids: `[B]` int in `[0, num_groups)`; rows of one prompt share an id, in any order.
      num_groups: static, so that the function jits; B is always enough.
      ddof: 1 divides the squares by n - 1 (torch's default, GRPO's released code), 0 by n.
      epsilon: added to the standard deviation.
      valid: `[B]` bool, False where a reward is missing: such a row is in no statistic and gets 0.

    Returns:
      `[B]` float. A group of one and a group of equal rewards get exactly 0.

    Source: GRPO, Shao et al. 2024, "DeepSeekMath", section 4.1.2.

    >>> group_normalised(jnp.array([1., 0., 5.]), jnp.array([0, 0, 1]), 2).tolist()
    [0.7071, -0.7071, 0.0]
    """
    centred, count, valid = _centred(rewards, group_ids, num_groups, valid)
    squares = jax.ops.segment_sum(centred**2, group_ids, num_groups)
    variance = squares / jnp.maximum(count - ddof, 1.0)
    return centred / (_root(variance)[group_ids] + epsilon)


def group_mean_only(
    rewards: Array, group_ids: Array, num_groups: int, *, valid: Array | None = None
) -> Array:
    """Reward of each row minus the mean of its group, the row itself included.

    Args:
      rewards: `[B]` float.
      group_ids: `[B]` int in `[0, num_groups)`.
      num_groups: static.
      valid: `[B]` bool, False where a reward is missing.

    Returns:
      `[B]` float, 0 for a group of one. Its mean over samples is (n - 1)/n of the unbiased
      leave-one-out advantage.

    Source: Dr. GRPO, Liu et al. 2025, "Understanding R1-Zero-like training".

    >>> group_mean_only(jnp.array([1., 0., 5.]), jnp.array([0, 0, 1]), 2).tolist()
    [0.5, -0.5, 0.0]
    """
    return _centred(rewards, group_ids, num_groups, valid)[0]


def leave_one_out(
    rewards: Array, group_ids: Array, num_groups: int, *, valid: Array | None = None
) -> Array:
    """Reward of each row minus the mean of the others in its group.

    Args:
      rewards: `[B]` float.
      group_ids: `[B]` int in `[0, num_groups)`.
      num_groups: static.
      valid: `[B]` bool, False where a reward is missing.

    Returns:
      `[B]` float. A row that is alone in its group has no baseline and gets 0.

    Source: RLOO, Ahmadian et al. 2024, "Back to basics", section 2.3.

    >>> leave_one_out(jnp.array([1., 0., 5.]), jnp.array([0, 0, 1]), 2).tolist()
    [1.0, -1.0, 0.0]
    """
    centred, count, valid = _centred(rewards, group_ids, num_groups, valid)
    safe = jnp.where(valid, rewards, 0.0)
    total = jax.ops.segment_sum(safe, group_ids, num_groups)
    others = (total[group_ids] - safe) / jnp.maximum(count[group_ids] - 1, 1.0)
    # `centred` is exactly 0 where a group has no signal.
    return jnp.where(centred != 0, safe - others, 0.0)


def over_others_in_time(returns: Array, mask: Array) -> Array:
    """Return of each decision minus the mean return of the other rows at the same decision.

    Args:
      returns: `[B, T]` float, from each decision on; rows began together.
      mask: `[B, T]`, 1 where a decision is real.

    Returns:
      `[B, T]` float, over the rows of all devices; 0 where masked and where no other row is real.

    Source: a batch-mean baseline, in the leave-one-out form that keeps the estimate unbiased.

    >>> over_others_in_time(jnp.array([[1., 4.], [3., 0.]]), jnp.array([[1, 1], [1, 0]])).tolist()
    [[-2.0, 0.0], [2.0, 0.0]]
    """
    chex.assert_rank([returns, mask], 2)
    chex.assert_equal_shape([returns, mask])
    real = mask > 0
    safe = jnp.where(real, returns, 0.0)
    total, count = parallel.total((jnp.sum(safe, axis=0), jnp.sum(real, axis=0)))
    others = (total - safe) / jnp.maximum(count - 1, 1)
    return jnp.where(real & (count > 1), safe - others, 0.0)


def unified(
    reward: Array, log_prob: Array, demonstrator_log_prob: Array, coefficient: float
) -> Array:
    """Advantage of the common objective of reinforcement and imitation.

    The objective is `E_pi[r] - coefficient KL(demonstrator || pi)`. With this advantage and ratio
    `pi / pi_ref`, samples of any `pi_ref` estimate its gradient without bias.

    Args:
      reward: `[...]` float, of what was done.
      log_prob: `[...]` float, of it under the policy, a constant to the gradient.
      demonstrator_log_prob: `[...]` float, of it under the demonstrator; -inf where the
        demonstrator never does it.
      coefficient: mu, at least 0.

    Returns:
      `[...]` float, `r + coefficient demonstrator / pi`.

    Source: Lv et al. 2025, "Towards a unified view of LLM post-training", eq. 3 to 5; published
    methods evaluate the first part on rollouts only and the second on demonstrations only.

    >>> unified(jnp.array([1.]), jnp.log(jnp.array([.5])), jnp.log(jnp.array([.25])), 2.0).tolist()
    [2.0]
    """
    chex.assert_equal_shape([reward, log_prob, demonstrator_log_prob])
    return reward + coefficient * jnp.exp(demonstrator_log_prob - log_prob)


def whiten(
    advantage: Array,
    mask: Array | None = None,
    *,
    ddof: int = 0,
    epsilon: float = 1e-8,
    shift_mean: bool = True,
) -> Array:
    """Divides by the standard deviation over the whole batch, of all devices together.

    Args:
      advantage: `[...]` float.
      mask: same shape, 1 where an entry counts.
      ddof: 0 divides the squares by n (population), 1 by n - 1.
      epsilon: added to the standard deviation.
      shift_mean: also subtract the mean; False keeps it.

    Returns:
      Same shape, 0 where masked. One valid entry, or equal entries, give 0 (with
      `shift_mean=False`: finite values).

    >>> whiten(jnp.array([1., 2., 3., 4.])).tolist()
    [-1.3416, -0.4472, 0.4472, 1.3416]
    """
    mask = jnp.ones_like(advantage) if mask is None else mask
    chex.assert_equal_shape([advantage, mask])
    real = mask > 0
    safe = jnp.where(real, advantage, 0.0)
    count = parallel.total(jnp.sum(jnp.where(real, 1.0, 0.0)))
    mean = parallel.total(jnp.sum(safe)) / jnp.maximum(count, 1.0)
    # The mean of n equal floats need not be that float: say "no signal" exactly.
    high = parallel.largest(jnp.max(jnp.where(real, safe, -jnp.inf), initial=-jnp.inf))
    low = -parallel.largest(jnp.max(jnp.where(real, -safe, -jnp.inf), initial=-jnp.inf))
    centred = jnp.where(real & (high > low), safe - mean, 0.0)
    variance = parallel.total(jnp.sum(centred**2)) / jnp.maximum(count - ddof, 1.0)
    return (centred if shift_mean else safe) / (_root(variance) + epsilon)


def _centred(
    rewards: Array, group_ids: Array, num_groups: int, valid: Array | None
) -> tuple[Array, Array, Array]:
    """Centres within groups; also the number of valid rows of each group, and who is valid."""
    chex.assert_rank([rewards, group_ids], 1)
    chex.assert_equal_shape([rewards, group_ids])
    chex.assert_type(group_ids, int)
    valid = jnp.ones_like(rewards, bool) if valid is None else jnp.asarray(valid, bool)
    safe = jnp.where(valid, rewards, 0.0)
    count = jax.ops.segment_sum(valid.astype(safe.dtype), group_ids, num_groups)
    mean = jax.ops.segment_sum(safe, group_ids, num_groups) / jnp.maximum(count, 1.0)
    # The mean of n equal floats need not be that float: say "no signal" exactly.
    high = jax.ops.segment_max(jnp.where(valid, safe, -jnp.inf), group_ids, num_groups)
    low = jax.ops.segment_min(jnp.where(valid, safe, jnp.inf), group_ids, num_groups)
    spread = (high > low)[group_ids] & valid
    return jnp.where(spread, safe - mean[group_ids], 0.0), count, valid


def _root(variance: Array) -> Array:
    """Square root whose gradient at 0 is 0 and not infinite."""
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)


def _backward(increment: Array, keep: Array, real: Array) -> Array:
    """Solves x_t = increment_t + keep_t x_{next real t}, from the end; 0 on padding."""
    return _backward_with_next(increment, keep, real)[0]


def _backward_with_next(increment: Array, keep: Array, real: Array) -> tuple[Array, Array]:
    """`_backward`, and for each t the solution at the next real t (0 where there is none)."""

    def step(following: Array, at: tuple[Array, Array, Array]) -> tuple[Array, tuple]:
        increment_t, keep_t, real_t = at
        here = jnp.where(real_t, increment_t + keep_t * following, following)
        return here, (jnp.where(real_t, here, 0.0), following)

    time_first = jax.tree.map(lambda x: x.T, (increment, keep, real))
    _, (result, following) = jax.lax.scan(
        step, jnp.zeros_like(increment[:, 0]), time_first, reverse=True
    )
    return result.T, following.T
