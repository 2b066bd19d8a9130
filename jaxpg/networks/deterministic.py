"""A deterministic policy into a box, and a critic of observation and action."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpg.choices import one_of
from jaxpg.networks.mlp import ACTIVATIONS, MLP, Dense, uniform_by_fan_in
from jaxpg.networks.observations import encoder
from jaxpg.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class DeterministicNetworks:
    """Pure functions; actions lie in [-1, 1] everywhere but in the environment.

    Attributes:
      init_actor: `(key) -> params`.
      actor: `(params, observation [B, ...]) -> action [B, A]`.
      init_critic: `(key) -> params` of one critic.
      critic: `(params of one critic, observation [B, ...], action [B, A]) -> value [B]`.
      to_environment: action `[..., A]` -> the environment's action.
      num_actions: A.
    """

    init_actor: Callable[[Array], PyTree]
    actor: Callable[[PyTree, PyTree], Array]
    init_critic: Callable[[Array], PyTree]
    critic: Callable[[PyTree, PyTree, Array], Array]
    to_environment: Callable[[Array], Array]
    num_actions: int

    def init_critics(self, key: Array, num_critics: int) -> PyTree:
        """Independent critics, every leaf `[K, ...]`."""
        return jax.vmap(self.init_critic)(jax.random.split(key, num_critics))

    def values(self, critics: PyTree, observation: PyTree, action: Array) -> Array:
        """`[K, B]`, of all critics."""
        return jax.vmap(self.critic, in_axes=(0, None, None))(critics, observation, action)

    def first_value(self, critics: PyTree, observation: PyTree, action: Array) -> Array:
        """`[B]`, of the first critic alone."""
        return self.critic(jax.tree.map(lambda x: x[0], critics), observation, action)


def deterministic(
    observation_space: Any,
    action_space: Any,
    *,
    hidden: Sequence[int] = (256, 256),
    activation: str = "relu",
    actor_keys: str | Sequence[str] | None = None,
    critic_keys: str | Sequence[str] | None = None,
) -> DeterministicNetworks:
    """Builds a policy that ends in a tanh, and a critic, for the spaces of an environment.

    Args:
      observation_space: in gymnax's form.
      action_space: in gymnax's form, a box with finite bounds (`low`, `high`, `shape`).
      hidden: widths of the layers of either.
      activation: one of `networks.mlp.ACTIVATIONS`.
      actor_keys: entries of a dict observation that the policy reads; None reads all.
      critic_keys: entries that the critic reads; None reads all.

    Returns:
      `DeterministicNetworks`.

    Raises:
      ValueError: the action space is none that a deterministic policy fills, or the configuration
        does not fit the spaces.

    Source: TD3, Fujimoto et al. 2018 (arXiv 1802.09477), in the layers of its authors' later code.
    """
    one_of("activation", activation, ACTIVATIONS)
    num_actions, to_environment = _box(action_space)
    for_actor = encoder(observation_space, actor_keys)
    for_critic = encoder(observation_space, critic_keys)
    policy = _Head(hidden, activation, num_actions)
    value = _Head(hidden, activation, 1)
    shapes = jax.eval_shape(observation_space.sample, jax.random.key(0))
    # Only its shape is read.
    example = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), shapes)
    width = jax.eval_shape(for_critic, example).shape[-1]

    def actor(params: PyTree, observation: PyTree) -> Array:
        # tanh may round outside of [-1, 1] on some devices.
        return jnp.clip(jnp.tanh(policy.apply(params, for_actor(observation))), -1.0, 1.0)

    def critic(params: PyTree, observation: PyTree, action: Array) -> Array:
        inputs = jnp.concatenate([for_critic(observation), action], axis=-1)
        return value.apply(params, inputs)[..., 0]

    return DeterministicNetworks(
        init_actor=lambda key: policy.init(key, for_actor(example)),
        actor=actor,
        init_critic=lambda key: value.init(key, jnp.zeros((1, width + num_actions))),
        critic=critic,
        to_environment=to_environment,
        num_actions=num_actions,
    )


class _Head(nn.Module):
    """Hidden layers and a linear one, all drawn as torch draws its linear layers."""

    hidden: Sequence[int]
    activation: str
    num_outputs: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        hidden = MLP(
            self.hidden, ACTIVATIONS[self.activation], initialisers=uniform_by_fan_in, name="torso"
        )(inputs)
        kernel_init, bias_init = uniform_by_fan_in(hidden.shape[-1])
        return Dense(self.num_outputs, kernel_init, bias_init, name="head")(hidden)


def _box(space: Any) -> tuple[int, Callable[[Array], Array]]:
    """The number of actions, and the map from [-1, 1] to the environment's box."""
    if any(hasattr(space, name) for name in ("spaces", "n", "nvec")):
        raise ValueError(
            f"action_space is {type(space).__name__}, but a deterministic policy needs a box: take "
            f"algorithms.on_policy, or let a wrapper make the action from a box of raw numbers"
        )
    shape = tuple(space.shape)
    low, high = (
        np.broadcast_to(np.asarray(bound, np.float32), shape).reshape(-1)
        for bound in (space.low, space.high)
    )
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise ValueError(
            f"action_space reaches from {low} to {high}, but a deterministic policy fills a box "
            f"with finite bounds"
        )

    def to_environment(action: Array) -> Array:
        # Both ends are met exactly, and rounding never leaves the box.
        scaled = jnp.clip(low + (high - low) * (0.5 * (action + 1.0)), low, high)
        return scaled.reshape(action.shape[:-1] + shape)

    return math.prod(shape), to_environment
