"""Whole lives of tabular agents, side by side, and what they reach at the end of them."""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxpg.algorithms.inner_agents import (
    InnerAgent,
    InnerAgents,
    Update,
    a2c_update,
    learned_update,
)
from jaxpg.networks.lpg import LearnedRule
from jaxpg.types import Array, PyTree


def within_lifetime(agent: InnerAgent, updated: InnerAgent, lifetime: Array) -> InnerAgent:
    """The updated agent, or what it was where its life is over; its workers go on.

    Args:
      agent: before.
      updated: after one update.
      lifetime: int32, updates that count.

    Returns:
      An `InnerAgent`.
    """
    alive = agent.num_updates < lifetime
    kept = updated.replace(num_updates=agent.num_updates + 1)
    old = agent.replace(rows=updated.rows)
    return jax.tree.map(lambda new, old: jnp.where(alive, new, old), kept, old)


def live(
    agents: InnerAgents,
    update: Update,
    keys: Array,
    levels: PyTree,
    lifetimes: Array,
    num_targets: int = 0,
) -> InnerAgent:
    """Trains new agents for their whole lives, side by side.

    Args:
      agents: their functions.
      update: the rule by which they learn.
      keys: `[A]`.
      levels: leading axis `[A]`.
      lifetimes: `[A]` int32.
      num_targets: of a rule with a predictor.

    Returns:
      `InnerAgent`, leading axis `[A]`.
    """
    return live_apart(agents, lambda _: update, (), keys, levels, lifetimes, num_targets)


def live_apart(
    agents: InnerAgents,
    update_by: Callable[[PyTree], Update],
    params: PyTree,
    keys: Array,
    levels: PyTree,
    lifetimes: Array,
    num_targets: int = 0,
) -> InnerAgent:
    """Trains new agents for their whole lives, each by a rule of its own.

    Args:
      agents: their functions.
      update_by: the rule of an agent, given its parameters.
      params: of the rules, leading axis `[A]`.
      keys: `[A]`.
      levels: leading axis `[A]`.
      lifetimes: `[A]` int32.
      num_targets: of a rule with a predictor.

    Returns:
      `InnerAgent`, leading axis `[A]`.
    """
    chex.assert_rank(lifetimes, 1)
    starts, lives = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)

    def one(
        agent: InnerAgent, params: PyTree, key: Array, level: PyTree, lifetime: Array
    ) -> InnerAgent:
        agent, experience, _ = agents.collect(
            jax.random.fold_in(key, agent.num_updates), agent, level
        )
        return within_lifetime(agent, update_by(params)(agent, experience)[0], lifetime)

    def step(carry: tuple[InnerAgent, Array]) -> tuple[InnerAgent, Array]:
        now, time = carry
        return jax.vmap(one)(now, params, lives, levels, lifetimes), time + 1

    begun = jax.vmap(lambda key, level: agents.init(key, level, num_targets))(starts, levels)
    longest = jnp.max(lifetimes)
    return jax.lax.while_loop(lambda carry: carry[1] < longest, step, (begun, 0))[0]


def meta_test(
    agents: InnerAgents,
    levels: PyTree,
    lifetimes: Array,
    key: Array,
    num_episodes: int,
    rule: LearnedRule | None = None,
    params: PyTree = None,
) -> Array:
    """What agents that a rule has never seen reach on levels, at the end of their lives.

    Args:
      agents: their functions.
      levels: leading axis `[L]`.
      lifetimes: `[L]` int32.
      key: of all of them.
      num_episodes: of each agent's stochastic policy, whole ones.
      rule: None trains by A2C.
      params: of the rule.

    Returns:
      `[L]` float, mean returns.
    """
    key_live, key_play = jax.random.split(key)
    number = lifetimes.shape[0]
    update = a2c_update(agents) if rule is None else learned_update(agents, rule, params)
    trained = live(
        agents,
        update,
        jax.random.split(key_live, number),
        levels,
        lifetimes,
        0 if rule is None else rule.num_targets,
    )
    play = jax.vmap(agents.returns, in_axes=(0, 0, 0, None))
    return play(jax.random.split(key_play, number), trained.actor, levels, num_episodes)
