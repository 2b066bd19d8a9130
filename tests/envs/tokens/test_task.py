"""Token tasks: their checks, their pools, and success by enumeration."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs.tokens
from jaxpg_envs.tokens import (
    Prompts,
    Reward,
    TokenTask,
    WarmStart,
    digit_sum,
    exact_success,
    fork_sum,
    responses,
    transcripts,
)
from jaxpg_envs.tokens.keys import keys_of_prompts
from jaxpg_envs.tokens.pools import split


def prompts_of(ids):
    tokens = jnp.stack([jnp.zeros_like(ids), ids], 1)
    mask = jnp.ones_like(tokens, bool).at[:, 0].set(False)
    return Prompts(tokens=tokens, mask=mask, ids=ids, data={"answer": ids})


def first_token_is_the_id(prompts, tokens, mask, finished):
    value = (mask[:, 0] & (tokens[:, 0] == prompts.data["answer"])).astype(jnp.float32)
    return Reward(value, jnp.ones_like(finished), {})


def a_task(**changes):
    fields = {
        "name": "mine",
        "vocabulary_size": 4,
        "prompt_length": 2,
        "response_length": 3,
        "stop_tokens": (3,),
        "num_prompts": 3,
        "prompts": prompts_of,
        "reward": first_token_is_the_id,
    }
    return TokenTask(**(fields | changes))


def test_a_task_of_ones_own_needs_only_prompts_and_a_reward():
    task = a_task()
    prompts = task.held_out(jnp.array([2, 0]))
    reward = task.reward(
        prompts, jnp.array([[2, 3, 9], [1, 1, 1]]), jnp.ones((2, 3), bool), jnp.ones(2, bool)
    )
    assert reward.value.tolist() == [1.0, 0.0]


def test_a_task_is_hashable_and_equal_to_itself_alone():
    task = a_task()
    assert task == task
    assert task != a_task()
    assert len({task, task, a_task()}) == 2


def test_a_variant_shares_everything_else():
    task = fork_sum(length=2, modulus=3)
    variant = dataclasses.replace(task, demonstrations=None)
    assert variant.demonstrations is None
    assert variant.prompts is task.prompts
    assert variant.warm_start is task.warm_start


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size=0 must be at least 1"),
        ({"response_length": 2.5}, "response_length=2.5 must be a whole number, at least 1"),
        ({"num_prompts": True}, "num_prompts=True must be a whole number"),
        ({"stop_tokens": (4,)}, "stop_tokens=4 must be from 0 to 3"),
        ({"stop_tokens": 3}, "stop_tokens=3 must be a tuple"),
        ({"prompts": None}, "prompts=None must be a function"),
        ({"demonstrations": 1}, "demonstrations=1 must be a function or None"),
        ({"num_held_out": 2}, "held_out=None has no 2 prompts"),
        ({"stop_strings": "ab"}, "stop_strings='ab' must be a tuple of strings"),
        ({"stop_strings": ("",)}, r"stop_strings=\(''.*none empty"),
        ({"allowed": jnp.ones((3, 3), bool)}, r"allowed has shape \(3, 3\); it must be \(3, 4\)"),
        (
            {"allowed": jnp.ones((3, 4), bool).at[1].set(False)},
            "allowed leaves no token at step 1",
        ),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        a_task(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_updates": 0}, "num_updates=0 must be at least 1"),
        ({"batch_size": 1.0}, "batch_size=1.0 must be a whole number"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"demonstrations": "S"}, "demonstrations='S' must be a function"),
    ],
)
def test_a_warm_start_that_makes_no_sense_is_refused(changes, message):
    fields = {"name": "mixture", "demonstrations": lambda key, prompts: None} | changes
    with pytest.raises((ValueError, TypeError), match=message):
        WarmStart(**fields)


def test_transcripts_leave_padding_out():
    task = a_task()
    mask = jnp.array([[True, True, False], [True, True, True]])
    lines = transcripts(
        task, prompts_of(jnp.array([1, 2])), jnp.array([[0, 3, 7], [1, 1, 1]]), mask
    )
    assert lines == ["1 -> 0 3", "2 -> 1 1 1"]


def test_decoding_what_is_no_token_is_refused():
    with pytest.raises(ValueError, match="ids=9 must be from 0 to 6"):
        digit_sum().decode([0, 9])


@pytest.mark.parametrize(
    ("total", "fraction", "held_out"),
    [(100, 0.0, 0), (100, 0.25, 25), (100, 1e-9, 1), (100, 0.9999, 99), (2, 0.5, 1)],
)
def test_a_split_holds_every_number_once(total, fraction, held_out):
    training, others = split(total, fraction)
    assert sorted([*training, *others]) == list(range(total))
    assert others.size == held_out


def test_a_split_depends_on_its_seed_alone():
    same = [split(50, 0.2, split_seed=4)[1] for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert set(same[0]) != set(split(50, 0.2, split_seed=5)[1])


@pytest.mark.parametrize(
    ("fraction", "seed", "message"),
    [
        (1.0, 0, "held_out_fraction=1.0 must be from 0 to 1, the end left out"),
        (-0.1, 0, "held_out_fraction=-0.1 must be from 0 to 1"),
        (float("nan"), 0, "held_out_fraction=nan must be from 0 to 1"),
        ("half", 0, "held_out_fraction='half' must be a number"),
        (0.5, -1, "split_seed=-1 must be at least 0"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(fraction, seed, message):
    with pytest.raises((ValueError, TypeError), match=message):
        digit_sum(2, 3, held_out_fraction=fraction, split_seed=seed)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 9], "ids holds 9; it must hold numbers from 0 to 8"),
        ([-1], "ids holds -1"),
        ([[0]], "must be .N. integers"),
        ([0.0], "must be .N. integers"),
    ],
)
def test_ids_that_name_no_prompt_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        digit_sum(2, 3).prompts(jnp.array(ids))


def test_no_ids_make_no_prompts():
    prompts = digit_sum(2, 3).prompts(jnp.zeros(0, int))
    assert prompts.tokens.shape == (0, 2)


def test_keys_follow_the_prompt_through_permutations_and_pieces():
    key, ids = jax.random.key(3), jnp.array([4, 0, 7, 2])
    data = lambda ids: jax.random.key_data(keys_of_prompts(key, ids))
    order = jnp.array([2, 3, 0, 1])
    np.testing.assert_array_equal(data(ids[order]), data(ids)[order])
    np.testing.assert_array_equal(data(ids[2:]), data(ids)[2:])


def test_copies_of_a_prompt_get_keys_of_their_own():
    keys = keys_of_prompts(jax.random.key(0), jnp.array([1, 1, 0, 1, 0]))
    assert len({tuple(row) for row in jax.random.key_data(keys).tolist()}) == 5


def plain_responses(vocabulary, stops, length):
    """Responses by recursion, as tuples."""
    if not length:
        return [()]
    rest = plain_responses(vocabulary, stops, length - 1)
    starts = [(token,) for token in range(vocabulary)]
    return [start + end for start in starts for end in ([()] if start[0] in stops else rest)]


@pytest.mark.parametrize("stops", [(), (3,), (0, 2), (0, 1, 2, 3)])
def test_responses_are_enumerated_once_each(stops):
    tokens, mask, finished = responses(a_task(stop_tokens=stops))
    found = [tuple(row[real]) for row, real in zip(tokens, mask, strict=True)]
    expected = plain_responses(4, stops, 3)
    assert len(found) == len(expected)
    assert set(found) == set(expected)
    assert finished.tolist() == [row[-1] in stops for row in found]


def test_only_allowed_tokens_are_enumerated():
    allowed = jnp.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]], bool)
    tokens, mask, _ = responses(a_task(allowed=allowed))
    found = {tuple(row[real]) for row, real in zip(tokens, mask, strict=True)}
    assert found == {(a, *rest) for a in (0, 1) for rest in [(3,), (2, 1), (2, 3)]}


def test_exact_success_is_the_sum_over_responses_in_plain_python():
    task = a_task()
    tables = np.random.default_rng(0).dirichlet(np.ones(4), (3, 3))  # [prompt, step, token]

    def score(prompts, tokens, mask):
        steps = jnp.arange(3)
        chosen = jnp.log(jnp.asarray(tables))[prompts.ids[:, None], steps, tokens]
        return jnp.sum(jnp.where(mask, chosen, 0.0), 1)

    found = exact_success(task, score, task.prompts(jnp.array([2, 0, 1])))
    probability = lambda row, prompt: math.prod(
        tables[prompt, step, token] for step, token in enumerate(row)
    )
    for value, prompt in zip(found, [2, 0, 1], strict=True):
        every = plain_responses(4, (3,), 3)
        assert sum(probability(row, prompt) for row in every) == pytest.approx(1.0)
        right = sum(probability(row, prompt) for row in every if row[0] == prompt)
        assert value == pytest.approx(right, rel=1e-5)


def test_a_reward_that_is_not_valid_counts_as_none():
    def half_valid(prompts, tokens, mask, finished):
        return Reward(jnp.full(finished.shape, jnp.nan), jnp.zeros_like(finished), {})

    task = a_task(reward=half_valid)
    found = exact_success(task, lambda p, t, m: jnp.zeros(t.shape[0]), task.prompts(jnp.arange(2)))
    assert found.tolist() == [0.0, 0.0]


def test_too_many_responses_are_refused_before_they_are_made():
    with pytest.raises(ValueError, match=r"task='fork_sum' has \d+ responses, more than limit=20"):
        responses(fork_sum())


def test_texts_that_stop_cannot_be_enumerated():
    with pytest.raises(ValueError, match="task='mine' ends at the texts"):
        responses(a_task(stop_strings=("ab",)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": jnp.zeros((2, 4), int)}, r"tokens has shape \(2, 4\).*must be \(2, 3\)"),
        ({"mask": jnp.zeros((3, 3), bool)}, r"mask has shape \(3, 3\)"),
        ({"finished": jnp.zeros((2, 1), bool)}, r"finished has shape \(2, 1\)"),
        ({"tokens": jnp.zeros((2, 3))}, "tokens has dtype float32"),
    ],
)
def test_responses_of_another_shape_get_no_reward(changes, message):
    task = digit_sum()
    given = {
        "tokens": jnp.zeros((2, 3), int),
        "mask": jnp.ones((2, 3), bool),
        "finished": jnp.zeros(2, bool),
    } | changes
    with pytest.raises((ValueError, TypeError), match=message):
        task.reward(task.prompts(jnp.arange(2)), *given.values())


def test_what_the_package_does_not_have_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'digitsum'"):
        _ = jaxpg_envs.tokens.digitsum


def test_builders_are_reached_from_the_package():
    for name in ("arithmetic", "digit_sum", "fork_sum"):
        assert callable(getattr(jaxpg_envs.tokens, name))


def test_plain_enumeration_counts_as_the_geometric_series_does():
    assert len(plain_responses(4, (3,), 3)) == sum(3**i for i in range(3)) + 3**3
    assert len(list(itertools.product(range(4), repeat=3))) == len(plain_responses(4, (), 3))
