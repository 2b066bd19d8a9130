"""The network of a learned update rule (LPG): it reads a rollout backwards and says what to learn.

The rule stands where an advantage and a bootstrap target would: for every step of a rollout it
gives a number that weighs the log-probability of the action, and a categorical target that the
agent's own predictor is pulled towards. What these two do to an agent is in
`losses.learned_rule`; `networks.lpg_file` keeps a rule in a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpg.choices import at_least
from jaxpg.networks.gru import Layer
from jaxpg.types import Array, PyTree


class LearnedRule(NamedTuple):
    """Pure functions, and the sizes that they were built with.

    A rule written by hand is one too: only `apply` is asked, with whatever `init` returns.

    Attributes:
      init: `(key) -> params`, float32.
      apply: `(params, rewards [N, T], dones [N, T], probabilities [N, T], targets [N, T, m],
        next_targets [N, T, m]) -> (policy_update [N, T], target_update [N, T, m])`, see
        `learned_rule`.
      num_targets: m, the categories of the agent's target predictor.
      embedding: width of the embedding of a target.
      hidden: width of the recurrent state.
    """

    init: Callable[[Array], PyTree]
    apply: Callable[..., tuple[Array, Array]]
    num_targets: int
    embedding: int
    hidden: int


def learned_rule(num_targets: int = 8, embedding: int = 16, hidden: int = 256) -> LearnedRule:
    """Builds the network of a learned rule.

    `apply` reads the rollouts of one agent, `vmap` it over agents:

    * rewards `[N, T]`, of N workers over T steps, received at each step.
    * dones `[N, T]`, bool or 0.0 and 1.0: the episode ended with this step, terminated or
      truncated. Nothing of what comes after it reaches it or what came before.
    * probabilities `[N, T]` in [0, 1], that the agent gave to the action that it took.
    * targets `[N, T, m]`, the agent's prediction at the observation before each step, on the
      simplex.
    * next_targets `[N, T, m]`, at the observation after it; not read where done.

    It gives policy_update `[N, T]`, of either sign, and target_update `[N, T, m]` on the simplex.
    Under `losses.learned_rule.inner_loss`, which is minimised, a negative policy_update makes its
    action more likely. All inputs are constants to the gradient, as the meta-gradient has it:
    differentiate by the rule's parameters, and through what an agent does with the outputs.

    Args:
      num_targets: m, at least 1.
      embedding: width of the hidden layer that makes one number of a target.
      hidden: width of the gated recurrent unit.

    Returns:
      A `LearnedRule`.

    Raises:
      ValueError: a size below 1.

    Source: LPG, Oh et al. 2020 (arXiv 2007.08794), with a gated recurrent unit and
    without the discount as an input as in GROOVE, Jackson et al. 2023 (arXiv 2310.02782).

    >>> rule = learned_rule(num_targets=3, hidden=4)
    >>> step, target = jnp.zeros((2, 5)), jnp.full((2, 5, 3), 1 / 3)
    >>> params = jax.jit(rule.init)(jax.random.key(0))
    >>> policy_update, target_update = jax.jit(rule.apply)(params, step, step, step, target, target)
    >>> policy_update.shape, target_update.shape
    ((2, 5), (2, 5, 3))
    """
    sizes = {"num_targets": num_targets, "embedding": embedding, "hidden": hidden}
    for name, size in sizes.items():
        at_least(name, size, 1)
    network = _Rule(**sizes)

    def init(key: Array) -> PyTree:
        step, target = jnp.zeros((1, 1)), jnp.zeros((1, 1, num_targets))
        return network.init(key, step, step, step, target, target)

    def apply(
        params: PyTree,
        rewards: Array,
        dones: Array,
        probabilities: Array,
        targets: Array,
        next_targets: Array,
    ) -> tuple[Array, Array]:
        chex.assert_rank(rewards, 2)
        chex.assert_equal_shape([rewards, dones, probabilities])
        chex.assert_shape([targets, next_targets], (*rewards.shape, num_targets))
        inputs = (rewards, dones, probabilities, targets, next_targets)
        inputs = (jnp.asarray(x, jnp.float32) for x in inputs)
        return network.apply(params, *map(jax.lax.stop_gradient, inputs))

    return LearnedRule(init=init, apply=apply, **sizes)


class _Rule(nn.Module):
    """Embedding, recurrence backwards in time, two heads."""

    num_targets: int
    embedding: int
    hidden: int

    def setup(self) -> None:
        self.embedding_layer = nn.Dense(self.embedding)
        self.embedding_head = nn.Dense(1)
        self.recurrent = Layer(self.hidden)
        self.policy_head = nn.Dense(1)
        self.target_head = nn.Dense(self.num_targets)

    def __call__(
        self,
        rewards: Array,
        dones: Array,
        probabilities: Array,
        targets: Array,
        next_targets: Array,
    ) -> tuple[Array, Array]:
        following = jnp.where(dones > 0, 0.0, self.embed(next_targets))
        steps = [rewards, dones, probabilities, self.embed(targets), following]
        # Time first: what the scan reads at one step lies together.
        hidden = nn.relu(self.backwards(jnp.stack([x.T for x in steps], axis=-1), dones.T > 0))
        policy_update = self.policy_head(hidden)[..., 0].T
        return policy_update, jnp.swapaxes(nn.softmax(self.target_head(hidden)), 0, 1)

    def embed(self, targets: Array) -> Array:
        """Maps `[..., m]` to `[...]`."""
        return self.embedding_head(nn.relu(self.embedding_layer(targets)))[..., 0]

    def backwards(self, steps: Array, dones: Array) -> Array:
        """Recurrent states `[T, N, hidden]` of steps `[T, N, 5]`, from the last to the first."""
        # Outside the scan: the product with the inputs does not wait for the carry.
        before = self.recurrent.from_inputs(steps)

        def one(carry: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
            from_inputs, done = at
            # Before the step, so that what follows an episode's end does not reach its last step.
            carry = self.recurrent.step(jnp.where(done[:, None], 0.0, carry), from_inputs)
            return carry, carry

        empty = jnp.zeros((steps.shape[1], self.hidden))
        return jax.lax.scan(one, empty, (before, dones), reverse=True)[1]
