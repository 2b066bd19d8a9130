"""Gradient variation: elites that climb a critic, each with an optimiser of its own."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxpg.losses import deterministic as losses
from jaxpg.types import Array, PyTree

Value = Callable[[PyTree, PyTree, PyTree], Array]
"""`(policy, observation [B, ...], asked of the policy) -> [B]`: a critic of the policy's action."""


def climb(
    policies: PyTree,
    asked: PyTree,
    observations: PyTree,
    value: Value,
    optimiser: optax.GradientTransformation,
) -> PyTree:
    """Mutates policies by gradient ascent on a critic that stays as it is.

    Args:
      policies: pytree of `[N, ...]`.
      asked: pytree of `[N, ...]`, what the critic is told about each policy, or `()`.
      observations: pytree of `[S, B, ...]`: one minibatch for each of S steps, for all policies.
      value: of a policy's actions.
      optimiser: starts afresh for every policy.

    Returns:
      Policies.

    Source: PGA-MAP-Elites, Nilsson and Cully 2021, "Policy gradient assisted MAP-Elites".
    """

    def one(policy: PyTree, asked: PyTree) -> PyTree:
        def loss(policy: PyTree, observation: PyTree) -> Array:
            return jnp.mean(losses.actor(value(policy, observation, asked)))

        def step(carry: tuple[PyTree, PyTree], observation: PyTree):
            policy, memory = carry
            changes, memory = optimiser.update(jax.grad(loss)(policy, observation), memory, policy)
            return (optax.apply_updates(policy, changes), memory), None

        return jax.lax.scan(step, (policy, optimiser.init(policy)), observations)[0][0]

    return jax.vmap(one)(policies, asked)
