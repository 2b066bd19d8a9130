"""HPT: the gate, what stands in the batch, and which gradient each half has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import estimators, methods, runner
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.estimator import Estimator
from jaxpg.method import Method
from jaxpg.methods.hpt import demonstrate, num_correct
from jaxpg.networks.decoder import transformer
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg.parts import advantages, aggregates, references, stabilisers
from jaxpg.types import DEMONSTRATION, Evaluation, trajectory
from jaxpg_envs.tokens import digit_sum

KEY = jax.random.key(0)
SIZES = {"num_prompts": 4, "group_size": 3, "optimiser": optax.sgd(1.0)}
TASK = digit_sum(2, 4, 2)
MODEL = transformer(TransformerConfig(4, 1, width=16, num_heads=2, mlp_width=24, max_positions=4))


def rollouts(seed=0, group_size=3, num_groups=4):
    numbers = np.random.default_rng(seed)
    num_rows = group_size * num_groups
    mask = np.arange(4) < numbers.integers(0, 5, num_rows)[:, None]
    rows = trajectory(
        jnp.asarray(numbers.normal(-1.0, 0.3, (num_rows, 4)), jnp.float32),
        jnp.asarray(numbers.integers(0, 2, num_rows), jnp.float32),
        action=jnp.asarray(numbers.integers(0, 9, (num_rows, 4))),
        mask=jnp.asarray(mask, jnp.float32),
        group_ids=jnp.arange(num_rows) // group_size,
    )
    return rows, jnp.asarray(numbers.normal(-1.0, 0.3, (num_rows, 4)), jnp.float32)


def demonstrations(num_groups=4):
    return trajectory(
        jnp.zeros((num_groups, 4)),
        action=jnp.full((num_groups, 4), 7),
        mask=jnp.asarray(np.arange(4) < [[3], [4], [2], [3]], jnp.float32),
        source=jnp.full(num_groups, DEMONSTRATION),
    )


@pytest.mark.parametrize(("gate", "learns"), [(0, "srrr"), (2, "sssr"), (-1, "rrrr"), (8, "ssss")])
def test_the_gate_is_a_count_and_strict(gate, learns):
    weight = stabilisers.gate_weight(jnp.arange(4), gate)
    assert "".join("sr"[int(w)] for w in weight) == learns


def test_only_real_rows_are_counted_as_correct():
    rows, _ = rollouts()
    reward = np.asarray(rows.total_reward).reshape(4, 3)
    real = np.asarray(rows.mask).any(axis=1).reshape(4, 3)
    assert not real.all()
    expected = ((reward >= 1.0) & real).sum(axis=1)
    np.testing.assert_array_equal(num_correct(rows, 3, 1.0), expected)
    np.testing.assert_array_equal(num_correct(rows, 3, 0.0), real.sum(axis=1))


def test_one_demonstration_enters_where_the_rollouts_of_a_prompt_leave():
    rows, _ = rollouts()
    unsolved = np.array([True, False, False, True])
    mixed = jax.jit(demonstrate)(rows, demonstrations(), unsolved)
    for group in range(4):
        here = slice(3 * group, 3 * group + 3)
        if not unsolved[group]:
            for new, old in zip(jax.tree.leaves(mixed), jax.tree.leaves(rows), strict=True):
                np.testing.assert_array_equal(new[here], old[here])
            continue
        np.testing.assert_array_equal(mixed.action[here][0], 7)
        np.testing.assert_array_equal(mixed.mask[here][0], demonstrations().mask[group])
        assert not np.asarray(mixed.mask[here][1:]).any()
        assert mixed.source[here][0] == DEMONSTRATION
    np.testing.assert_array_equal(mixed.group_ids, rows.group_ids)


def gradient(estimator, rows, now, entropy=None):
    def loss(log_prob):
        return estimator.loss(Evaluation(log_prob, entropy=entropy), rows)[0]

    return np.asarray(jax.jit(jax.grad(loss))(now))


def mixed_at(gate):
    rows, now = rollouts(3)
    unsolved = stabilisers.gate_weight(num_correct(rows, 3, 1.0), gate) == 0
    return rows, demonstrate(rows, demonstrations(), unsolved), np.asarray(unsolved), now


BARE = estimators.hpt(entropy_coefficient=0.0)


def with_entropy(estimator):
    return lambda rows, now: gradient(estimator, rows, now, jnp.zeros_like(now))


def unclipped_dr_grpo():
    return Estimator(
        name="unclipped",
        advantage=lambda t: advantages.group_mean_only(
            t.total_reward, t.group_ids, t.num_rows, valid=jnp.any(t.mask > 0, axis=-1)
        ),
        reference=references.behaviour,
        aggregate=aggregates.padded_length_sum,
    )


def test_at_gate_0_the_switch_takes_no_gradient_from_rollouts():
    rows, mixed, unsolved, now = mixed_at(0)
    assert unsolved.any() and not unsolved.all()
    plain = gradient(unclipped_dr_grpo(), rows, now)
    switched = with_entropy(BARE)(mixed, now)
    kept = ~np.repeat(unsolved, 3)
    np.testing.assert_allclose(switched[kept], plain[kept], atol=1e-7)
    assert np.abs(plain[kept]).max() > 0.01 and not plain[~kept].any()
    # And those that were switched learn from the demonstrations' tokens, all alike.
    shown = np.asarray(demonstrations().mask)[unsolved]
    expected = np.zeros((unsolved.sum(), 3, 4))
    expected[:, 0] = -shown / shown.sum()
    np.testing.assert_allclose(switched[~kept].reshape(-1, 3, 4), expected, atol=1e-7)


def test_a_gate_of_all_rollouts_is_fine_tuning_and_one_below_none_is_reinforcement():
    _, mixed, unsolved, now = mixed_at(3)
    assert unsolved.all()
    everything = gradient(estimators.sft(), mixed, now)
    np.testing.assert_allclose(with_entropy(BARE)(mixed, now), everything, atol=1e-7)
    rows, mixed, unsolved, now = mixed_at(-1)
    assert not unsolved.any()
    expected = gradient(unclipped_dr_grpo(), rows, now)
    np.testing.assert_allclose(with_entropy(BARE)(mixed, now), expected, atol=1e-7)
    # On policy, where the clip is idle, that is Dr. GRPO's, summed over rows where it averages.
    averaged = gradient(estimators.dr_grpo(), rows, rows.log_prob)
    summed = gradient(unclipped_dr_grpo(), rows, rows.log_prob)
    num_rows = np.asarray(rows.mask).any(axis=1).sum()
    np.testing.assert_allclose(summed, num_rows * averaged, atol=1e-6)


def test_the_demonstration_is_not_in_the_mean_of_a_group():
    rows, _ = rollouts(3)
    first = rows.replace(
        source=jnp.zeros(12, int).at[0].set(DEMONSTRATION), mask=jnp.ones_like(rows.mask)
    )
    scored = np.asarray(estimators.hpt().score(first).extras["advantage"])[:3, 0]
    reward = np.asarray(first.total_reward)[:3]
    np.testing.assert_allclose(scored[1:], reward[1:] - reward[1:].mean(), atol=1e-6)
    assert scored[0] == 0


@pytest.mark.parametrize("source", [0, DEMONSTRATION])
def test_an_empty_half_or_batch_is_exactly_nothing(source):
    rows, now = rollouts()
    one_kind = rows.replace(source=jnp.full(12, source))
    loss, metrics = BARE.loss(Evaluation(now, entropy=jnp.zeros_like(now)), one_kind)
    absent = "imitation" if source == 0 else "policy_loss"
    assert metrics[absent] == 0 and np.isfinite(loss)
    empty = one_kind.replace(mask=jnp.zeros_like(rows.mask))
    assert BARE.loss(Evaluation(now, entropy=jnp.zeros_like(now)), empty)[0] == 0
    assert not with_entropy(BARE)(empty, now).any()


@pytest.mark.parametrize("which", ["policy", "demonstrator", "uniform"])
def test_the_common_objective_has_one_gradient_under_any_reference(which):
    """Enumeration over arms: samples of three policies estimate the gradient of one objective."""
    numbers = np.random.default_rng(0)
    logits, shown = numbers.normal(size=(2, 5))
    reward, mu = numbers.normal(size=5), 0.7
    softmax = lambda z: np.exp(z - np.log(np.exp(z).sum()))
    policy, demonstrator = softmax(logits), softmax(shown)
    acted = {"policy": policy, "demonstrator": demonstrator, "uniform": np.full(5, 0.2)}[which]

    def objective(z):
        pi = softmax(z)
        return pi @ reward - mu * (demonstrator * np.log(demonstrator / pi)).sum()

    step = 1e-6 * np.eye(5)
    expected = [(objective(logits + s) - objective(logits - s)) / 2e-6 for s in step]
    with jax.enable_x64(True):
        arms = trajectory(
            jnp.log(jnp.asarray(acted))[:, None], action=jnp.arange(5)[:, None]
        ).with_extras(
            advantage=advantages.unified(
                *map(jnp.asarray, (reward, np.log(policy), np.log(demonstrator))), mu
            )[:, None]
        )
        plain = Estimator("unified", advantage=lambda t: None, aggregate=aggregates.row_sum_mean)

        def loss(z):
            log_prob = jax.nn.log_softmax(z)[:, None]
            # Every arm once: weighted by how often it is drawn.
            weighted = dataclasses.replace(
                plain, stabiliser=lambda *_: 5 * jnp.asarray(acted)[:, None]
            )
            return -weighted.loss(Evaluation(log_prob), arms)[0]

        found = jax.grad(loss)(jnp.asarray(logits))
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_it_overrides_one_seam(overridden):
    assert overridden(methods.hpt()) == {"collect"}


@pytest.fixture(scope="module")
def collected():
    """One update's batch, at gate 0."""
    hpt = methods.hpt(0)

    def override(seams):
        changed = hpt.override(seams)
        return changed._replace(after=lambda params, rows, metrics, state: (rows, {}))

    agent = rlvr(TASK, MODEL, Method("spy", hpt.estimator, override, keeps_groups=True), **SIZES)
    state, metrics = jax.jit(lambda key: agent.update(agent.init(key)))(KEY)
    return state.method, metrics


