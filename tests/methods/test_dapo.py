"""DAPO: which groups a batch keeps, how often it samples, and the overlong penalty."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import estimators, methods
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.method import Method
from jaxpg.methods.dapo import merge_mixed, mixed_rows
from jaxpg.networks.decoder import transformer
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg.types import Evaluation, trajectory
from jaxpg_envs.tokens import digit_sum
from jaxpg_envs.tokens.task import Reward

KEY = jax.random.key(0)
SIZES = {"num_prompts": 4, "group_size": 3}
TASK = digit_sum(2, 4, 2)
MODEL = transformer(TransformerConfig(4, 1, width=16, num_heads=2, mlp_width=24, max_positions=4))


def always_right(prompts, tokens, mask, finished):
    return Reward(jnp.ones(finished.shape), jnp.ones_like(finished), {})


def batch(seed, group_size=3, num_groups=5):
    """Rewards of 0 and 1, some rows without a decision, actions that number the rows."""
    numbers = np.random.default_rng(seed)
    num_rows = group_size * num_groups
    reward = numbers.integers(0, 2, num_rows).astype(np.float32)
    mask = np.tile(numbers.random((num_rows, 1)) < 0.8, (1, 2))
    mask[:, 1] &= numbers.random(num_rows) < 0.5
    return trajectory(
        jnp.zeros((num_rows, 2)),
        jnp.asarray(reward),
        action=jnp.tile(100 * seed + jnp.arange(num_rows)[:, None], (1, 2)),
        mask=jnp.asarray(mask, jnp.float32),
        group_ids=jnp.arange(num_rows) // group_size,
    ), reward


def mixed_by_hand(rows, reward, group_size=3):
    real = np.asarray(rows.mask).any(axis=1).reshape(-1, group_size)
    groups = zip(reward.reshape(-1, group_size), real, strict=True)
    return np.array([len({*row[there]}) > 1 for row, there in groups])


@pytest.mark.parametrize("seed", [2, 3, 6, 7])
def test_a_group_is_mixed_where_its_real_rows_have_different_rewards(seed):
    rows, reward = batch(seed)
    expected = np.repeat(mixed_by_hand(rows, reward), 3)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(mixed_rows(rows), expected)
    order = np.random.default_rng(seed).permutation(15)
    shuffled = jax.tree.map(lambda x: x[order], rows)
    np.testing.assert_array_equal(mixed_rows(shuffled), expected[order])


@pytest.mark.parametrize("seed", range(4))
def test_mixed_groups_come_first_the_older_before_the_newer(seed):
    (kept, one), (fresh, two) = batch(2 * seed), batch(2 * seed + 1)
    mixed = np.concatenate([mixed_by_hand(kept, one), mixed_by_hand(fresh, two)])
    numbers = np.concatenate([kept.action[:, 0], fresh.action[:, 0]]).reshape(10, 3)
    expected = np.concatenate([numbers[mixed], numbers[~mixed]])[:5]
    merged = jax.jit(merge_mixed)(kept, fresh)
    np.testing.assert_array_equal(merged.action[:, 0], expected.ravel())
    np.testing.assert_array_equal(merged.group_ids, np.repeat(np.arange(5), 3))
    np.testing.assert_array_equal(merged.rollout_ids, np.arange(15))
    # Every leaf moved with its row.
    reward = dict(zip(numbers.ravel().tolist(), np.concatenate([one, two]), strict=True))
    real = np.asarray(merged.mask).any(axis=1)
    wanted = [reward[number] for number in expected.ravel().tolist()]
    np.testing.assert_array_equal(merged.total_reward, np.where(real, wanted, 0.0))


@pytest.fixture(scope="module")
def sampled():
    """A batch of dynamic sampling, and the rounds that it was filled from one by one."""
    dapo, seen = methods.dapo(max_rounds=20), {}

    def override(seams):
        seen["collect"] = seams.collect
        changed = dapo.override(seams)

        def after(params, rows, metrics, state):
            return (rows, seams.evaluate(params, rows)), {}

        return changed._replace(after=after)

    agent = rlvr(TASK, MODEL, Method("spy", dapo.estimator, override), **SIZES)
    before = jax.jit(agent.init)(KEY)
    after, metrics = jax.jit(agent.update)(before)
    key = jax.random.split(before.key, 3)[1]

    @jax.jit
    def one_round(number, world):
        agent.update(before)  # binds `collect` to this trace
        return seen["collect"](jax.random.fold_in(key, number), before.params, world, ())

    rounds, world = [], before.world
    for number in range(int(metrics["rounds"])):
        rows, world, collected = one_round(number, world)
        rounds.append((rows, collected))
    return before, after, metrics, rounds


def test_sampling_goes_on_until_every_group_is_mixed(sampled):
    before, after, metrics, rounds = sampled
    rows = after.method[0]
    tokens = np.concatenate([r.action.reshape(4, 3, 2) for r, _ in rounds])
    prompts = np.concatenate([r.extras["prompt_ids"].reshape(4, 3) for r, _ in rounds])
    rewards = np.concatenate([np.asarray(r.total_reward).reshape(4, 3) for r, _ in rounds])
    mixed = np.ptp(rewards, axis=1) > 0
    enough = np.searchsorted(np.cumsum(mixed), 4) // 4 + 1
    assert metrics["rounds"] == len(rounds) == enough > 1
    assert metrics["filled_share"] == 1.0
    np.testing.assert_array_equal(rows.action.reshape(4, 3, 2), tokens[mixed][:4])
    np.testing.assert_array_equal(rows.extras["prompt_ids"].reshape(4, 3), prompts[mixed][:4])
    np.testing.assert_array_equal(rows.total_reward.reshape(4, 3), rewards[mixed][:4])
    np.testing.assert_array_equal(rows.group_ids, np.repeat(np.arange(4), 3))
    # Every round takes the next prompts, and the metrics are those of all that was sampled.
    assert after.world.position - before.world.position == 4 * enough
    np.testing.assert_allclose(metrics["reward"], rewards.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["mixed_group_share"], mixed.mean(), rtol=1e-5)


def test_where_nothing_is_mixed_sampling_ends_and_nothing_is_learned():
    task = dataclasses.replace(TASK, reward=always_right)
    agent = rlvr(task, MODEL, methods.dapo(max_rounds=3), **SIZES)
    before = jax.jit(agent.init)(KEY)
    after, metrics = jax.jit(agent.update)(before)
    assert metrics["rounds"] == 3 and metrics["filled_share"] == 0 and metrics["reward"] == 1
    assert metrics["gradient_norm"] == 0 and after.world.position == 12
    for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({}, {"collect"}),
        ({"overlong_buffer": 4}, {"collect", "score"}),
        ({"overlong_buffer": 4, "max_rounds": 1}, {"score"}),
        ({"max_rounds": 1}, set()),
    ],
)
def test_it_overrides_two_seams_and_no_more(overridden, settings, changed):
    assert overridden(methods.dapo(**settings)) == changed


def test_without_its_collection_it_is_its_estimator():
    method, alone = methods.dapo(0.1, 0.4, max_rounds=1), estimators.dapo(0.1, 0.4)
    rows, _ = batch(2)
    now = jnp.asarray(np.random.default_rng(1).normal(0.0, 0.5, (15, 2)), jnp.float32)
    gradients = [
        jax.grad(lambda log_prob: e.loss(Evaluation(log_prob), rows)[0])(now)
        for e in (method.estimator, alone)
    ]
    np.testing.assert_array_equal(*gradients)
    assert np.abs(gradients[0]).max() > 0 and method.settings["max_rounds"] == 1


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_the_penalty_is_added_where_the_reward_is_paid(plain_seams, factor):
    lengths = np.array([16, 18, 20, 0, 1])
    mask = jnp.asarray(np.arange(20) < lengths[:, None], jnp.float32)
    rows = trajectory(jnp.zeros((5, 20)), jnp.ones(5), mask=mask)
    method = methods.dapo(overlong_buffer=4, overlong_factor=factor)
    paid = method.override(plain_seams).score((), rows, ())
    expected = np.zeros((5, 20))
    for row, (length, penalty) in enumerate([(16, 0), (18, -0.5), (20, -1)]):
        expected[row, length - 1] = 1 + factor * penalty
    expected[4, 0] = 1
    np.testing.assert_allclose(paid.reward, expected)


def test_the_filter_sees_the_reward_before_the_penalty():
    # Two right answers of different length are no mixed group, though the penalty tells them apart.
    task = digit_sum(1, 3, 3, variable_length=True)
    model = transformer(
        TransformerConfig(5, 1, width=16, num_heads=2, mlp_width=24, max_positions=4)
    )
    task = dataclasses.replace(task, reward=always_right)
    method = methods.dapo(max_rounds=2, overlong_buffer=2)
    agent = rlvr(task, model, method, optimiser=optax.sgd(1.0), **SIZES)
    _, metrics = jax.jit(lambda key: agent.update(agent.init(key)))(KEY)
    assert metrics["rounds"] == 2 and metrics["filled_share"] == 0
    assert metrics["response_length"] < 3 and metrics["gradient_norm"] > 0


def test_bad_settings_are_one_sentence():
    with pytest.raises(ValueError, match="max_rounds is 0, but it has to be at least 1"):
        methods.dapo(max_rounds=0)
    agent = rlvr(TASK, MODEL, methods.dapo(overlong_buffer=3), **SIZES)
    with pytest.raises(ValueError, match="buffer is 3, but it has to be between 1 and longest=2"):
        jax.eval_shape(lambda key: agent.update(agent.init(key)), KEY)
