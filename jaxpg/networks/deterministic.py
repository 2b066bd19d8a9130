"""A deterministic policy into a box, and a critic of observation and action."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpg.choices import one_of
from jaxpg.networks.mlp import ACTIVATIONS, MLP, Dense, Initialisers, uniform_by_fan_in
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
    critic_hidden: Sequence[int] | None = None,
    activation: str = "relu",
    initialisers: Initialisers = uniform_by_fan_in,
    actor_keys: str | Sequence[str] | None = None,
    critic_keys: str | Sequence[str] | None = None,
) -> DeterministicNetworks:
    """Builds a policy that ends in a tanh, and a critic, for the spaces of an environment.

    Args:
      observation_space: in gymnax's form.
      action_space: in gymnax's form, a box with finite bounds (`low`, `high`, `shape`).
      hidden: widths of the layers of either.
      critic_hidden: widths of the critic's layers where they differ.
      activation: one of `networks.mlp.ACTIVATIONS`.
      initialisers: of all layers, see `networks.mlp.Initialisers`.
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
    policy = _Head(hidden, activation, num_actions, initialisers)
    value = _Head(hidden if critic_hidden is None else critic_hidden, activation, 1, initialisers)
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


def with_fixed_inputs(params: PyTree, values: Array) -> PyTree:
    """The policy that remains when the last inputs are held at fixed values.

    They become a part of the first layer's bias, and the new policy has the parameters of one that
    never read them: a policy that was told what to do turns into one that does it.

    Args:
      params: of an actor that `deterministic` built.
      values: `[D]` float, what its last D inputs would have been.

    Returns:
      Parameters of an actor with D inputs fewer.

    Raises:
      ValueError: the first layer has no more inputs than there are values.

    Source: DCRL-MAP-Elites, Faldor et al. 2024 (arXiv 2401.08632), actor injection.
    """
    chex.assert_rank(values, 1)
    layers = params["params"]
    torso = dict(layers.get("torso", {}))
    first = torso["Dense_0"] if torso else layers["head"]
    kernel, bias = first["kernel"], first["bias"]
    kept = kernel.shape[0] - values.shape[0]
    if kept < 1:
        raise ValueError(
            f"values has {values.shape[0]} entries, but the first layer has {kernel.shape[0]} "
            f"inputs, of which at least one has to be left"
        )
    first = {"kernel": kernel[:kept], "bias": bias + values @ kernel[kept:]}
    if not torso:
        return {"params": {"head": first}}
    return {"params": layers | {"torso": torso | {"Dense_0": first}}}


class _Head(nn.Module):
    """Hidden layers and a linear one, all drawn in the same way."""

    hidden: Sequence[int]
    activation: str
    num_outputs: int
    initialisers: Initialisers

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        hidden = MLP(
            self.hidden, ACTIVATIONS[self.activation], initialisers=self.initialisers, name="torso"
        )(inputs)
        kernel_init, bias_init = self.initialisers(hidden.shape[-1])
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
