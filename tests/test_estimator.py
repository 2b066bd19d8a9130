import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rlax

from jaxpg import estimators
from jaxpg.estimator import Estimator, policy_gradient_loss
from jaxpg.parts import aggregates, references, regularisers, stabilisers
from jaxpg.types import DEMONSTRATION, Evaluation, trajectory

NAN = np.nan


def given(**parts) -> Estimator:
    """An estimator whose advantage is an extra."""
    return Estimator("given", advantage=lambda batch: batch.extra("a"), **parts)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(estimator, log_prob, batch):
    def loss(log_prob):
        value, metrics = estimator.loss(Evaluation(log_prob), batch)
        return value, metrics

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(log_prob)
    return value, gradient, metrics


def one_decision(ratio: float, advantage: float) -> tuple[np.ndarray, object]:
    log_prob = np.full((1, 1), -2.0, np.float32)
    a = np.full((1, 1), advantage, np.float32)
    return log_prob, trajectory(log_prob - np.log(ratio).astype(np.float32), a=a)


# Single decisions with the numbers that other toolkits got wrong


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [(1.5, 1, 0.0), (1.5, -1, -1.5), (0.5, -1, 0.0), (0.5, 1, 0.5)],
)
def test_slope_of_the_clipped_surrogate(ratio, advantage, slope):
    estimator = _CLIP
    _, gradient, metrics = loss_and_gradient(estimator, *one_decision(ratio, advantage))
    np.testing.assert_allclose(-gradient, [[slope]], rtol=1e-6, atol=1e-7)
    assert metrics["masked_share"] == (slope == 0)


@pytest.mark.parametrize(("ratio", "advantage", "slope"), [(5, -1, 0.0), (5, 1, 0.0), (2, -1, -2)])
def test_slope_of_the_dual_clip(ratio, advantage, slope):
    _, gradient, _ = loss_and_gradient(_DUAL_CLIP, *one_decision(ratio, advantage))
    np.testing.assert_allclose(-gradient, [[slope]], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate", "slope"),
    [(2, -1, -2, -1), (2, 1, 1.2, 0), (0.5, -1, -0.8, 0), (0.5, 1, 0.5, 1)],
)
def test_rlax_s_surrogate_has_the_same_slope(ratio, advantage, surrogate, slope):
    estimator = _CLIP_02
    _, gradient, _ = loss_and_gradient(estimator, *one_decision(ratio, advantage))
    value, oracle = jax.jit(jax.value_and_grad(rlax.clipped_surrogate_pg_loss))(
        np.full(1, ratio, np.float32), np.full(1, advantage, np.float32), 0.2
    )
    np.testing.assert_allclose(-value, surrogate, rtol=1e-6)
    np.testing.assert_allclose(-oracle, [slope], atol=1e-7)
    np.testing.assert_allclose(gradient[0], oracle * ratio, rtol=1e-6, atol=1e-7)


_SELECTED = given(stabiliser=stabilisers.selected("keep"), aggregate=aggregates.selected_mean)
_CLIP = given(stabiliser=stabilisers.clip(0.2, 0.28))
_CLIP_02 = given(stabiliser=stabilisers.clip(0.2))
_DUAL_CLIP = given(stabiliser=stabilisers.dual_clip(0.2, 0.28, bound=3.0))


def test_cispo_s_weight_is_cut_and_its_gradient_is_not():
    estimator = given(reference=references.truncated_behaviour(0.28))
    _, gradient, _ = loss_and_gradient(estimator, *one_decision(1.5, 1))
    np.testing.assert_allclose(gradient, [[-1.28]], rtol=1e-6)


