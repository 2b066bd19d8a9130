"""DCPO: advantages from the card, by a policy that is evaluated at two temperatures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import estimators, methods, runner
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.method import Method
from jaxpg.networks.decoder import transformer
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg_envs.tokens import digit_sum
from jaxpg_envs.tokens.task import Reward

KEY = jax.random.key(1)
SIZES = {"num_prompts": 4, "group_size": 4, "learning_rate": 1e-2}
MODEL = transformer(TransformerConfig(5, 1, width=16, num_heads=2, mlp_width=24, max_positions=4))
SETTINGS = {"target_entropy": 1.0, "high": 2.0, "low": 0.6, "largest_distance": 0.2}


def first_is_the_digit(prompts, tokens, mask, finished):
    right = tokens[:, 0] == prompts.data["answer"]
    return Reward(right.astype(jnp.float32), tokens[:, 0] != 3, {})


TASK = dataclasses.replace(digit_sum(1, 3, 3, variable_length=True), reward=first_is_the_digit)


@pytest.fixture(scope="module")
def policy():
    numbers = np.random.default_rng(0)
    shapes = jax.eval_shape(MODEL.init, KEY)
    return jax.tree.map(
        lambda leaf: jnp.asarray(numbers.normal(0.0, 0.5, leaf.shape), jnp.float32), shapes
    )


@pytest.fixture(scope="module")
def scored(policy):
    """`(entropy) -> rows that DCPO and that its estimator alone scored`."""
    dcpo, seen = methods.dcpo(**SETTINGS), {}

    def override(seams):
        seen["plain"], seen["ours"] = seams, dcpo.override(seams)
        return seen["ours"]

    agent = rlvr(TASK, MODEL, Method("spy", dcpo.estimator, override), params=policy, **SIZES)
    state = agent.init(KEY)

    @jax.jit
    def both(entropy):
        agent.update(state)  # binds the seams to this trace
        rows, _, _ = seen["plain"].collect(KEY, state.params, state.world, ())
        return tuple(seen[s].score(state.params, rows, entropy) for s in ("ours", "plain"))

    return both


@pytest.mark.parametrize(
    ("entropy", "temperature", "distance"), [(0.0, 2.0, 0.2), (0.9, 2.0, 0.1), (1.1, 0.6, 0.1)]
)
def test_the_advantages_are_those_of_the_card(scored, policy, entropy, temperature, distance):
    ours, plain = scored(jnp.float32(entropy))
    mask = np.asarray(ours.mask)
    real = mask.any(axis=1)
    correct = (np.asarray(ours.total_reward) == 1) & real
    assert 0 < correct.sum() < real.sum() < 16 and not mask[real].all()
    x = distance / (correct.sum() / real.sum())
    weight = x / (1 + x)
    prompt, response = ours.extras["prompt"], ours.action
    inputs = jnp.concatenate([prompt, response[:, :-1]], axis=1)
    states = MODEL.hidden(policy, inputs, jnp.ones_like(inputs, bool))
    logits = np.asarray(MODEL.logits(policy, states), float)
    log_softmax = lambda z: z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    of = lambda z: np.take_along_axis(log_softmax(z), np.asarray(response)[..., None], -1)[..., 0]
    ratio = np.exp(of(logits / temperature) - of(logits))
    expected = (1 - weight) * np.asarray(plain.extras["advantage"])
    expected += weight * correct[:, None] * ratio
    np.testing.assert_allclose(ours.extras["advantage"], expected * mask, atol=1e-4)


def test_at_its_target_it_is_grpo(scored):
    ours, plain = scored(jnp.float32(1.0))
    np.testing.assert_allclose(ours.extras["advantage"], plain.extras["advantage"], atol=1e-6)


@pytest.fixture(scope="module")
def agent(policy):
    return rlvr(TASK, MODEL, methods.dcpo(**SETTINGS), params=policy, **SIZES)


def test_runs_on_four_devices_and_after_a_stop_are_the_same_run(agent, tmp_path, leaves):
    run = {"key": KEY, "chunk_length": 1}
    one = runner.train(agent, num_updates=2, **run)
    before = np.concatenate([[0.0], one.metrics["entropy_estimate"][:-1]])
    expected = np.where(before <= 1.0, 2.0, 0.6)
    np.testing.assert_allclose(one.metrics["temperature"], expected)
    assert (one.metrics["distribution_weight"] > 0).all()
    # The estimate is unbiased here, where no row comes from another temperature.
    gap = one.metrics["entropy_estimate"] - one.metrics["sampling_entropy"]
    assert np.abs(gap).max() < 0.3
    four = runner.train(agent, num_updates=2, num_devices=4, **run)
    for metric, values in one.metrics.items():
        np.testing.assert_allclose(four.metrics[metric], values, atol=1e-5, err_msg=metric)
    for a, b in zip(
        jax.tree.leaves(one.state.params), jax.tree.leaves(four.state.params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
    runner.train(agent, num_updates=1, out=tmp_path, **run)
    resumed = runner.train(agent, num_updates=2, out=tmp_path, resume=True, **run)
    for a, b in zip(leaves(resumed.state), leaves(one.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_a_pull_it_is_grpo(policy):
    still = methods.dcpo(**SETTINGS | {"largest_distance": 0.0})
    after = [
        runner.train(
            rlvr(TASK, MODEL, method, params=policy, **SIZES), key=KEY, num_updates=2
        ).state.params
        for method in (still, estimators.aepo())
    ]
    for a, b in zip(*map(jax.tree.leaves, after), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_it_overrides_two_seams_and_begins_with_an_entropy(overridden, plain_seams):
    assert overridden(methods.dcpo()) == {"init", "score", "after"}
    assert methods.dcpo().override(plain_seams).init(KEY, ()) == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"largest_distance": -1}, "largest_distance is -1, but it has to be at least 0"),
        ({"low": 1.5}, "high is 1.2, but it has to be at least low=1.5"),
    ],
)
def test_bad_settings_are_one_sentence(settings, said):
    with pytest.raises(ValueError, match=said):
        methods.dcpo(**settings)
