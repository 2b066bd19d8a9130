"""CAPO: its mask and its memory against NumPy, over devices and across a resume."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import estimators, methods, networks, runner
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.algorithms.token_seams import Frozen, PromptWorld, TokenSeams
from jaxpg.generation import Sampling
from jaxpg.method import Method, Seams
from jaxpg.types import SELECTED, Evaluation
from jaxpg_envs.tokens import digit_sum

KEY = jax.random.key(0)
# Responses of one to four tokens.
TASK = digit_sum(1, 3, 4, variable_length=True)
SIZE, WIDTH, TEMPERATURE = TASK.vocabulary_size, 8, 0.8
MODEL = networks.token_mlp(networks.TokenMLPConfig(SIZE, 5, hidden=(12, WIDTH)))
NUM_PROMPTS, GROUP = 4, 4
ROWS = NUM_PROMPTS * GROUP
SMALL = {"num_prompts": NUM_PROMPTS, "group_size": GROUP, "eval_prompts": 2}
TAUS = {"tau_h": 0.05, "tau_f": 1e-3}


def warming_up(step):
    """A rate of 0 at the first step."""
    return 0.004 * step


def policy(seed=0, size=0.5):
    shapes = jax.eval_shape(MODEL.init, KEY)
    numbers = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(numbers.normal(0.0, size, leaf.shape), jnp.float32)
    return jax.tree.map(draw, shapes)


def seams_of(method):
    """The method's seams on the task."""
    tokens = TokenSeams(
        task=TASK,
        model=MODEL,
        adapters=None,
        estimator=method.estimator,
        sampling=Sampling(TEMPERATURE),
        stop_strings=None,
        num_prompts=NUM_PROMPTS,
        group_size=GROUP,
        micro_batches=1,
        recompute=False,
        logit_chunk=None,
    )
    bound = [
        functools.partial(function, Frozen((), ()))
        for function in (tokens.collect, tokens.prepare, tokens.evaluate)
    ]
    return method.seams(
        *bound,
        num_prompts=TASK.num_prompts,
        group_size=GROUP,
        learning_rate=warming_up,
        steps_per_update=2,
    )


@functools.cache
def history(model, updates=3):
    """Updates by hand: rows, parameters, state before, state after, metrics; on the host."""
    seams = seams_of(methods.capo(model=model, top=4, chunk=7, **TAUS))
    world = PromptWorld((), jnp.zeros((), jnp.int32), KEY)

    @jax.jit
    def step(key, params, state):
        rows, _, _ = seams.collect(key, params, world, state)
        rows = seams.select(seams.score(params, rows, state), state)
        # What an update does to the parameters is of no concern to the memory.
        moved = jax.tree.map(lambda x: x + 1.0, params)
        return rows, *seams.after(moved, rows, {}, state)

    state, steps = jax.jit(seams.init)(KEY, policy()), []
    for number in range(updates):
        params = policy(number)
        rows, after, metrics = step(jax.random.key(number), params, state)
        steps.append(jax.device_get((rows, params, state, after, metrics)))
        state = after
    return steps


def read_again(rows, params, top=4):
    """For every real token: state that predicts it, kept tokens, their probabilities, residual."""
    found = {}
    for t in range(TASK.response_length):
        # The text up to the token and not further: its last state predicts the token.
        text = np.concatenate([rows.extras["prompt"], rows.action[:, :t]], axis=1)
        states = MODEL.hidden(params, jnp.asarray(text), jnp.ones(text.shape, bool))[:, -1]
        every = np.float64(MODEL.logits(params, states)) / TEMPERATURE
        for b in np.flatnonzero(rows.mask[:, t]):
            kept = np.argsort(-every[b])[:top]
            pi = np.exp(every[b][kept]) / np.exp(every[b][kept]).sum()
            v = (kept == rows.action[b, t]) - pi
            found[b, t] = np.float64(states[b]) / TEMPERATURE, kept, pi, v
    return found