def test_gspo_shares_the_sequence_ratio_among_its_decisions():
    log_ratio = np.array([[np.log(1.21), 0.0, 5.0]], np.float32)
    batch = trajectory(
        np.zeros((1, 3), np.float32) - 1,
        mask=np.array([[1, 1, 0]], np.float32),
        a=np.ones((1, 3), np.float32),
    )
    gspo = estimators.gspo(0.2, 0.28)
    estimator = dataclasses.replace(gspo, advantage=lambda batch: batch.extra("a"))
    value, gradient, _ = loss_and_gradient(estimator, log_ratio - 1, batch)
    np.testing.assert_allclose(value, -1.1, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.55, -0.55, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("padded", [NAN, -200.0, np.inf, 0.0])
def test_what_stands_on_padding_reaches_neither_loss_nor_gradient(padded):
    batch = trajectory(
        np.array([[0.0, padded]], np.float32),
        mask=np.array([[1, 0]], np.float32),
        a=np.ones((1, 2), np.float32),
    )
    value, gradient, _ = loss_and_gradient(_CLIP_02, np.zeros((1, 2), np.float32), batch)
    assert value == -1.0
    np.testing.assert_array_equal(gradient, [[-1.0, 0.0]])


@pytest.mark.parametrize("log_prob", [NAN, -np.inf, np.inf])
def test_a_decision_of_weight_zero_may_have_any_reference(log_prob):
    batch = trajectory(
        np.array([[0.0, log_prob]], np.float32),
        keep=np.array([[1, 0]], np.float32),
        a=np.ones((1, 2), np.float32),
    )
    value, gradient, _ = loss_and_gradient(_SELECTED, np.zeros((1, 2), np.float32), batch)
    assert value == -1.0
    np.testing.assert_array_equal(gradient, [[-1.0, 0.0]])


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        (aggregates.decision_mean, 0.5),
        (aggregates.sequence_mean, 0.0),
        (aggregates.fixed_length_mean(4), 0.25),
    ],
)
def test_three_normalisations_of_rows_of_length_one_and_three(aggregate, expected):
    zeros = np.zeros((2, 3), np.float32)
    batch = trajectory(
        zeros,
        mask=np.array([[1, 0, 0], [1, 1, 1]], np.float32),
        a=np.array([[1], [-1]], np.float32) * np.ones((1, 3), np.float32),
    )
    value, _, _ = loss_and_gradient(given(aggregate=aggregate), zeros, batch)
    np.testing.assert_allclose(value, expected, atol=1e-7)


def test_supervised_fine_tuning_is_optax_s_cross_entropy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 5)).astype(np.float32), rng.integers(0, 5, (2, 3))
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.float32)
    sft = estimators.sft()

    @jax.jit
    def gradients(logits):
        def ours(logits):
            log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)
            batch = trajectory(jnp.zeros((2, 3)), mask=mask)
            return policy_gradient_loss(sft, log_probs[..., 0], batch)

        def theirs(logits):
            entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.sum(entropy * mask) / mask.sum()

        return jax.grad(ours)(logits), jax.grad(theirs)(logits)

    np.testing.assert_allclose(*gradients(logits), atol=1e-7)


# Properties of every estimator of the catalogue, with a KL term and an entropy bonus


EVERY = {
    name: builder().plus(
        regularisers.kl(0.1), dataclasses.replace(regularisers.entropy(0.1), name="bonus")
    )
    for name, builder in estimators.CATALOGUE.items()
}


@jax.jit
def all_losses(log_prob, value, entropy, batch):
    def one(estimator):
        def loss(log_prob, value, entropy):
            evaluation = Evaluation(log_prob, value=value, entropy=entropy)
            return estimator.loss(evaluation, trajectory(**batch))

        arguments = (log_prob, value, entropy)
        (result, metrics), gradient = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arguments)
        return {"loss": result, "gradient": gradient, "metrics": metrics}

    return {name: one(estimator) for name, estimator in EVERY.items()}


