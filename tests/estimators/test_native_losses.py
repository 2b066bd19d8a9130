"""Every estimator's gradient is the one of its paper's loss, by finite differences in float64.

The native losses are written in numpy from the papers and share nothing with the library; what
a paper holds constant (advantages, clipped weights) is computed once, at the current policy.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxpg import estimators
from jaxpg.parts import stabilisers
from jaxpg.types import DEMONSTRATION, Evaluation, trajectory

B, T = 6, 5
LENGTHS = np.array([5, 3, 4, 1, 5, 2])
MASK = (np.arange(T) < LENGTHS[:, None]).astype(float)
REAL = MASK > 0
GROUP_IDS = np.array([0, 3, 0, 3, 3, 0])
SOURCE = np.array([0, DEMONSTRATION, 0, 0, DEMONSTRATION, 0])


def make_batch(spread: float = 0.5) -> dict[str, np.ndarray]:
    """Ragged rows in two groups, with episode ends inside of rows and log-ratios of this size."""
    rng = np.random.default_rng(13)
    old = np.log(rng.uniform(0.1, 0.7, (B, T)))
    current = old + spread * rng.choice([-1.5, -1.0, -0.1, 0.05, 0.15, 1.0, 1.5], (B, T))
    terminated = np.zeros((B, T), bool)
    truncated = np.zeros((B, T), bool)
    terminated[0, 1] = terminated[1, 2] = terminated[3, 0] = terminated[5, 1] = True
    truncated[2, 1] = truncated[0, 4] = True  # rows 2 and 4 go on unseen after their end
    return {
        "log_prob": old,
        "current_log_prob": current,
        "reward": rng.normal(size=(B, T)),
        "terminated": terminated,
        "truncated": truncated,
        "mask": MASK,
        "group_ids": GROUP_IDS,
        "source": SOURCE,
        "value": rng.normal(size=(B, T)),
        "next_value": rng.normal(size=(B, T)),
        "start_value": rng.normal(size=B),
    }


# Advantages, row by row, from their definitions


def episodes(batch):
    """Yields (row, steps, terminated) of every episode or piece of one."""
    for row in range(B):
        start = 0
        for t in range(LENGTHS[row]):
            ends = batch["terminated"][row, t] or batch["truncated"][row, t]
            if ends or t == LENGTHS[row] - 1:
                yield row, range(start, t + 1), batch["terminated"][row, t], bool(ends)
                start = t + 1


def gae(batch, discount=0.99, trace_decay=0.95):
    result = np.zeros((B, T))
    for row, steps, terminated, _ in episodes(batch):
        value, reward = batch["value"][row], batch["reward"][row]
        following = {t: batch["next_value"][row, t] for t in steps}
        if terminated:
            following[steps[-1]] = 0.0
        delta = {t: reward[t] + discount * following[t] - value[t] for t in steps}
        for t in steps:
            later = [k for k in steps if k >= t]
            result[row, t] = sum((discount * trace_decay) ** (k - t) * delta[k] for k in later)
    return result


def returns(batch, discount=0.99, bootstrap=False):
    result, complete = np.zeros((B, T)), np.zeros((B, T))
    for row, steps, terminated, ends in episodes(batch):
        last = steps[-1]
        for t in steps:
            result[row, t] = sum(
                discount ** (k - t) * batch["reward"][row, k] for k in steps[t - steps[0] :]
            )
            if bootstrap and not terminated:
                result[row, t] += discount ** (last + 1 - t) * batch["next_value"][row, last]
            complete[row, t] = ends
    return result, complete


def v_trace(batch, discount=0.99):
    target, advantage = np.zeros((B, T)), np.zeros((B, T))
    ratio = np.exp(batch["current_log_prob"] - batch["log_prob"])
    clipped = np.minimum(1.0, ratio)
    for row, steps, terminated, _ in episodes(batch):
        value, reward = batch["value"][row], batch["reward"][row]
        following = {t: batch["next_value"][row, t] for t in steps}
        if terminated:
            following[steps[-1]] = 0.0
        for s in steps:
            target[row, s] = value[s] + sum(
                discount ** (t - s)
                * np.prod([clipped[row, i] for i in range(s, t)])
                * clipped[row, t]
                * (reward[t] + discount * following[t] - value[t])
                for t in steps
                if t >= s
            )
        for s in steps:
            correction = target[row, s + 1] - value[s + 1] if s + 1 in steps else 0.0
            next_target = following[s] + correction
            advantage[row, s] = clipped[row, s] * (reward[s] + discount * next_target - value[s])
    return target, advantage


def per_row(function):
    """Advantage of each row from the rewards of its group, spread along the row."""

    def advantage(batch):
        total = (batch["reward"] * MASK).sum(-1)
        rows = [function(total[i], total[GROUP_IDS == GROUP_IDS[i]], total) for i in range(B)]
        return np.repeat(np.array(rows)[:, None], T, axis=1)

    return advantage


grouped = per_row(lambda own, group, every: (own - group.mean()) / (group.std(ddof=1) + 1e-6))
centred = per_row(lambda own, group, every: own - group.mean())
others = per_row(lambda own, group, every: own - (group.sum() - own) / (len(group) - 1))
over_batch = per_row(lambda own, group, every: (own - every.mean()) / (every.std() + 1e-8))


def surprise(batch):
    away = (batch["reward"] * MASK).sum(-1) - batch["start_value"]
    return np.repeat((away - away.mean())[:, None] / (away.std(ddof=1) + 1e-8), T, axis=1)


def surprise_over_tokens(batch):
    away = np.repeat((batch["reward"] * MASK).sum(-1) - batch["start_value"], LENGTHS)
    result = np.zeros((B, T))
    result[REAL] = (away - away.mean()) / (away.std(ddof=1) + 1e-8)
    return result


def centred_among_rollouts(batch):
    total, own = (batch["reward"] * MASK).sum(-1), SOURCE == 0
    means = np.array([total[own & (GROUP_IDS == GROUP_IDS[i])].mean() for i in range(B)])
    return np.repeat(((total - means) * own)[:, None], T, axis=1)


def whitened(batch):
    advantage = gae(batch)
    return (advantage - advantage[REAL].mean()) / (advantage[REAL].std() + 1e-8)


# Means


def token_mean(x):
    return x[REAL].sum() / LENGTHS.sum()


def sequence_mean(x):
    return np.mean([x[row, : LENGTHS[row]].mean() for row in range(B)])


def row_sum(x):
    return (x * MASK).sum() / B


def padded_mean(x):
    return (x * MASK).sum() / (B * T)


def demonstration_mean(x):
    chosen = REAL & (SOURCE == DEMONSTRATION)[:, None]
    return x[chosen].mean()


# Losses: (batch) -> (log_prob -> scalar), constants are bound when the batch is


def log_likelihood(mean, advantage):
    def bind(batch):
        weight = advantage(batch)
        return lambda log_prob: -mean(weight * log_prob)

    return bind


def min_clip(mean, advantage, lower=0.2, upper=0.2, bound=None):
    def bind(batch):
        a = advantage(batch)

        def loss(log_prob):
            ratio = np.exp(log_prob - batch["log_prob"])
            surrogate = np.minimum(ratio * a, np.clip(ratio, 1 - lower, 1 + upper) * a)
            if bound is not None:
                surrogate = np.where(a < 0, np.maximum(surrogate, bound * a), surrogate)
            return -mean(surrogate)

        return loss

    return bind


def reinforce(batch):
    value, complete = returns(batch)
    return lambda log_prob: -np.sum(complete * value * log_prob) / complete.sum()


def reinforce_batch_mean(batch):
    value, complete = returns(batch, discount=1.0)
    a = np.zeros((B, T))
    for row, t in np.argwhere(complete):
        rest = [other for other in range(B) if other != row and complete[other, t]]
        a[row, t] = value[row, t] - np.mean(value[rest, t]) if rest else 0.0
    return lambda log_prob: -np.sum(a * log_prob) / complete.sum()


def ppo_penalty(batch):
    a = whitened(batch)

    def loss(log_prob):
        ratio = np.exp(log_prob - batch["log_prob"])
        divergence = ratio - 1 - np.log(ratio)  # of samples of the behaviour policy
        return token_mean(-ratio * a + divergence)

    return loss


def gspo(lower, upper):
    def bind(batch):
        a = grouped(batch)[:, 0]

        def loss(log_prob):
            difference = (log_prob - batch["log_prob"]) * MASK
            ratio = np.exp(difference.sum(-1) / LENGTHS)
            return -np.mean(np.minimum(ratio * a, np.clip(ratio, 1 - lower, 1 + upper) * a))

        return loss

    return bind


def cispo(batch):
    ratio = np.exp(batch["current_log_prob"] - batch["log_prob"])
    weight = np.minimum(ratio, 1.28) * grouped(batch)
    return lambda log_prob: -token_mean(weight * log_prob)


def cispo_masked(batch):
    a = grouped(batch)
    ratio = np.exp(batch["current_log_prob"] - batch["log_prob"])
    kept = ~((a > 0) & (ratio > 1.28) | (a < 0) & (ratio < 0.8))
    return lambda log_prob: -token_mean(kept * a * np.exp(log_prob - batch["log_prob"]))


def hpt(factor, length):
    def bind(batch):
        a = centred_among_rollouts(batch)

        def loss(log_prob):
            reinforced = a * np.exp(log_prob - batch["log_prob"]) * MASK
            return -factor * reinforced.sum() / length - demonstration_mean(log_prob)

        return loss

    return bind


def of_probability(shape):
    def bind(batch):
        a = grouped(batch)
        return lambda log_prob: -demonstration_mean(shape(np.exp(log_prob)) * a)

    return bind


NATIVE = {
    "reinforce": reinforce,
    "reinforce_batch_mean": reinforce_batch_mean,
    "reinforce_with_baseline": log_likelihood(
        token_mean, lambda batch: returns(batch, bootstrap=True)[0] - batch["value"]
    ),
    "a2c": log_likelihood(token_mean, functools.partial(gae, trace_decay=1.0)),
    "ppo": min_clip(token_mean, whitened),
    "ppo_penalty": ppo_penalty,
    "impala": log_likelihood(token_mean, lambda batch: v_trace(batch)[1]),
    "sft": log_likelihood(token_mean, lambda batch: np.ones((B, T))),
    "srft_offline": of_probability(lambda pi: pi),
    "luffy_offline": of_probability(lambda pi: pi / (pi + 0.1)),
    "rloo": log_likelihood(row_sum, others),
    "grpo": min_clip(sequence_mean, grouped),
    "dr_grpo": min_clip(padded_mean, centred),
    "dapo": min_clip(token_mean, grouped, 0.2, 0.28),
    "gspo": gspo(3e-4, 4e-4),
    "cispo": cispo,
    "cispo_masked": cispo_masked,
    "reinforce_whitened": min_clip(token_mean, over_batch),
    "hpt": hpt(1.0, T),
    "aepo": min_clip(token_mean, grouped, 0.2, 0.2, bound=3.0),
    "spo": min_clip(token_mean, surprise, 0.2, 0.28, bound=10.0),
}
CASES = {name: (estimators.CATALOGUE[name](), native, 0.5) for name, native in NATIVE.items()}
CASES["gspo"] = (*CASES["gspo"][:2], 1e-3)
CASES |= {
    "gspo, wide bounds": (estimators.gspo(0.2, 0.28), gspo(0.2, 0.28), 0.5),
    "dual clip": (
        dataclasses.replace(
            estimators.grpo(), stabiliser=stabilisers.dual_clip(0.2, 0.28, bound=1.5)
        ),
        min_clip(sequence_mean, grouped, 0.2, 0.28, bound=1.5),
        0.5,
    ),
    "hpt, three rows in a sum": (
        estimators.hpt(rows_in_sum=3, length=9),
        hpt(3 / B, 9),
        0.5,
    ),
    "spo, over tokens": (
        estimators.spo(whiten_over="tokens"),
        min_clip(token_mean, surprise_over_tokens, 0.2, 0.28, bound=10.0),
        0.5,
    ),
    "ppo, before the first step": (estimators.ppo(), min_clip(token_mean, whitened), 0.0),
}
CUTS = {"ppo", "grpo", "dr_grpo", "dapo", "gspo", "gspo, wide bounds", "dual clip"} | {
    "cispo_masked",
    "reinforce_whitened",
    "aepo",
    "spo",
    "spo, over tokens",
}


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(estimator, batch, log_prob, value, entropy):
    def loss(log_prob, value, entropy):
        return estimator.loss(
            Evaluation(log_prob, value=value, entropy=entropy), trajectory(**batch)
        )

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(log_prob, value, entropy)


def ours(name: str):
    estimator, native, spread = CASES[name]
    batch = make_batch(spread)
    new_value = batch["value"] + 0.1
    with jax.enable_x64(True):
        result = loss_and_gradients(
            estimator, batch, batch["current_log_prob"], new_value, np.ones((B, T))
        )
        return jax.tree.map(np.asarray, result), native, batch


def finite_difference(loss, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    result = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        result[index] = (loss(at + shift) - loss(at - shift)) / (2 * step)
    return result


def test_every_estimator_has_a_native_loss():
    assert set(NATIVE) == set(estimators.CATALOGUE)


def combinations(advantage, ratio, lower, upper):
    return set(zip(np.sign(advantage), np.digitize(ratio, [1 - lower, 1 + upper]), strict=True))


EVERY_COMBINATION = {(sign, side) for sign in (-1.0, 1.0) for side in (0, 1, 2)}


@pytest.mark.parametrize("advantage", [whitened, grouped, centred, over_batch])
def test_the_batch_holds_every_sign_of_the_advantage_on_every_side_of_the_clip(advantage):
    batch = make_batch()
    ratio = np.exp(batch["current_log_prob"] - batch["log_prob"])
    assert combinations(advantage(batch)[REAL], ratio[REAL], 0.2, 0.28) == EVERY_COMBINATION


@pytest.mark.parametrize(("spread", "lower", "upper"), [(1e-3, 3e-4, 4e-4), (0.5, 0.2, 0.28)])
def test_so_do_its_sequences(spread, lower, upper):
    batch = make_batch(spread)
    log_ratio = (batch["current_log_prob"] - batch["log_prob"]) * MASK
    ratio = np.exp(log_ratio.sum(-1) / LENGTHS)
    assert combinations(grouped(batch)[:, 0], ratio, lower, upper) == EVERY_COMBINATION


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_the_native_loss_s(name):
    ((_, metrics), (gradient, _, _)), native, batch = ours(name)
    expected = finite_difference(native(batch), batch["current_log_prob"])
    np.testing.assert_allclose(gradient, expected, atol=1e-8)
    assert np.abs(expected[REAL]).max() > 1e-3
    assert not gradient[~REAL].any()
    if name in CUTS:
        assert 0.05 < metrics["masked_share"] < 0.95


VALUE_TARGETS = {
    "reinforce_with_baseline": lambda batch: returns(batch, bootstrap=True)[0],
    "a2c": lambda batch: gae(batch, trace_decay=1.0) + batch["value"],
    "ppo": lambda batch: gae(batch) + batch["value"],
    "ppo_penalty": lambda batch: gae(batch) + batch["value"],
    "impala": lambda batch: v_trace(batch)[0],
}


@pytest.mark.parametrize("name", VALUE_TARGETS)
def test_the_critic_regresses_on_its_target(name):
    ((_, metrics), (_, gradient, _)), _, batch = ours(name)
    error = batch["value"] + 0.1 - VALUE_TARGETS[name](batch)
    np.testing.assert_allclose(gradient, 0.5 * error * MASK / MASK.sum(), atol=1e-12)
    np.testing.assert_allclose(metrics["value_loss"], 0.5 * np.mean(error[REAL] ** 2))


@pytest.mark.parametrize(
    ("name", "coefficient"),
    [("a2c", 0.01), ("ppo", 0.01), ("hpt", 0.001), ("grpo", 0.0)],
)
def test_the_entropy_bonus_rewards_every_real_decision_alike(name, coefficient):
    (_, (_, _, gradient)), _, _ = ours(name)
    np.testing.assert_allclose(gradient, -coefficient * MASK / MASK.sum(), atol=1e-15)


def test_the_two_forms_of_cispo_differ_where_the_weight_is_cut_and_only_there():
    (_, (original, _, _)), _, batch = ours("cispo")
    (_, (masked, _, _)), _, _ = ours("cispo_masked")
    ratio = np.exp(batch["current_log_prob"] - batch["log_prob"])
    a = grouped(batch)
    cut = REAL & ((ratio > 1.28) | (ratio < 0.8) & (a < 0))
    assert cut.any()
    np.testing.assert_allclose(original[~cut], masked[~cut], atol=1e-12)
    assert (np.abs(original - masked)[cut] > 1e-3).all()
