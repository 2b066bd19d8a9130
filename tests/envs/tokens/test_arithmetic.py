"""Arithmetic as text: questions, answers and rewards against Python's own integers."""

import functools
import json
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.tokens import arithmetic, transcripts
from jaxpg_envs.tokens.arithmetic import CHARACTERS

APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}
SIGMAS = 4.5


def texts(task, tokens, mask):
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    return [task.decode(row[real].tolist()) for row, real in zip(tokens, mask, strict=True)]


def result(question):
    sign = next(sign for sign in APPLY if sign in question)
    first, second = question.removesuffix("=").split(sign)
    return str(APPLY[sign](int(first), int(second)))


def pools(task):
    return (
        task.prompts(jnp.arange(task.num_prompts)),
        task.held_out(jnp.arange(task.num_held_out)),
    )


def test_questions_are_well_formed_different_and_padded_on_the_left():
    task = arithmetic("+-*", (1, 2), num_problems=600)
    prompts, held_out = pools(task)
    assert (task.num_prompts, task.num_held_out) == (540, 60)
    questions = texts(task, prompts.tokens, prompts.mask) + texts(
        task, held_out.tokens, held_out.mask
    )
    assert len(set(questions)) == 600
    for question in questions:
        sign = next(sign for sign in APPLY if sign in question)
        first, second = question.removesuffix("=").split(sign)
        assert question == f"{int(first)}{sign}{int(second)}="
        assert len(first) in (1, 2)
        assert len(second) in (1, 2)
    assert (jnp.diff(prompts.mask.astype(int), axis=1) >= 0).all()
    assert (prompts.tokens[~prompts.mask] == 0).all()
    assert prompts.tokens.dtype == jnp.int32


def test_answers_are_those_of_python():
    task = arithmetic("+-*", (1, 3), num_problems=500)
    for pool in pools(task):
        length = pool.data["answer_length"][:, None]
        mask = jnp.arange(pool.data["answer"].shape[1]) < length
        answers = texts(task, pool.data["answer"], mask)
        assert answers == [result(q) for q in texts(task, pool.tokens, pool.mask)]


def test_results_larger_than_any_machine_integer_of_jax_are_exact():
    task = arithmetic("*", (9, 9), num_problems=20, digit_error=0.0)
    prompts, _ = pools(task)
    tokens, mask = task.demonstrations(jax.random.key(0), prompts)
    written = texts(task, tokens, mask)
    assert written == [result(q) + "$" for q in texts(task, prompts.tokens, prompts.mask)]
    assert task.reward(prompts, tokens, mask, mask[:, -1]).value.all()


def test_every_kind_of_problem_gets_the_same_number_until_there_are_no_more():
    task = arithmetic("+", (1, 2), num_problems=1300, held_out_fraction=0.0)
    prompts, _ = pools(task)
    questions = texts(task, prompts.tokens, prompts.mask)
    kinds = [tuple(len(n) for n in q.removesuffix("=").split("+")) for q in questions]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        (1, 1): 100,
        (1, 2): 400,
        (2, 1): 400,
        (2, 2): 400,
    }
    assert prompts.data["level"].tolist() == sorted(max(kind) - 1 for kind in kinds)


def test_a_pool_is_never_larger_than_the_problems_there_are():
    task = arithmetic("+", (1, 1), held_out_fraction=0.1)
    assert task.num_prompts + task.num_held_out == 100


@pytest.mark.parametrize("scratchpad", [False, True])
def test_rewards_are_those_of_plain_python_whatever_stands_outside_of_the_mask(scratchpad):
    task = arithmetic("+-*", (1, 2), num_problems=300, scratchpad=scratchpad)
    rng = np.random.default_rng(0)
    prompts = task.prompts(jnp.asarray(rng.integers(task.num_prompts, size=400)))
    tokens, mask = map(np.array, task.demonstrations(jax.random.key(0), prompts))
    replaced = rng.random(tokens.shape) < 0.07
    tokens = np.where(replaced, rng.integers(16, size=tokens.shape), tokens)
    cut = np.where(rng.random(400) < 0.2, rng.integers(tokens.shape[1] + 1, size=400), 99)
    mask &= np.arange(tokens.shape[1]) < cut[:, None]
    stop = CHARACTERS.index("$")
    mask &= np.cumsum(np.pad(tokens == stop, ((0, 0), (1, 0)))[:, :-1], 1) == 0
    rows = texts(task, np.where(mask, tokens, 0), mask)
    garbage = np.where(mask, tokens, rng.integers(-3, 19, size=tokens.shape))
    finished = jnp.array([row.endswith("$") for row in rows])
    reward = task.reward(prompts, jnp.asarray(garbage), jnp.asarray(mask), finished)
    expected = [
        float(row.endswith("$") and row[:-1].split(",")[-1] == result(question))
        for row, question in zip(rows, texts(task, prompts.tokens, prompts.mask), strict=True)
    ]
    assert reward.value.tolist() == expected
    assert 0.1 < np.mean(expected) < 0.9
    assert reward.valid.all()


@functools.cache
def eight_and_nine():
    """A task and its prompt "8+9="."""
    task = arithmetic("+", (1, 1), scratchpad=True, held_out_fraction=0.0)
    prompts, _ = pools(task)
    questions = texts(task, prompts.tokens, prompts.mask)
    return task, task.prompts(jnp.array([questions.index("8+9=")]))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("17$", 1),
        ("17", 0),
        ("017$", 0),
        ("+17$", 0),
        ("1$", 0),
        ("170$", 0),
        ("$", 0),
        ("", 0),
        (",17$", 1),
        ("71,17$", 1),
        ("17,$", 0),
        ("17,1$", 0),
        ("1,,17$", 1),
    ],
)
def test_the_answer_is_what_stands_between_the_last_comma_and_the_stop(text, value):
    task, prompts = eight_and_nine()
    tokens = np.zeros((1, task.response_length), int)
    tokens[0, : len(text)] = [CHARACTERS.index(character) for character in text]
    mask = jnp.arange(task.response_length)[None] < len(text)
    reward = task.reward(prompts, jnp.asarray(tokens), mask, jnp.array([True]))
    assert reward.value[0] == value


