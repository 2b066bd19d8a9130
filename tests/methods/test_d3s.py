"""D3S: what an update is made of, from the card, and the control that chooses blindly."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import estimators, methods, runner
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.methods.d3s import Progress
from jaxpg.networks.token_mlp import TokenMLPConfig, token_mlp
from jaxpg.types import SELECTED, Evaluation, trajectory
from jaxpg_envs.tokens import digit_sum
from jaxpg_envs.tokens.task import Reward

KEY = jax.random.key(2)
LENGTH = 10
FIXED = {"rows": (0.5, 0.5), "tokens": (0.4, 0.4)}


def batch(seed=0, num_groups=3, group_size=4, num_tokens=3):
    """Scored rows of ragged lengths, one of them without a token; log-probabilities of today."""
    numbers = np.random.default_rng(seed)
    num_rows = num_groups * group_size
    mask = np.arange(num_tokens) < numbers.integers(1, num_tokens + 1, num_rows)[:, None]
    mask[1] = False
    rows = trajectory(
        jnp.asarray(numbers.normal(-1.0, 0.3, mask.shape), jnp.float32),
        jnp.asarray(numbers.integers(0, 2, num_rows), jnp.float32),
        mask=jnp.asarray(mask, jnp.float32),
        group_ids=jnp.arange(num_rows) // group_size,
        entropy=jnp.asarray(np.where(mask, numbers.random(mask.shape), 0.0), jnp.float32),
    )
    rows = estimators.dapo(0.2, 0.2).score(rows)
    return rows, jnp.asarray(numbers.normal(-1.0, 0.3, mask.shape), jnp.float32)


def seams_of(method, plain_seams, group_size=4):
    return method.override(plain_seams._replace(group_size=group_size))


def selected(method, rows, plain_seams, update=0, key=KEY):
    state = Progress(jnp.asarray(update, jnp.int32), key)
    return seams_of(method, plain_seams).select(rows, state)


def of_rows(rows):
    """`[B]`, the advantage that all real tokens of a row have; 0 in a row without any."""
    return np.asarray(rows.extras["advantage"], float)[:, 0]


def best_variance(rows, num_rows):
    """Over all subsets of the rows with a token."""
    valid, advantage = np.flatnonzero(np.asarray(rows.mask).any(axis=1)), of_rows(rows)
    return max(np.var(advantage[list(s)]) for s in itertools.combinations(valid, num_rows))


@pytest.mark.parametrize("update", [0, 4, LENGTH, 3 * LENGTH])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_and_tokens_are_those_of_the_card(plain_seams, seed, update):
    rows, _ = batch(seed)
    method = methods.d3s(LENGTH, rows=(0.25, 0.75), tokens=(0.2, 0.8))
    chosen = jax.jit(lambda rows: selected(method, rows, plain_seams, update))(rows)
    p = min(update / LENGTH, 1.0)
    num_rows, fraction = round(12 * (0.25 + 0.5 * p)), 0.2 + 0.6 * p
    best, advantage = best_variance(rows, num_rows), of_rows(rows)
    before, mask = np.asarray(rows.mask) > 0, np.asarray(chosen.mask) > 0
    kept = mask.any(axis=1)
    assert kept.sum() == num_rows and not kept[1]
    np.testing.assert_array_equal(mask, before & kept[:, None])
    np.testing.assert_allclose(np.var(advantage[kept]), best, rtol=1e-5)
    key = np.abs(advantage)[:, None] * np.asarray(rows.extras["entropy"])
    taken = np.asarray(chosen.extras[SELECTED]) > 0
    assert taken.sum() == math.ceil(round(fraction * mask.sum(), 6)) and not (taken & ~mask).any()
    rejected = key[mask & ~taken]
    assert rejected.size == 0 or key[taken].min() >= rejected.max() - 1e-6
    # Not standardised again, and nothing else is touched.
    unchanged = dataclasses.replace(chosen, mask=rows.mask, extras=rows.extras)
    for a, b in zip(jax.tree.leaves(unchanged), jax.tree.leaves(rows), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {**chosen.extras, SELECTED: 0}.keys() - rows.extras.keys() == {SELECTED}
    np.testing.assert_array_equal(chosen.extras["advantage"], rows.extras["advantage"])


def test_inside_groups_each_has_the_same_number(plain_seams):
    rows, _ = batch(1)
    method = methods.d3s(LENGTH, rows=(0.5, 0.5), tokens=(1.0, 1.0), within_groups=True)
    chosen = selected(method, rows, plain_seams)
    kept = np.asarray(chosen.mask).any(axis=1).reshape(3, 4)
    assert kept.sum(axis=1).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(chosen.extras[SELECTED], chosen.mask)
    rewards = np.asarray(rows.total_reward).reshape(3, 4)
    real = np.asarray(rows.mask).any(axis=1).reshape(3, 4)
    for reward, there, taken in zip(rewards, real, kept, strict=True):
        assert np.ptp(reward[taken]) == np.ptp(reward[there])


def gradient(method, rows, now):
    return np.asarray(
        jax.jit(jax.grad(lambda x: method.estimator.loss(Evaluation(x), rows)[0]))(now)
    )


def test_the_loss_is_the_clipped_surrogate_over_the_kept_tokens(plain_seams):
    rows, now = batch(2)
    method = methods.d3s(LENGTH, **FIXED)
    chosen = selected(method, rows, plain_seams)
    taken = np.asarray(chosen.extras[SELECTED]) > 0
    advantage = np.asarray(rows.extras["advantage"], float)
    old, new = (np.asarray(x, float) for x in (rows.log_prob, now))

    def loss(log_prob):
        ratio = np.exp(log_prob - old)
        value = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
        return -np.sum(value[taken]) / taken.sum()

    expected, h = np.zeros(new.shape), 1e-6
    for place in np.ndindex(*new.shape):
        step = np.zeros(new.shape)
        step[place] = h
        expected[place] = (loss(new + step) - loss(new - step)) / (2 * h)
    found = gradient(method, chosen, now)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found).max() > 0.01 and not found[~taken].any()


def test_the_sequence_ratio_sees_whole_rows(plain_seams):
    rows, now = batch(3)
    estimator = estimators.gspo(0.2, 0.28)
    chosen = selected(methods.d3s(LENGTH, **FIXED, estimator=estimator), rows, plain_seams)
    mask, taken = np.asarray(chosen.mask) > 0, np.asarray(chosen.extras[SELECTED]) > 0
    assert (mask & ~taken).any(axis=1)[taken.any(axis=1)].any()
    advantage = np.asarray(rows.extras["advantage"], float)
    difference = np.where(mask, np.asarray(now, float) - np.asarray(rows.log_prob, float), 0.0)
    length = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    ratio = np.exp(difference.sum(axis=1, keepdims=True) / length)
    value = ratio * advantage
    bound = np.clip(ratio, 0.8, 1.28) * advantage
    # What the clip cuts has no gradient and no value in the library's form of the surrogate.
    value = np.where(np.minimum(value, bound) < value, 0.0, value) * taken
    by_row = value.sum(axis=1) / np.maximum(taken.sum(axis=1), 1)
    found, _ = estimator.loss(Evaluation(now), chosen)
    np.testing.assert_allclose(found, -by_row.sum() / mask.any(axis=1).sum(), rtol=1e-5)


def test_no_gradient_flows_through_advantages_entropies_or_masks(plain_seams):
    rows, now = batch(4)
    method = methods.d3s(LENGTH, **FIXED)

    def loss(log_prob, attached):
        source = log_prob if attached else now
        extras = {
            "advantage": rows.extras["advantage"] * (1 + source - now),
            "entropy": rows.extras["entropy"] * jnp.exp(source - now),
        }
        chosen = selected(method, rows.with_extras(**extras), plain_seams)
        return method.estimator.loss(Evaluation(log_prob), chosen)[0]

    attached, constant = (jax.grad(loss)(now, attached) for attached in (True, False))
    np.testing.assert_array_equal(attached, constant)
    assert np.abs(constant).max() > 0.01


@pytest.mark.parametrize("build", [methods.d3s, methods.random_down_sampling])
def test_at_the_end_of_the_schedule_it_is_its_estimator(plain_seams, build):
    rows, now = batch(5)
    method = build(LENGTH)
    begun, ended = (selected(method, rows, plain_seams, update) for update in (0, LENGTH))
    np.testing.assert_array_equal(ended.mask, rows.mask)
    np.testing.assert_array_equal(ended.extras[SELECTED], rows.mask)
    alone = estimators.dapo(0.2, 0.2)
    found, expected = (gradient(m, x, now) for m, x in ((method, ended), (method, rows)))
    np.testing.assert_array_equal(found, expected)
    plain = jax.jit(jax.grad(lambda x: alone.loss(Evaluation(x), rows)[0]))(now)
    np.testing.assert_allclose(found, plain, atol=1e-7)
    assert begun.mask.sum() < rows.mask.sum() > 0


def test_what_is_all_equal_gives_nothing_and_breaks_nothing(plain_seams):
    rows, now = batch(6)
    method = methods.d3s(LENGTH)
    still = rows.with_extras(advantage=jnp.zeros_like(rows.mask))
    chosen = selected(method, still, plain_seams)
    assert np.asarray(chosen.mask).any(axis=1).sum() == 3 and chosen.extras[SELECTED].sum() >= 1
    assert not gradient(method, chosen, now).any()
    empty = selected(method, still.replace(mask=jnp.zeros_like(rows.mask)), plain_seams)
    assert not empty.mask.any() and not empty.extras[SELECTED].any()
    assert not gradient(method, empty, now).any()


def test_the_metrics_count_what_was_chosen(plain_seams):
    rows, _ = batch(7)
    method = methods.d3s(LENGTH, **FIXED)
    chosen = selected(method, rows, plain_seams)
    state = Progress(jnp.int32(3), KEY)
    after, metrics = seams_of(method, plain_seams).after((), chosen, {}, state)
    mask, taken = np.asarray(chosen.mask) > 0, np.asarray(chosen.extras[SELECTED]) > 0
    advantage = np.asarray(rows.extras["advantage"])
    assert after.num_updates == 4 and metrics["trained_tokens"] == taken.sum()
    assert metrics["rows_share"] == 0.5
    np.testing.assert_allclose(metrics["tokens_share"], taken.sum() / mask.sum(), rtol=1e-6)
    useful = (mask & (advantage != 0)).any(axis=1).sum() / mask.any(axis=1).sum()
    np.testing.assert_allclose(metrics["useful_share"], useful, rtol=1e-6)


@pytest.mark.parametrize("build", [methods.d3s, methods.random_down_sampling])
@pytest.mark.parametrize("rows", [(0.25, 1.0), (1.0, 1.0)])
def test_it_overrides_selection_and_memory_and_no_more(overridden, build, rows):
    method = build(LENGTH, rows=rows)
    assert overridden(method) == {"init", "select", "after"}
    # Whole groups stay side by side where no row is dropped.
    assert method.drops_rows == (rows != (1.0, 1.0)) == (not method.keeps_groups)


@pytest.mark.parametrize("build", [methods.d3s, methods.random_down_sampling])
@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"num_updates": 0}, ValueError, "num_updates is 0, but it has to be at least 1"),
        ({"rows": (0.0, 1.0)}, ValueError, r"rows is \(0.0, 1.0\), but .* shares in \(0, 1\]"),
        ({"rows": (0.5, 1.5)}, ValueError, r"rows is \(0.5, 1.5\), but it has to be two shares"),
        ({"tokens": (0.5,)}, ValueError, r"tokens is \(0.5,\), but it has to be two shares"),
        ({"rows": 0.5}, ValueError, r"rows is 0.5, but it has to be two shares"),
        ({"estimator": "gspo"}, TypeError, "estimator is 'gspo', but an Estimator is needed"),
    ],
)
def test_bad_settings_are_one_sentence(build, settings, error, said):
    with pytest.raises(error, match=said):
        build(**{"num_updates": LENGTH} | settings)


def test_the_control_takes_as_many_rows_and_tokens_and_any_of_them(plain_seams):
    rows, _ = batch(8)
    same = {"rows": (0.5, 1.0), "tokens": (0.4, 1.0)}
    ours, control = methods.d3s(LENGTH, **same), methods.random_down_sampling(LENGTH, **same)

    @jax.jit
    def choices(rows, keys):
        return jax.vmap(lambda key: selected(control, rows, plain_seams, 3, key))(keys)

    chosen = choices(rows, jax.random.split(KEY, 2000))
    other = rows.with_extras(advantage=-3.0 * rows.extras["advantage"])
    np.testing.assert_array_equal(choices(other, jax.random.split(KEY, 2000)).mask, chosen.mask)
    taken = np.asarray(chosen.extras[SELECTED]) > 0
    kept = np.asarray(chosen.mask).any(axis=2)
    counts = selected(ours, rows, plain_seams, 3)
    assert (kept.sum(axis=1) == np.asarray(counts.mask).any(axis=1).sum()).all()
    tokens = np.asarray(chosen.mask).sum(axis=(1, 2))
    assert (taken.sum(axis=(1, 2)) == np.ceil(np.round(0.58 * tokens, 6))).all()
    assert not (taken & ~(np.asarray(chosen.mask) > 0)).any()
    # Eight of the eleven rows that are real: binomial, five standard deviations of 2000 are .05.
    real = np.asarray(rows.mask).any(axis=1)
    share = kept.mean(axis=0)
    assert np.abs(share[real] - kept[0].sum() / 11).max() < 0.05 and share[~real].max() == 0
    again = taken.sum(axis=0) / np.maximum((np.asarray(chosen.mask) > 0).sum(axis=0), 1)
    assert np.ptp(again[np.asarray(rows.mask) > 0]) < 0.1


def test_the_control_chooses_anew_in_every_update(plain_seams):
    rows, _ = batch(9)
    method = methods.random_down_sampling(LENGTH, **FIXED)
    masks = [np.asarray(selected(method, rows, plain_seams, u).extras[SELECTED]) for u in range(6)]
    assert len({mask.tobytes() for mask in masks}) > 1
    again = selected(method, rows, plain_seams, 2).extras[SELECTED]
    np.testing.assert_array_equal(again, masks[2])


def sum_is_odd(prompts, tokens, mask, finished):
    right = (tokens[:, 0] + prompts.data["answer"]) % 2 == 1
    return Reward(right.astype(jnp.float32), tokens[:, 1] != 3, {})


TASK = dataclasses.replace(digit_sum(1, 3, 3, variable_length=True), reward=sum_is_odd)
MODEL = token_mlp(TokenMLPConfig(5, 4, hidden=(12,)))
SIZES = {"num_prompts": 8, "group_size": 4, "optimiser": optax.sgd(0.1)}


@pytest.fixture(scope="module")
def agent():
    """Builder of agents, each compiled once."""
    numbers, built = np.random.default_rng(0), {}
    shapes = jax.eval_shape(MODEL.init, KEY)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(numbers.normal(0.0, 0.3, leaf.shape), jnp.float32), shapes
    )

    def build(name, **settings):
        key = (name, tuple(settings.items()))
        if key not in built:
            method = methods.__dict__[name](3, **settings) if settings or name != "dapo" else None
            method = method or estimators.dapo(0.2, 0.2)
            built[key] = rlvr(TASK, MODEL, method, params=params, **SIZES)
        return built[key]

    return build


@pytest.mark.parametrize("name", ["d3s", "random_down_sampling"])
def test_runs_on_four_devices_and_after_a_stop_are_the_same_run(agent, name, tmp_path, leaves):
    agent, run = agent(name), {"key": KEY, "chunk_length": 1, "evaluate_every": None}
    one = runner.train(agent, num_updates=2, **run)
    np.testing.assert_allclose(one.metrics["rows_share"], [0.25, 0.5])
    assert (one.metrics["gradient_norm"] > 0).all() and (one.metrics["invalid_share"] > 0).any()
    if name == "d3s":
        assert (one.metrics["useful_share"] > one.metrics["mixed_group_share"]).all()
    four = runner.train(agent, num_updates=2, num_devices=4, **run)
    for metric, values in one.metrics.items():
        np.testing.assert_allclose(four.metrics[metric], values, atol=1e-5, err_msg=metric)
    for a, b in zip(leaves(one.state), leaves(four.state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    runner.train(agent, num_updates=1, out=tmp_path, **run)
    resumed = runner.train(agent, num_updates=2, out=tmp_path, resume=True, **run)
    for a, b in zip(leaves(resumed.state), leaves(one.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_a_selection_the_run_is_that_of_grpo(agent, leaves):
    run = {"key": KEY, "num_updates": 2, "chunk_length": 2, "evaluate_every": None}
    whole = runner.train(agent("d3s", rows=(1.0, 1.0), tokens=(1.0, 1.0)), **run)
    plain = runner.train(agent("dapo"), **run)
    for a, b in zip(leaves(whole.state.params), leaves(plain.state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (whole.metrics["trained_tokens"] < 96).all()
