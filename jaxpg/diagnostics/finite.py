"""A finite decision process with a softmax policy, small enough to enumerate."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.diagnostics import enumeration
from jaxpg.types import Array, Evaluation, Trajectory, trajectory

LARGEST_ENUMERATION = 200_000
"""Trajectories; beyond them the exact gradient comes from dynamic programming."""

END = -1
"""The successor that ends an episode."""


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """S states, A actions, at most `horizon` decisions; everything about it can be computed.

    The policy is a softmax of a table of logits, so the policy's parameters are that table. The
    objective is the expected sum of rewards, undiscounted; the horizon terminates.

    Attributes:
      name: what reports call it.
      params: `[S, A]` float, the logits of the current policy.
      reward: `[S, A]` float, mean reward of an action in a state.
      successor: `[S, A, C]` int, states that may follow, `END` where the episode is over.
      probability: `[S, A, C]` float, of each of them.
      initial: `[S]` float, probability of the first state.
      horizon: at least 1, decisions after which an episode is over.
      reward_noise: standard deviation of Gaussian noise on every reward.
      critic: `"exact"`, values of the behaviour policy; `"zero"`; or a number, the standard
        deviation of a fixed error on the exact value of each state and time.
    """

    name: str
    params: Array
    reward: np.ndarray
    successor: np.ndarray
    probability: np.ndarray
    initial: np.ndarray
    horizon: int
    reward_noise: float = 0.0
    critic: str | float = "exact"

    def __post_init__(self):
        if isinstance(self.critic, str) and self.critic not in ("exact", "zero"):
            raise ValueError(
                f"critic is {self.critic!r}, but it is 'exact', 'zero' or a number (the standard "
                f"deviation of the error on the exact values)"
            )
        if self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}, but an episode has at least 1 decision")

    @property
    def num_trajectories(self) -> float:
        """How many trajectories have positive probability, as a float because it may be vast."""
        return enumeration.count(self)

    def values(self, params: Array) -> Array:
        """Exact value of each state at each time, by dynamic programming.

        Args:
          params: `[S, A]` float, logits.

        Returns:
          `[horizon + 1, S]` float; the last row, after the horizon, is 0.
        """
        policy = jax.nn.softmax(params)
        reward = jnp.asarray(self.reward, policy.dtype)
        probability = jnp.asarray(self.probability, policy.dtype)
        successor = jnp.asarray(self.successor)
        following = [jnp.zeros(policy.shape[0], policy.dtype)]
        for _ in range(self.horizon):
            bootstrap = jnp.where(successor == END, 0.0, following[0][successor])
            action_value = reward + jnp.sum(probability * bootstrap, axis=-1)
            following.insert(0, jnp.sum(policy * action_value, axis=-1))
        return jnp.stack(following)

    def expected_return(self, params: Array) -> Array:
        """Exact expected sum of rewards; differentiable.

        Args:
          params: `[S, A]` float, logits.

        Returns:
          Scalar.
        """
        return jnp.asarray(self.initial, params.dtype) @ self.values(params)[0]

    def exact_gradient(self, params: Array) -> Array:
        """The policy gradient, `sum over trajectories of p(trajectory) return grad log p`.

        Nothing is differentiated automatically: the score of a softmax is written out. With more
        than `LARGEST_ENUMERATION` trajectories it is `jax.grad(expected_return)` instead.

        Args:
          params: `[S, A]` float, logits.

        Returns:
          `[S, A]` float.
        """
        if self.num_trajectories > LARGEST_ENUMERATION:
            return jax.grad(self.expected_return)(params)
        return enumeration.score_gradient(enumeration.enumerate_all(self), params)

    def critic_values(self, params: Array) -> Array:
        """What the critic says of each state at each time.

        Args:
          params: `[S, A]` float, logits of the policy whose values an exact critic knows.

        Returns:
          `[horizon + 1, S]` float, 0 after the horizon.
        """
        values = self.values(params)
        if self.critic == "exact":
            return values
        if self.critic == "zero":
            return jnp.zeros_like(values)
        error = self.critic * jax.random.normal(jax.random.key(0), values.shape, values.dtype)
        return (values + error).at[-1].set(0.0)

    def sample(self, key: Array, params: Array, num_rows: int, group_size: int = 1) -> Trajectory:
        """Draws episodes of a policy; the rows of one group start in one state (one prompt).

        Args:
          key: random key.
          params: `[S, A]` float, logits of the policy that acts.
          num_rows: B, a multiple of `group_size`.
          group_size: rows of each group, which stand next to each other.

        Returns:
          A trajectory of shape `[B, horizon]`. The observation is the state's index. Extras:
          `value` and `next_value` of the critic, `start_value` `[B]` (that of the row's first
          state), and `current_log_prob` equal to `log_prob`.
        """
        log_policy = jax.nn.log_softmax(params)
        values = self.critic_values(params)
        start_key, step_key = jax.random.split(key)
        starts = jnp.log(jnp.asarray(self.initial, params.dtype))
        first = jax.random.categorical(start_key, starts, shape=(num_rows // group_size,))

        def step(
            carry: tuple[Array, Array], at: tuple[Array, Array]
        ) -> tuple[tuple[Array, Array], dict[str, Array]]:
            (state, alive), (time, key) = carry, at
            action, reward, following = self._step(key, log_policy, state)
            over = (following == END) | (time == self.horizon - 1)
            column = {
                "state": state,
                "action": action,
                "reward": jnp.where(alive, reward, 0.0),
                "terminated": alive & over,
                "mask": alive,
                "value": values[time, state],
                "next_value": jnp.where(over, 0.0, values[time + 1, following]),
            }
            return (jnp.where(over, state, following), alive & ~over), column

        begin = jnp.repeat(first, group_size), jnp.ones(num_rows, bool)
        times = jnp.arange(self.horizon)
        _, columns = jax.lax.scan(step, begin, (times, jax.random.split(step_key, self.horizon)))
        rows = jax.tree.map(jnp.transpose, columns)
        log_prob = log_policy[rows["state"], rows["action"]]
        return trajectory(
            log_prob,
            rows["reward"],
            observation=rows["state"],
            action=rows["action"],
            terminated=rows["terminated"],
            mask=rows["mask"],
            group_ids=jnp.repeat(jnp.arange(num_rows // group_size), group_size),
            value=rows["value"],
            start_value=values[0, begin[0]],
            next_value=rows["next_value"],
            current_log_prob=log_prob,
        )

    def evaluate(self, params: Array, batch: Trajectory) -> Evaluation:
        """What a policy says about a trajectory; the critic has no parameters of its own.

        Args:
          params: `[S, A]` float, logits; the gradient flows through them.
          batch: of `sample`.

        Returns:
          Log-probability, entropy in nats, the trajectory's own `value`, and the logits.
        """
        table = jax.nn.log_softmax(params)
        entropy = -jnp.sum(jnp.exp(table) * table, axis=-1)
        state = batch.observation
        return Evaluation(
            log_prob=table[state, batch.action],
            entropy=entropy[state],
            value=batch.extras.get("value"),
            distribution=params[state],
        )

    def _step(self, key: Array, log_policy: Array, state: Array) -> tuple[Array, Array, Array]:
        action_key, branch_key, noise_key = jax.random.split(key, 3)
        action = jax.random.categorical(action_key, log_policy[state])
        branch = jnp.zeros_like(action)
        if self.successor.shape[-1] > 1:
            chances = jnp.log(jnp.asarray(self.probability))[state, action]
            branch = jax.random.categorical(branch_key, chances)
        following = jnp.asarray(self.successor, action.dtype)[state, action, branch]
        reward = jnp.asarray(self.reward, log_policy.dtype)[state, action]
        if self.reward_noise:
            noise = jax.random.normal(noise_key, reward.shape, reward.dtype)
            reward = reward + self.reward_noise * noise
        return action, reward, following


def random_logits(seed: int, shape: tuple[int, ...], scale: float) -> Array:
    """A policy that is not uniform.

    Args:
      seed: of the normal variables.
      shape: `[S, A]`.
      scale: their standard deviation; 0 gives the uniform policy.

    Returns:
      `[S, A]` float.
    """
    return scale * jax.random.normal(jax.random.key(seed), shape, jnp.result_type(float))