def test_prompts_without_a_correct_rollout_are_shown_and_the_others_are_not(collected):
    rows, metrics = collected
    first = np.asarray(rows.source).reshape(4, 3)[:, 0]
    shown = first == DEMONSTRATION
    assert 0 < shown.sum() < 4
    np.testing.assert_allclose(metrics["demonstrated_share"], shown.mean())
    rewards = np.asarray(rows.total_reward).reshape(4, 3)
    assert (rewards[~shown].max(axis=1) == 1).all()
    # A demonstration answers its own group's prompt.
    ids = np.asarray(rows.extras["prompt_ids"]).reshape(4, 3)
    assert (ids == ids[:, :1]).all()
    real = np.asarray(rows.mask).any(axis=1).reshape(4, 3)
    np.testing.assert_array_equal(real[shown], [[True, False, False]] * shown.sum())
    # The metric of collection is that of the rollouts; those replaced were all wrong.
    assert metrics["reward"] == pytest.approx(rewards[~shown].sum() / 12)


def test_four_devices_equal_one():
    agent = rlvr(TASK, MODEL, methods.hpt(1), **SIZES)
    run = {"key": KEY, "num_updates": 2, "chunk_length": 2}
    one, four = (runner.train(agent, num_devices=n, **run) for n in (1, 4))
    assert 0 < one.metrics["demonstrated_share"][0] < 1
    for metric, values in one.metrics.items():
        np.testing.assert_allclose(four.metrics[metric], values, atol=1e-5, err_msg=metric)
    for a, b in zip(
        jax.tree.leaves(one.state.params), jax.tree.leaves(four.state.params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_bad_settings_are_one_sentence():
    with pytest.raises(ValueError, match="gate is -2, but it has to be at least -1"):
        methods.hpt(-2)
    with pytest.raises(ValueError, match="gate is 0.25, but it is a number of correct rollouts"):
        methods.hpt(0.25)
    task = dataclasses.replace(TASK, demonstrations=None)
    agent = rlvr(task, MODEL, methods.hpt(), **SIZES)
    with pytest.raises(ValueError, match="learns from demonstrations, but task 'digit_sum' has"):
        jax.eval_shape(lambda key: agent.update(agent.init(key)), KEY)
    with pytest.raises(ValueError, match="group_size is 1, but method 'hpt' compares"):
        rlvr(TASK, MODEL, methods.hpt(), num_prompts=4, group_size=1)
