"""Supervised training through the same update: its gradient, its metrics, and warm starts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import estimators
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.algorithms.warm_start import warm_start
from jaxpg.networks.decoder import transformer
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg_envs.tokens import digit_sum, fork_sum
from jaxpg_envs.tokens.task import WarmStart

KEY = jax.random.key(0)
RAGGED = digit_sum(2, 3, 5, variable_length=True)
MODEL = transformer(TransformerConfig(5, 1, width=16, num_heads=2, mlp_width=24, max_positions=7))


@pytest.fixture(scope="module")
def imitated(spying):
    """One update by plain gradient descent on demonstrations of different lengths."""
    agent = rlvr(
        RAGGED,
        MODEL,
        spying(estimators.sft()),
        num_prompts=8,
        group_size=2,
        micro_batches=2,
        optimiser=optax.sgd(1.0),
    )
    before = jax.jit(agent.init)(KEY)
    return before, *jax.jit(agent.update)(before)


def test_the_gradient_is_that_of_the_negative_log_likelihood(imitated):
    before, after, metrics = imitated
    rows = after.method
    real = np.asarray(rows.mask) > 0
    assert len(set(real.sum(axis=1))) > 1 and (rows.source == 1).all()
    inputs, lengths = np.concatenate([rows.extras["prompt"], rows.action], axis=1), real.sum(axis=1)

    def negative_log_likelihood(params):
        total = 0.0
        for length in sorted(set(lengths.tolist())):
            texts = inputs[lengths == length, : 2 + length]  # without padding
            logits = MODEL.logits(params, MODEL.hidden(params, texts, np.ones_like(texts, bool)))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, 1:-1], texts[:, 2:])
            total += jnp.sum(losses)
        return total / real.sum()

    wanted = jax.jit(jax.grad(negative_log_likelihood))(before.params)
    moved = jax.tree.map(jnp.subtract, before.params, after.params)
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(wanted), rtol=1e-4)


def test_nothing_is_said_about_where_demonstrations_came_from(imitated):
    _, after, metrics = imitated
    assert metrics["approximate_kl"] == 0 and metrics["masked_share"] == 0
    assert "reward" not in metrics
    # Two demonstrations of a prompt are two draws, and eight prompts of nine are all different.
    actions, ids = np.asarray(after.method.action), np.asarray(after.method.extras["prompt_ids"])
    assert (actions[::2] != actions[1::2]).any() and len(set(ids)) == 8
    np.testing.assert_array_equal(ids[::2], ids[1::2])


def constant(token):
    """Demonstrates one token, whatever was asked."""

    def demonstrations(key, prompts):
        shape = (prompts.tokens.shape[0], 3)
        return jnp.full(shape, token, jnp.int32), jnp.ones(shape, bool)

    return demonstrations


def test_a_task_of_three_tokens_is_learned():
    task = digit_sum(1, 3, 3, demonstrator="exact")
    phase = WarmStart("exact", task.demonstrations, 80, 16, 2e-2)
    task = dataclasses.replace(task, warm_start=(phase,))
    params = warm_start(task, MODEL, KEY)
    agent = rlvr(task, MODEL, estimators.reinforce_whitened(), params=params)
    metrics = jax.jit(lambda key: agent.evaluate(agent.init(key), key))(KEY)
    assert metrics["eval_greedy_success"] == 1.0


def test_phases_run_in_order_each_on_the_parameters_of_the_one_before(capsys):
    learn = WarmStart("learn", constant(0), 30, 8, 2e-2)
    still = WarmStart("still", constant(1), 1, 8, 1e-30)
    task = dataclasses.replace(digit_sum(1, 3, 3), warm_start=(learn, still))
    given = jax.jit(MODEL.init)(jax.random.key(9))
    copies = [np.array(leaf) for leaf in jax.tree.leaves(given)]
    params = warm_start(task, MODEL, KEY, params=given, progress=True)
    written = capsys.readouterr().err
    assert 0 < written.index("warm start, learn: 30/30") < written.index("warm start, still: 1/1")
    tokens, mask = jnp.array([[2]]), jnp.ones((1, 1), bool)
    logits = MODEL.logits(params, jax.jit(MODEL.hidden)(params, tokens, mask))[0, 0]
    assert jax.nn.softmax(logits)[0] > 0.9
    for leaf, copy in zip(jax.tree.leaves(given), copies, strict=True):
        np.testing.assert_array_equal(leaf, copy)


def test_a_warm_start_goes_on_from_parameters_given():
    task = digit_sum(1, 3, 3)
    still = WarmStart("still", constant(1), 1, 8, 1e-30)
    given = jax.jit(MODEL.init)(jax.random.key(9))
    params = warm_start(dataclasses.replace(task, warm_start=(still,)), MODEL, KEY, params=given)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(given), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-20)


def test_what_cannot_be_imitated_is_refused_in_one_sentence():
    task = dataclasses.replace(fork_sum(1, 2), warm_start=())
    with pytest.raises(ValueError, match="'fork_sum' describes no warm start: its .* is empty"):
        warm_start(task, MODEL, KEY)
    task = dataclasses.replace(RAGGED, demonstrations=None)
    with pytest.raises(ValueError, match="'sft' learns from demonstrations, but task 'digit_sum'"):
        rlvr(task, MODEL, estimators.sft())
