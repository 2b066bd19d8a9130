"""SPO: what it remembers, against a memory kept in NumPy, over devices and across a resume."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import estimators, methods, runner
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.algorithms.token_seams import Frozen, PromptWorld, TokenSeams
from jaxpg.generation import Sampling
from jaxpg.method import Seams
from jaxpg.networks.decoder import transformer
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg.types import trajectory
from jaxpg_envs.tokens import digit_sum
from jaxpg_envs.tokens.task import Reward

KEY = jax.random.key(0)
MODEL = transformer(TransformerConfig(5, 1, width=16, num_heads=2, mlp_width=24, max_positions=6))
POOL = 9


def uneven(prompts, tokens, mask, finished):
    """Rewards from -1 to 1, some of them missing."""
    first = tokens[:, 0]
    value = jnp.array([-1.0, 0.25, 1.0, 1.0, 0.5])[(first + prompts.data["answer"]) % 5]
    return Reward(value, first != 3, {})


# Responses of one to four tokens.
TASK = dataclasses.replace(digit_sum(2, 3, 4, variable_length=True), reward=uneven)


def policy(seed):
    shapes = jax.eval_shape(MODEL.init, KEY)
    numbers = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(numbers.normal(0.1, 0.3, leaf.shape), jnp.float32)
    return jax.tree.map(draw, shapes)


def moved(params, seed, size=0.02):
    """Parameters after an update, of which the method has to know nothing."""
    return jax.tree.map(lambda a, b: a + size * b, params, policy(seed))


def seams_of(method, num_prompts, group_size=1):
    """The method's seams and the default ones, on the task."""
    tokens = TokenSeams(
        task=TASK,
        model=MODEL,
        adapters=None,
        estimator=method.estimator,
        sampling=Sampling(),
        stop_strings=None,
        num_prompts=num_prompts,
        group_size=group_size,
        micro_batches=1,
        recompute=False,
        logit_chunk=None,
    )
    bound = [
        functools.partial(function, Frozen((), ()))
        for function in (tokens.collect, tokens.prepare, tokens.evaluate)
    ]
    sizes = {"num_prompts": POOL, "prompts_per_update": num_prompts, "group_size": group_size}
    build = lambda m: m.seams(*bound, **sizes)
    return build(method), build(dataclasses.replace(method, override=lambda seams: seams))


@jax.jit
def of_every_token(params, text, real):
    return jax.nn.log_softmax(MODEL.logits(params, MODEL.hidden(params, text[None], real[None])))[0]


def log_probs(params, prompt, action, mask):
    """Log-probabilities of one response by a pass over the whole text."""
    text = np.concatenate([prompt, action])
    real = np.concatenate([np.ones(len(prompt), bool), mask > 0])
    every = np.asarray(of_every_token(params, text, real))[len(prompt) - 1 : -1]
    return np.where(mask > 0, every[np.arange(len(action)), action], 0.0)


@functools.cache
def history(num_prompts, group_size, updates=4):
    """Updates by hand: what was collected and remembered, with the parameters of each."""
    seams, _ = seams_of(methods.spo(rho_min=0.3, rho_max=0.9), num_prompts, group_size)
    params, world = policy(0), PromptWorld((), jnp.zeros((), jnp.int32), KEY)

    @jax.jit
    def step(key, params, new_params, state):
        rows, _, _ = seams.collect(key, params, world, state)
        rows = seams.select(seams.score(params, rows, state), state)
        return rows, *seams.after(new_params, rows, {}, state)

    state, steps = jax.jit(seams.init)(KEY, params), []
    for number in range(updates):
        after = moved(params, 1 + number)
        rows, remembered, metrics = step(jax.random.key(number), params, after, state)
        steps.append(jax.device_get((rows, after, state, remembered, metrics)))
        params, state = after, remembered
    return steps