def inputs(mask=None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    draw = lambda: rng.normal(size=(4, 3)).astype(np.float32)
    if mask is None:
        mask = [[1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 0, 0]]
    return {
        "log_prob": draw(),
        "value": draw(),
        "entropy": draw(),
        "batch": {
            "log_prob": draw(),
            "reward": draw(),
            "terminated": rng.random((4, 3)) < 0.4,
            "truncated": rng.random((4, 3)) < 0.2,
            "mask": np.array(mask, np.float32),
            "group_ids": np.array([2, 0, 2, 0]),
            "source": np.array([0, DEMONSTRATION, DEMONSTRATION, 0]),
            "value": draw(),
            "next_value": draw(),
            "start_value": rng.normal(size=4).astype(np.float32),
            "current_log_prob": draw(),
            "reference_log_prob": draw(),
        },
    }


def replace_floats(arguments, function):
    """Applies a function to every `[B, T]` float array but the mask."""
    mask = arguments["batch"]["mask"]

    def change(leaf):
        if leaf is mask or leaf.ndim != 2 or leaf.dtype != np.float32:
            return leaf
        return function(leaf).astype(np.float32)

    return jax.tree.map(change, arguments)


def assert_finite(results):
    for leaf in jax.tree.leaves(results):
        assert np.isfinite(leaf).all()


def test_absurd_numbers_on_padding_change_no_bit_of_any_estimator():
    arguments = inputs()
    real = arguments["batch"]["mask"] > 0
    poison = np.array([[NAN, np.inf, 1e30], [-np.inf, NAN, 100], [0, 0, 0], [0, NAN, -1e30]])
    clean = all_losses(**arguments)
    assert_finite(clean)
    poisoned = all_losses(**replace_floats(arguments, lambda x: np.where(real, x, poison)))
    jax.tree.map(np.testing.assert_array_equal, poisoned, clean)
    for gradient in jax.tree.leaves([result["gradient"] for result in clean.values()]):
        assert not np.asarray(gradient)[~real].any()


def test_a_batch_without_a_decision_has_loss_zero_and_gradient_zero():
    for leaf in jax.tree.leaves(all_losses(**inputs(np.zeros((4, 3))))):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_a_single_real_decision_is_finite():
    assert_finite(all_losses(**inputs([[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])))


def test_groups_of_one_and_equal_rewards_are_finite_and_push_nothing():
    arguments = inputs(np.ones((4, 3)))
    arguments["batch"]["group_ids"] = np.array([0, 1, 2, 2])
    arguments["batch"]["reward"][:] = 0.1
    results = all_losses(**arguments)
    assert_finite(results)
    relative = ["rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "cispo_masked"]
    for name in [*relative, "reinforce_whitened", "srft_offline", "luffy_offline"]:
        assert results[name]["metrics"]["policy_loss"] == 0.0


@pytest.mark.parametrize("log_ratio", [100.0, -100.0, 1e4])
def test_a_ratio_beyond_all_bounds_is_finite(log_ratio):
    arguments = inputs()
    for name in ("log_prob", "reference_log_prob"):
        arguments["batch"][name] = arguments["log_prob"] - np.float32(log_ratio)
    arguments["batch"]["current_log_prob"] = arguments["log_prob"]
    assert_finite(all_losses(**arguments))


def test_the_order_of_rows_and_the_names_of_groups_change_nothing():
    arguments = inputs()
    order = np.array([3, 1, 0, 2])
    permuted = jax.tree.map(lambda x: x[order], arguments)
    permuted["batch"]["group_ids"] = np.array([1, 1, 3, 3])
    expected, result = all_losses(**arguments), all_losses(**permuted)
    for name in EVERY:
        np.testing.assert_allclose(result[name]["loss"], expected[name]["loss"], rtol=1e-4)
        for one, other in zip(result[name]["gradient"], expected[name]["gradient"], strict=True):
            np.testing.assert_allclose(one, np.asarray(other)[order], rtol=1e-4, atol=1e-6)


def test_masking_a_row_equals_deleting_it():
    arguments = inputs()
    arguments["batch"]["mask"][1] = 0.0
    kept = np.array([0, 2, 3])
    shorter = jax.tree.map(lambda x: x[kept], arguments)
    expected, result = all_losses(**shorter), all_losses(**arguments)
    for name in EVERY:
        np.testing.assert_allclose(result[name]["loss"], expected[name]["loss"], rtol=1e-5)
        for one, other in zip(result[name]["gradient"], expected[name]["gradient"], strict=True):
            np.testing.assert_allclose(np.asarray(one)[kept], other, rtol=1e-5, atol=1e-7)


# Score, metrics, composition


def test_a_row_s_advantage_is_spread_over_its_real_decisions():
    rows = Estimator("rows", advantage=lambda batch: batch.total_reward)
    mask = np.array([[1, 1, 0], [0, 1, 1]], np.float32)
    scored = rows.score(trajectory(0 * mask, np.array([2.0, 3.0]), mask=mask))
    np.testing.assert_array_equal(scored.extra("advantage"), [[2, 2, 0], [0, 3, 3]])


def test_the_loss_scores_only_what_was_not_scored_yet():
    log_prob, batch = one_decision(1.0, 1.0)
    forced = batch.with_extras(advantage=np.full((1, 1), 7.0, np.float32))
    assert loss_and_gradient(_CLIP, log_prob, batch)[0] == -1.0
    assert loss_and_gradient(_CLIP, log_prob, forced)[0] == -7.0


def test_the_metrics_are_over_real_decisions():
    log_ratio = np.array([[0.5, -0.5, 9.0], [-0.1, 0.0, 0.3]], np.float32)
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.float32)
    batch = trajectory(0 * mask, mask=mask, a=np.ones((2, 3), np.float32))
    _, _, metrics = loss_and_gradient(_CLIP, log_ratio, batch)
    real = log_ratio[mask > 0]
    np.testing.assert_allclose(
        metrics["approximate_kl"], np.mean(np.exp(real) - 1 - real), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["masked_share"], 2 / 5, rtol=1e-6)


def test_on_the_first_pass_the_ratio_is_one_and_nothing_is_cut():
    rng = np.random.default_rng(0)
    log_prob = rng.normal(size=(2, 3)).astype(np.float32)
    batch = trajectory(log_prob, a=rng.normal(size=(2, 3)).astype(np.float32))
    value, gradient, metrics = loss_and_gradient(_CLIP, log_prob, batch)
    assert metrics["approximate_kl"] == metrics["masked_share"] == 0.0
    a = batch.extra("a")
    np.testing.assert_allclose(value, -a.mean(), rtol=1e-5)
    np.testing.assert_allclose(gradient, -a / 6, rtol=1e-6)


def test_two_regularisers_of_one_name_are_refused():
    estimator = estimators.ppo()
    with pytest.raises(ValueError, match="'negative_entropy' twice"):
        estimator.plus(regularisers.entropy(0.1))
    with pytest.raises(ValueError, match="'kl' twice"):
        estimators.grpo().plus(regularisers.kl(), regularisers.kl(estimator="k1"))


def test_an_estimator_knows_what_it_reads():
    assert not estimators.grpo().needs_critic
    assert estimators.grpo().plus(regularisers.kl()).required_extras == ("reference_log_prob",)
    assert estimators.a2c().required_extras == ("value", "next_value", "value_target")
    assert estimators.a2c().needs_critic
    assert estimators.sft().plus(regularisers.critic()).needs_critic


@pytest.mark.parametrize("name", ["ppo", "impala", "reinforce_with_baseline"])
def test_a_missing_extra_is_named(name):
    batch = trajectory(np.zeros((1, 2), np.float32))
    with pytest.raises(KeyError, match=r"no extra '(next_)?value|current_log_prob'; it has none"):
        estimators.CATALOGUE[name]().score(batch)


def test_log_probs_of_another_shape_are_refused():
    batch = trajectory(np.zeros((2, 3), np.float32))
    with pytest.raises(AssertionError, match=r"\(1, 3\).*\(2, 3\)"):
        policy_gradient_loss(estimators.sft(), np.zeros((1, 3), np.float32), batch)


def test_an_estimator_is_hashable_so_that_it_can_be_a_static_argument():
    estimator = estimators.grpo(clip=0.1)
    assert hash(estimator) == hash(estimator)
    assert estimator.settings == {"clip": 0.1, "ddof": 1, "epsilon": 1e-6}


def test_a_decision_that_is_not_selected_is_part_of_its_row_and_of_nothing_else():
    """GSPO's ratio sees the whole row; the loss and its mean see what was selected."""
    rng = np.random.default_rng(0)
    old, now = (rng.normal(-1.0, 0.05, (2, 3)).astype(np.float32) for _ in range(2))
    selected = np.array([[1, 0, 1], [1, 1, 0]], np.float32)
    batch = trajectory(jnp.asarray(old), jnp.array([1.0, 0.0]), group_ids=jnp.zeros(2, int))
    advantage = np.array([1.0, -1.0]) / np.sqrt(2)

    def loss(log_prob, batch):
        estimator = estimators.gspo(0.2, 0.2, epsilon=0.0)
        return estimator.loss(Evaluation(log_prob), batch)[0]

    ratio = np.exp((now - old).mean(axis=1))
    # Each selected decision carries the row's ratio, the mean of a row is over those selected.
    expected = -np.mean(ratio * advantage)
    value, gradient = jax.value_and_grad(loss)(
        jnp.asarray(now), batch.with_extras(selected=selected)
    )
    np.testing.assert_allclose(value, expected, atol=1e-6)
    wanted = np.repeat((-ratio * advantage / 6)[:, None], 3, axis=1)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5)
