"""Collection and evaluation of responses: ends, rewards, groups, prompts, micro-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import estimators
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.algorithms.token_seams import Frozen, PromptWorld, TokenSeams
from jaxpg.generation import Sampling
from jaxpg.networks.language_model import LanguageModel
from jaxpg.types import DEMONSTRATION, Evaluation
from jaxpg_envs.tokens.task import Reward

KEY = jax.random.key(0)
FAMILY = [
    estimators.CATALOGUE[name]()
    for name in ("rloo grpo dr_grpo dapo gspo cispo cispo_masked reinforce_whitened".split())
]


def updated(task, policy, method, **config):
    """State before, state after, and metrics of one update with plain gradient descent."""
    model, params = policy
    config = {"num_prompts": 8, "group_size": 4, "optimiser": optax.sgd(1.0)} | config
    agent = rlvr(task, model, method, params=params, **config)
    before = jax.jit(agent.init)(KEY)
    return before, *jax.jit(agent.update)(before)


@pytest.fixture(scope="module")
def collected(ragged_task, tiny_policy, spying):
    """Rows of one update, eight prompts from a pool of six, and its metrics."""
    _, state, metrics = updated(ragged_task(), tiny_policy(), spying(estimators.dr_grpo()))
    return state.method, metrics


def seams_of(task, model, **fields):
    fields = {
        "adapters": None,
        "estimator": estimators.grpo(),
        "sampling": Sampling(),
        "stop_strings": None,
        "num_prompts": 4,
        "group_size": 2,
        "micro_batches": 1,
        "recompute": False,
        "logit_chunk": None,
    } | fields
    return TokenSeams(task=task, model=model, **fields)


def test_a_response_ends_with_its_stop_token_even_where_that_is_the_padding(collected):
    rows, _ = collected
    tokens, mask = np.asarray(rows.action), np.asarray(rows.mask)
    lengths = [list(row).index(0) + 1 if 0 in row else 4 for row in tokens]
    np.testing.assert_array_equal(mask, np.arange(4) < np.array(lengths)[:, None])
    # Cut off, a response is what was drawn: no stop token is forced into it.
    np.testing.assert_array_equal(rows.extras["finished"], (tokens == 0).any(axis=1))
    assert {1, 4} <= set(lengths) and not rows.extras["finished"].all()
    # The same 0 inside a prompt is a real token.
    third = rows.extras["prompt_mask"][rows.extras["prompt_ids"] == 2]
    np.testing.assert_array_equal(third, np.tile([False, True, True], (len(third), 1)))


def test_the_reward_is_paid_once_at_the_last_real_token(collected):
    rows, _ = collected
    answers = np.array([1, 1, 2, 3, 4, 2])[rows.extras["prompt_ids"]]
    for tokens, mask, reward, answer in zip(
        rows.action, rows.mask, rows.reward, answers, strict=True
    ):
        length = int(mask.sum())
        expected = np.zeros(4)
        expected[length - 1] = sum(int(token) == answer for token in tokens[:length])
        np.testing.assert_array_equal(reward, expected)
    assert len(set(rows.total_reward.tolist())) > 2


def test_a_group_is_a_prompt_and_not_a_text(collected):
    rows, _ = collected
    np.testing.assert_array_equal(rows.group_ids, np.repeat(np.arange(8), 4))
    for group in range(8):
        inside = np.asarray(rows.group_ids) == group
        assert len(set(np.asarray(rows.extras["prompt_ids"])[inside].tolist())) == 1
    texts = {
        number: text
        for number, text in zip(
            *(rows.extras[n].tolist() for n in ("prompt_ids", "prompt")), strict=True
        )
    }
    assert texts[1] == texts[3]


def test_advantages_are_those_of_the_groups_in_any_order(collected):
    rows, _ = collected
    reward, groups = np.asarray(rows.total_reward), np.asarray(rows.group_ids)
    expected = reward - np.array([reward[groups == group].mean() for group in groups])
    order = np.random.default_rng(0).permutation(32)
    shuffled = estimators.dr_grpo().score(jax.tree.map(lambda x: x[order], rows))
    for scored, wanted in ((rows, expected), (shuffled, expected[order])):
        real = np.asarray(scored.mask) > 0
        wanted = np.where(real, wanted[:, None], 0.0)
        np.testing.assert_allclose(scored.extras["advantage"], wanted, atol=1e-6)


def test_a_prompt_that_comes_twice_in_an_update_is_answered_anew(collected):
    rows, _ = collected
    ids = np.asarray(rows.extras["prompt_ids"])[::4]
    assert sorted(ids[:6]) == list(range(6))
    responses = np.asarray(rows.action).reshape(8, 4, 4)
    firsts = [list(ids[:6]).index(again) for again in ids[6:]]
    # Many a response ends at once, and those are the same twice.
    new = (responses[firsts] != responses[6:]).any(axis=-1).sum(axis=1)
    assert new.min() >= 2 and new.sum() >= 4
    # Neither are the responses of a group copies of each other.
    assert all(len({tuple(row) for row in group.tolist()}) > 1 for group in responses)


def test_the_metrics_of_collection_are_counts_of_the_rows(collected):
    rows, metrics = collected
    reward = np.asarray(rows.total_reward).reshape(8, 4)
    expected = {
        "reward": reward.mean(),
        "mixed_group_share": (reward.max(axis=1) > reward.min(axis=1)).mean(),
        "response_length": np.asarray(rows.mask).sum(axis=1).mean(),
        "truncated_share": 1 - np.asarray(rows.extras["finished"]).mean(),
        "invalid_share": 0.0,
        # Before the update the learner's entropies are those of the sampler.
        "sampling_entropy": metrics["entropy"],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def without_threes(prompts, tokens, mask, finished):
    """No reward is known for responses that begin with 3; what stands there is absurd."""
    valid = tokens[:, 0] != 3
    written = jnp.sum((tokens == prompts.data["answer"][:, None]) & mask, axis=1)
    return Reward(jnp.where(valid, written, jnp.nan).astype(jnp.float32), valid, {})


def test_a_row_without_a_valid_reward_is_as_if_it_were_not_there(ragged_task, tiny_policy, spying):
    task = ragged_task(reward=without_threes)
    _, state, metrics = updated(task, tiny_policy(), spying(estimators.dr_grpo()))
    rows = state.method
    there = np.asarray(rows.action)[:, 0] != 3
    assert 0 < there.sum() < 32
    np.testing.assert_array_equal(np.asarray(rows.mask).any(axis=1), there)
    np.testing.assert_allclose(metrics["invalid_share"], 1 - there.mean(), rtol=1e-6)
    reward, groups = np.asarray(rows.total_reward), np.asarray(rows.group_ids)
    np.testing.assert_allclose(metrics["reward"], reward[there].mean(), rtol=1e-6)
    advantage = np.array(
        [
            reward[row] - reward[there & (groups == groups[row])].mean() if there[row] else 0.0
            for row in range(32)
        ]
    )
    wanted = advantage[:, None] * np.asarray(rows.mask)
    np.testing.assert_allclose(rows.extras["advantage"], wanted, atol=1e-6)
    # Numerator and denominator: the loss at ratio 1 is minus the mean over valid rows of A times
    # the row's length over T.
    lengths = np.asarray(rows.mask).sum(axis=1)
    expected = -(advantage * lengths)[there].sum() / (4 * there.sum())
    np.testing.assert_allclose(metrics["policy_loss"], expected, atol=1e-6)
    assert np.isfinite(list(metrics.values())).all()


def test_a_batch_without_any_valid_reward_changes_nothing(ragged_task, tiny_policy):
    def reward(prompts, tokens, mask, finished):
        return Reward(jnp.full(finished.shape, jnp.nan), jnp.zeros_like(finished), {})

    before, after, metrics = updated(
        ragged_task(reward=reward), tiny_policy(), estimators.reinforce_whitened(), optimiser=None
    )
    assert metrics["invalid_share"] == 1.0 and metrics["reward"] == 0.0
    assert np.isfinite(list(metrics.values())).all()
    for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def gradients(collected, ragged_task, tiny_policy):
    """`(micro_batches, rows) -> losses [8] and gradients {leaf: [8, ...]}` of the family."""
    rows, _ = collected
    model, params = tiny_policy()
    # Away from the behaviour, so that ratios matter.
    params = jax.tree.map(lambda x: 1.1 * x, params)

    def compute(micro_batches, order):
        seams = seams_of(ragged_task(), model, micro_batches=micro_batches)
        batch = jax.tree.map(lambda x: x[order], rows)

        def losses(params):
            evaluation = seams.evaluate(Frozen((), ()), params, batch)
            every = [e.loss(evaluation, e.score(batch))[0] for e in FAMILY]
            return jnp.stack(every), jnp.stack(every)

        return jax.jit(jax.jacrev(losses, has_aux=True))(params)

    return compute


@pytest.fixture(scope="module")
def whole(gradients):
    return gradients(1, np.arange(32))


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_and_the_order_of_rows_change_no_loss_and_no_gradient(
    gradients, whole, micro_batches
):
    order = np.random.default_rng(micro_batches).permutation(32)
    gradient, losses = gradients(micro_batches, order)
    np.testing.assert_allclose(losses, whole[1], atol=1e-6)
    for one, other in zip(jax.tree.leaves(whole[0]), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
    size = sum(
        np.abs(leaf).reshape(len(FAMILY), -1).sum(axis=1) for leaf in jax.tree.leaves(whole[0])
    )
    assert (size > 0.1).all()


def test_an_update_in_micro_batches_is_the_same_update(ragged_task, tiny_policy):
    after = [
        updated(
            ragged_task(),
            tiny_policy(),
            estimators.dapo(),
            num_minibatches=2,
            micro_batches=micro_batches,
        )[1].params
        for micro_batches in (1, 4)
    ]
    for one, other in zip(*map(jax.tree.leaves, after), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


def test_the_weight_of_a_token_is_that_of_its_aggregation(collected):
    rows, _ = collected
    mask = np.asarray(rows.mask)
    lengths = mask.sum(axis=1, keepdims=True)
    wanted = {
        "dapo": mask / mask.sum(),
        "grpo": mask / lengths / 32,
        "dr_grpo": mask / 4 / 32,
        "rloo": mask / 32,
    }
    for name, weight in wanted.items():
        estimator = estimators.CATALOGUE[name]()
        scored = estimator.score(rows)
        loss = lambda log_prob: estimator.loss(Evaluation(log_prob), scored)[0]
        gradient = jax.jit(jax.grad(loss))(rows.log_prob)
        np.testing.assert_allclose(gradient, -weight * scored.extras["advantage"], atol=1e-6)


def counting_model():
    """Says 20 for the token that follows the last one read, and 0 for all others."""
    return LanguageModel(
        config=None,
        vocabulary_size=5,
        max_positions=7,
        width=1,
        has_value=True,
        init=lambda key: (),
        embed=None,
        hidden=lambda params, inputs, mask, *rest: (inputs[..., None] + 1.0) % 5,
        logits=lambda params, hidden: 20.0 * (hidden == jnp.arange(5)),
        value=lambda params, hidden: hidden[..., 0],
        for_decoding=None,
        prefill=None,
        repeat=None,
        step=None,
    )


def test_a_token_is_judged_by_the_state_before_it(collected, ragged_task):
    rows, _ = collected
    # Padding on both sides, and answers that count on from the prompt's last token.
    prompt = jnp.array([[0, 0, 3], [3, 0, 0], [0, 2, 3]])
    real = jnp.array([[0, 0, 1], [1, 0, 0], [0, 1, 1]], bool)
    rows = jax.tree.map(lambda x: x[:3], rows).replace(
        action=jnp.tile(jnp.array([4, 0, 1, 2]), (3, 1)), mask=jnp.ones((3, 4))
    )
    rows = rows.with_extras(prompt=prompt, prompt_mask=real)
    said = seams_of(ragged_task(), counting_model()).evaluate(Frozen((), ()), (), rows)
    nearly_certain = -np.log1p(4 * np.exp(-20.0))
    np.testing.assert_allclose(said.log_prob, nearly_certain, atol=1e-7)
    np.testing.assert_allclose(said.value, np.tile([4.0, 0.0, 1.0, 2.0], (3, 1)))
    shifted = rows.replace(action=jnp.roll(rows.action, 1, axis=1))
    said = seams_of(ragged_task(), counting_model()).evaluate(Frozen((), ()), (), shifted)
    assert (said.log_prob[:, :2] < -19).all()


def test_an_override_chooses_prompts_and_source_and_leaves_the_order_alone(
    ragged_task, tiny_policy
):
    def demonstrations(key, prompts):
        tokens = jnp.tile(prompts.data["answer"][:, None], (1, 4))
        return tokens, jnp.arange(4) < jnp.full((tokens.shape[0], 1), 2)

    task = ragged_task(demonstrations=demonstrations)
    model, params = tiny_policy()
    seams = seams_of(task, model)
    world = PromptWorld((), jnp.int32(3), jax.random.key(7))
    ids = jnp.array([4, 4, 0, 2])

    @jax.jit
    def collect(params):
        def asked(**given):
            return seams.collect(Frozen((), ()), KEY, params, world, (), **given)[:2]

        return asked(ids=ids), asked(ids=ids, source=DEMONSTRATION), asked()

    (chosen, same), (shown, _), (in_order, after) = collect(params)
    assert chosen.extras["prompt_ids"].tolist() == [4, 4, 4, 4, 0, 0, 2, 2]
    assert same.position == 3 and after.position == 7
    # The same prompt asked for twice is two groups with draws of their own.
    assert chosen.group_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (chosen.action[:2] != chosen.action[2:4]).any()
    assert (shown.source == DEMONSTRATION).all() and (chosen.source == 0).all()
    assert shown.action[:, 0].tolist() == [4, 4, 4, 4, 1, 1, 2, 2]
    np.testing.assert_array_equal(shown.mask, np.tile([1, 1, 0, 0], (8, 1)))
    assert len(set(in_order.extras["prompt_ids"].tolist())) >= 3


def test_allowed_tokens_of_a_smaller_vocabulary_fit_a_model_with_spare_tokens(
    ragged_task, tiny_policy
):
    allowed = np.zeros((4, 5), bool)
    allowed[:, 1:3] = True
    model, params = tiny_policy(vocabulary_size=8)
    seams = seams_of(ragged_task(allowed=allowed), model)
    world = PromptWorld((), jnp.int32(0), KEY)

    @jax.jit
    def both(params):
        rows, *_ = seams.collect(Frozen((), ()), KEY, params, world, ())
        return rows, seams.evaluate(Frozen((), ()), params, rows)

    rows, said = both(params)
    assert set(np.unique(rows.action)) == {1, 2}
    np.testing.assert_allclose(said.log_prob, rows.log_prob, atol=1e-5)


ASKED = np.array([4, 1, 4])


@pytest.fixture(scope="module")
def asked(ragged_task, tiny_policy):
    """Rows of prompts that were asked for, at a temperature that is traced, and what is said."""
    model, params = tiny_policy()
    seams = seams_of(ragged_task(), model)

    @jax.jit
    def ask(temperature):
        frozen, key = Frozen((), ()), KEY
        rows, world, _ = seams.collect(
            frozen,
            key,
            params,
            None,
            (),
            ids=jnp.asarray(ASKED),
            num_samples=400,
            temperature=temperature,
        )
        assert world is None
        said = seams.evaluate(frozen, params, rows, temperature=temperature, top=3)
        return rows, said, seams.evaluate(frozen, params, rows)

    return ask(jnp.float32(2.0)), (model, params)


def test_prompts_are_those_asked_for_and_answered_as_often(asked):
    (rows, _, _), _ = asked
    np.testing.assert_array_equal(rows.extras["prompt_ids"], np.repeat(ASKED, 400))
    np.testing.assert_array_equal(rows.group_ids, np.repeat(np.arange(3), 400))
    responses = np.asarray(rows.action).reshape(3, 400, 4)
    assert (responses[0] != responses[2]).any()


def test_a_traced_temperature_is_that_of_the_draws_and_of_their_log_probs(asked):
    (rows, said, cold), _ = asked
    real = np.asarray(rows.mask) > 0
    np.testing.assert_allclose(
        np.asarray(rows.log_prob)[real], np.asarray(said.log_prob)[real], atol=1e-5
    )
    np.testing.assert_allclose(
        np.asarray(rows.extras["entropy"])[real], np.asarray(said.entropy)[real], atol=1e-5
    )
    assert np.abs(np.asarray(cold.log_prob) - np.asarray(said.log_prob))[real].max() > 0.1
    # How often the first token of a prompt is drawn is its probability at that temperature.
    first, log_prob = np.asarray(rows.action)[:400, 0], np.asarray(said.log_prob)[:400, 0]
    for token in set(first.tolist()):
        chance = np.exp(log_prob[first == token][0])
        assert abs((first == token).mean() - chance) < 4 * np.sqrt(chance / 400)


def test_the_largest_logits_come_with_the_state_that_made_them(asked):
    (rows, said, _), (model, params) = asked
    hidden, top, tokens = (said.extras[name] for name in ("hidden", "top_logits", "top_tokens"))
    logits = np.asarray(model.logits(params, hidden))
    order = np.argsort(-logits, axis=-1)[..., :3]
    np.testing.assert_array_equal(tokens, order)
    np.testing.assert_allclose(top, np.take_along_axis(logits, order, axis=-1), atol=1e-5)
    log_prob = jax.nn.log_softmax(logits)
    chosen = np.take_along_axis(log_prob, np.asarray(rows.action)[..., None], axis=-1)[..., 0]
    real = np.asarray(rows.mask) > 0
    np.testing.assert_allclose(chosen[real], np.asarray(said.log_prob)[real], atol=1e-5)


def test_demonstrations_are_had_on_request(ragged_task, tiny_policy):
    model, params = tiny_policy()

    def shown(key, prompts):
        tokens = jnp.tile(prompts.data["answer"][:, None], (1, 4))
        return tokens, jnp.ones_like(tokens, bool)

    seams = seams_of(ragged_task(demonstrations=shown), model)
    rows, _, metrics = seams.collect(
        Frozen((), ()),
        KEY,
        params,
        None,
        (),
        ids=jnp.asarray(ASKED),
        num_samples=1,
        source=DEMONSTRATION,
    )
    np.testing.assert_array_equal(rows.source, DEMONSTRATION)
    np.testing.assert_array_equal(rows.action[:, 0], [4, 1, 4])
    assert not rows.log_prob.any() and not rows.total_reward.any() and metrics == {}