def remembered_by_hand(before, rows, params):
    """The memory after an update, row by row, with the forgetting of each valid row."""
    alpha, beta, action, mask, log_prob = map(
        np.array, (before.alpha, before.beta, before.action, before.mask, before.log_prob)
    )
    forgotten = {}
    for row, prompt in enumerate(rows.extras["prompt_ids"]):
        if not rows.mask[row].any():
            continue
        text = rows.extras["prompt"][row]
        then = before.mask[prompt]
        drift = 0.0
        if then.any():
            now = log_probs(params, text, before.action[prompt], then)
            drift = np.abs(now - before.log_prob[prompt])[then].mean()
        rho = np.clip(2 ** (-drift / 0.06), 0.3, 0.9)
        forgotten[row] = (drift, rho)
        reward = np.clip(rows.reward[row].sum(), 0.0, 1.0)
        alpha[prompt] = rho * before.alpha[prompt] + reward
        beta[prompt] = rho * before.beta[prompt] + 1 - reward
        action[prompt], mask[prompt] = rows.action[row], rows.mask[row] > 0
        log_prob[prompt] = log_probs(params, text, rows.action[row], rows.mask[row])
    return (alpha, beta, action, mask, log_prob), np.array(list(forgotten.values()))


@pytest.mark.parametrize(("num_prompts", "group_size"), [(6, 1), (12, 1), (4, 2)])
def test_it_remembers_what_numpy_remembers(num_prompts, group_size):
    """Prompts once in an update, several times as the pool is too small, and in groups."""
    between = 0
    for rows, params, before, after, metrics in history(num_prompts, group_size):
        expected, forgotten = remembered_by_hand(before, rows, params)
        fields = ("alpha", "beta", "action", "mask", "log_prob")
        for name, wanted in zip(fields, expected, strict=True):
            np.testing.assert_allclose(getattr(after, name), wanted, rtol=1e-4, err_msg=name)
        drift, rho = forgotten.T
        between += ((rho > 0.3) & (rho < 0.9)).sum()
        np.testing.assert_allclose(metrics["drift"], drift.mean(), rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(metrics["kept_evidence"], rho.mean(), rtol=1e-4)
        np.testing.assert_allclose(metrics["seen_share"], expected[3].any(axis=1).mean(), rtol=1e-5)
        value = expected[0] / (expected[0] + expected[1])
        np.testing.assert_allclose(metrics["tracked_value"], value.mean(), rtol=1e-5)
    assert between > 4


def test_prompts_that_were_not_drawn_and_rows_without_a_reward_change_nothing():
    invalid = 0
    for rows, _, before, after, _ in history(6, 1):
        valid = rows.mask.any(axis=1)
        invalid += (~valid).sum()
        touched = np.isin(np.arange(POOL), rows.extras["prompt_ids"][valid])
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(old[~touched], new[~touched])
        assert (before.alpha + before.beta != after.alpha + after.beta)[touched].any()
    assert invalid > 0


def test_the_baseline_is_the_value_before_the_update():
    for rows, _, before, after, _ in history(6, 1):
        ids = rows.extras["prompt_ids"]
        value = before.alpha / (before.alpha + before.beta)
        np.testing.assert_allclose(rows.extras["start_value"], value[ids], rtol=1e-6)
        valid = rows.mask.any(axis=1)
        later = after.alpha / (after.alpha + after.beta)
        assert (later[ids] != rows.extras["start_value"])[valid].mean() > 0.5
        # Whitened over the valid responses, the same for all tokens of one.
        surprise = (rows.reward.sum(axis=1) - value[ids])[valid]
        expected = (surprise - surprise.mean()) / (surprise.std(ddof=1) + 1e-8)
        advantage = rows.extras["advantage"][valid]
        np.testing.assert_allclose(
            np.where(rows.mask[valid] > 0, advantage, 0.0),
            expected[:, None] * rows.mask[valid],
            atol=1e-5,
        )
        np.testing.assert_allclose([expected.mean(), expected.std(ddof=1)], [0, 1], atol=1e-5)


def test_an_update_has_different_prompts_as_long_as_the_pool_has_them():
    for rows, *_ in history(6, 1):
        assert len(set(rows.extras["prompt_ids"].tolist())) == 6
    for rows, *_ in history(4, 2):
        ids = rows.extras["prompt_ids"]
        assert len(ids) == 8 and len(set(ids.tolist())) == 4
        np.testing.assert_array_equal(ids[::2], ids[1::2])
    repeated = [len(set(rows.extras["prompt_ids"].tolist())) < 12 for rows, *_ in history(12, 1)]
    assert all(repeated)


def test_the_order_of_the_rows_does_not_matter():
    seams, _ = seams_of(methods.spo(), 6)
    rows, params, before, _, _ = jax.tree.map(jnp.asarray, history(6, 1)[-1])
    order = np.array([3, 0, 5, 1, 4, 2])
    after = jax.jit(lambda rows: seams.after(params, rows, {}, before)[0])
    shuffled = after(jax.tree.map(lambda x: x[order], rows))
    for a, b in zip(jax.tree.leaves(after(rows)), jax.tree.leaves(shuffled), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_prompts_are_drawn_by_their_weights_settled_ones_too():
    seams, _ = seams_of(methods.spo(offline_trials=0), 2)
    value = np.linspace(0.0, 1.0, POOL)
    state = seams.init(KEY, policy(0)).replace(alpha=8 * value, beta=8 * (1 - value))
    world = PromptWorld((), jnp.zeros((), jnp.int32), KEY)
    drawn = lambda key: seams.collect(key, policy(0), world, state)[0].extras["prompt_ids"]
    keys = jax.random.split(KEY, 1500)
    counts = np.bincount(np.asarray(jax.jit(jax.vmap(drawn))(keys)).ravel(), minlength=POOL)
    weight = np.sqrt(value * (1 - value)) + 0.05
    share = weight / weight.sum()
    # First or second: the probability of being among two drawn without replacement.
    second = np.array([sum(share[i] * share[j] / (1 - share[i]) for i in range(POOL) if i != j)
                       for j in range(POOL)])  # fmt: skip
    expected = 1500 * (share + second)
    assert counts[[0, -1]].min() > 0
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_trackers_begin_with_trials_of_the_starting_policy():
    params = policy(0)
    _, default = seams_of(methods.spo(), 6)
    world = PromptWorld((), jnp.zeros((), jnp.int32), KEY)
    whole = jnp.arange(POOL, dtype=jnp.int32)
    collect = lambda ids: default.collect(KEY, params, world, (), ids=ids, num_samples=8)[0]
    rows = jax.jit(collect)(whole)
    valid = np.asarray(rows.mask).any(axis=1).reshape(POOL, 8)
    reward = np.clip(np.asarray(rows.total_reward), 0, 1).reshape(POOL, 8)
    wins, trials = (valid * reward).sum(1), valid.sum(1)
    assert valid.min(axis=1).min() == 0 and trials.min() > 0
    share = (wins + 0.5) / (trials + 1)
    never = {"rho_min": 1.0, "rho_max": 1.0}
    for chunk_size, settings, number in ((4, {}, 8.0), (64, {}, 8.0), (2, never, 9.0)):
        method = methods.spo(chunk_size=chunk_size, **settings)
        state = jax.jit(seams_of(method, 6)[0].init)(KEY, params)
        np.testing.assert_allclose(state.alpha, number * share, rtol=1e-5)
        np.testing.assert_allclose(state.beta, number * (1 - share), rtol=1e-5)
        assert state.action.shape == (POOL, 4) and not state.mask.any()
    untried = seams_of(methods.spo(offline_trials=0), 6)[0].init(KEY, params)
    np.testing.assert_array_equal([untried.alpha, untried.beta], np.full((2, POOL), 0.5))


def test_the_loss_is_that_of_its_estimator_with_its_settings():
    numbers = np.random.default_rng(0)
    mask = np.arange(4) < np.array([1, 4, 2, 3, 4])[:, None]
    rows = trajectory(
        jnp.zeros((5, 4)),
        jnp.asarray([1.0, 0.0, 1.0, 0.0, 1.0]),
        mask=jnp.asarray(mask, jnp.float32),
        start_value=jnp.asarray(numbers.random(5), jnp.float32),
    )
    surprise = np.asarray(rows.total_reward - rows.extras["start_value"])
    for over, weights in (("responses", np.ones(5)), ("tokens", mask.sum(1))):
        advantage = methods.spo(whiten_over=over).estimator.score(rows).extras["advantage"]
        flat = np.repeat(surprise, weights.astype(int))
        expected = (surprise - flat.mean()) / flat.std(ddof=1)
        np.testing.assert_allclose(advantage[:, 0], expected, rtol=1e-4)
    assert methods.spo(0.1, lower=0.3).settings["estimator"] == {"lower": 0.3}
    assert methods.spo(lower=0.3).estimator.settings == estimators.spo(0.3).settings


def test_it_overrides_four_functions_and_no_more(plain_seams):
    before = plain_seams._replace(num_prompts=3)
    after = methods.spo().override(before)
    pairs = zip(Seams._fields, before, after, strict=True)
    changed = {name for name, old, new in pairs if old is not new}
    assert changed == {"init", "collect", "score", "after"}


@pytest.fixture(scope="module")
def run(compilations):
    """An agent whose batches have prompts several times, over devices too; and its run."""
    agent = rlvr(
        TASK,
        MODEL,
        methods.spo(half_life=0.3, rho_min=0.3, rho_max=0.9),
        params=policy(0),
        num_prompts=12,
        group_size=1,
        num_minibatches=3,
        optimiser=optax.sgd(0.2),
    )
    settings = {"key": KEY, "chunk_length": 1}
    counts = []
    callback = lambda update, metrics: counts.append(len(compilations))
    return (
        agent,
        settings,
        runner.train(agent, num_updates=2, callback=callback, **settings),
        counts,
    )


def test_four_devices_equal_one(run):
    agent, settings, one, _ = run
    four = runner.train(agent, num_updates=2, num_devices=4, **settings)
    assert one.metrics["kept_evidence"].min() < 0.9 and one.metrics["invalid_share"].max() > 0.05
    for metric, values in one.metrics.items():
        np.testing.assert_allclose(four.metrics[metric], values, atol=1e-5, err_msg=metric)
    for a, b in zip(
        jax.tree.leaves((one.state.params, one.state.method)),
        jax.tree.leaves((four.state.params, four.state.method)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_run_that_stopped_and_resumed_is_the_same_run_and_compiles_once(run, tmp_path, leaves):
    agent, settings, straight, counts = run
    assert counts[0] > 0 and counts[1] == counts[0]
    half = runner.train(agent, num_updates=1, out=tmp_path, **settings)
    resumed = runner.train(agent, num_updates=2, out=tmp_path, resume=True, **settings)
    assert not np.array_equal(half.state.method.alpha, resumed.state.method.alpha)
    for a, b in zip(leaves(resumed.state), leaves(straight.state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"half_life": 0.0}, "half_life is 0.0, but it has to be above 0"),
        ({"exploration": 0}, "exploration is 0, but it has to be above 0"),
        ({"rho_min": 0.97}, "rho_min is 0.97 and rho_max 0.96, but 0 < rho_min <= rho_max <= 1"),
        ({"rho_max": 1.5}, "rho_min is 0.875 and rho_max 1.5, but"),
        ({"exponent": 2}, "exponent is 2, but it has to be in"),
        ({"offline_trials": -1}, "offline_trials is -1, but it has to be at least 0"),
        ({"chunk_size": 0}, "chunk_size is 0, but it has to be at least 1"),
        ({"whiten_over": "token"}, "whiten_over is 'token', .* did you mean 'tokens'"),
    ],
)
def test_bad_settings_are_one_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        methods.spo(**settings)


def test_an_algorithm_without_a_pool_is_refused(plain_seams):
    with pytest.raises(ValueError, match="has no pool of prompts: use it with algorithms.rlvr"):
        methods.spo().override(plain_seams)
