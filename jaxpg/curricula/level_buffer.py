"""A buffer of scored levels, after prioritised level replay: what is worth it comes again.

An item is whatever an agent can be given: a level of an environment, a prompt, a category of
prompts. A agents hold one item each, and when some of them are done with theirs

    buffer = refresh(key_fresh, buffer, fresh_items, finished)
    buffer = finish(buffer, slots, finished, scores)
    buffer, proposed, replayed = propose(key, buffer, finished)
    slots = jnp.where(finished, proposed, slots)
    items = take(buffer, slots)

so a curriculum proposes, is told what the proposals scored, and proposes again. Where all agents
are done at once, as with the prompts of one update of a language model, `finished` is all True. A
fixed pool (of prompts) is one that is never refreshed.

All shapes are static: `finished` says which rows count. Nobody is given an item that somebody else
still holds, and no item is replaced while it is held; for that the buffer has at least twice as
many slots as there are agents. Over several devices, every copy that is given the same key and all
agents' flags and scores stays the same, bit for bit.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxpg.choices import at_least, one_of
from jaxpg.types import Array, PyTree

SELECTIONS = ("rank", "proportional", "random", "frozen")
"""Values of `selection`."""


@struct.dataclass
class LevelBuffer:
    """B items and what is known of them.

    Attributes:
      items: pytree of `[B, ...]`.
      scores: `[B]` float32, the latest score of each; 0 where it was never scored.
      active: `[B]` bool, an agent holds it.
      new: `[B]` bool, it was never scored.
    """

    items: PyTree
    scores: Array
    active: Array
    new: Array

    @property
    def num_slots(self) -> int:
        """B, static."""
        return self.scores.shape[0]


def init(items: PyTree, num_active: int) -> LevelBuffer:
    """A buffer in which nothing was scored.

    Args:
      items: pytree of `[B, ...]`, copied, so that the buffer may be donated.
      num_active: A, the agents that begin: they hold the slots `0, ..., A - 1`. With 0, the first
        items come from `propose`.

    Returns:
      A `LevelBuffer`.

    Raises:
      ValueError: there are fewer than `2 A` items, or none.

    >>> buffer = init(jnp.arange(5), 2)
    >>> buffer.active.tolist(), buffer.new.all().item()
    ([True, True, False, False, False], True)
    """
    at_least("num_active", num_active, 0)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(items)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"items has leading axes {sorted(sizes)}, but it needs one that all its leaves share"
        )
    ((size,),) = sizes
    at_least("the number of items", size, 1)
    _check_size(size, num_active)
    return LevelBuffer(
        jax.tree.map(jnp.copy, items),
        jnp.zeros(size, jnp.float32),
        jnp.arange(size) < num_active,
        jnp.ones(size, bool),
    )


def take(buffer: LevelBuffer, slots: Array) -> PyTree:
    """The items in some slots.

    Args:
      buffer: of B items.
      slots: `[A]` int32 in `[0, B)`.

    Returns:
      Pytree of `[A, ...]`.
    """
    return jax.tree.map(lambda x: x[slots], buffer.items)


def finish(buffer: LevelBuffer, slots: Array, finished: Array, scores: Array) -> LevelBuffer:
    """Agents are done with their items and say what those scored.

    Args:
      buffer: of B items.
      slots: `[A]` int32 in `[0, B)`, what each agent holds.
      finished: `[A]` bool, agents that are done; nothing is recorded of the others.
      scores: `[A]` float, see `jaxpg.curricula.scores`. NaN, as from a run that diverged, counts
        as -inf: such an item is replayed last and replaced first.

    Returns:
      The buffer: these items are scored, no longer new, and nobody's.

    >>> buffer = init(jnp.arange(4), 2)
    >>> buffer = finish(buffer, jnp.arange(2), jnp.array([True, False]), jnp.array([3., 9.]))
    >>> buffer.scores.tolist(), buffer.active.tolist(), buffer.new.tolist()
    ([3.0, 0.0, 0.0, 0.0], [False, True, False, False], [False, True, True, True])
    """
    chex.assert_rank([slots, finished, scores], 1)
    chex.assert_equal_shape([slots, finished, scores])
    chex.assert_type(finished, bool)
    written = _written(buffer, slots, finished)
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores).astype(jnp.float32)
    return buffer.replace(
        scores=buffer.scores.at[written].set(scores, mode="drop"),
        active=buffer.active.at[written].set(False, mode="drop"),
        new=buffer.new.at[written].set(False, mode="drop"),
    )


def refresh(key: Array, buffer: LevelBuffer, fresh_items: PyTree, finished: Array) -> LevelBuffer:
    """Replaces items that nobody holds: first those never scored, then the lowest scores.

    As many are replaced as agents finished, since each of them may be proposed a new item; with
    all A agents finished it is the source's A. Replacing A items for every single agent that
    finishes would keep A slots from being replayed, where one is enough. Call it before `finish`,
    as the source does: an item that was only just scored then cannot be lost before its score is
    compared.

    Args:
      key: of the order among equal scores.
      buffer: of B items.
      fresh_items: pytree of `[A, ...]`, drawn from the levels' distribution. The first ones are
        taken, as many as are needed.
      finished: `[A]` bool.

    Returns:
      The buffer, whose fresh items are new and have score 0. Active items, the other items' flags
      and scores, and with nobody finished everything, are as before.

    Raises:
      ValueError: the buffer has fewer than `2 A` slots.

    Source: GROOVE, Jackson et al. 2023, without the released code's fault, which made the flags
    of never being scored from those of being held.

    >>> buffer = init(jnp.arange(4), 2).replace(new=jnp.array([False, True, False, False]))
    >>> buffer = buffer.replace(scores=jnp.array([1., 0., 3., 2.]))
    >>> buffer = refresh(jax.random.key(0), buffer, jnp.array([8, 9]), jnp.array([False, True]))
    >>> buffer.items.tolist(), buffer.new.tolist()
    ([0, 1, 2, 8], [False, True, False, True])
    """
    chex.assert_rank(finished, 1)
    chex.assert_type(finished, bool)
    num_agents = finished.shape[0]
    chex.assert_tree_shape_prefix(fresh_items, (num_agents,))
    _check_size(buffer.num_slots, num_agents)
    inactive = ~buffer.active
    lowness = jnp.where(buffer.new, jnp.inf, -buffer.scores)
    lowest = _in_order(key, inactive, lowness, num_agents)
    replaced = (jnp.arange(num_agents) < jnp.sum(finished)) & inactive[lowest]
    written = _written(buffer, lowest, replaced)
    return buffer.replace(
        items=jax.tree.map(
            lambda old, new: old.at[written].set(new.astype(old.dtype), mode="drop"),
            buffer.items,
            fresh_items,
        ),
        scores=buffer.scores.at[written].set(0.0, mode="drop"),
        new=buffer.new.at[written].set(True, mode="drop"),
    )


def propose(
    key: Array,
    buffer: LevelBuffer,
    finished: Array,
    *,
    replay_probability: float | Array = 0.5,
    selection: str = "rank",
    temperature: float | Array = 1.0,
) -> tuple[LevelBuffer, Array, Array]:
    """Gives an item to every agent that finished: one that was scored before, or a new one.

    Each agent replays with the same probability, so those that do are a binomial number in random
    places; but nobody replays while fewer than A scored items are free. Who does not replay gets
    one of the new items, all of them equally likely; only if these run out, as without `refresh`,
    any other free item.

    Args:
      key: of the draws.
      buffer: of B items, after `finish`.
      finished: `[A]` bool, agents that are given an item.
      replay_probability: in [0, 1]; not used by "random" and "frozen".
      selection: what is replayed. "rank": the best scores, in descending order, equal ones in
        random order (no probabilities of ranks as in PLR). "proportional": drawn without
        replacement, in proportion to `exp(score / temperature)`. "random": nothing, all items are
        new. "frozen": every free item is equally likely, scored or not; for a buffer that is never
        refreshed.
      temperature: of "proportional", above 0, in units of the score.

    Returns:
      `(buffer, slots, replayed)`: the buffer in which the given items are active; `[A]` int32, no
      two alike and none that was active, -1 for agents that did not finish (and for those for
      whom no item is free, as can only be if `finish` was left out); `[A]` bool, the agents whose
      item was scored before.

    Raises:
      ValueError: an argument is out of range, or the buffer has fewer than `2 A` slots.

    Source: GROOVE, Jackson et al. 2023, after PLR, Jiang et al. 2021, "Prioritized level replay".

    >>> buffer = init(jnp.arange(4), 0)
    >>> buffer = finish(buffer, jnp.arange(3), jnp.ones(3, bool), jnp.array([1., 3., 2.]))
    >>> finished = jnp.array([True, True])
    >>> propose(jax.random.key(0), buffer, finished, replay_probability=1.0)[1].tolist()
    [1, 2]
    >>> buffer, slots, replayed = propose(jax.random.key(0), buffer, jnp.array([False, True]),
    ...                                   selection="random")
    >>> slots.tolist(), replayed.tolist(), buffer.active.tolist()
    ([-1, 3], [False, False], [False, False, False, True])
    """
    one_of("selection", selection, SELECTIONS)
    _check_ranges(replay_probability, temperature)
    chex.assert_rank(finished, 1)
    chex.assert_type(finished, bool)
    num_agents = finished.shape[0]
    _check_size(buffer.num_slots, num_agents)
    coin_key, score_key, replay_key, other_key = jax.random.split(key, 4)

    replays, slots = jnp.zeros_like(finished), jnp.full(num_agents, -1, jnp.int32)
    active = buffer.active
    if selection in ("rank", "proportional"):
        scored = ~active & ~buffer.new
        coins = jax.random.bernoulli(coin_key, replay_probability, (num_agents,))
        replays = finished & coins & (jnp.sum(scored) >= num_agents)
        priority = buffer.scores
        if selection == "proportional":
            # Gumbel top-k on the scores: their exponentials would overflow.
            priority = priority / temperature + jax.random.gumbel(score_key, priority.shape)
        best = _in_order(replay_key, scored, priority, num_agents)
        slots = jnp.where(replays, _dealt(best, replays), slots)
        active = active.at[_written(buffer, slots, replays)].set(True, mode="drop")

    others = finished & ~replays
    novelty = jnp.zeros_like(buffer.scores) if selection == "frozen" else buffer.new.astype(float)
    chosen = _in_order(other_key, ~active, novelty, num_agents)
    dealt = _dealt(chosen, others)
    others = others & ~active[dealt]
    slots = jnp.where(others, dealt, slots)
    active = active.at[_written(buffer, slots, others)].set(True, mode="drop")
    return buffer.replace(active=active), slots, (slots >= 0) & ~buffer.new[slots]


def _in_order(key: Array, eligible: Array, priority: Array, number: int) -> Array:
    """The first `number` slots: the eligible ones, highest priority first, ties in random order."""
    ties = jax.random.bits(key, priority.shape)
    return jnp.lexsort((ties, -priority, ~eligible))[:number].astype(jnp.int32)


def _dealt(slots: Array, receives: Array) -> Array:
    """The first slot to the first agent that receives one, the second to the second, ..."""
    return slots[jnp.maximum(jnp.cumsum(receives) - 1, 0)]


def _written(buffer: LevelBuffer, slots: Array, chosen: Array) -> Array:
    """Where the chosen slots are written, and the others nowhere."""
    return jnp.where(chosen, slots, buffer.num_slots)


def _check_size(num_slots: int, num_agents: int) -> None:
    if num_slots < 2 * num_agents:
        raise ValueError(
            f"the buffer has {num_slots} slots, but {num_agents} agents need at least "
            f"{2 * num_agents}: the items that they hold, and as many that they do not"
        )


def _check_ranges(replay_probability: float | Array, temperature: float | Array) -> None:
    # Inside of `jit` a value may be unknown.
    if _known(replay_probability) and not np.all(
        (np.asarray(replay_probability) >= 0) & (np.asarray(replay_probability) <= 1)
    ):
        raise ValueError(
            f"replay_probability is {replay_probability!r}, but it has to be in [0, 1]"
        )
    if _known(temperature) and not np.all(np.asarray(temperature) > 0):
        raise ValueError(f"temperature is {temperature!r}, but it has to be above 0")


def _known(value: float | Array) -> bool:
    return not isinstance(value, jax.core.Tracer)
