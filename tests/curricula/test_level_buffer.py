"""The level buffer against a ledger kept by hand, closed-form odds, and faults of released code."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpg.curricula import level_buffer

KEY = jax.random.key(0)
SLOTS, AGENTS = 10, 3
propose = jax.jit(level_buffer.propose, static_argnames="selection")
refresh, finish = jax.jit(level_buffer.refresh), jax.jit(level_buffer.finish)


def items(first, number):
    ids = jnp.arange(first, first + number)
    return {"id": ids, "pair": jnp.stack([ids, -ids], axis=1) * 0.5}


def buffer_of(scores, active=(), new=()):
    """Items 0, 1, ... with these scores, all scored and free but for the slots named."""
    size = len(scores)
    return level_buffer.LevelBuffer(
        items(0, size),
        jnp.float32(scores),
        jnp.isin(jnp.arange(size), jnp.array(active, jnp.int32)),
        jnp.isin(jnp.arange(size), jnp.array(new, jnp.int32)),
    )


def flags(*agents):
    return jnp.isin(jnp.arange(AGENTS), jnp.array(agents, jnp.int32))


EVERYONE = flags(0, 1, 2)


def same(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


@functools.cache
def swept(selection, number):
    one = lambda key, *rest: level_buffer.propose(
        key, rest[0], rest[1], replay_probability=rest[2], temperature=rest[3], selection=selection
    )[1:]
    sweep = jax.jit(jax.vmap(one, (0, None, None, None, None)))
    return lambda *rest: sweep(jax.random.split(KEY, number), *rest)


def proposals(buffer, finished=EVERYONE, probability=0.5, *, selection="rank", temperature=1.0):
    """The slots and the replays of 3000 keys."""
    drawn = swept(selection, 3000)(buffer, finished, probability, temperature)
    return [np.asarray(part) for part in drawn]


def fits(found, expected):
    """Whether outcomes (rows) come as often as these probabilities say, and no others come."""
    counts = [(found == np.array(outcome)).all(axis=1).sum() for outcome in expected]
    assert sum(counts) == len(found)
    return stats.chisquare(counts, len(found) * np.array(list(expected.values()))).pvalue > 1e-3


def round_of(key, buffer, slots, fresh, finished, scores):
    fresh_key, key = jax.random.split(key)
    refreshed = level_buffer.refresh(fresh_key, buffer, fresh, finished)
    told = level_buffer.finish(refreshed, slots, finished, scores)
    after, proposed, replayed = level_buffer.propose(key, told, finished, replay_probability=0.7)
    return refreshed, told, after, proposed, replayed


def test_many_rounds_keep_to_a_ledger():
    play = jax.jit(round_of)
    random = np.random.RandomState(0)
    ledger = [{"id": place, "score": None, "held": place < AGENTS} for place in range(SLOTS)]
    buffer, slots = level_buffer.init(items(0, SLOTS), AGENTS), np.arange(AGENTS)
    seen = {"replay": 0, "new": 0, "gap": 0, "none": 0, "lost": 0}
    for number, key in enumerate(jax.random.split(KEY, 80)):
        finished = random.uniform(size=AGENTS) < (1.0 if number % 4 == 0 else 0.4)
        scores = random.normal(size=AGENTS).astype(np.float32)
        fresh = items(100 * (number + 1), AGENTS)
        refreshed, told, after, proposed, replayed = play(
            key, buffer, jnp.asarray(slots), fresh, jnp.asarray(finished), jnp.asarray(scores)
        )
        # Refresh: as many as finished, never scored first and then the lowest, none that is held.
        ids = np.asarray(refreshed.items["id"])
        changed = {place for place in range(SLOTS) if ids[place] != ledger[place]["id"]}
        free = [place for place in range(SLOTS) if not ledger[place]["held"]]
        unscored = {place for place in free if ledger[place]["score"] is None}
        scored = sorted(set(free) - unscored, key=lambda place: ledger[place]["score"])
        spare = finished.sum() - len(unscored)
        if spare > 0:
            assert changed == unscored | set(scored[:spare])
        else:
            assert len(changed) == finished.sum() and changed <= unscored
        assert sorted(ids[list(changed)]) == fresh["id"][: finished.sum()].tolist()
        seen["lost"] += max(spare, 0)
        for place in changed:
            ledger[place] = {"id": ids[place], "score": None, "held": False}
        # Scores.
        for agent in np.flatnonzero(finished):
            ledger[slots[agent]].update(score=scores[agent], held=False)
        entries = [-np.inf if one["score"] is None else one["score"] for one in ledger]
        np.testing.assert_array_equal(told.new, np.isneginf(entries))
        np.testing.assert_array_equal(np.where(told.new, -np.inf, told.scores), entries)
        np.testing.assert_array_equal(told.active, [one["held"] for one in ledger])
        assert not np.asarray(told.scores)[np.asarray(told.new)].any()
        # Proposals: the best scores in descending order; the rest of the agents get what is new.
        proposed, replayed = np.asarray(proposed), np.asarray(replayed)
        ranked = [
            place
            for place in np.argsort(entries)[::-1].tolist()
            if not ledger[place]["held"] and ledger[place]["score"] is not None
        ]
        assert proposed[replayed].tolist() == ranked[: replayed.sum()]
        assert replayed.sum() == 0 or len(ranked) >= AGENTS
        for agent, slot in enumerate(proposed):
            assert (slot >= 0) == finished[agent] and not (replayed[agent] and slot < 0)
            if slot >= 0:
                assert not ledger[slot]["held"]
                assert replayed[agent] == (ledger[slot]["score"] is not None)
                ledger[slot]["held"] = True
        slots = np.where(finished, proposed, slots)
        assert len(set(slots)) == AGENTS == np.sum(after.active)
        assert np.asarray(after.active)[slots].all()
        same(after.replace(active=told.active), told)
        pairs = np.asarray(after.items["pair"])
        np.testing.assert_array_equal(pairs, np.stack([ids, -ids], 1) * 0.5)
        seen["replay"] += replayed.sum()
        seen["new"] += (finished & ~replayed).sum()
        seen["gap"] += bool(replayed.any() and (finished & ~replayed).any())
        seen["none"] += not finished.any()
        buffer = after
    assert min(seen.values()) >= 5, seen


def test_nothing_changes_while_nobody_is_done():
    buffer = buffer_of(np.arange(SLOTS), active=[0, 1, 2], new=[4, 5])
    after = refresh(KEY, buffer, items(100, AGENTS), flags())
    after = finish(after, jnp.arange(AGENTS), flags(), jnp.full(AGENTS, jnp.nan))
    after, slots, replayed = propose(KEY, after, flags())
    same(after, buffer)
    assert slots.tolist() == [-1] * AGENTS and not replayed.any()


def test_refresh_leaves_the_flags_of_the_others_alone():
    # The released code overwrites them: held items look new, and unscored ones scored at 0.
    buffer = buffer_of([5, 4, 3, 0, 0, 0, 2, 1, 6, 7], active=[0, 1, 2], new=[2, 3, 4, 5])
    after = refresh(KEY, buffer, items(100, AGENTS), flags(1))
    assert after.new.tolist() == buffer.new.tolist()
    np.testing.assert_array_equal(after.active, buffer.active)
    slots, replayed = proposals(
        after.replace(scores=after.scores - 9), flags(0, 1), 1.0, selection="rank"
    )
    assert (slots[:, :2] == [9, 8]).all() and replayed[:, :2].all()


def test_an_item_in_the_hands_of_an_agent_is_never_replaced():
    low = buffer_of([-9, -8, -7, 1, 2, 3, 4, 5, 6, 7], active=[0, 1, 2], new=[1])
    after = refresh(KEY, low, items(100, AGENTS), EVERYONE)
    assert after.items["id"].tolist() == [0, 1, 2, 100, 101, 102, 6, 7, 8, 9]
    crowded = buffer_of(np.zeros(SLOTS), active=range(8))
    after = refresh(KEY, crowded, items(100, AGENTS), EVERYONE)
    assert after.items["id"].tolist()[:8] == list(range(8))
    assert sorted(after.items["id"].tolist()[8:]) == [100, 101]


def test_what_was_just_scored_survives_the_refresh_before_it():
    buffer = buffer_of(np.arange(1, SLOTS + 1), active=[0, 1, 2])
    buffer = refresh(KEY, buffer, items(100, AGENTS), flags(1))
    buffer = finish(buffer, jnp.arange(AGENTS), flags(1), jnp.full(AGENTS, -5.0))
    assert buffer.items["id"].tolist() == [0, 1, 2, 100, 4, 5, 6, 7, 8, 9]
    assert buffer.scores[1] == -5


def test_equal_scores_are_replaced_and_replayed_in_random_order():
    buffer = buffer_of([7, 7, 1, 1, 1, 9, 9, 9, 9, 9], active=[0, 1])
    keys = jax.random.split(KEY, 1500)
    after = jax.vmap(lambda key: level_buffer.refresh(key, buffer, items(100, AGENTS), flags(0)))(
        keys
    )
    found = np.asarray(after.items["id"]).argmax(axis=1)[:, None]
    assert fits(found, {(2,): 1 / 3, (3,): 1 / 3, (4,): 1 / 3})
    slots, _ = proposals(buffer_of([5, 0, 5, 5, 0, 0, 0, 0, 0, 0], active=[3]), flags(1, 2), 1.0)
    assert fits(slots, {(-1, 0, 2): 0.5, (-1, 2, 0): 0.5})


@pytest.mark.parametrize("agent", range(AGENTS))
def test_the_best_goes_to_whoever_replays_first(agent):
    # In the released code the third agent gets the third best, also if it is the only one.
    buffer = buffer_of([1, 2, 9, 3, 8, 7, 0, 0, 0, 0], active=[2, 6], new=[7])
    slots, replayed = proposals(buffer, flags(agent), 1.0)
    expected = np.where(np.arange(AGENTS) == agent, 4, -1)
    assert (slots == expected).all() and (replayed == (expected >= 0)).all()


def test_agents_replay_independently_of_each_other():
    finished, chance = flags(0, 2), 0.3
    _, replayed = proposals(buffer_of(np.arange(SLOTS), active=[1], new=[2, 3]), finished, chance)
    odds = {
        (first, False, second): np.prod([chance if one else 1 - chance for one in (first, second)])
        for first, second in itertools.product([True, False], repeat=2)
    }
    assert fits(replayed, odds)
    everyone = proposals(buffer_of(np.arange(SLOTS), new=[2, 3, 4]), EVERYONE, chance)[1]
    assert fits(
        everyone.sum(axis=1, keepdims=True),
        {(k,): stats.binom.pmf(k, AGENTS, chance) for k in range(AGENTS + 1)},
    )


def test_replay_waits_for_as_many_scored_items_as_there_are_agents():
    two = buffer_of(np.arange(SLOTS), active=[9], new=range(2, 9))
    three = buffer_of(np.arange(SLOTS), active=[9], new=range(3, 9))
    assert not proposals(two, flags(0), 1.0)[1].any()
    slots, replayed = proposals(three, flags(0), 1.0)
    assert replayed[:, 0].all() and (slots[:, 0] == 2).all()


def test_new_items_are_equally_likely():
    buffer = buffer_of(np.arange(SLOTS), active=[0, 4], new=[4, 6, 7, 8])
    for selection, probability in [("rank", 0.0), ("proportional", 0.0), ("random", 1.0)]:
        slots, replayed = proposals(buffer, flags(0, 2), probability, selection=selection)
        pairs = itertools.permutations([6, 7, 8], 2)
        assert fits(slots, {(a, -1, b): 1 / 6 for a, b in pairs}) and not replayed.any()


def test_proportional_draws_one_after_the_other_without_replacement():
    scores = np.array([0.3, 5.0, -1.0, 1.2, 0.0, 4.0, 0, 0, 0, 0])
    buffer = buffer_of(scores, active=[1, 6, 7], new=[5, 7, 8, 9])
    free, temperature = [0, 2, 3, 4], 0.8
    weight = np.exp(scores / temperature)
    total = weight[free].sum()
    odds = {
        (a, b, -1): weight[a] / total * weight[b] / (total - weight[a])
        for a, b in itertools.permutations(free, 2)
    }
    slots, replayed = proposals(
        buffer, flags(0, 1), 1.0, selection="proportional", temperature=temperature
    )
    assert fits(slots, odds) and replayed[:, :2].all()


@pytest.mark.parametrize("selection", ["rank", "proportional"])
def test_scores_of_any_size_keep_their_order(selection):
    # exp(score) overflows to infinity, and from two infinities nothing can be drawn.
    scores = [1e3, -np.inf, 1e30, -1e30, 950, np.inf, 0, 0, 0, 0]
    buffer = buffer_of(scores, active=[6], new=[7, 8, 9])
    slots, _ = proposals(buffer, EVERYONE, 1.0, selection=selection)
    assert (slots == [5, 2, 0]).all()
    lowest = buffer_of([-np.inf, -1e30, -np.inf, 0, 0, 0, 0, 0, 0, 0], new=range(3, 10))
    slots, _ = proposals(lowest, EVERYONE, 1.0, selection=selection)
    assert fits(slots, {(1, 0, 2): 0.5, (1, 2, 0): 0.5})


def test_a_score_that_is_no_number_is_the_lowest():
    buffer = buffer_of(np.arange(SLOTS) - 20.0, active=[3])
    buffer = finish(buffer, jnp.array([3, 0, 0]), flags(0), jnp.array([jnp.nan, 0, 0]))
    assert buffer.scores[3] == -jnp.inf and not buffer.new[3] and not buffer.active[3]
    after = refresh(KEY, buffer, items(100, AGENTS), flags(2))
    assert after.items["id"].tolist() == [0, 1, 2, 100, 4, 5, 6, 7, 8, 9]


def test_frozen_draws_from_all_free_items_and_random_from_new_ones():
    buffer = buffer_of(np.arange(SLOTS) * 9, active=[0, 1, 2, 3, 4, 9], new=[2, 6])
    slots, replayed = proposals(buffer, flags(0, 1), selection="frozen")
    pairs = itertools.permutations([5, 6, 7, 8], 2)
    assert fits(slots, {(a, b, -1): 1 / 12 for a, b in pairs})
    np.testing.assert_array_equal(replayed, (slots >= 0) & (slots != 6))
    # One new item is free: who comes later takes another, and it is said to be a replay.
    slots, replayed = proposals(buffer, flags(0, 1), selection="random")
    assert fits(slots, {(6, other, -1): 1 / 3 for other in (5, 7, 8)})
    assert (replayed == [False, True, False]).all()


@pytest.mark.parametrize("selection", level_buffer.SELECTIONS)
def test_no_item_is_given_twice(selection):
    buffer = buffer_of(np.arange(SLOTS), active=[1, 8, 9], new=[7])
    slots, _ = proposals(buffer, EVERYONE, 0.5, selection=selection)
    assert not np.isin(slots, [1, 8, 9, -1]).any()
    assert (np.diff(np.sort(slots, axis=1)) > 0).all()
    # Whoever forgets to say what is finished finds nothing free in the end, and nothing taken.
    full = buffer_of(np.arange(SLOTS), active=[0, 1, 2, 3, 5, 6, 7, 8, 9])
    slots, replayed = proposals(full, EVERYONE, 0.5, selection=selection)
    assert (slots == [4, -1, -1]).all() and (replayed == [True, False, False]).all()


def test_replayed_items_score_higher_than_new_ones():
    def one(carry, key):
        buffer, slots = carry
        fresh_key, tie_key, noise_key, key = jax.random.split(key, 4)
        fresh = jax.random.normal(fresh_key, (8,))
        everyone = jnp.ones(8, bool)
        scores = level_buffer.take(buffer, slots) + 0.3 * jax.random.normal(noise_key, (8,))
        buffer = level_buffer.refresh(tie_key, buffer, fresh, everyone)
        buffer = level_buffer.finish(buffer, slots, everyone, scores)
        buffer, slots, replayed = level_buffer.propose(key, buffer, everyone)
        worth = level_buffer.take(buffer, slots)
        return (buffer, slots), (worth, replayed)

    start = level_buffer.init(jax.random.normal(KEY, (40,)), 8), jnp.arange(8)
    _, (worth, replayed) = jax.jit(lambda keys: jax.lax.scan(one, start, keys))(
        jax.random.split(KEY, 60)
    )
    worth, replayed = np.asarray(worth), np.asarray(replayed)
    assert 0.35 < replayed[5:].mean() < 0.65
    assert worth[replayed].mean() > worth[~replayed].mean() + 1.0
    assert abs(worth[~replayed].mean()) < 5 / np.sqrt((~replayed).sum())


def test_a_fixed_pool_of_prompts_needs_neither_refresh_nor_a_first_holder():
    buffer, visited = level_buffer.init({"prompt": jnp.arange(12)}, 0), []
    everyone = jnp.ones(4, bool)
    for key in jax.random.split(KEY, 3):
        buffer, slots, replayed = propose(key, buffer, everyone, replay_probability=0.0)
        prompts = level_buffer.take(buffer, slots)["prompt"]
        buffer = finish(buffer, slots, everyone, prompts * 1.0)
        visited += prompts.tolist()
        assert not replayed.any()
    assert sorted(visited) == list(range(12))
    _, slots, replayed = propose(KEY, buffer, everyone, replay_probability=1.0)
    assert slots.tolist() == [11, 10, 9, 8] and replayed.all()


def test_a_key_gives_the_same_bits_however_it_is_called():
    buffer = buffer_of(np.zeros(SLOTS), active=[0, 1, 2], new=[4, 5])
    rest = (jnp.arange(AGENTS), items(100, AGENTS), flags(0, 2), jnp.arange(3.0))
    one = lambda key: round_of(key, buffer, *rest)
    keys = jax.random.split(KEY, 8)
    together = jax.jit(jax.vmap(one))(keys)
    same(jax.tree.map(lambda x: x[5], together), one(keys[5]))
    elsewhere = jax.device_put((keys[5], buffer, *rest), jax.devices()[-1])
    same(jax.jit(round_of)(*elsewhere), one(keys[5]))
    assert len({tuple(slots) for slots in np.asarray(together[3]).tolist()}) > 3


def test_no_two_draws_share_a_key():
    buffer = buffer_of(np.zeros(SLOTS), new=[4, 5, 6])
    with jax.debug_key_reuse(True):
        for selection in level_buffer.SELECTIONS:
            level_buffer.propose(jax.random.key(1), buffer, EVERYONE, selection=selection)


def test_a_buffer_owns_its_items_whatever_they_are():
    seeds = {"key": jax.random.split(KEY, 4), "size": jnp.arange(4, dtype=jnp.int8)}
    buffer = level_buffer.init(seeds, 2)
    fresh = {"key": jax.random.split(jax.random.key(1), 2), "size": jnp.array([8, 9])}
    donated = jax.jit(level_buffer.refresh, donate_argnums=1)
    after = donated(KEY, buffer, fresh, jnp.array([False, True]))
    assert seeds["size"].tolist() == [0, 1, 2, 3]
    assert after.items["size"].dtype == jnp.int8
    place = int(np.argmax(after.items["size"]))
    assert jnp.all(level_buffer.take(after, jnp.array([place]))["key"] == fresh["key"][:1])
    assert {leaf.weak_type for leaf in (after.scores, after.active, after.new)} == {False}


def test_probabilities_may_be_swept_without_compiling_again():
    buffer = buffer_of(np.arange(SLOTS), new=[4, 5, 6])
    chances = jnp.linspace(0.0, 1.0, 5)
    run = jax.vmap(
        lambda chance: level_buffer.propose(KEY, buffer, EVERYONE, replay_probability=chance)[2]
    )
    counts = run(chances).sum(axis=1).tolist()
    assert counts[0] == 0 and counts[-1] == AGENTS and counts == sorted(counts)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: level_buffer.init(items(0, 5), 3), "has 5 slots, but 3 agents need at least 6"),
        (lambda: level_buffer.init(items(0, 5), -1), "num_active is -1, but it has to be at least"),
        (lambda: level_buffer.init(items(0, 0), 0), "number of items is 0, but it has to be at le"),
        (
            lambda: level_buffer.init([jnp.zeros(3), jnp.zeros(4)], 0),
            r"items has leading axes \[\(3,\), \(4,\)\], but it needs one",
        ),
        (
            lambda: level_buffer.init([jnp.zeros(3), jnp.zeros(())], 0),
            r"items has leading axes \[\(\), \(3,\)\], but it needs one",
        ),
        (
            lambda: level_buffer.refresh(KEY, buffer_of([1, 2]), items(0, 3), EVERYONE),
            "has 2 slots, but 3 agents need at least 6",
        ),
        (
            lambda: level_buffer.propose(KEY, buffer_of([1, 2]), EVERYONE),
            "has 2 slots, but 3 agents need at least 6",
        ),
        (
            lambda: level_buffer.propose(KEY, buffer_of([1] * 9), EVERYONE, selection="ranks"),
            "selection is 'ranks', which is not a valid choice; did you mean 'rank'",
        ),
        (
            lambda: level_buffer.propose(KEY, buffer_of([1] * 9), EVERYONE, replay_probability=1.5),
            r"replay_probability is 1.5, but it has to be in \[0, 1\]",
        ),
        (
            lambda: level_buffer.propose(KEY, buffer_of([1] * 9), EVERYONE, temperature=0.0),
            "temperature is 0.0, but it has to be above 0",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: level_buffer.propose(KEY, buffer_of([1] * 9), jnp.ones(3)),
        lambda: level_buffer.refresh(KEY, buffer_of([1] * 9), items(0, 2), EVERYONE),
        lambda: level_buffer.finish(buffer_of([1] * 9), jnp.arange(2), EVERYONE, jnp.zeros(3)),
    ],
)
def test_arrays_of_other_shapes_or_types_are_refused(call):
    with pytest.raises(AssertionError):
        call()
