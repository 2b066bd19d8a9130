"""AEPO: what enters the batch, which gradient it has, and how the entropy chooses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import batches, estimators, methods, runner
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.method import Method
from jaxpg.networks.decoder import transformer
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg.types import Evaluation, trajectory
from jaxpg_envs.tokens import digit_sum
from jaxpg_envs.tokens.task import Reward

KEY = jax.random.key(0)
SIZES = {"num_prompts": 8, "group_size": 4, "num_minibatches": 2, "learning_rate": 1e-2}
MODEL = transformer(TransformerConfig(5, 1, width=16, num_heads=2, mlp_width=24, max_positions=6))
SETTINGS = {"target_entropy": 1.2, "high": 2.0, "low": 0.6, "most": 7, "share": 0.5}


def first_is_small(prompts, tokens, mask, finished):
    """Some rewards are missing, and responses end early."""
    right = tokens[:, 0] <= prompts.data["answer"]
    valid = ~((tokens[:, 0] == 3) & (tokens[:, 1] != 3))
    return Reward(right.astype(jnp.float32), valid, {})


TASK = dataclasses.replace(digit_sum(2, 3, 4, variable_length=True), reward=first_is_small)


@pytest.fixture(scope="module")
def policy():
    """Far from uniform."""
    numbers = np.random.default_rng(1)
    shapes = jax.eval_shape(MODEL.init, KEY)
    return jax.tree.map(
        lambda leaf: jnp.asarray(numbers.normal(0.0, 0.5, leaf.shape), jnp.float32), shapes
    )


@pytest.fixture(scope="module")
def agent(policy):
    return rlvr(TASK, MODEL, methods.aepo(**SETTINGS), params=policy, **SIZES)


@pytest.fixture(scope="module")
def steps(policy):
    """`(entropy) -> rows collected, scored and selected, and metrics`, from one program."""
    aepo, seen = methods.aepo(**SETTINGS), {}

    def override(seams):
        seen["seams"] = aepo.override(seams)
        return seen["seams"]

    method = Method("spy", aepo.estimator, override)
    spied = rlvr(TASK, MODEL, method, params=policy, **SIZES)
    state = spied.init(KEY)

    @jax.jit
    def one(key, entropy):
        spied.update(state)  # binds the seams to this trace
        seams = seen["seams"]
        rows, _, metrics = seams.collect(key, state.params, state.world, entropy)
        scored = seams.score(state.params, rows, entropy)
        return rows, scored, seams.select(scored, entropy), metrics

    many = jax.jit(
        lambda keys, entropy: jax.vmap(lambda key: one(key, entropy)[0])(keys),
    )
    return one, many


def real(rows):
    return np.asarray(rows.mask).any(axis=1)


def advantages_by_hand(rows):
    """Of one rollout: (r - mean) / (std with ddof 1 + 1e-6) over the real rows of each prompt."""
    reward, here = np.asarray(rows.total_reward, float).reshape(-1, 4), real(rows).reshape(-1, 4)
    expected = np.zeros_like(reward)
    for group, (r, there) in enumerate(zip(reward, here, strict=True)):
        if there.sum() > 1:
            scale = r[there].std(ddof=1) + 1e-6
            expected[group, there] = (r[there] - r[there].mean()) / scale
    return expected.ravel()


@pytest.mark.parametrize("entropy", [0.0, 1.2, 1.3])
def test_correct_tempered_rows_take_the_first_places_with_advantage_one(steps, entropy):
    rows, scored, mixed, _ = steps[0](KEY, jnp.float32(entropy))
    marked = np.asarray(rows.extras["tempered"])
    np.testing.assert_array_equal(marked, np.arange(48) >= 32)
    first, second = (jax.tree.map(lambda x, m=m: x[m], scored) for m in (~marked, marked))
    by_hand = advantages_by_hand(second)
    candidates = np.flatnonzero(by_hand > 0.05)
    assert set(np.asarray(second.total_reward)[candidates]) == {1.0} and len(candidates) > 4
    number = min(7, len(candidates)) // (2 if entropy > 1.2 else 1)
    assert mixed.num_rows == 32 and (np.asarray(mixed.extras["kept"]) == len(candidates)).all()
    for name in ("action", "mask", "log_prob", "reward"):
        ours, on_policy, tempered = (np.asarray(getattr(r, name)) for r in (mixed, first, second))
        np.testing.assert_array_equal(ours[:number], tempered[candidates[:number]], err_msg=name)
        np.testing.assert_array_equal(ours[number:], on_policy[number:], err_msg=name)
    np.testing.assert_array_equal(mixed.extras["tempered"], np.arange(32) < number)
    # Padding of tempered rows stays masked.
    expected = (
        np.asarray(mixed.mask)
        * np.where(np.arange(32) < number, 1.0, advantages_by_hand(first))[:, None]
    )
    assert not np.asarray(second.mask)[candidates].all() and number > 1
    np.testing.assert_allclose(mixed.extras["advantage"], expected, atol=1e-5)


def test_each_rollout_has_groups_of_its_own_whose_advantages_sum_to_zero(steps):
    rows, scored, *_ = steps[0](KEY, jnp.float32(0.0))
    assert 0 < real(rows).mean() < 1
    advantage = np.max(scored.extras["advantage"], axis=1) + np.min(
        scored.extras["advantage"], axis=1
    )
    advantage = np.where(np.asarray(rows.mask).all(axis=1), advantage / 2, advantage)
    by_hand = [
        advantages_by_hand(jax.tree.map(lambda x, part=part: x[part], rows))
        for part in (slice(0, 32), slice(32, 48))
    ]
    np.testing.assert_allclose(advantage, np.concatenate(by_hand), atol=1e-5)
    groups = advantage.reshape(12, 4)
    np.testing.assert_allclose(groups.sum(axis=1), 0.0, atol=1e-5)
    reward = np.where(real(rows), rows.total_reward, np.nan).reshape(12, 4)
    same = np.nanmax(reward, axis=1) == np.nanmin(reward, axis=1)
    assert same.any() and not groups[same].any()
    # The second rollout answers the first prompts of the batch.
    ids = np.asarray(rows.extras["prompt_ids"]).reshape(12, 4)
    assert (ids == ids[:, :1]).all() and len(set(ids[:8, 0])) == 8
    np.testing.assert_array_equal(ids[8:], ids[:4])


@pytest.mark.parametrize(("entropy", "temperature"), [(0.0, 2.0), (1.2, 2.0), (1.21, 0.6)])
def test_rows_are_drawn_at_the_temperature_and_scored_at_one(steps, policy, entropy, temperature):
    keys = jax.random.split(jax.random.key(1), 250)
    rows = steps[1](keys, jnp.float32(entropy))
    prompts = rows.extras["prompt"][0, 32::4]
    states = MODEL.hidden(policy, prompts, jnp.ones_like(prompts, bool))
    logits = np.asarray(MODEL.logits(policy, states), float)[:, -1]
    softmax = lambda z: np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    drawn = np.asarray(rows.action)[:, 32:, 0].reshape(250, 4, 4)
    found = np.stack([(drawn == token).mean(axis=(0, 2)) for token in range(5)], axis=1)
    # 1000 draws at each prompt: four standard errors are at most 0.064.
    np.testing.assert_allclose(found, softmax(logits / temperature), atol=0.064)
    assert np.abs(softmax(logits / temperature) - softmax(logits)).max() > 0.1
    collected, scored, *_ = steps[0](KEY, jnp.float32(entropy))
    first = np.asarray(scored.action)[32:, 0].reshape(4, 4)
    expected = np.take_along_axis(np.log(softmax(logits)), first, axis=1).ravel()
    np.testing.assert_allclose(scored.log_prob[32:, 0], expected, atol=1e-5)
    assert np.abs(collected.log_prob[32:, 0] - expected).max() > 0.1
    there = np.asarray(scored.mask)[:32]
    own = np.asarray(scored.log_prob)[:32] * there
    np.testing.assert_allclose(own, collected.log_prob[:32], atol=1e-5)


def one_decision(seams, counts, right, temperature):
    """AEPO's gradient with respect to logits, tempered rows in the frequency of `counts`.

    On-policy rows have advantage 0. All tempered rows that are right may enter.
    """
    tempered = counts / counts.sum()
    logits = temperature * np.log(tempered)
    num_rows = int(counts.sum())
    action = jnp.asarray(np.repeat(np.arange(len(counts)), counts))
    log_policy = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    rows = trajectory(log_policy[action][:, None], action=action[:, None])
    none = jnp.zeros((num_rows, 1))
    first = rows.with_extras(advantage=none, tempered=jnp.zeros(num_rows, bool))
    earned = jnp.where(jnp.asarray(right)[action] > 0, 0.5, -0.5)[:, None]
    second = rows.with_extras(advantage=earned, tempered=jnp.ones(num_rows, bool))
    method = methods.aepo(share=1.0, most=num_rows)
    seams = method.override(seams._replace(prompts_per_update=num_rows))
    mixed = seams.select(batches.join(first, second), jnp.zeros(()))
    taken = jax.nn.one_hot(mixed.action[:, 0], len(counts))

    def loss(z):
        log_prob = (taken @ jax.nn.log_softmax(z))[:, None]
        return method.estimator.loss(Evaluation(log_prob), mixed)[0]

    gradient = -np.asarray(jax.grad(loss)(jnp.asarray(logits, jnp.float32)), float)
    return logits, tempered, np.exp(np.asarray(log_policy, float)), gradient


@pytest.mark.parametrize("counts", [(1, 2, 3, 4), (1, 1, 5, 2, 11), (7, 1, 4)])
@pytest.mark.parametrize("temperature", [0.8, 1.2, 2.0])
def test_correct_everywhere_the_gradient_pulls_the_policy_to_the_tempered_one(
    plain_seams, counts, temperature
):
    right = np.ones(len(counts))
    logits, tempered, policy, gradient = one_decision(
        plain_seams, np.array(counts), right, temperature
    )
    np.testing.assert_allclose(gradient, tempered - policy, atol=1e-6)

    def softmax(z):
        return np.exp(z) / np.exp(z).sum()

    kl = lambda z: (tempered * np.log(tempered / softmax(z))).sum()
    entropy = lambda z: -(softmax(z) * np.log(softmax(z))).sum()
    step = 1e-6 * np.eye(len(counts))
    slope = [(kl(logits + s) - kl(logits - s)) / 2e-6 for s in step]
    np.testing.assert_allclose(gradient, -np.array(slope), atol=1e-6)
    along = (entropy(logits + 1e-4 * gradient) - entropy(logits - 1e-4 * gradient)) / 2e-4
    assert (along > 0) == (temperature > 1) and along != 0


@pytest.mark.parametrize("right", [(1, 0, 0, 1), (0, 1, 0, 0), (1, 1, 1, 0)])
def test_at_temperature_one_it_is_reinforce_on_correct_rows(plain_seams, right):
    right = np.array(right)
    _, _, policy, gradient = one_decision(plain_seams, np.array([1, 2, 3, 4]), right, 1.0)
    np.testing.assert_allclose(gradient, policy * (right - policy @ right), atol=1e-6)


def assert_close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.fixture(scope="module")
def grpo(policy):
    alone = {"recompute": True, "whole_groups": False}
    agent = rlvr(TASK, MODEL, estimators.aepo(), params=policy, **SIZES | alone)
    return runner.train(agent, key=KEY, num_updates=2, chunk_length=1)


@pytest.mark.parametrize(("settings", "kept"), [({"most": 0}, True), ({"threshold": 1e3}, False)])
def test_where_no_row_enters_it_is_grpo(policy, grpo, settings, kept):
    agent = rlvr(TASK, MODEL, methods.aepo(**SETTINGS | settings), params=policy, **SIZES)
    ours = runner.train(agent, key=KEY, num_updates=2, chunk_length=1)
    assert (ours.metrics["kept"] > 0).all() == kept
    assert not ours.metrics["num_tempered"].any()
    for name in ("loss", "sampling_entropy", "reward", "gradient_norm"):
        np.testing.assert_allclose(ours.metrics[name], grpo.metrics[name], atol=1e-5)
    assert_close(ours.state.params, grpo.state.params)


@pytest.fixture(scope="module")
def straight(agent):
    """Two updates without a pause, and how much was compiled up to each."""
    compiled, counts = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None
    )
    result = runner.train(
        agent,
        key=KEY,
        num_updates=2,
        chunk_length=1,
        callback=lambda update, metrics: counts.append(len(compiled)),
    )
    return result, counts


def test_the_entropy_of_one_update_chooses_the_temperature_of_the_next(straight):
    metrics = straight[0].metrics
    before = np.concatenate([[0.0], metrics["entropy_estimate"][:-1]])
    below = before <= 1.2
    assert 0 < below.mean() < 1
    np.testing.assert_allclose(metrics["temperature"], np.where(below, 2.0, 0.6))
    room = np.minimum(metrics["kept"], 7)
    np.testing.assert_array_equal(metrics["num_tempered"], np.where(below, room, room // 2))
    assert metrics["num_tempered"].min() > 0
    assert straight[0].state.method == metrics["entropy_estimate"][-1]
    # The flatter policy that was drawn from has more entropy than the policy, the sharper less.
    hotter = metrics["tempered_sampling_entropy"] > metrics["sampling_entropy"]
    np.testing.assert_array_equal(hotter, below)


def test_another_temperature_or_number_of_rows_compiles_nothing(straight):
    _, counts = straight
    assert counts[0] > 0 and counts[-1] == counts[0]


def test_four_devices_equal_one(agent, straight):
    four = runner.train(agent, key=KEY, num_updates=2, chunk_length=1, num_devices=4)
    for metric, values in straight[0].metrics.items():
        np.testing.assert_allclose(four.metrics[metric], values, atol=1e-5, err_msg=metric)
    for part in ("params", "method"):
        assert_close(getattr(four.state, part), getattr(straight[0].state, part))


def test_a_run_that_stopped_and_resumed_is_the_same_run(agent, straight, tmp_path, leaves):
    run = {"key": KEY, "chunk_length": 1, "out": tmp_path}
    runner.train(agent, num_updates=1, **run)
    resumed = runner.train(agent, num_updates=2, resume=True, **run)
    for a, b in zip(leaves(resumed.state), leaves(straight[0].state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_overrides_all_seams_but_the_loss(overridden):
    assert overridden(methods.aepo()) == {"init", "collect", "score", "select", "after"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": 0.0}, "share is 0.0, but it has to be in"),
        ({"most": -1}, "most is -1, but it has to be at least 0"),
        ({"threshold": -0.1}, "threshold is -0.1, but it has to be at least 0"),
        ({"high": 0.5}, "high is 0.5, but it has to be at least low=0.8"),
        ({"target_entropy": -1}, "target_entropy is -1, but it has to be above 0"),
    ],
)
def test_bad_settings_are_one_sentence(settings, said):
    with pytest.raises(ValueError, match=said):
        methods.aepo(**settings)


def test_prompts_that_devices_do_not_divide_are_one_sentence(policy):
    uneven = rlvr(TASK, MODEL, methods.aepo(share=0.3), params=policy, **SIZES)
    said = "share is 0.3, by which 2 of 8 prompts are answered twice, but 4 devices"
    with pytest.raises(ValueError, match=said):
        runner.train(uneven, key=KEY, num_updates=1, num_devices=4)
