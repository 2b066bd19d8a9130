"""Rows that `select` drops: left out of the passes through the model, and of nothing else."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import estimators, methods, parallel
from jaxpg.algorithms import learner
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.networks.token_mlp import TokenMLPConfig, token_mlp
from jaxpg.parts import aggregates, regularisers
from jaxpg.types import SELECTED, Evaluation, trajectory
from jaxpg_envs.tokens import digit_sum

KEY = jax.random.key(0)
WEIGHTS = jnp.array([0.5, -0.3, 0.2])
SGD = optax.sgd(0.1)
needs_four = pytest.mark.skipif(jax.device_count() < 4, reason="four host devices")

AGGREGATES = {
    "decision_mean": aggregates.decision_mean,
    "sequence_mean": aggregates.sequence_mean,
    "row_sum_mean": aggregates.row_sum_mean,
    "fixed_length_mean": aggregates.fixed_length_mean(7),
    "fixed_length_sum": aggregates.fixed_length_sum(7),
    "padded_length_mean": aggregates.padded_length_mean,
    "selected_mean": aggregates.selected_mean,
}
BASES = {
    name: dataclasses.replace(estimators.dapo(), aggregate=a) for name, a in AGGREGATES.items()
}
LOSSES = BASES | {
    "grpo with an entropy bonus": estimators.grpo().plus(regularisers.entropy(0.1)),
    "gspo": estimators.gspo(0.2, 0.28),
}


def batch(real, seed=0, num_tokens=3):
    """Rows of ragged lengths in groups of two; those that are not `real` were dropped."""
    numbers = np.random.default_rng(seed)
    num_rows = len(real)
    mask = np.arange(num_tokens) < numbers.integers(1, num_tokens + 1, num_rows)[:, None]
    some = numbers.random(mask.shape) < 0.7
    draw = lambda *shape: jnp.asarray(numbers.normal(0.0, 1.0, shape), jnp.float32)
    return trajectory(
        draw(*mask.shape) - 1.0,
        mask=jnp.asarray(mask & np.asarray(real)[:, None], jnp.float32),
        group_ids=jnp.arange(num_rows) // 2,
        features=draw(*mask.shape, 3),
        advantage=draw(*mask.shape),
        **{SELECTED: jnp.asarray(some, jnp.float32)},
    )


def policy(weights, rows):
    log_prob = rows.extras["features"] @ weights - 1.0
    return Evaluation(log_prob, entropy=jnp.square(log_prob))


def learning(estimator, evaluate=policy, passes=None):
    """`(rows, drops) -> what an update makes of the weights, and its metrics`."""
    passes = passes or learner.Passes(1, 1, whole_rows=True)
    seams = types.SimpleNamespace(
        loss=lambda weights, rows, state: estimator.loss(evaluate(weights, rows), rows)
    )

    def learn(rows, drops=True, weights=WEIGHTS):
        one = dataclasses.replace(passes, drops_rows=drops)
        return learner.learn(seams, SGD, one, KEY, weights, SGD.init(weights), rows, ())[::2]

    return jax.jit(learn, static_argnums=1)


def assert_alike(found, expected):
    (weights, metrics), (plain, measured) = found, expected
    np.testing.assert_allclose(weights, plain, atol=1e-6)
    assert metrics.keys() == measured.keys()
    for name, value in measured.items():
        np.testing.assert_allclose(metrics[name], value, atol=1e-5, err_msg=name)


def some(number, num_rows=6):
    return np.random.default_rng(number).permutation(num_rows) < number


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_one_with_all_rows_in_it(name):
    learn = learning(LOSSES[name])
    for number in range(7):
        rows = batch(some(number), number)
        found, expected = learn(rows), learn(rows, False)
        assert_alike(found, expected)
        assert 0 < number < 4 or np.any(found[0] != WEIGHTS) == (number > 0)


def test_minibatches_with_different_numbers_of_rows_learn_alike():
    passes = learner.Passes(2, 3, whole_rows=True)
    learn = learning(BASES["decision_mean"], passes=passes)
    for number in (0, 1, 5, 11, 12):
        rows = batch(some(number, 12), number)
        assert_alike(learn(rows), learn(rows, False))


@needs_four
@pytest.mark.parametrize("name", ["decision_mean", "sequence_mean", "fixed_length_sum"])
def test_four_devices_with_different_numbers_of_rows_are_one(name):
    alone = learning(BASES[name])
    together = jax.pmap(learning(BASES[name]), axis_name=parallel.AXIS)
    for per_device in ((0, 4, 1, 2), (4, 4, 4, 4), (0, 0, 1, 0), (0, 0, 0, 0)):
        real = np.concatenate([some(number, 4) for number in per_device])
        rows = batch(real, sum(per_device))
        shares = jax.tree.map(lambda x: x.reshape((4, 4, *x.shape[1:])), rows)
        weights, metrics = together(shares)
        for device in range(4):
            of_one = (weights[device], jax.tree.map(lambda x, d=device: x[d], metrics))
            assert_alike(of_one, alone(rows, False))


@pytest.fixture
def seen():
    """Sizes of the batches that went through the policy, and that policy."""
    sizes = []

    def evaluate(weights, rows):
        jax.debug.callback(lambda _: sizes.append(rows.num_rows), jnp.sum(weights))
        return policy(weights, rows)

    return sizes, evaluate


def test_only_the_smallest_size_that_holds_the_rows_is_run(seen):
    sizes, evaluate = seen
    learn, traces = learning(BASES["decision_mean"], evaluate), []
    counted = jax.jit(lambda rows: (traces.append(1), learn(rows))[1])
    for number, size in zip(range(11), (3, 3, 3, 3, 5, 5, 8, 8, 8, 10, 10), strict=True):
        jax.block_until_ready(counted(batch(some(number, 10))))
        jax.effects_barrier()
        assert sizes == [size], number
        sizes.clear()
    assert len(traces) == 1


def test_seeds_of_one_program_take_the_size_that_the_largest_needs(seen):
    sizes, evaluate = seen
    estimator = BASES["decision_mean"]
    alone, learn = learning(estimator), learning(estimator, evaluate)
    numbers = (1, 4, 2)
    seeds = [batch(some(number, 10), number) for number in numbers]
    weights = WEIGHTS + jnp.arange(3.0)[:, None]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    found = jax.jit(jax.vmap(lambda rows, w: learn(rows, True, w)))(stacked, weights)
    jax.effects_barrier()
    # A switch on an index with an axis of seeds would have run every size.
    assert set(sizes) == {5}
    for seed, rows in enumerate(seeds):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], found)
        assert_alike(one, alone(rows, False, weights[seed]))


@pytest.fixture(scope="module")
def agent():
    """D3S on eight prompts of two responses: 4 rows in the first update and 16 in the last."""
    model = token_mlp(TokenMLPConfig(2, 4, hidden=(8,)))
    return rlvr(
        digit_sum(2, 2, 2), model, methods.d3s(3), num_prompts=8, group_size=2, learning_rate=0.1
    )


def test_the_program_of_an_update_holds_gradients_of_four_sizes(agent):
    text = str(jax.make_jaxpr(agent.update)(jax.eval_shape(agent.init, KEY)))
    # Hidden states of the rows: 4, 8, 12 or 16 of two tokens.
    for size in (4, 8, 12, 16):
        assert f"f32[{size},2,8]" in text
    whole = methods.d3s(3, rows=(1.0, 1.0))
    same = rlvr(
        digit_sum(2, 2, 2),
        token_mlp(TokenMLPConfig(2, 4, hidden=(8,))),
        whole,
        num_prompts=8,
        group_size=2,
    )
    text = str(jax.make_jaxpr(same.update)(jax.eval_shape(same.init, KEY)))
    assert "f32[12,2,8]" not in text


def test_nothing_is_compiled_again_when_the_number_of_rows_changes(agent):
    update, state = jax.jit(agent.update), jax.jit(agent.init)(KEY)
    shares = []
    for _ in range(4):
        state, metrics = update(state)
        shares.append(float(metrics["rows_share"]))
    assert shares == [0.25, 0.5, 0.75, 1.0] and update._cache_size() == 1
