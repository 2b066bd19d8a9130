"""Meta-learning of an update rule by the gradient through the learning of many agents.

Each agent lives on a level of its own and learns by the rule; the rule learns from what that made
of the agents. Which levels come next is the matter of a curriculum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from gymnax.environments.environment import Environment

from jaxpg import parallel, rollout
from jaxpg.algorithms.inner_agents import (
    COEFFICIENTS,
    InnerAgent,
    InnerAgents,
    InnerConfig,
    a2c_update,
    inner_agents,
    learned_update,
    taken,
)
from jaxpg.algorithms.inner_lives import live, meta_test, within_lifetime
from jaxpg.choices import at_least, one_of, replace_fields
from jaxpg.curricula import LevelBuffer, level_buffer, scores
from jaxpg.description import describe
from jaxpg.losses import learned_rule as losses
from jaxpg.networks.lpg import LearnedRule, learned_rule
from jaxpg.networks.tabular import look_up
from jaxpg.types import Algorithm, Array, Metrics, PyTree

SELECTIONS = ("rank", "proportional", "random", "frozen")
SCORES = ("algorithmic_regret", "l1_value_loss", "positive_value_loss", "final_return")

Draw = Callable[[Array], tuple[PyTree, Array]]
"""`(key) -> (level, lifetime)`: parameters of the environment, and updates of an agent on it."""


@dataclasses.dataclass(frozen=True)
class MetaConfig(InnerConfig):
    """How a rule is meta-learned; also the fields of `InnerConfig`. The defaults are GROOVE's.

    Attributes:
      num_agents: A, over all devices.
      agents_at_once: of a device, whose meta-gradient is in memory together.
      num_inner_updates: K, that a meta-gradient goes through.
      meta_learning_rate: of Adam.
      max_meta_gradient_norm: each agent's meta-gradient is scaled down to it, before the mean over
        agents. Through several updates now and then the gradient of one agent explodes, and would
        drown those of all others also in a mean that is scaled down afterwards.
        The published program sets the same number for the mean and, with Adam, does not use it.
      coefficients: of the rule's regularisers.
      buffer_size: levels that are remembered.
      selection: one of `SELECTIONS`; `"random"` and `"frozen"` are curricula without scores.
      score: one of `SCORES`.
      replay_probability: that an agent's next level is one that was scored before.
      temperature: of `"proportional"`.
      score_episodes: whole episodes by which an agent is judged.
      antagonists_at_once: of a device, trained together when agents finish.
    """

    num_agents: int = 512
    agents_at_once: int = 32
    num_inner_updates: int = 5
    meta_learning_rate: Any = 1e-4
    max_meta_gradient_norm: float = 0.5
    coefficients: losses.MetaCoefficients = COEFFICIENTS
    buffer_size: int = 4000
    selection: str = "rank"
    score: str = "algorithmic_regret"
    replay_probability: float = 0.5
    temperature: float = 1.0
    score_episodes: int = 64
    antagonists_at_once: int = 8

    @property
    def scored(self) -> bool:
        """Whether the curriculum looks at scores."""
        return self.selection in ("rank", "proportional")


@struct.dataclass
class Lives:
    """Agents and where they live, leading axis `[A]`.

    Attributes:
      agents: `InnerAgent`.
      levels: their environments' parameters.
      lifetimes: int32.
      slots: int32, of their levels in the buffer.
      replayed: bool, the level had been scored before.
    """

    agents: InnerAgent
    levels: PyTree
    lifetimes: Array
    slots: Array
    replayed: Array


@struct.dataclass
class MetaWorld:
    """What belongs to single agents.

    Attributes:
      rows: of `Lives`, split over devices.
    """

    rows: Lives


@struct.dataclass
class MetaState:
    """State of the algorithm.

    Attributes:
      rule: parameters that are learned.
      optimiser: of Adam.
      buffer: levels and lifetimes with their scores.
      world: see `MetaWorld`.
      key: of the next update.
      num_updates: int32.
    """

    rule: PyTree
    optimiser: PyTree
    buffer: LevelBuffer
    world: MetaWorld
    key: Array
    num_updates: Array


def meta(
    env: Environment,
    draw: Draw,
    *,
    rule: LearnedRule | None = None,
    held_out: tuple[PyTree, Array] | None = None,
    config: MetaConfig | None = None,
    **overrides: Any,
) -> Algorithm:
    """Learns a rule for tabular agents: LPG, or with a scored curriculum GROOVE.

    Args:
      env: whose observations are `(index int32, time float)`, in gymnax's interface.
      draw: a random level and its lifetime; `vmap` goes over its key.
      rule: see `networks.lpg.learned_rule`; None takes its defaults.
      held_out: `(levels [L, ...], lifetimes [L])` of the evaluation; None leaves it out.
      config: see `MetaConfig`.
      **overrides: fields of the config.

    Returns:
      An `Algorithm`; its state is a `MetaState`, its policy the rule's parameters. Metrics:
      `meta_loss`, `policy_entropy`, `target_entropy`, `policy_update`, `target_update`,
      `meta_gradient_norm` (of the mean), `clipped_share` (of agents whose gradient was scaled
      down), `lost_share` (of agents whose gradient was not finite and is left out), `replay_share`
      (of agents on levels that were scored before), and, NaN where no agent finished,
      `episode_return`, `episode_score`, `episode_score_replayed` and `episode_score_fresh`. The
      evaluation trains an agent on every level held out: `eval_return`.

    Raises:
      ValueError: an environment whose observations are no index, sizes that do not fit, or an
        unknown selection or score.
      TypeError: an unknown field.

    Source: GROOVE, Jackson et al. 2023 (arXiv 2310.02782); LPG, Oh et al. 2020 (arXiv 2007.08794).
    """
    config = replace_fields(config or MetaConfig(), overrides)
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
    return Algorithm(
        init=run.init,
        update=run.update,
        evaluate=None if held_out is None else run.evaluate,
        policy=lambda state: state.rule,
        steps_per_update=(
            config.num_agents
            * (config.num_inner_updates + 1)
            * config.num_workers
            * config.num_steps
        ),
        world_size=config.num_agents,
        description={
            "algorithm": "meta",
            "environment": env.name,
            "draw": describe(draw),
            "num_states": agents.num_states,
            "rule": [rule.num_targets, rule.embedding, rule.hidden],
            **describe(config),
        },
    )


def _check(config: MetaConfig) -> None:
    for name in (
        "num_agents",
        "num_workers",
        "num_steps",
        "num_inner_updates",
        "score_episodes",
        "agents_at_once",
        "antagonists_at_once",
    ):
        at_least(name, getattr(config, name), 1)
    one_of("selection", config.selection, SELECTIONS)
    one_of("score", config.score, SCORES)
    at_least("buffer_size", config.buffer_size, 2 * config.num_agents)
    for name in ("max_meta_gradient_norm", "max_gradient_norm", "temperature"):
        value = getattr(config, name)
        if not isinstance(value, jax.core.Tracer) and not value > 0:
            raise ValueError(f"{name} is {value!r}, but it has to be positive")
    if not 0 <= config.replay_probability <= 1:
        raise ValueError(
            f"replay_probability is {config.replay_probability!r}, but it has to be in [0, 1]"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """The functions of one configuration."""

    agents: InnerAgents
    draw: Draw
    rule: LearnedRule
    held_out: tuple[PyTree, Array] | None
    config: MetaConfig
    optimiser: optax.GradientTransformation

    def init(self, key: Array) -> MetaState:
        config = self.config
        key_rule, key_levels, key_agents, key = jax.random.split(key, 4)
        items = jax.vmap(self.draw)(jax.random.split(key_levels, config.buffer_size))
        buffer = level_buffer.init(items, config.num_agents)
        slots = jnp.arange(config.num_agents, dtype=jnp.int32)
        levels, lifetimes = level_buffer.take(buffer, slots)
        rule = self.rule.init(key_rule)
        lives = Lives(
            agents=self.born(jax.random.split(key_agents, config.num_agents), levels),
            levels=levels,
            lifetimes=lifetimes,
            slots=slots,
            replayed=jnp.zeros(config.num_agents, bool),
        )
        return MetaState(
            rule=rule,
            optimiser=self.optimiser.init(rule),
            buffer=buffer,
            world=MetaWorld(lives),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
        )

    def update(self, state: MetaState) -> tuple[MetaState, Metrics]:
        key, key_inner, key_score, key_next = jax.random.split(state.key, 4)
        gradient, agents, value_loss, metrics = self.meta_gradient(
            key_inner, state.rule, state.world.rows
        )
        changes, optimiser = self.optimiser.update(gradient, state.optimiser)
        lives = state.world.rows.replace(agents=agents)
        finished = agents.num_updates >= lives.lifetimes
        returns, found = self.scored(key_score, lives, value_loss, finished)
        buffer, lives, seen = self.next_levels(key_next, state.buffer, lives, finished, found)
        state = MetaState(
            rule=optax.apply_updates(state.rule, changes),
            optimiser=optimiser,
            buffer=buffer,
            world=MetaWorld(lives),
            key=key,
            num_updates=state.num_updates + 1,
        )
        return state, {
            **metrics,
            "meta_gradient_norm": optax.tree.norm(gradient),
            "episode_return": _mean_where(returns, finished),
            **seen,
        }

    def meta_gradient(
        self, key: Array, rule: PyTree, lives: Lives
    ) -> tuple[PyTree, InnerAgent, PyTree, Metrics]:
        """Mean of all agents' meta-gradients, each clipped, and what became of the agents.

        Agents are taken some at a time, so that memory does not grow with their number.
        """
        number = lives.slots.shape[0]
        at_once = min(self.config.agents_at_once, number)
        if number % at_once:
            raise ValueError(
                f"agents_at_once is {at_once}, but it has to divide the {number} agents of a device"
            )
        keys = rollout.row_keys(key, number)

        of_each = jax.vmap(
            jax.value_and_grad(self.meta_loss, has_aux=True), in_axes=(None, 0, 0, 0, 0)
        )

        def one_part(total: PyTree, part: PyTree) -> tuple[PyTree, PyTree]:
            (_, (agents, value_loss, metrics)), gradients = of_each(rule, *part)
            gradient, shares = _sum_of_clipped(gradients, self.config.max_meta_gradient_norm)
            total = jax.tree.map(jnp.add, total, gradient)
            return total, (agents, value_loss, metrics | shares)

        parts = jax.tree.map(
            lambda x: x.reshape((number // at_once, at_once, *x.shape[1:])),
            (keys, lives.agents, lives.levels, lives.lifetimes),
        )
        zeros = jax.tree.map(jnp.zeros_like, rule)
        total, rest = jax.lax.scan(one_part, zeros, parts)
        agents, value_loss, metrics = jax.tree.map(
            lambda x: x.reshape((number, *x.shape[2:])), rest
        )
        gradient = jax.tree.map(lambda x: x / number, total)
        metrics = jax.tree.map(jnp.mean, metrics)
        gradient, metrics = parallel.mean((gradient, metrics))
        return gradient, agents, value_loss, metrics

    def meta_loss(
        self, rule: PyTree, key: Array, agent: InnerAgent, level: PyTree, lifetime: Array
    ) -> tuple[Array, PyTree]:
        """Of one agent: K updates by the rule, and what the policy gains after them."""
        agents, config = self.agents, self.config

        @jax.checkpoint
        def learn(rule: PyTree, agent: InnerAgent, experience: PyTree):
            update = learned_update(agents, self.rule, rule, config.coefficients)
            updated, said = update(agent, experience)
            return within_lifetime(agent, updated, lifetime), said

        def one(agent: InnerAgent, key: Array) -> tuple[InnerAgent, PyTree]:
            agent, experience, _ = agents.collect(key, agent, level)
            agent, said = learn(rule, agent, experience)
            return agent.replace(value=agents.fit_value(agent.value, experience)), said

        keys = jax.random.split(key, config.num_inner_updates + 1)
        agent, (regularisers, terms) = jax.lax.scan(one, agent, keys[:-1])
        agent, experience, _ = agents.collect(keys[-1], agent, level)
        advantage, _ = agents.advantage(agent.value, experience)
        policies = jax.nn.softmax(look_up(agent.actor, experience.observation))
        gain = losses.meta_policy_loss(
            taken(policies, experience.action), losses.normalised(advantage)
        )
        loss = gain + jnp.mean(regularisers)
        agent = agent.replace(value=agents.fit_value(agent.value, experience))
        value_loss = {
            score.__name__: score(advantage, jnp.ones_like(advantage), axis=None)
            for score in (scores.l1_value_loss, scores.positive_value_loss)
        }
        metrics = {"meta_loss": loss, **jax.tree.map(jnp.mean, terms)}
        return loss, jax.lax.stop_gradient((agent, value_loss, metrics))

    def scored(
        self, key: Array, lives: Lives, value_loss: PyTree, finished: Array
    ) -> tuple[Array, Array]:
        """Returns of the agents that finished, and their levels' scores; nothing of the others."""
        agents, config = self.agents, self.config
        number = finished.shape[0]
        regret = config.scored and config.score == "algorithmic_regret"

        def judged(keys: Array, actors: PyTree, levels: PyTree, lifetimes: Array):
            key_agent, key_life, key_antagonist = jnp.moveaxis(
                jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0
            )
            returns = jax.vmap(agents.returns, in_axes=(0, 0, 0, None))
            own = returns(key_agent, actors, levels, config.score_episodes)
            if not regret:
                return own, own
            antagonists = live(agents, a2c_update(agents), key_life, levels, lifetimes)
            best = returns(key_antagonist, antagonists.actor, levels, config.score_episodes)
            return own, scores.algorithmic_regret(best[:, None], own[:, None])

        nothing = jnp.full(number, jnp.nan)
        returns, score = rollout.apply_where(
            finished,
            judged,
            (rollout.row_keys(key, number), lives.agents.actor, lives.levels, lives.lifetimes),
            (nothing, nothing),
            chunk=config.antagonists_at_once,
        )
        if config.score in value_loss:
            score = jnp.where(finished, value_loss[config.score], jnp.nan)
        return returns, score

    def next_levels(
        self, key: Array, buffer: LevelBuffer, lives: Lives, finished: Array, found: Array
    ) -> tuple[LevelBuffer, Lives, Metrics]:
        """Gives new levels and new agents in place of those that finished."""
        config = self.config
        key_fresh, key_refresh, key_propose, key_agents = jax.random.split(key, 4)
        # Every device keeps the same buffer.
        whole = parallel.gather((lives.slots, finished, found, lives.replayed))
        slots, all_finished, all_found, replayed = whole
        if config.selection != "frozen":
            fresh = jax.vmap(self.draw)(jax.random.split(key_fresh, config.num_agents))
            buffer = level_buffer.refresh(key_refresh, buffer, fresh, all_finished)
        buffer = level_buffer.finish(buffer, slots, all_finished, all_found)
        buffer, proposed, again = level_buffer.propose(
            key_propose,
            buffer,
            all_finished,
            replay_probability=config.replay_probability,
            selection=config.selection,
            temperature=config.temperature,
        )
        mine, again = parallel.own_share((proposed, again))
        levels, lifetimes = level_buffer.take(buffer, mine)
        born = self.born(rollout.row_keys(key_agents, finished.shape[0]), levels)
        following = Lives(born, levels, lifetimes, mine, again)
        lives = jax.tree.map(
            lambda new, old: jnp.where(finished.reshape((-1,) + (1,) * (new.ndim - 1)), new, old),
            following,
            lives,
        )
        return (
            buffer,
            lives,
            {
                "replay_share": parallel.mean(jnp.mean(lives.replayed.astype(jnp.float32))),
                "episode_score": _mean_of(all_found, all_finished),
                "episode_score_replayed": _mean_of(all_found, all_finished & replayed),
                "episode_score_fresh": _mean_of(all_found, all_finished & ~replayed),
            },
        )

    def born(self, keys: Array, levels: PyTree) -> InnerAgent:
        return jax.vmap(self.agents.init, in_axes=(0, 0, None))(keys, levels, self.rule.num_targets)

    def evaluate(self, state: MetaState, key: Array) -> Metrics:
        levels, lifetimes = self.held_out
        found = meta_test(
            self.agents, levels, lifetimes, key, self.config.score_episodes, self.rule, state.rule
        )
        return {"eval_return": jnp.mean(found)}


def _sum_of_clipped(gradients: PyTree, max_norm: float) -> tuple[PyTree, Metrics]:
    """Over the leading axis `[A]`, each entry scaled down to a norm and left out if not finite."""
    norms = jax.vmap(optax.tree.norm)(gradients)
    finite = jnp.isfinite(norms)
    known = jax.vmap(
        lambda there, gradient: jax.tree.map(lambda x: jnp.where(there, x, 0.0), gradient)
    )(finite, gradients)
    total, _ = optax.per_example_global_norm_clip(known, max_norm)
    shares = {"clipped_share": finite & (norms > max_norm), "lost_share": ~finite}
    return total, jax.tree.map(lambda x: x.astype(jnp.float32), shares)


def _mean_of(values: Array, chosen: Array) -> Array:
    """NaN where nothing is chosen."""
    return jnp.sum(jnp.where(chosen, values, 0.0)) / jnp.where(
        jnp.any(chosen), jnp.sum(chosen), jnp.nan
    )


def _mean_where(values: Array, chosen: Array) -> Array:
    """The same over all devices."""
    return _mean_of(*parallel.gather((values, chosen)))