def test_demonstrations_are_right_as_often_as_stated_and_less_often_for_longer_answers():
    task = arithmetic("-", (1, 2), num_problems=400, digit_error=0.3)
    prompts = task.prompts(jnp.arange(6000) % task.num_prompts)
    tokens, mask = jax.jit(task.demonstrations)(jax.random.key(0), prompts)
    value = np.asarray(task.reward(prompts, tokens, mask, mask[:, -1]).value)
    digits = np.array(
        [len(result(q).lstrip("-")) for q in texts(task, prompts.tokens, prompts.mask)]
    )
    np.testing.assert_allclose(prompts.data["success"], 0.7**digits, rtol=1e-5)
    for count in (1, 2):
        rows = value[digits == count]
        interval = SIGMAS * np.sqrt(len(rows) * 0.25)
        assert abs(rows.sum() - len(rows) * 0.7**count) < interval


def test_work_is_written_before_the_answer_and_repeats_its_errors():
    task = arithmetic("+-*", (1, 2), num_problems=300, scratchpad=True, digit_error=0.5)
    prompts, _ = pools(task)
    tokens, mask = task.demonstrations(jax.random.key(0), prompts)
    wrong = 0
    for question, text in zip(
        texts(task, prompts.tokens, prompts.mask), texts(task, tokens, mask), strict=True
    ):
        work, answer = text.removesuffix("$").split(",")
        wrong += answer != result(question)
        if "*" in question:
            first, second = question.removesuffix("=").split("*")
            parts = [int(part) for part in work.split("+")]
            assert sum(parts) == int(first) * int(second)
            assert parts[0] == int(first) * int(second[-1])
        else:
            assert work == answer[::-1]
    assert wrong > 50


def test_without_errors_every_demonstration_is_right_and_the_longest_fills_the_response():
    task = arithmetic("+-*", (1, 1), scratchpad=True, digit_error=0.0, held_out_fraction=0.0)
    prompts, _ = pools(task)
    tokens, mask = task.demonstrations(jax.random.key(0), prompts)
    assert task.reward(prompts, tokens, mask, mask[:, -1]).value.all()
    assert mask[:, -1].any()
    assert prompts.mask[:, 0].any()


def test_permuting_prompts_permutes_demonstrations():
    task = arithmetic(num_problems=100)
    ids = jnp.arange(40)
    order = jax.random.permutation(jax.random.key(1), 40)
    tokens = task.demonstrations(jax.random.key(0), task.prompts(ids))[0]
    permuted = task.demonstrations(jax.random.key(0), task.prompts(ids[order]))[0]
    np.testing.assert_array_equal(permuted, tokens[order])


def test_prompts_and_demonstrations_vmap_and_use_no_key_twice():
    task = arithmetic(num_problems=100)
    keys = jax.random.split(jax.random.key(0), 3)
    prompts = jax.vmap(task.prompts)(jnp.arange(6).reshape(3, 2))
    tokens, _ = jax.vmap(task.demonstrations)(keys, prompts)
    alone = task.demonstrations(keys[1], task.prompts(jnp.array([2, 3])))[0]
    np.testing.assert_array_equal(tokens[1], alone)
    with jax.debug_key_reuse(True):
        task.demonstrations(jax.random.key(0), task.prompts(jnp.array([1, 2, 1])))


def test_the_split_depends_on_its_seed_and_the_pool_does_not():
    one, two = (arithmetic(num_problems=200, split_seed=seed) for seed in (0, 1))
    held_out = [
        set(texts(task, *(lambda p: (p.tokens, p.mask))(pools(task)[1]))) for task in (one, two)
    ]
    everything = [
        {question for pool in pools(task) for question in texts(task, pool.tokens, pool.mask)}
        for task in (one, two)
    ]
    assert held_out[0] != held_out[1]
    assert everything[0] == everything[1]


def test_a_transcript_reads_as_text():
    task = arithmetic("-", (1, 1), digit_error=0.0, held_out_fraction=0.0)
    prompts = task.prompts(jnp.array([27]))
    assert transcripts(task, prompts, *task.demonstrations(jax.random.key(0), prompts)) == [
        "2-7= -> -5$"
    ]


def test_settings_are_plain_and_tell_tasks_apart():
    tasks = arithmetic(num_problems=9), arithmetic(num_problems=9, digit_error=0.1)
    assert len({json.dumps(task.settings) for task in tasks}) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operations": ""}, "operations='' must be a string of"),
        ({"operations": "+/"}, r"operations='\+/' holds '/'; it must be a string of"),
        ({"operations": "++"}, "must not hold the same one twice"),
        ({"num_digits": 2}, r"num_digits=2 must be \(fewest, most\)"),
        ({"num_digits": (1, 2, 3)}, r"num_digits=\(1, 2, 3\) must be \(fewest, most\)"),
        ({"num_digits": (0, 2)}, r"num_digits\[0\]=0 must be from 1 to 9"),
        ({"num_digits": (3, 2)}, r"num_digits\[1\]=2 must be from 3 to 9"),
        ({"num_problems": 0}, "num_problems=0 must be from 1 to"),
        ({"digit_error": 1.2}, "digit_error=1.2 must be from 0 to 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        arithmetic(**arguments)
