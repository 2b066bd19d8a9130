"""The update of a language model: first ratios, reuse, the KL term, a critic, evaluation."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import estimators, runner
from jaxpg.algorithms.rlvr import plan, rlvr
from jaxpg.method import Method
from jaxpg.parts import regularisers
from jaxpg_envs.tokens import digit_sum
from jaxpg_envs.tokens.exact import exact_success
from jaxpg_envs.tokens.task import Reward

KEY = jax.random.key(0)
SMALL = {"num_prompts": 4, "group_size": 4}
ALLOWED = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


@pytest.mark.parametrize(
    ("config", "exact"),
    [
        ({"temperature": 0.5}, False),
        ({"temperature": 2.0, "allowed": ALLOWED}, False),
        ({"num_minibatches": 2, "micro_batches": 2}, False),
        ({"recompute": True, "temperature": 0.5, "micro_batches": 2}, True),
        # Truncated sampling is not the policy that learns: its probabilities are computed anew.
        ({"top_k": 2}, True),
    ],
    ids=str,
)
def test_every_ratio_is_one_before_the_first_step(
    ragged_task, tiny_policy, measuring, config, exact
):
    config = dict(config)
    task = ragged_task(allowed=config.pop("allowed", None))
    model, params = tiny_policy()
    method = measuring(estimators.grpo())
    agent = rlvr(task, model, method, params=params, learning_rate=0.0, **(SMALL | config))
    result = runner.train(agent, key=KEY, num_updates=2, chunk_length=2)
    assert (result.metrics["largest_log_ratio"] < (1e-30 if exact else 1e-5)).all()
    assert (result.metrics["masked_share"] == 0).all()
    np.testing.assert_allclose(result.metrics["approximate_kl"], 0.0, atol=1e-9)
    assert result.metrics["response_length"].min() < 4
    assert (result.metrics["gradient_norm"] > 0).all()


@pytest.fixture(scope="module")
def reused(ragged_task, tiny_policy, spying):
    """One update of one epoch and one of two: `{epochs: (state, metrics)}`."""
    model, params = tiny_policy()
    results = {}
    for num_epochs in (1, 2):
        agent = rlvr(
            ragged_task(),
            model,
            spying(estimators.dapo()),
            params=params,
            optimiser=optax.sgd(0.5),
            num_epochs=num_epochs,
            **SMALL,
        )
        results[num_epochs] = jax.jit(agent.update)(jax.jit(agent.init)(KEY))
    return results


def test_a_second_pass_keeps_the_probabilities_of_the_sampling(reused, ragged_task, tiny_policy):
    model, _ = tiny_policy()
    (once, first), (twice, both) = reused[1], reused[2]
    np.testing.assert_array_equal(once.method.log_prob, twice.method.log_prob)
    # What the second pass sees is the policy after the first against the one that acted.
    rows = once.method
    inputs = jnp.concatenate([rows.extras["prompt"], rows.action], axis=1)
    mask = jnp.concatenate([rows.extras["prompt_mask"], rows.mask > 0], axis=1)
    hidden = jax.jit(model.hidden)(once.params, inputs, mask)
    logits = model.logits(once.params, hidden)[:, 2:-1]
    now = jnp.take_along_axis(jax.nn.log_softmax(logits), rows.action[..., None], axis=2)[..., 0]
    log_ratio = np.asarray(now - rows.log_prob)[np.asarray(rows.mask) > 0]
    second = (np.exp(log_ratio) - 1 - log_ratio).mean()
    assert second > 1e-4
    np.testing.assert_allclose(first["approximate_kl"], 0.0, atol=1e-9)
    np.testing.assert_allclose(both["approximate_kl"], second / 2, rtol=1e-3)


@pytest.fixture(scope="module")
def pulled(ragged_task, tiny_policy):
    """Metrics `[3, 12]` of runs with KL coefficients 0, 1 and 2, all rewards equal."""
    equal = lambda prompts, tokens, mask, finished: Reward(
        jnp.ones(finished.shape), jnp.ones_like(finished), {}
    )
    model, params = tiny_policy()
    _, reference = tiny_policy(seed=1)

    def run(coefficient):
        agent = rlvr(
            ragged_task(reward=equal),
            model,
            estimators.grpo().plus(regularisers.kl(coefficient)),
            params=params,
            reference=reference,
            optimiser=optax.sgd(0.05),
            **SMALL,
        )
        state, metrics = agent.update(agent.init(KEY))
        moved = jax.tree.map(jnp.subtract, state.params, params)
        _, later = jax.lax.scan(lambda s, _: agent.update(s), state, None, 11)
        return moved, jax.tree.map(lambda a, b: jnp.append(a[None], b), metrics, later)

    return jax.jit(jax.vmap(run))(jnp.arange(3.0))


def test_the_kl_coefficient_enters_once(pulled):
    moved, metrics = pulled
    # Equal rewards have no gradient: what moves is the KL term, in proportion to its coefficient.
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_array_equal(leaf[0], 0.0)
        np.testing.assert_allclose(leaf[2], 2 * leaf[1], atol=1e-6)
    for coefficient in range(3):
        expected = metrics["policy_loss"] + coefficient * metrics["kl"]
        np.testing.assert_allclose(metrics["loss"][coefficient], expected[coefficient], atol=1e-6)
    # Nor is it in the reward.
    assert (metrics["reward"] == 1).all() and metrics["kl"][1, 0] == metrics["kl"][2, 0] > 0.01


def test_the_kl_term_pulls_the_policy_back(pulled):
    kl = np.asarray(pulled[1]["kl"])
    assert kl[2, -4:].mean() < kl[1, -4:].mean() < 0.8 * kl[0, -4:].mean()


def test_with_a_critic_every_token_has_the_reward_of_the_response_as_target(
    ragged_task, tiny_policy, spying
):
    model, params = tiny_policy(value_head=True)
    estimator = estimators.ppo(discount=1.0, trace_decay=1.0, normalise=False)
    agent = rlvr(ragged_task(), model, spying(estimator), params=params, group_size=1)
    rows = jax.jit(agent.update)(jax.jit(agent.init)(KEY))[0].method
    real, value = np.asarray(rows.mask) > 0, np.asarray(rows.extras["value"])
    reward = np.broadcast_to(np.asarray(rows.total_reward)[:, None], real.shape)
    assert np.abs(value[real]).min() > 0 and len(set(reward[:, 0])) > 1
    np.testing.assert_allclose(rows.extras["value_target"][real], reward[real], atol=1e-5)
    np.testing.assert_allclose(rows.extras["advantage"][real], (reward - value)[real], atol=1e-5)


def test_the_critic_learns_a_constant_reward(ragged_task, tiny_policy):
    ones = lambda prompts, tokens, mask, finished: Reward(
        jnp.ones(finished.shape), jnp.ones_like(finished), {}
    )
    model, _ = tiny_policy(value_head=True)
    estimator = estimators.ppo(discount=1.0, trace_decay=1.0)
    agent = rlvr(ragged_task(reward=ones), model, estimator, learning_rate=1e-2, group_size=1)
    loss = runner.train(agent, key=KEY, num_updates=60, chunk_length=60).metrics["value_loss"]
    # The head begins at 0: half the squared error of the value of a sure reward of 1.
    np.testing.assert_allclose(loss[0], 0.5, atol=0.01)
    assert loss[-1] < 0.02


@pytest.fixture(scope="module")
def examined(tiny_policy):
    """An agent with four held-out prompts of nine, its evaluation, and its exact successes."""
    task = digit_sum(2, 3, 2, held_out_fraction=0.4)
    model, params = tiny_policy(vocabulary_size=3, seed=2)
    agent = rlvr(task, model, estimators.grpo(), params=params, eval_samples=512, **SMALL)
    state = jax.jit(agent.init)(KEY)
    metrics = jax.jit(agent.evaluate)(state, jax.random.key(1))

    def logits(prompts, tokens):
        inputs = jnp.concatenate([prompts.tokens, tokens], axis=1)
        return model.logits(params, model.hidden(params, inputs, jnp.ones_like(inputs, bool)))

    def score(prompts, tokens, mask):
        chosen = jax.nn.one_hot(tokens, 3)
        return jnp.sum(jax.nn.log_softmax(logits(prompts, tokens)[:, 1:-1]) * chosen, axis=(1, 2))

    held_out = task.held_out(jnp.arange(4))
    exact = np.asarray(jax.jit(lambda: exact_success(task, score, held_out))())
    greedy = jnp.zeros((4, 2), jnp.int32)
    for place in range(2):
        best = jnp.argmax(jax.jit(logits)(held_out, greedy)[:, 1 + place], axis=-1)
        greedy = greedy.at[:, place].set(best)
    reward = task.reward(held_out, greedy, jnp.ones((4, 2), bool), jnp.zeros(4, bool)).value
    return agent, state, metrics, exact, np.asarray(reward)


def test_evaluation_finds_the_exact_success_on_the_held_out_prompts(examined):
    _, _, metrics, exact, _ = examined
    error = np.sqrt((exact * (1 - exact)).sum() / 512) / 4
    assert abs(metrics["eval_success"] - exact.mean()) < 4 * error
    assert 0.2 < exact.mean() < 0.6 and error < 0.02
    assert metrics["eval_reward"] == metrics["eval_success"]
    assert metrics["eval_length"] == 2 and metrics["eval_truncated_share"] == 1


def test_pass_at_k_is_one_minus_the_chance_that_all_fail(examined):
    _, _, metrics, exact, _ = examined
    names = {name for name in metrics if name.startswith("eval_pass_at_")}
    assert names == {f"eval_pass_at_{2**i}" for i in range(1, 10)}
    for k in (2, 4):
        expected = (1 - (1 - exact) ** k).mean()
        assert abs(metrics[f"eval_pass_at_{k}"] - expected) < 0.05


def test_greedy_evaluation_takes_the_most_probable_tokens_and_no_chance(examined):
    agent, state, metrics, _, greedy = examined
    assert metrics["eval_greedy_success"] == greedy.mean()
    other = jax.jit(agent.evaluate)(state, jax.random.key(2))
    assert other["eval_greedy_success"] == metrics["eval_greedy_success"]
    assert other["eval_success"] != metrics["eval_success"]


def test_the_plan_says_what_a_run_does(ragged_task, tiny_policy):
    sizes = {"num_prompts": 4, "group_size": 6, "num_minibatches": 2, "micro_batches": 3}
    text = plan(ragged_task(num_prompts=8000), 2000, num_epochs=3, **sizes)
    for part in (
        "2000 updates, 1 passes over 8000 prompts",
        "4 prompts x 6 responses = 24 rows of at most 3 + 4 tokens",
        "3 epochs x 2 minibatches = 6 gradient steps on 12 rows, in 3 micro-batches",
        "total: 48000 responses, at most 192000 tokens, 12000 gradient steps",
    ):
        assert part in text
    model, params = tiny_policy()
    agent = rlvr(ragged_task(), model, estimators.grpo(), params=params, num_epochs=3, **sizes)
    assert agent.steps_per_update == 192000 // 2000
    result = runner.train(agent, key=KEY, num_updates=3, chunk_length=3)
    assert "3 updates, 2 passes over 6 prompts" in plan(ragged_task(), 3, num_epochs=3, **sizes)
    assert result.state.world.position == 2 * 6
    assert optax.tree.get(result.state.optimiser, "count") == 3 * 6


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_prompt": 4}, "'num_prompt' is no field of RLVRConfig; did you mean 'num_prompts'"),
        ({"num_prompts": 0}, "num_prompts is 0, but it has to be at least 1"),
        ({"micro_batches": 0}, "micro_batches is 0, but it has to be at least 1"),
        ({"eval_samples": 0}, "eval_samples is 0, but it has to be at least 1"),
        ({"group_size": 1}, "group_size is 1, but method 'grpo' compares .* at least 2 of them"),
        ({"method": estimators.gspo(), "group_size": 1}, "method 'gspo' compares the responses"),
        ({"method": estimators.ppo()}, "'ppo' needs values, but the model has no critic: .*=True"),
        ({"method": estimators.sft()}, "'sft' learns from demonstrations, but task 'ragged' has"),
        ({"method": "grpo"}, "an Estimator .* or a Method"),
        ({"vocabulary_size": 4}, "'ragged' has 5 tokens, but the model's vocabulary has 4"),
        (
            {"max_positions": 6},
            "'ragged' has rows of 3 \\+ 4 tokens, but the model has 6 positions",
        ),
        ({"temperature": 0.0}, "temperature is 0.0, but a policy that learns .* above 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0, but it has to be in \\(0, 1\\]"),
        ({"stop_strings": ("\n",)}, "stops at \\['\\\\n'\\], but stop_table is None: build one"),
        (
            {"num_prompts": 3, "num_minibatches": 5},
            "num_prompts=3 with group_size=4 gives 12 responses, which do not .*num_minibatches=5",
        ),
        (
            {"num_minibatches": 2, "micro_batches": 3},
            "micro_batches is 3, which does not divide the 8 responses of a minibatch",
        ),
        (
            {"num_minibatches": 8, "whole_groups": True},
            "whole_groups is True, but num_minibatches=8 does not divide num_prompts=4",
        ),
        (
            {"method": Method("rowwise", estimators.grpo()), "whole_groups": True},
            "whole_groups is True, but method 'rowwise' does not keep groups together",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(ragged_task, tiny_policy, fields, sentence):
    fields = SMALL | fields
    sizes = {n: fields.pop(n) for n in ("vocabulary_size", "max_positions") if n in fields}
    task = ragged_task(stop_strings=fields.pop("stop_strings", ()))
    model, _ = tiny_policy(**sizes)
    method = fields.pop("method", estimators.grpo())
    with pytest.raises((ValueError, TypeError), match=sentence):
        rlvr(task, model, method, **fields)


def test_a_method_without_groups_takes_one_response_and_no_key_is_used_twice(
    ragged_task, tiny_policy
):
    model, params = tiny_policy()
    estimator = estimators.reinforce_whitened()
    agent = rlvr(ragged_task(), model, estimator, params=params, group_size=1)
    with jax.debug_key_reuse(True):
        metrics = jax.jit(lambda key: agent.update(agent.init(key))[1])(jax.random.key(0))
    assert metrics["gradient_norm"] > 0 and metrics["mixed_group_share"] == 0


def test_any_object_with_the_names_is_a_task(ragged_task, tiny_policy):
    full = ragged_task()
    names = [field.name for field in dataclasses.fields(full)]
    task = types.SimpleNamespace(**{name: getattr(full, name) for name in names})
    model, _ = tiny_policy()
    assert rlvr(task, model, estimators.grpo(), **SMALL).world_size == 4
