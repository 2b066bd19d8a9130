"""Digit sums: prompts, rewards and demonstrations against plain Python."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxpg_envs.tokens import digit_sum, exact_success, transcripts

SIGMAS = 4.5
same = functools.cache(digit_sum)  # one task for the tests that ask for the same, compiled once


def close_to(count, number, probability):
    return abs(count - number * probability) <= SIGMAS * np.sqrt(number * probability) + 1e-9


def plain_reward(digits, row, base, variable_length, length):
    """Reward of a response given as the list of its real tokens."""
    answer = sum(digits) % base
    if variable_length:
        return float(len(row) >= 2 and row[-1] == base + 1 and row[-2] == answer)
    return float(len(row) == length and row[-1] == answer)


def random_responses(task, number, seed=0):
    """Demonstrations cut at random, some tokens replaced, anything at all outside of the mask."""
    rng = np.random.default_rng(seed)
    prompts = task.prompts(jnp.asarray(rng.integers(task.num_prompts, size=number)))
    tokens, mask = map(np.array, task.demonstrations(jax.random.key(seed), prompts))
    replaced = rng.random(tokens.shape) < 0.1
    tokens = np.where(replaced, rng.integers(task.vocabulary_size, size=tokens.shape), tokens)
    length = np.where(rng.random(number) < 0.3, rng.integers(tokens.shape[1] + 1, size=number), 99)
    mask &= np.arange(tokens.shape[1]) < length[:, None]
    for row, real in zip(tokens, mask, strict=True):  # a policy's response ends at its first stop
        stops = np.flatnonzero(np.isin(row, task.stop_tokens))
        if stops.size:
            real[stops[0] + 1 :] = False
    garbage = rng.integers(-3, task.vocabulary_size + 3, size=tokens.shape)
    finished = (np.isin(tokens, task.stop_tokens) & mask).any(1)
    return prompts, jnp.asarray(np.where(mask, tokens, garbage)), jnp.asarray(mask), finished


def test_prompts_are_all_the_numbers_in_order_with_their_digit_sums():
    task = digit_sum(num_digits=3, base=4)
    prompts = task.prompts(jnp.arange(task.num_prompts))
    expected = list(itertools.product(range(4), repeat=3))
    assert prompts.tokens.tolist() == [list(digits) for digits in expected]
    assert prompts.data["answer"].tolist() == [sum(digits) % 4 for digits in expected]
    assert prompts.mask.all()
    assert prompts.tokens.dtype == prompts.ids.dtype == jnp.int32


def test_the_default_has_343_prompts_three_tokens_and_no_stop_token():
    task = digit_sum()
    assert (task.num_prompts, task.num_held_out) == (343, 0)
    assert (task.vocabulary_size, task.prompt_length, task.response_length) == (7, 3, 3)
    assert task.stop_tokens == ()


def test_training_and_held_out_prompts_share_none_and_leave_none_out():
    task = digit_sum(3, 4, held_out_fraction=0.3)
    pools = [task.prompts(jnp.arange(task.num_prompts)), task.held_out(jnp.arange(19))]
    assert (task.num_prompts, task.num_held_out) == (45, 19)
    rows = [tuple(row) for pool in pools for row in pool.tokens.tolist()]
    assert len(set(rows)) == len(rows) == 64
    assert pools[0].ids.tolist() == list(range(45))


@pytest.mark.parametrize("variable_length", [False, True])
def test_rewards_are_those_of_plain_python_whatever_stands_outside_of_the_mask(variable_length):
    task = same(variable_length=variable_length)
    prompts, tokens, mask, finished = random_responses(task, 343)
    reward = task.reward(prompts, tokens, mask, jnp.asarray(finished))
    expected = [
        plain_reward(
            digits, np.asarray(row)[np.asarray(real)], 7, variable_length, task.response_length
        )
        for digits, row, real in zip(prompts.tokens.tolist(), tokens, mask, strict=True)
    ]
    assert reward.value.tolist() == expected
    assert 0.1 < np.mean(expected) < 0.9
    assert reward.valid.all()
    assert reward.value.dtype == jnp.float32


@functools.cache
def three_and_three():
    """A task of variable length and its prompt "3 3"."""
    task = digit_sum(num_digits=2, response_length=3, variable_length=True)
    return task, task.prompts(jnp.array([3 * 7 + 3]))


@pytest.mark.parametrize(
    ("tokens", "length", "value"),
    [
        ([3, 6, 7], 3, 0),  # "3 6 .": no stop
        ([6, 8, 0], 2, 1),  # stopped right after the answer
        ([6, 8, 0], 1, 0),  # the stop token is padding
        ([8, 6, 8], 1, 0),  # stopped before the answer
        ([7, 6, 8], 3, 1),
        ([6, 7, 8], 3, 0),  # a scratch token between answer and stop
        ([6, 6, 6], 3, 0),  # cut off by the limit
        ([6, 8, 6], 0, 0),
    ],
)
def test_a_response_of_variable_length_is_right_if_it_stops_at_the_answer(tokens, length, value):
    task, prompts = three_and_three()
    mask = jnp.arange(3)[None] < length
    assert task.reward(prompts, jnp.array([tokens]), mask, jnp.array([True])).value[0] == value


def test_permuting_prompts_permutes_demonstrations_and_rewards():
    task = same(variable_length=True)
    ids = jnp.arange(343)
    order = jax.random.permutation(jax.random.key(1), 343)
    tokens, mask = task.demonstrations(jax.random.key(0), task.prompts(ids))
    value = task.reward(task.prompts(ids), tokens, mask, mask[:, -1]).value
    prompts = task.prompts(ids[order])
    permuted = task.demonstrations(jax.random.key(0), prompts)
    np.testing.assert_array_equal(permuted[0], tokens[order])
    np.testing.assert_array_equal(permuted[1], mask[order])
    np.testing.assert_array_equal(
        task.reward(prompts, *permuted, mask[order, -1]).value, value[order]
    )


@pytest.mark.parametrize("demonstrator", ["chain", "independent"])
@pytest.mark.parametrize("success", [0.02, 0.25, 1.0])
def test_demonstrations_are_right_as_often_as_stated(demonstrator, success):
    task = digit_sum(success=success, demonstrator=demonstrator)
    prompts = task.prompts(jnp.arange(4000) % 343)
    tokens, mask = jax.jit(task.demonstrations)(jax.random.key(0), prompts)
    assert mask.all()
    right = np.asarray(tokens)[:, -1] == np.asarray(prompts.tokens).sum(1) % 7
    assert close_to(right.sum(), 4000, success)


def test_chained_sums_go_on_from_what_was_written_and_steps_fail_equally_often():
    base, success = 5, 0.4
    task = digit_sum(3, base, success=success)
    prompts = task.prompts(jnp.arange(6000) % 125)
    tokens, _ = map(np.asarray, task.demonstrations(jax.random.key(1), prompts))
    steps = (np.diff(tokens, axis=1, prepend=0) - np.asarray(prompts.tokens)) % base

    def last_is_right(error):
        chance = [1 - error] + [error / (base - 1)] * (base - 1)
        return sum(
            np.prod([chance[offset] for offset in offsets])
            for offsets in itertools.product(range(base), repeat=3)
            if sum(offsets) % base == 0
        )

    error = optimize.brentq(lambda e: last_is_right(e) - success, 0.0, 1 - 1 / base)
    for step in steps.T:
        assert close_to((step != 0).sum(), 6000, error)
        for offset in range(1, base):  # wrong ones are uniform
            assert close_to((step == offset).sum(), 6000, error / (base - 1))


def test_independent_digits_are_wrong_whatever_else_is():
    task = digit_sum(demonstrator="independent", success=0.5)
    prompts = task.prompts(jnp.arange(6000) % 343)
    tokens, _ = map(np.asarray, task.demonstrations(jax.random.key(1), prompts))
    right = tokens == np.cumsum(np.asarray(prompts.tokens), 1) % 7
    for pattern in itertools.product([False, True], repeat=3):
        assert close_to((right == pattern).all(1).sum(), 6000, 1 / 8)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_exact_demonstrations_are_running_sums_that_end_with_all_digits(length):
    task = digit_sum(3, 7, length, demonstrator="exact", success=0.1)
    prompts = task.prompts(jnp.array([3 * 49 + 5 * 7 + 6]))
    tokens, _ = task.demonstrations(jax.random.key(0), prompts)
    assert tokens[0].tolist() == {1: [0], 2: [1, 0], 5: [3, 3, 3, 1, 0]}[length]


def test_the_difficulty_of_a_mixed_pool_spreads_evenly_and_demonstrations_keep_to_it():
    task = digit_sum(2, 3, success=(0.02, 0.98))
    prompts = task.prompts(jnp.arange(9))
    np.testing.assert_allclose(prompts.data["success"], np.linspace(0.02, 0.98, 9), rtol=1e-5)
    keys = jax.random.split(jax.random.key(0), 2000)
    tokens, _ = jax.jit(jax.vmap(task.demonstrations, in_axes=(0, None)))(keys, prompts)
    right = (tokens[..., -1] == prompts.data["answer"]).sum(0)
    for count, success in zip(right.tolist(), np.linspace(0.02, 0.98, 9), strict=True):
        assert close_to(count, 2000, success)


def test_a_demonstration_of_variable_length_stops_if_right_and_runs_to_the_limit_if_wrong():
    task = digit_sum(variable_length=True, success=0.25)
    prompts = task.prompts(jnp.arange(4000) % 343)
    tokens, mask = map(np.asarray, task.demonstrations(jax.random.key(2), prompts))
    lengths = {True: [], False: []}
    for digits, row, real in zip(prompts.tokens.tolist(), tokens, mask, strict=True):
        written = row[real].tolist()
        scratch = next(place for place, token in enumerate(written) if token != 7)
        answer, rest = written[scratch + 2], written[scratch + 3 :]
        right = answer == sum(digits) % 7
        assert all(token < 7 for token in written[scratch : scratch + 3])
        assert rest == ([8] if right else [7] * (12 - scratch - 3))
        lengths[right].append(len(written))
    assert close_to(len(lengths[True]), 4000, 0.25)
    assert set(lengths[False]) == {12}
    # D = 8: i scratch tokens with weight 9 - i, of 45 in all.
    for scratch in range(9):
        assert close_to(lengths[True].count(scratch + 4), len(lengths[True]), (9 - scratch) / 45)
    share = np.mean(lengths[True]) / (np.mean(lengths[True]) + 12)
    assert share == pytest.approx((4 + 8 / 3) / (4 + 8 / 3 + 12), abs=0.01)


def test_a_transcript_reads_as_the_card_writes():
    task = digit_sum(3, 5, 4, variable_length=True, demonstrator="exact")
    prompts = task.prompts(jnp.array([1 * 25 + 2 * 5 + 4]))
    assert transcripts(task, prompts, *task.demonstrations(jax.random.key(0), prompts)) == [
        "1 2 4 -> 1 3 2 EOS"
    ]


def test_a_uniform_policy_succeeds_once_in_the_base():
    task = digit_sum(2, 4, 3)
    uniform = lambda prompts, tokens, mask: -mask.sum(1) * jnp.log(4.0)
    found = exact_success(task, uniform, task.prompts(jnp.arange(16)))
    np.testing.assert_allclose(found, 0.25, rtol=1e-5)


def test_a_policy_that_knows_the_sum_succeeds_as_often_as_it_says_it():
    task = digit_sum(2, 3, 3, variable_length=True)  # 3 digits, scratch, stop: 1 in 5 each

    def score(prompts, tokens, mask):
        sums = prompts.tokens.sum(1, keepdims=True) % 3
        probability = jnp.where(tokens == sums, 0.6, 0.1)
        return jnp.sum(jnp.where(mask, jnp.log(probability), 0.0), 1)

    found = exact_success(task, score, task.prompts(jnp.arange(9)))
    # The answer and the stop, after nothing or after one token that does not stop.
    np.testing.assert_allclose(found, 0.6 * 0.1 + 0.9 * 0.6 * 0.1, rtol=1e-5)


def test_the_same_key_draws_the_same_and_another_key_others():
    task = same(variable_length=False)
    draw = lambda seed: task.demonstrations(jax.random.key(seed), task.prompts(jnp.arange(343)))[0]
    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()


def test_no_key_is_used_twice():
    for task in (same(variable_length=False), same(variable_length=True)):
        with jax.debug_key_reuse(True):
            task.demonstrations(jax.random.key(0), task.prompts(jnp.array([1, 2, 1])))


def test_a_function_takes_the_place_of_the_demonstrator_and_the_warm_start_stays():
    mine = lambda key, prompts: (prompts.tokens, prompts.mask)
    task = digit_sum(demonstrator=mine)
    assert task.demonstrations is mine
    (phase,) = task.warm_start
    assert (phase.name, phase.num_updates, phase.batch_size) == ("chain", 500, 256)
    assert digit_sum(demonstrator="independent").warm_start[0].name == "independent"


def test_settings_are_plain_and_tell_tasks_apart():
    texts = [
        json.dumps(task.settings)
        for task in (digit_sum(), digit_sum(success=0.25), digit_sum(split_seed=1))
    ]
    assert len(set(texts)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_digits": 0}, "num_digits=0 must be at least 1"),
        ({"base": 1}, "base=1 must be at least 2"),
        ({"num_digits": 9}, "9 digits in base 7 make 40353607 prompts; choose fewer"),
        ({"response_length": 0}, "response_length=0 must be at least 1"),
        ({"response_length": 3, "variable_length": True}, "response_length=3 must be at least 4"),
        ({"success": 1.5}, "success=1.5 must be from 0 to 1"),
        ({"success": (0.1, 0.2, 0.3)}, "success=.* must be one probability or two"),
        ({"demonstrator": "chian"}, "demonstrator='chian' is not one of .*did you mean 'chain'"),
        (
            {"demonstrator": "independent", "variable_length": True},
            "demonstrator='independent' is not one of 'chain', 'exact'",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        digit_sum(**arguments)
