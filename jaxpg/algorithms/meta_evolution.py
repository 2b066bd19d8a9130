"""Meta-learning of an update rule by evolution: no gradient goes through the learning of agents.

Two agents live their whole lives on the same level with the same keys, one by the rule plus a
perturbation and one by the rule minus it; the rule moves towards whichever taught its agent better.
Where the meta-gradient of `meta` sees a few updates ahead, this sees the end of a life.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from gymnax.environments.environment import Environment

from jaxpg import parallel, rollout
from jaxpg.algorithms.inner_agents import (
    InnerAgents,
    InnerConfig,
    inner_agents,
    learned_update,
)
from jaxpg.algorithms.inner_lives import live_apart, meta_test
from jaxpg.algorithms.meta import Draw
from jaxpg.choices import at_least, replace_fields
from jaxpg.description import describe
from jaxpg.networks.lpg import LearnedRule, learned_rule
from jaxpg.types import Algorithm, Array, Metrics, PyTree


@dataclasses.dataclass(frozen=True)
class MetaEvolutionConfig(InnerConfig):
    """How a rule is evolved; also the fields of `InnerConfig`. The defaults are TA-LPG's.

    Attributes:
      num_pairs: P, over all devices; each is a level and two agents.
      pairs_at_once: of a device, whose perturbed rules and agents are in memory together.
      sigma: standard deviation of a perturbation.
      meta_learning_rate: of Adam, a number or a schedule.
      score_episodes: whole episodes by which an agent is judged.
    """

    num_pairs: int = 512
    pairs_at_once: int = 32
    sigma: float = 0.1
    meta_learning_rate: Any = 1e-2
    score_episodes: int = 64


@struct.dataclass
class MetaEvolutionState:
    """State of the algorithm; nothing of it belongs to single pairs.

    Attributes:
      rule: parameters that are learned.
      optimiser: of Adam.
      key: of the next update.
      num_updates: int32.
    """

    rule: PyTree
    optimiser: PyTree
    key: Array
    num_updates: Array


def meta_evolution(
    env: Environment,
    draw: Draw,
    *,
    rule: LearnedRule | None = None,
    held_out: tuple[PyTree, Array] | None = None,
    config: MetaEvolutionConfig | None = None,
    **overrides: Any,
) -> Algorithm:
    """Learns a rule for tabular agents by OpenES, with antithetic pairs on one level each.

    The fitness of a perturbed rule is 1 where its agent earned more than the other of the pair, 0
    where it earned less and one half where both earned the same, see `pair_ranks`. The estimate is
    `paired_estimate`, which is how OpenES averages over 2P rules; Adam climbs along it. TA-LPG also
    tells the rule how much of its agent's life is over, which the rules here are not told.

    Args:
      env: whose observations are `(index int32, time float)`, in gymnax's interface.
      draw: a random level and its lifetime; `vmap` goes over its key.
      rule: see `networks.lpg.learned_rule`; None takes its defaults.
      held_out: `(levels [L, ...], lifetimes [L])` of the evaluation; None leaves it out.
      config: see `MetaEvolutionConfig`.
      **overrides: fields of the config.

    Returns:
      An `Algorithm`; its state is a `MetaEvolutionState`, its policy the rule's parameters, its
      steps of an update those of lives of mean length. Metrics: `episode_return`, the mean fitness
      of all agents before it is ranked (NaN where all are lost), `decided_share` of the pairs,
      `lost_share` of the agents, whose table is not finite any more, and `update_norm`. The
      evaluation trains an agent on every level held out: `eval_return`.

    Raises:
      ValueError: an environment whose observations are no index, or sizes that do not fit.
      TypeError: an unknown field.

    Source: TA-LPG, Jackson et al. 2024 (arXiv 2402.05828); OpenES, Salimans et al. 2017
    (arXiv 1703.03864).
    """
    config = replace_fields(config or MetaEvolutionConfig(), overrides)
    _check(config)
    rule = rule or learned_rule()
    agents = inner_agents(env, config)
    run = _Run(
        agents=agents,
        draw=draw,
        rule=rule,
        held_out=held_out,
        config=config,
        optimiser=optax.adam(config.meta_learning_rate),
    )
    steps = 2 * config.num_pairs * config.num_workers * config.num_steps
    return Algorithm(
        init=run.init,
        update=run.update,
        evaluate=None if held_out is None else run.evaluate,
        policy=lambda state: state.rule,
        steps_per_update=max(1, round(steps * _mean_lifetime(draw))),
        world_size=config.num_pairs,
        description={
            "algorithm": "meta_evolution",
            "environment": env.name,
            "draw": describe(draw),
            "num_states": agents.num_states,
            "rule": [rule.num_targets, rule.embedding, rule.hidden],
            **describe(config),
        },
    )


def pair_ranks(fitness_plus: Array, fitness_minus: Array) -> tuple[Array, Array]:
    """Fitness that only says who of a pair was better.

    Args:
      fitness_plus: `[P]` float.
      fitness_minus: `[P]` float, of the other of each pair.

    Returns:
      `[P]` and `[P]` float: 1.0 for the better and 0.0 for the worse, 0.5 for both where they are
      equal. NaN is worse than any number, and two of them are equal.

    Source: TA-LPG, Jackson et al. 2024 (arXiv 2402.05828), whose code gives a tie to the second.

    >>> plus, minus = pair_ranks(jnp.array([3.0, 1.0, jnp.nan]), jnp.array([2.0, 1.0, -9.0]))
    >>> plus.tolist(), minus.tolist()
    ([1.0, 0.5, 0.0], [0.0, 0.5, 1.0])
    """
    chex.assert_equal_shape([fitness_plus, fitness_minus])

    def above(one: Array, other: Array) -> Array:
        return ~jnp.isnan(one) & (jnp.isnan(other) | (one > other))

    plus, minus = above(fitness_plus, fitness_minus), above(fitness_minus, fitness_plus)
    rank = 0.5 * (1.0 + plus.astype(jnp.float32) - minus.astype(jnp.float32))
    return rank, 1.0 - rank


def paired_estimate(
    fitness_plus: Array, fitness_minus: Array, noise: PyTree, sigma: float
) -> PyTree:
    """The gradient of expected fitness that antithetic pairs estimate, to be climbed.

    Args:
      fitness_plus: `[P]` float, at the parameters plus `sigma * noise`.
      fitness_minus: `[P]` float, at the parameters minus it. Neither may be NaN.
      noise: pytree with leading axis `[P]`, standard normal.
      sigma: positive.

    Returns:
      Pytree without that axis: the mean over pairs of `(plus - minus) * noise / (2 sigma)`. Exact
      in expectation for a quadratic fitness, and in general for the fitness smoothed by sigma.

    Source: OpenES, Salimans et al. 2017 (arXiv 1703.03864), which divides the sum over all 2P by
    `2P sigma`.

    >>> fitness = lambda x: 3.0 * x
    >>> noise = jnp.array([1.0, -1.0])
    >>> float(paired_estimate(fitness(2.0 + 0.1 * noise), fitness(2.0 - 0.1 * noise), noise, 0.1))
    3.0
    """
    chex.assert_rank(fitness_plus, 1)
    chex.assert_equal_shape([fitness_plus, fitness_minus])
    weights = (fitness_plus - fitness_minus) / (2 * sigma * fitness_plus.shape[0])
    return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, axes=1), noise)


def _check(config: MetaEvolutionConfig) -> None:
    for name in ("num_pairs", "pairs_at_once", "num_workers", "num_steps", "score_episodes"):
        at_least(name, getattr(config, name), 1)
    if not config.sigma > 0:
        raise ValueError(f"sigma is {config.sigma!r}, but it has to be positive")


def _mean_lifetime(draw: Draw) -> float:
    """Of some levels, the same in every process."""
    keys = jax.random.split(jax.random.key(0), 256)
    return float(jnp.mean(jax.jit(jax.vmap(lambda key: draw(key)[1]))(keys)))


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """The functions of one configuration."""

    agents: InnerAgents
    draw: Draw
    rule: LearnedRule
    held_out: tuple[PyTree, Array] | None
    config: MetaEvolutionConfig
    optimiser: optax.GradientTransformation

    def init(self, key: Array) -> MetaEvolutionState:
        key_rule, key = jax.random.split(key)
        rule = self.rule.init(key_rule)
        return MetaEvolutionState(
            rule=rule,
            optimiser=self.optimiser.init(rule),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
        )

    def update(self, state: MetaEvolutionState) -> tuple[MetaEvolutionState, Metrics]:
        key, key_pairs = jax.random.split(state.key)
        estimate, metrics = self.estimate(key_pairs, state.rule)
        downhill = jax.tree.map(jnp.negative, estimate)
        changes, optimiser = self.optimiser.update(downhill, state.optimiser)
        state = MetaEvolutionState(
            rule=optax.apply_updates(state.rule, changes),
            optimiser=optimiser,
            key=key,
            num_updates=state.num_updates + 1,
        )
        return state, {**metrics, "update_norm": optax.tree.norm(changes)}

    def estimate(self, key: Array, rule: PyTree) -> tuple[PyTree, Metrics]:
        """Mean estimate of all pairs, and what is said of them.

        Pairs are taken some at a time, so that memory does not grow with their number.
        """
        number = self.config.num_pairs // parallel.num_shards()
        at_once = min(self.config.pairs_at_once, number)
        if number % at_once:
            raise ValueError(
                f"pairs_at_once is {at_once}, but it has to divide the {number} pairs of a device"
            )

        def one_part(total: PyTree, keys: Array) -> tuple[PyTree, tuple[Array, Array]]:
            levels, lifetimes, noise, lives = self.drawn(keys, rule)
            plus, minus = self.fitness(lives, rule, noise, levels, lifetimes)
            found = paired_estimate(*pair_ranks(plus, minus), noise, self.config.sigma)
            return jax.tree.map(jnp.add, total, found), (plus, minus)

        # By their index over all devices: how many devices there are changes no pair.
        keys = rollout.row_keys(key, number).reshape(number // at_once, at_once)
        zeros = jax.tree.map(jnp.zeros_like, rule)
        total, (plus, minus) = jax.lax.scan(one_part, zeros, keys)
        estimate = jax.tree.map(lambda x: x / (number // at_once), total)
        both = jnp.stack([plus, minus])
        lost = jnp.isnan(both)
        earned, there = parallel.total((jnp.sum(jnp.where(lost, 0.0, both)), jnp.sum(~lost)))
        shares = {
            "decided_share": jnp.mean((pair_ranks(plus, minus)[0] != 0.5).astype(jnp.float32)),
            "lost_share": jnp.mean(lost.astype(jnp.float32)),
        }
        estimate, shares = parallel.mean((estimate, shares))
        return estimate, {
            "episode_return": jnp.where(there > 0, earned / jnp.maximum(there, 1), jnp.nan),
            **shares,
        }

    def drawn(self, keys: Array, rule: PyTree) -> tuple[PyTree, Array, PyTree, Array]:
        """Levels, lifetimes, noise and the keys of lives, of pairs with these keys."""

        def one(key: Array) -> tuple[PyTree, Array, PyTree, Array]:
            key_level, key_noise, key_lives = jax.random.split(key, 3)
            noise = optax.tree.random_like(key_noise, rule, jax.random.normal)
            return *self.draw(key_level), noise, key_lives

        return jax.vmap(one)(keys)

    def fitness(
        self, keys: Array, rule: PyTree, noise: PyTree, levels: PyTree, lifetimes: Array
    ) -> tuple[Array, Array]:
        """`[P]` and `[P]`: what agents earn after whole lives by the rule plus and minus noise."""
        sigma = self.config.sigma
        rules = jax.tree.map(
            lambda leaf, noise: jnp.stack([leaf + sigma * noise, leaf - sigma * noise]), rule, noise
        )
        # Keys and levels have no axis of the pair: its two agents cannot but share them.
        plus, minus = jax.vmap(self.lived, in_axes=(None, 0, None, None))(
            keys, rules, levels, lifetimes
        )
        return plus, minus

    def lived(self, keys: Array, rules: PyTree, levels: PyTree, lifetimes: Array) -> Array:
        """`[P]` mean returns at the end of lives, NaN of an agent that is not finite any more."""
        agents = self.agents
        key_life, key_play = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        actors = live_apart(
            agents,
            lambda params: learned_update(agents, self.rule, params),
            rules,
            key_life,
            levels,
            lifetimes,
            self.rule.num_targets,
        ).actor
        returns = jax.vmap(agents.returns, in_axes=(0, 0, 0, None))(
            key_play, actors, levels, self.config.score_episodes
        )
        # A policy of NaN would still act, and earn something.
        return jnp.where(jax.vmap(_all_finite)(actors), returns, jnp.nan)

    def evaluate(self, state: MetaEvolutionState, key: Array) -> Metrics:
        levels, lifetimes = self.held_out
        found = meta_test(
            self.agents, levels, lifetimes, key, self.config.score_episodes, self.rule, state.rule
        )
        return {"eval_return": jnp.mean(found)}


def _all_finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
