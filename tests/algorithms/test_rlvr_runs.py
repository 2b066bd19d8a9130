"""Runs of a language model: devices, seeds, resume, adapters, and what the caller keeps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import estimators, methods, runner
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.checkpoint import CheckpointError
from jaxpg.networks.lora import LoRA
from jaxpg.parts import regularisers
from jaxpg_envs.tokens import fork_sum
from jaxpg_envs.tokens.task import Reward

KEY = jax.random.key(0)
SMALL = {"num_prompts": 8, "group_size": 4, "eval_prompts": 4}


def leaves(tree):
    return [
        np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def assert_same(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def sometimes(prompts, tokens, mask, finished):
    """Mixed groups are rare, and some rewards are missing."""
    first, second = tokens[:, 0], tokens[:, 1]
    right = (first == prompts.data["answer"]) & (second == 1)
    return Reward(right.astype(jnp.float32), second != 3, {"twos": jnp.mean(first == 2)})


@pytest.fixture(scope="module")
def agent(ragged_task, tiny_policy):
    """Builder of one agent for each method."""
    built = {}

    def build(name):
        if name not in built:
            method = methods.dapo() if name == "dapo" else estimators.CATALOGUE[name]()
            model, params = tiny_policy()
            task = ragged_task(reward=sometimes)
            sizes = SMALL | {"num_minibatches": 2, "optimiser": optax.sgd(0.1)}
            built[name] = rlvr(task, model, method, params=params, **sizes)
        return built[name]

    return build


@pytest.mark.parametrize("name", ["grpo", "reinforce_whitened", "dapo"])
def test_four_devices_equal_one_at_an_equal_batch(agent, name):
    run = {"key": KEY, "num_updates": 2, "chunk_length": 2}
    one = runner.train(agent(name), **run)
    four = runner.train(agent(name), num_devices=4, **run)
    assert 0 < one.metrics["invalid_share"][0] < 1 and one.metrics["gradient_norm"][0] > 0
    assert name != "dapo" or one.metrics["rounds"].max() > 1
    for metric, values in one.metrics.items():
        np.testing.assert_allclose(four.metrics[metric], values, atol=1e-5, err_msg=metric)
    assert_close(one.state.params, four.state.params)
    assert one.state.world.position == four.state.world.position


@pytest.mark.parametrize("in_turn", [False, True])
def test_seeds_of_one_program_equal_seeds_alone(agent, in_turn):
    name = "dapo"  # seeds may need different numbers of rounds
    run = {"num_updates": 2, "chunk_length": 2}
    every = agent(name)._replace(seeds_in_turn=in_turn)
    together = runner.train(every, key=KEY, num_seeds=2, **run)
    alone = runner.train(agent(name), key=jax.random.fold_in(KEY, 1), **run)
    for metric, values in alone.metrics.items():
        np.testing.assert_allclose(
            together.metrics[metric][:, 1], values, atol=1e-5, err_msg=metric
        )
    assert_close(jax.tree.map(lambda x: x[1], together.state.params), alone.state.params)
    assert np.ptp(together.metrics["reward"], axis=1).max() > 0


def test_a_share_that_does_not_split_is_one_sentence(ragged_task, tiny_policy):
    model, params = tiny_policy()
    sizes = {"num_prompts": 4, "group_size": 3, "num_minibatches": 2}
    agent = rlvr(ragged_task(), model, estimators.grpo(), params=params, **sizes)
    with pytest.raises(ValueError, match="num_minibatches=2 .* the 3 responses of each of 4"):
        runner.train(agent, key=KEY, num_updates=1, num_devices=4)
    sizes = {"num_prompts": 4, "group_size": 4, "num_minibatches": 2}
    agent = rlvr(ragged_task(), model, estimators.grpo(), params=params, **sizes)
    with pytest.raises(ValueError, match="divide the 1 groups of each of 4 .*whole_groups=False"):
        runner.train(agent, key=KEY, num_updates=1, num_devices=4)


def test_a_group_in_one_minibatch_shares_its_prompt(ragged_task, tiny_policy):
    """And the update is that of whole rows."""
    model, params = tiny_policy()
    sizes = {"num_prompts": 4, "group_size": 3, "num_minibatches": 2, "optimiser": optax.sgd(0.1)}
    after = []
    for one in (model, dataclasses.replace(model, shared_states=None)):
        agent = rlvr(ragged_task(), one, estimators.grpo(), params=params, **sizes)
        text = str(jax.make_jaxpr(agent.update)(agent.init(KEY)))
        # Of the two groups of a minibatch: each prompt once, or three times.
        assert ("f32[2,3,2,8]" in text) == (one is model)
        after.append(runner.train(agent, key=KEY, num_updates=2, chunk_length=2).state.params)
    assert_close(*after)


@pytest.fixture(scope="module")
def remembering(tiny_policy):
    """Builder of agents whose method has a state, on fork sums."""

    def build(style_share=0.5, clip=None, lora=None):
        task = fork_sum(2, 3, style_share=style_share)
        model, params = tiny_policy(
            vocabulary_size=task.vocabulary_size, max_positions=8, value_head=clip is None
        )
        method = methods.ppo_adaptive_penalty(1e-4) if clip is None else estimators.grpo(clip)
        sizes = SMALL | {"num_minibatches": 2, "learning_rate": 1e-2}
        return rlvr(task, model, method, params=params, lora=lora, **sizes)

    return build


@pytest.fixture(scope="module")
def straight(remembering, compilations):
    """An agent, the compilations up to each chunk, and six updates without a pause."""
    agent, counts = remembering(), []
    result = runner.train(
        agent,
        key=KEY,
        num_updates=6,
        chunk_length=2,
        callback=lambda update, metrics: counts.append(len(compilations)),
    )
    return agent, counts, result


def test_after_the_first_chunk_nothing_is_compiled(straight, compilations):
    agent, counts, _ = straight
    assert len(counts) == 3 and counts[0] > 0 and counts[-1] == counts[0]
    before = len(compilations)
    runner.train(agent, key=jax.random.key(3), num_updates=3, chunk_length=2)
    assert len(compilations) == before


def test_a_run_that_stopped_and_resumed_is_the_same_run(straight, tmp_path):
    agent, _, result = straight
    run = {"key": KEY, "chunk_length": 2, "out": tmp_path}
    half = runner.train(agent, num_updates=3, **run)
    assert half.state.world.position == 3 * 8
    resumed = runner.train(agent, num_updates=6, resume=True, **run)
    assert_same(resumed.state, result.state)
    assert resumed.state.world.position == 6 * 8
    assert resumed.state.method != half.state.method
    np.testing.assert_array_equal(resumed.metrics["loss"], result.metrics["loss"])


def test_evaluation_changes_no_bit(straight):
    agent, _, result = straight
    run = {"key": KEY, "num_updates": 6, "chunk_length": 2, "evaluate_every": 2}
    evaluated = runner.train(agent, **run)
    assert_same(evaluated.state, result.state)
    assert evaluated.evaluations["eval_greedy_success"].shape == (3,)


@pytest.fixture(scope="module")
def finished(remembering, tmp_path_factory):
    """Settings of a run, and its arguments with the folder that it left."""
    settings = {"clip": 0.2, "lora": LoRA(rank=2)}
    run = {"key": KEY, "num_updates": 1, "out": tmp_path_factory.mktemp("finished")}
    runner.train(remembering(**settings), **run)
    return settings, run


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"clip": 0.3}, "estimator"),
        ({"style_share": 0.4}, "task_settings"),
        ({"lora": LoRA(rank=3)}, "lora"),
        ({"lora": None}, "lora"),
    ],
)
def test_a_run_of_other_settings_is_foreign(remembering, finished, changes, name):
    settings, run = finished
    with pytest.raises(CheckpointError, match=f"another configuration: {name} is"):
        runner.train(remembering(**(settings | changes)), resume=True, **run)


@pytest.fixture(scope="module")
def adapted(ragged_task, tiny_policy, measuring):
    """Training of adapters that begin with B other than 0, with a KL term."""
    model, params = tiny_policy()
    lora = LoRA(rank=2, targets=("q", "v", "down"))
    drawn = lora.init(jax.random.key(1), model.config)
    adapters = jax.tree.map(lambda x: x + 0.05, drawn)
    copies = leaves((params, adapters))
    agent = rlvr(
        ragged_task(),
        model,
        measuring(estimators.grpo().plus(regularisers.kl(0.1))),
        params=params,
        lora=lora,
        adapters=adapters,
        learning_rate=1e-2,
        **SMALL,
    )
    at = lambda tree: {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}
    state = agent.init(KEY)
    shared = at((state.params, state.frozen)) & at((params, adapters))
    result = runner.train(agent, key=KEY, num_updates=3, chunk_length=3)
    return model, lora, params, adapters, (copies, shared), result


def test_only_adapters_change(adapted):
    _, _, params, adapters, _, result = adapted
    assert_same(result.state.frozen.base, params)
    assert jax.tree.structure(result.state.params) == jax.tree.structure(adapters)
    pairs = zip(jax.tree.leaves(result.state.params), jax.tree.leaves(adapters), strict=True)
    assert all(np.any(after != before) for after, before in pairs)
    moments = optax.tree.get(result.state.optimiser, "mu")
    assert len(jax.tree.leaves(moments)) == len(jax.tree.leaves(adapters)) == 6
    assert_same(result.policy, result.state.params)


def test_the_reference_of_an_adapter_is_the_adapter_that_it_began_with(adapted):
    model, lora, params, adapters, _, result = adapted
    assert result.metrics["kl"][0] == 0.0 and (result.metrics["kl"][1:] > 0).all()
    assert_same(result.state.frozen.reference, adapters)
    # Not so the base: there the first KL would not be 0.
    tokens, mask = jnp.array([[1, 2, 3]]), jnp.ones((1, 3), bool)
    both = (params, lora.join(params, adapters))
    states = [jax.jit(model.hidden)(p, tokens, mask) for p in both]
    assert np.abs(states[0] - states[1]).max() > 1e-2


def test_the_sampler_uses_the_newest_adapter(adapted):
    *_, result = adapted
    assert (result.metrics["largest_log_ratio"] < 1e-5).all()


def test_what_the_caller_passed_in_is_still_there(adapted):
    _, _, params, adapters, (copies, shared), _ = adapted
    assert not shared
    for now, then in zip(leaves((params, adapters)), copies, strict=True):
        np.testing.assert_array_equal(now, then)


def test_parameters_and_a_reference_given_are_not_used_up(ragged_task, tiny_policy):
    model, params = tiny_policy()
    _, reference = tiny_policy(seed=1)
    copies = leaves((params, reference))
    agent = rlvr(
        ragged_task(),
        model,
        estimators.grpo().plus(regularisers.kl(0.1)),
        params=lambda key: params,
        reference=reference,
        **SMALL,
    )
    for _ in range(2):
        result = runner.train(agent, key=KEY, num_updates=1)
        assert result.metrics["kl"][0] > 0
        assert_same(result.state.frozen.reference, reference)
    for now, then in zip(leaves((params, reference)), copies, strict=True):
        np.testing.assert_array_equal(now, then)