def advantage_of(rows):
    """GRPO's, from the rewards of each group."""
    reward = rows.reward.sum(1).reshape(-1, GROUP)
    centred = reward - reward.mean(1, keepdims=True)
    return (centred / (reward.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()


def dense(token, advantage):
    hidden, kept, _, v = token
    gradient = np.zeros((SIZE, WIDTH))
    gradient[kept] = advantage * np.outer(v, hidden)
    return gradient


def planned(gradient, moments):
    if not moments or moments.count == 0:
        return gradient
    n = int(moments.count)
    first = (0.9 * moments.first + 0.1 * gradient) / (1 - 0.9 ** (n + 1))
    second = (0.999 * moments.second + 0.001 * gradient**2) / (1 - 0.999 ** (n + 1))
    return first / (np.sqrt(second) + 1e-8)


def shifts(token, advantage, rate, gradient, direction):
    hidden, kept, pi, v = token
    u = (direction @ hidden)[kept]
    dot, fisher = v @ u, pi @ u**2 - (pi @ u) ** 2
    linear = rate * np.sum(gradient * direction)
    return linear + 0.5 * rate**2 * advantage * (dot**2 - fisher), 0.5 * rate**2 * dot**2


@pytest.mark.parametrize("model", ["adam", "sgd"])
def test_it_accepts_what_numpy_accepts_at_the_scheduled_rate(model):
    shares = []
    for number, (rows, params, state, after, _) in enumerate(history(model)):
        advantage, rate = advantage_of(rows), 0.004 * 2 * number
        assert state.steps == 2 * number and after.steps == 2 * number + 2
        for (b, t), token in read_again(rows, params).items():
            gradient = dense(token, advantage[b])
            direction = planned(gradient, state.moments)
            m_H, m_F = shifts(token, advantage[b], rate, gradient, direction)
            found = [rows.extras[name][b, t] for name in ("objective_shift", "policy_shift")]
            np.testing.assert_allclose(found, [m_H, m_F], rtol=1e-3, atol=1e-6)
            accepted = abs(m_H) < TAUS["tau_h"] and m_F < TAUS["tau_f"]
            assert rows.extras[SELECTED][b, t] == accepted
        assert (rows.extras[SELECTED][rows.mask == 0] == 0).all()
        shares.append(1 - rows.extras[SELECTED].sum() / rows.mask.sum())
    # While the rate warms up nothing is rejected.
    assert shares[0] == 0 and all(0 < share < 1 for share in shares[1:])


def test_the_first_plan_takes_the_gradient_and_keeps_nothing_out_without_advantage():
    rows, *_ = history("adam")[0]
    still = advantage_of(rows) == 0
    assert still.any() and (rows.extras["policy_shift"][still] == 0).all()


def test_the_moments_are_those_of_the_accepted_tokens():
    assert history("sgd")[-1][3].moments == ()
    for rows, params, state, after, _ in history("adam"):
        advantage, every = advantage_of(rows), read_again(rows, params)
        first, second = (np.float64(x) for x in state.moments[:2])
        for row in range(SIZE):
            kept = [
                dense(token, advantage[b])[row]
                for (b, t), token in every.items()
                if rows.extras[SELECTED][b, t] and row in token[1]
            ]
            if kept:
                mean = np.mean(kept, axis=0)
                first[row] = 0.9 * first[row] + 0.1 * mean
                second[row] = 0.999 * second[row] + 0.001 * mean**2
        np.testing.assert_allclose(after.moments.first, first, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(after.moments.second, second, rtol=1e-3, atol=1e-8)
        assert after.moments.count == state.moments.count + 1


def test_what_was_rejected_is_told_by_the_sign_of_the_advantage():
    for rows, _, _, _, metrics in history("adam"):
        real, rejected = rows.mask > 0, rows.extras[SELECTED] == 0
        advantage = np.broadcast_to(advantage_of(rows)[:, None], real.shape)
        for name, here in (
            ("rejected_share", real),
            ("rejected_share_positive", real & (advantage > 0)),
            ("rejected_share_negative", real & (advantage < 0)),
        ):
            expected = rejected[here].mean() if here.any() else 0.0
            np.testing.assert_allclose(metrics[name], expected, rtol=1e-5)
        for name in ("objective_shift", "policy_shift"):
            np.testing.assert_allclose(metrics[name], rows.extras[name][real].mean(), rtol=1e-4)


@pytest.fixture(scope="module")
def scored():
    """A batch with its collection left to the caller, and moments to plan with."""
    rows, params, state, _, _ = history("adam")[2]
    return (
        rows.replace(extras={k: rows.extras[k] for k in ("prompt", "prompt_mask")}),
        params,
        state,
    )


@pytest.mark.parametrize("model", ["adam", "sgd"])
@pytest.mark.parametrize("level", ["sentence", "batch"])
def test_a_unit_is_accepted_or_rejected_as_one(scored, model, level):
    rows, params, state = scored
    state = state if model == "adam" else state.replace(moments=())
    seams = seams_of(methods.capo(model=model, level=level, chunk=7, **TAUS))
    found = jax.jit(lambda rows: seams.select(seams.score(params, rows, state), state))(rows)
    advantage, every = advantage_of(rows), read_again(rows, params, SIZE)
    lengths = rows.mask.sum(1)
    units = [[b] for b in range(ROWS)] if level == "sentence" else [range(ROWS)]
    for unit in units:
        weight = {(b, t): 1.0 / (lengths[b] * len(unit)) for b, t in every if b in unit}
        gradient = sum(w * dense(every[b, t], advantage[b]) for (b, t), w in weight.items())
        direction = planned(gradient, state.moments)
        each = [
            w * np.array(shifts(every[b, t], advantage[b], 0.016, gradient, direction))
            for (b, t), w in weight.items()
        ]
        m_H, m_F = np.sum(each, axis=0)
        accepted = abs(m_H) < TAUS["tau_h"] and m_F < TAUS["tau_f"]
        for b, t in weight:
            shifted = [found.extras[name][b, t] for name in ("objective_shift", "policy_shift")]
            np.testing.assert_allclose(shifted, [m_H, m_F], rtol=1e-3, atol=1e-6)
            assert found.extras[SELECTED][b, t] == accepted


def test_rows_in_another_order_are_accepted_alike_and_planning_changes_no_state(scored):
    rows, params, state = scored
    seams = seams_of(methods.capo(chunk=7, **TAUS))
    before = jax.tree.map(np.array, state)
    plan = jax.jit(lambda rows, state: seams.select(seams.score(params, rows, state), state))
    # Groups move as wholes and are turned within: their ids number them still.
    order = np.arange(ROWS).reshape(-1, GROUP)[[2, 0, 3, 1], ::-1].ravel()
    moved = jax.tree.map(lambda x: x[order], rows)
    one, other = plan(rows, state), plan(moved, state)
    np.testing.assert_array_equal(one.extras[SELECTED][order], other.extras[SELECTED])
    assert 0 < one.extras[SELECTED].sum() < rows.mask.sum()
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(old, new)


def loss_and_gradient(method, rows, state, log_prob=None):
    """Of the log-probabilities, everything that is scored being made of them, too."""
    seams = seams_of(method)

    def loss(log_prob):
        chosen = seams.select(rows, state)
        return method.estimator.loss(Evaluation(log_prob), chosen)[0]

    return jax.value_and_grad(loss)(rows.log_prob if log_prob is None else log_prob)


def test_without_thresholds_it_is_grpo_to_the_bit():
    rows, _, state, *_ = history("adam")[2]
    bare = rows.replace(extras={k: v for k, v in rows.extras.items() if k != SELECTED})
    now = rows.log_prob + np.random.default_rng(0).normal(0, 0.3, rows.mask.shape)
    ours = loss_and_gradient(methods.capo(tau_h=0, tau_f=0), bare, state, now)
    grpo = estimators.grpo(epsilon=1e-4)
    theirs = jax.value_and_grad(lambda x: grpo.loss(Evaluation(x), bare)[0])(now)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(theirs[1]).max() > 0


@pytest.mark.parametrize("name", ["capo", "dr_capo", "rein_capo"])
def test_the_accepted_tokens_of_a_sequence_gain_weight_except_under_a_fixed_length(name):
    rows, _, state, *_ = history("adam")[2]
    rows = rows.replace(extras={k: v for k, v in rows.extras.items() if k != SELECTED})
    method = getattr(methods, name)(**TAUS)
    rows = method.estimator.score(rows)
    gradient = loss_and_gradient(method, rows, state)[1]
    accepted = np.float64(seams_of(method).select(rows, state).extras[SELECTED])
    assert (accepted.sum(1) == 0).any() and (accepted.sum(1) < rows.mask.sum(1)).any()
    reward = rows.reward.sum(1).reshape(-1, GROUP)
    advantage = {
        "capo": advantage_of(rows),
        "dr_capo": (reward - reward.mean(1, keepdims=True)).ravel(),
        "rein_capo": reward.ravel(),
    }[name]
    # All rows are counted, those of which nothing is left as well.
    length = 4 if name == "dr_capo" else np.maximum(1, accepted.sum(1, keepdims=True))
    expected = -advantage[:, None] * accepted / length / ROWS
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    assert np.abs(expected).max() > 0


@pytest.fixture(scope="module")
def agent():
    """Builder of one agent for each method."""

    @functools.cache
    def build(level="token", **taus):
        method = methods.capo(level=level, chunk=7, **(taus or TAUS))
        sizes = SMALL | {"num_epochs": 2, "learning_rate": 0.02, "anneal_updates": 4}
        return rlvr(TASK, MODEL, method, params=policy(), temperature=TEMPERATURE, **sizes)

    return build


@pytest.fixture(scope="module")
def straight(agent):
    return runner.train(agent(), key=KEY, num_updates=2, chunk_length=2)


@pytest.mark.parametrize("level", ["token", "batch"])
def test_four_devices_equal_one(agent, straight, level):
    run = {"key": KEY, "num_updates": 2, "chunk_length": 2}
    one = straight if level == "token" else runner.train(agent(level), **run)
    four = runner.train(agent(level), num_devices=4, **run)
    for metric, values in one.metrics.items():
        np.testing.assert_allclose(four.metrics[metric], values, atol=1e-5, err_msg=metric)
    for a, b in zip(
        *(jax.tree.leaves((r.state.params, r.state.method)) for r in (one, four)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
    if level == "token":
        assert 0 < one.metrics["rejected_share"][-1] < 1
    assert one.state.method.steps == 4


def test_a_run_that_stopped_and_resumed_is_the_same_run(agent, straight, leaves, tmp_path):
    run = {"key": KEY, "chunk_length": 2, "out": tmp_path}
    runner.train(agent(), num_updates=1, **run)
    resumed = runner.train(agent(), num_updates=2, resume=True, **run)
    for a, b in zip(leaves(resumed.state), leaves(straight.state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert resumed.state.method.moments.count == 2


def test_nothing_is_compiled_again(agent):
    update = jax.jit(agent().update)
    state = agent().init(KEY)
    for _ in range(3):
        state, _ = update(state)
    assert update._cache_size() == 1


def test_where_everything_is_rejected_nothing_is_learned_nor_stored():
    method = methods.capo(tau_h=1e-30, tau_f=1e-30)

    # Tokens without advantage are accepted until there are moments: take them out, too.
    def override(seams):
        changed = method.override(seams)

        def select(rows, state):
            rows = changed.select(rows, state)
            moving = (rows.extra("advantage") != 0).astype(rows.mask.dtype)
            return rows.with_extras(**{SELECTED: rows.extra(SELECTED) * moving})

        return changed._replace(select=select)

    agent = rlvr(TASK, MODEL, Method("none", method.estimator, override), params=policy(), **SMALL)
    before = agent.init(KEY)
    after, metrics = jax.jit(agent.update)(before)
    assert metrics["rejected_share"] == metrics["rejected_share_negative"] == 1
    assert metrics["loss"] == metrics["gradient_norm"] == 0
    assert all(np.isfinite(value) for value in metrics.values())
    for old, new in zip(
        *(jax.tree.leaves((s.params, s.method.moments)) for s in (before, after)), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    assert after.method.steps == 1


def test_an_update_that_ended_early_counts_the_steps_that_it_took():
    rows, params, state, *_ = history("adam")[1]
    seams = seams_of(methods.capo(**TAUS))
    after, _ = jax.jit(seams.after)(params, rows, {"steps_taken": jnp.asarray(3.0)}, state)
    assert after.steps == state.steps + 3 and after.steps.dtype == state.steps.dtype


def test_it_overrides_three_seams_and_has_a_state(plain_seams):
    before = plain_seams._replace(num_prompts=1, learning_rate=warming_up)
    for build in (methods.capo, methods.dr_capo, methods.rein_capo):
        after = build().override(before)
        pairs = zip(Seams._fields, before, after, strict=True)
        changed = {name for name, old, new in pairs if old is not new}
        assert changed == {"init", "score", "select", "after"}


def test_thresholds_are_recorded_and_the_learning_rate_may_be_given():
    assert methods.capo().settings["tau_f"] == 1e-4 and methods.capo().settings["tau_h"] == 0.01
    assert (
        methods.dr_capo().settings["tau_f"] == 1e-3 and methods.dr_capo().settings["tau_h"] == 5e-4
    )
    assert methods.rein_capo().settings["tau_f"] == 1e-5
    assert methods.rein_capo().settings["tau_h"] == 0.1
    own = {"optimiser": optax.sgd(0.1), "params": policy()}
    agent = rlvr(TASK, MODEL, methods.capo(learning_rate=0.1), **own, **SMALL)
    jax.eval_shape(agent.init, KEY)
    agent = rlvr(TASK, MODEL, methods.capo(), **own, **SMALL)
    with pytest.raises(ValueError, match="learning_rate is None, but capo plans the optimiser's"):
        jax.eval_shape(agent.init, KEY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau_h": -1}, "tau_h is -1, but it has to be at least 0"),
        ({"tau_f": float("nan")}, "tau_f is nan, but it has to be at least 0"),
        ({"top": 1}, "top is 1, but it has to be at least 2"),
        ({"chunk": 0}, "chunk is 0, but"),
        ({"model": "adan"}, "model is 'adan', .* did you mean 'adam'"),
        ({"level": "tokens"}, "level is 'tokens', .* did you mean 'token'"),
    ],
)
def test_bad_settings_are_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        methods.capo(**settings)


def test_an_environment_has_no_last_layer_of_tokens(plain_seams):
    with pytest.raises(ValueError, match="no prompts: use algorithms.rlvr"):
        methods.capo(learning_rate=0.1).override(plain_seams)
