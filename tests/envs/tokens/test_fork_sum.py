"""Fork sums: layout, rewards and demonstrations against plain Python and closed forms."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.tokens import exact_success, fork_sum, transcripts
from jaxpg_envs.tokens.fork_sum import demonstrator_success, fork_demonstrations, special_tokens

SIGMAS = 4.5
same = functools.cache(fork_sum)  # one task for the tests that ask for the same, compiled once


def close_to(count, number, probability):
    return abs(count - number * probability) <= SIGMAS * np.sqrt(number * probability) + 1e-9


def scratch_success(length, modulus, error):
    """Closed form: each step shrinks the distance from chance by 1 - e m / (m - 1)."""
    kept = (1 - error * modulus / (modulus - 1)) ** length
    return 1 / modulus + (1 - 1 / modulus) * kept


def plain_reward(digits, row, modulus):
    """Reward of a response given as the list of its real tokens."""
    slots = row[1::2]  # style, then pairs of digit slot and filler
    k = len(digits)
    return float(len(slots) >= k and slots[k - 1] == sum(digits) % modulus)


def test_prompts_are_all_the_digits_with_their_sums():
    task = fork_sum(length=3, modulus=4)
    prompts = task.prompts(jnp.arange(task.num_prompts))
    expected = list(itertools.product(range(4), repeat=3))
    assert prompts.tokens.tolist() == [list(digits) for digits in expected]
    assert prompts.data["answer"].tolist() == [sum(digits) % 4 for digits in expected]


def test_sizes_are_those_of_the_cards():
    task = fork_sum(length=4, modulus=7)
    assert (task.vocabulary_size, task.prompt_length, task.response_length) == (11, 4, 10)
    assert (task.num_prompts, task.num_held_out) == (2401, 0)
    assert task.stop_tokens == (10,)
    assert special_tokens(7) == (7, 8, 9, 10)


def test_training_and_held_out_prompts_share_none_and_leave_none_out():
    task = fork_sum(3, 4, held_out_fraction=0.25, split_seed=3)
    pools = task.prompts(jnp.arange(48)), task.held_out(jnp.arange(16))
    assert (task.num_prompts, task.num_held_out) == (48, 16)
    rows = [tuple(row) for pool in pools for row in pool.tokens.tolist()]
    assert len(set(rows)) == len(rows) == 64


def test_rewards_are_those_of_plain_python_whatever_stands_outside_of_the_mask():
    task = same(3, 4, style_share=0.7)
    rng = np.random.default_rng(0)
    prompts = task.prompts(jnp.asarray(rng.integers(64, size=320)))
    tokens = np.array(task.demonstrations(jax.random.key(0), prompts)[0])
    replaced = rng.random(tokens.shape) < 0.1
    tokens = np.where(replaced, rng.integers(8, size=tokens.shape), tokens)
    cut = np.where(rng.random(320) < 0.3, rng.integers(9, size=320), 8)
    rows = []
    for row, length in zip(tokens.tolist(), cut, strict=True):
        stop = row.index(7) + 1 if 7 in row else 8  # EOS, often early
        rows.append(row[: min(stop, length)])
    mask = np.arange(8) < np.array([len(row) for row in rows])[:, None]
    tokens = np.where(mask, tokens, rng.integers(-3, 11, size=tokens.shape))
    finished = jnp.array([7 in row for row in rows])
    reward = task.reward(prompts, jnp.asarray(tokens), jnp.asarray(mask), finished)
    expected = [plain_reward(*pair, 4) for pair in zip(prompts.tokens.tolist(), rows, strict=True)]
    assert reward.value.tolist() == expected
    assert 0.2 < np.mean(expected) < 0.8
    assert reward.valid.all()
    first = np.mean([row[:1] == [4] for row in rows])
    assert reward.metrics["scratch_share"] == pytest.approx(first)


@functools.cache
def three_and_three():
    """A task and its prompt "3 3"."""
    task = fork_sum(2, 5)
    return task, task.prompts(jnp.array([3 * 5 + 3]))


@pytest.mark.parametrize(
    ("tokens", "length", "value"),
    [
        ([5, 3, 7, 1, 7, 8], 6, 1),  # "S 3 . 1 . EOS"
        ([6, 7, 7, 1, 7, 8], 6, 1),  # "G . . 1 . EOS"
        ([6, 7, 7, 1, 8, 0], 5, 1),  # stopped early, but after the last slot
        ([7, 7, 7, 1, 7, 7], 6, 1),  # neither a style nor a stop: only the slot is judged
        ([5, 3, 8, 1, 7, 8], 3, 0),  # stopped before the last slot
        ([5, 3, 7, 8, 7, 8], 4, 0),  # stopped in the last slot
        ([5, 3, 7, 1, 7, 8], 3, 0),  # what stands in the last slot is padding
        ([5, 3, 1, 7, 7, 8], 6, 0),  # the answer in the wrong place
        ([5, 3, 7, 1, 7, 8], 0, 0),
    ],
)
def test_only_the_last_slot_is_judged_and_it_has_to_be_real(tokens, length, value):
    task, prompts = three_and_three()
    mask = jnp.arange(6)[None] < length
    assert task.reward(prompts, jnp.array([tokens]), mask, jnp.array([True])).value[0] == value


def test_scratch_writes_running_sums_that_go_on_from_what_was_written():
    k, m, error = 3, 5, 0.3
    task = fork_sum(k, m, style_share=1.0, step_error=error)
    prompts = task.prompts(jnp.arange(5000) % m**k)
    tokens, mask = map(np.asarray, jax.jit(task.demonstrations)(jax.random.key(0), prompts))
    assert mask.all()
    assert (tokens[:, 0] == m).all()
    assert (tokens[:, 2:-1:2] == m + 2).all()
    assert (tokens[:, -1] == m + 3).all()
    slots = tokens[:, 1:-1:2]
    steps = (np.diff(slots, axis=1, prepend=0) - np.asarray(prompts.tokens)) % m
    for step in steps.T:
        for offset in range(1, m):
            assert close_to((step == offset).sum(), 5000, error / (m - 1))
    right = (slots[:, -1] == np.asarray(prompts.tokens).sum(1) % m).sum()
    assert close_to(right, 5000, scratch_success(k, m, error))


def test_guessing_writes_fillers_and_a_uniform_digit_in_the_last_slot():
    task = fork_sum(3, 5, demonstrator="guess")
    prompts = task.prompts(jnp.arange(5000) % 125)
    tokens = np.asarray(task.demonstrations(jax.random.key(0), prompts)[0])
    expected = np.array([6, 7, 7, 7, 7, 0, 7, 8])
    assert (np.delete(tokens, 5, axis=1) == np.delete(expected, 5)).all()
    for digit in range(5):
        assert close_to((tokens[:, 5] == digit).sum(), 5000, 0.2)


def test_the_mixture_has_the_stated_share_of_styles_and_success():
    task = fork_sum(4, 7, style_share=0.4)
    prompts = task.prompts(jnp.arange(5000) % 2401)
    tokens, mask = task.demonstrations(jax.random.key(0), prompts)
    reward = task.reward(prompts, tokens, mask, mask[:, -1])
    assert close_to(float(reward.metrics["scratch_share"]) * 5000, 5000, 0.4)
    expected = 0.4 * scratch_success(4, 7, 0.15) + 0.6 / 7
    assert close_to(reward.value.sum(), 5000, expected)


@pytest.mark.parametrize(("length", "modulus"), [(1, 2), (2, 3), (4, 5), (4, 7), (6, 5)])
@pytest.mark.parametrize("error", [0.0, 0.08, 0.15, 0.9, 1.0])
def test_success_by_dynamic_programming_has_the_closed_form(length, modulus, error):
    found = demonstrator_success(length, modulus, style_share=0.3, step_error=error)
    expected = 0.3 * scratch_success(length, modulus, error) + 0.7 / modulus
    assert found == pytest.approx(expected, rel=1e-12)


def test_success_is_near_what_the_cards_measured():
    # Of trained policies: high-entropy tokens' base, HPT's demonstrator, KDRL's two teachers.
    success = demonstrator_success
    assert success(4, 5, style_share=0.5, step_error=0.15) == pytest.approx(0.39, abs=0.02)
    assert success(4, 7, style_share=1.0, step_error=0.08) == pytest.approx(0.71, abs=0.02)
    assert success(4, 7, style_share=0.97, step_error=0.06) == pytest.approx(0.78, abs=0.02)
    assert success(6, 5, style_share=0.97, step_error=0.06) == pytest.approx(0.67, abs=0.02)


def test_exact_success_of_the_demonstrator_as_a_policy_is_its_success():
    k, m, share, error = 2, 2, 0.4, 0.15
    task = fork_sum(k, m, style_share=share, step_error=error)

    def score(prompts, tokens, mask):
        slots = tokens[:, 1:-1:2]
        layout = (tokens[:, 2:-1:2] == m + 2).all(1) & (tokens[:, -1] == m + 3) & mask[:, -1]
        wrong = (slots - jnp.pad(slots, ((0, 0), (1, 0)))[:, :-1] - prompts.tokens) % m != 0
        steps = jnp.where(wrong, error / (m - 1), 1 - error) * (slots < m)
        guess = (slots[:, :-1] == m + 2).all(1) & (slots[:, -1] < m)
        scratch = (tokens[:, 0] == m) * share * steps.prod(1)
        return jnp.log(layout * (scratch + (tokens[:, 0] == m + 1) * (1 - share) * guess / m))

    found = exact_success(task, score, task.prompts(jnp.arange(4)))
    expected = demonstrator_success(k, m, style_share=share, step_error=error)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_demonstrators_share_everything_else():
    one, two = same(2, 3), fork_sum(2, 3, demonstrator="scratch", scratch_error=0.0)
    prompts = one.prompts(jnp.arange(9))
    tokens, mask = two.demonstrations(jax.random.key(0), prompts)
    assert (tokens[:, 0] == special_tokens(3).scratch).all()
    assert one.reward(prompts, tokens, mask, mask[:, -1]).value.all()
    np.testing.assert_array_equal(two.prompts(jnp.arange(9)).tokens, prompts.tokens)


def test_the_warm_start_of_hpt_forgets_scratch_in_a_second_phase():
    task = fork_sum(style_share=0.4, demonstrator="scratch", num_guess_updates=400)
    assert [(phase.name, phase.num_updates) for phase in task.warm_start] == [
        ("mixture", 500),
        ("guess", 400),
    ]
    assert {(phase.batch_size, phase.learning_rate) for phase in task.warm_start} == {(256, 3e-3)}
    prompts = task.prompts(jnp.arange(2000))
    shares = [
        (phase.demonstrations(jax.random.key(0), prompts)[0][:, 0] == 7).sum()
        for phase in task.warm_start
    ]
    assert close_to(shares[0], 2000, 0.4)
    assert shares[1] == 0
    assert len(fork_sum().warm_start) == 1


def test_permuting_prompts_permutes_demonstrations():
    task = same(2, 3)
    ids = jnp.arange(9)
    order = jax.random.permutation(jax.random.key(1), 9)
    tokens = task.demonstrations(jax.random.key(0), task.prompts(ids))[0]
    permuted = task.demonstrations(jax.random.key(0), task.prompts(ids[order]))[0]
    np.testing.assert_array_equal(permuted, tokens[order])


def test_demonstrations_and_prompts_vmap():
    task = same(2, 3)
    keys = jax.random.split(jax.random.key(0), 3)
    prompts = jax.vmap(task.prompts)(jnp.arange(6).reshape(3, 2))
    tokens, mask = jax.jit(jax.vmap(task.demonstrations))(keys, prompts)
    assert tokens.shape == mask.shape == (3, 2, 6)
    alone = task.demonstrations(keys[1], task.prompts(jnp.array([2, 3])))[0]
    np.testing.assert_array_equal(tokens[1], alone)


def test_no_key_is_used_twice():
    task = same(2, 3)
    with jax.debug_key_reuse(True):
        task.demonstrations(jax.random.key(0), task.prompts(jnp.array([1, 2, 1])))


def test_a_transcript_reads_as_the_card_writes():
    task = fork_sum(4, 7, demonstrator="scratch", scratch_error=0.0)
    prompts = task.prompts(jnp.array([3 * 343 + 1 * 49 + 4 * 7 + 2]))
    assert transcripts(task, prompts, *task.demonstrations(jax.random.key(0), prompts)) == [
        "3 1 4 2 -> S 3 . 4 . 1 . 3 . EOS"
    ]


def test_settings_are_plain_and_tell_tasks_apart():
    tasks = fork_sum(), fork_sum(step_error=0.25), fork_sum(demonstrator="guess")
    assert len({json.dumps(task.settings) for task in tasks}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length=0 must be at least 1"),
        ({"modulus": 1}, "modulus=1 must be at least 2"),
        ({"length": 9, "modulus": 10}, "9 digits in base 10 make 1000000000 prompts"),
        ({"style_share": 40}, "style_share=40 must be from 0 to 1"),
        ({"step_error": -0.1}, "step_error=-0.1 must be from 0 to 1"),
        ({"scratch_error": 2}, "scratch_error=2 must be from 0 to 1"),
        ({"num_guess_updates": -1}, "num_guess_updates=-1 must be at least 0"),
        ({"demonstrator": "scrach"}, "demonstrator='scrach' is not one of .*mean 'scratch'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fork_sum(**arguments)


def test_a_demonstrator_of_ones_own_mixture_takes_any_share():
    mine = fork_demonstrations(2, 3, style_share=0.0, step_error=0.5)
    task = fork_sum(2, 3, demonstrator=mine)
    assert task.demonstrations is mine
    assert task.settings["demonstrator"] == "custom"
