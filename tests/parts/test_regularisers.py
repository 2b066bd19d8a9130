import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpg import estimators
from jaxpg.parts import aggregates, regularisers
from jaxpg.types import Evaluation, trajectory

NAN = np.nan
MASK = np.array([[1, 1, 0, 0, 0, 0]], np.float32)
ZEROS = np.zeros((1, 6), np.float32)


def loss_and_metrics(estimator, evaluation, batch):
    return jax.jit(estimator.loss)(evaluation, batch)


def test_the_entropy_of_padding_is_in_no_number():
    entropy = np.array([[np.log(4), np.log(4), NAN, 1e30, -1.0, 5.0]], np.float32)
    estimator = estimators.sft().plus(regularisers.entropy(0.5))
    loss, metrics = loss_and_metrics(
        estimator, Evaluation(ZEROS, entropy=entropy), trajectory(ZEROS, mask=MASK)
    )
    np.testing.assert_allclose(metrics["entropy"], 1.386294, rtol=1e-6)
    np.testing.assert_allclose(metrics["negative_entropy"], -1.386294, rtol=1e-6)
    np.testing.assert_allclose(loss - metrics["policy_loss"], -0.5 * np.log(4), rtol=1e-6)


def test_the_entropy_bonus_raises_the_entropy():
    estimator = estimators.sft().plus(regularisers.entropy(1.0))

    @jax.jit
    @jax.grad
    def gradient(logits):
        log_probs = jax.nn.log_softmax(logits)
        entropy = jnp.full((1, 6), -jnp.sum(jnp.exp(log_probs) * log_probs))
        return estimator.loss(Evaluation(ZEROS, entropy=entropy), trajectory(ZEROS, mask=MASK))[0]

    logits = np.log(np.array([0.8, 0.15, 0.05], np.float32))
    after = logits - 0.1 * np.asarray(gradient(logits))
    before, after = (np.exp(x) / np.exp(x).sum() for x in (logits, after))
    assert stats.entropy(after) > stats.entropy(before) + 1e-3


@pytest.mark.parametrize("coefficient", [0.3, "beta"])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_the_kl_coefficient_enters_exactly_once_and_may_be_adaptive(coefficient, shape):
    log_prob = np.array([[-1.0, -2.0], [-0.5, NAN]], np.float32)
    batch = trajectory(
        np.zeros((2, 2), np.float32),
        np.ones(2, np.float32),
        mask=np.array([[1, 1], [1, 0]], np.float32),
        reference_log_prob=np.array([[-1.5, -1.0], [-0.5, 7.0]], np.float32),
        beta=np.full(shape, 0.3, np.float32),
    )
    estimator = estimators.grpo().plus(regularisers.kl(coefficient, estimator="k3"))
    loss, metrics = loss_and_metrics(estimator, Evaluation(log_prob), batch)
    difference = np.array([-0.5, 1.0])
    k3 = np.exp(difference) - 1 - difference
    expected = (k3.mean() + 0.0) / 2  # the mean of two rows, the second of which agrees
    np.testing.assert_allclose(metrics["kl"], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, metrics["policy_loss"] + 0.3 * expected, rtol=1e-5)


def test_a_regulariser_follows_the_estimator_s_aggregation_unless_it_has_its_own():
    mask = np.array([[1, 0, 0], [1, 1, 1]], np.float32)
    entropy = np.array([[1.0, NAN, NAN], [3.0, 3.0, 3.0]], np.float32)
    batch = trajectory(np.zeros((2, 3), np.float32), np.ones(2, np.float32), mask=mask)
    evaluation = Evaluation(np.zeros((2, 3), np.float32), entropy=entropy)
    part = regularisers.entropy(1.0)
    own = regularisers.Regulariser(
        "own", part.coefficient, part.term, aggregate=aggregates.decision_mean
    )
    _, metrics = loss_and_metrics(estimators.grpo().plus(part, own), evaluation, batch)
    np.testing.assert_allclose(metrics["negative_entropy"], -2.0)
    np.testing.assert_allclose(metrics["own"], -2.5)


def test_the_behaviour_penalty_has_the_exact_expected_gradient():
    behaviour = np.array([0.5, 0.3, 0.2])
    logits = np.array([0.3, -1.0, 0.4], np.float32)
    batch = trajectory(np.log(behaviour).astype(np.float32)[None])
    part = regularisers.behaviour_kl()

    @jax.jit
    @jax.value_and_grad
    def expectation(logits):
        term = part.term(Evaluation(jax.nn.log_softmax(logits)[None]), batch)
        return jnp.sum(behaviour * term[0])

    def divergence(logits):
        return stats.entropy(behaviour, np.exp(logits) / np.exp(logits).sum())

    value, gradient = expectation(logits)
    wide, h = logits.astype(float), 1e-5
    exact = [(divergence(wide + h * e) - divergence(wide - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(value, divergence(wide), rtol=1e-5)
    np.testing.assert_allclose(gradient, exact, atol=1e-6)


@pytest.mark.parametrize(("clip", "twice_the_loss", "slope"), [(None, 1.0, -1.0), (0.2, 3.24, 0.0)])
def test_the_critic_s_loss_ignores_padding(clip, twice_the_loss, slope):
    batch = trajectory(
        ZEROS[:, :2],
        mask=MASK[:, 1:3],
        value_target=np.array([[2.0, NAN]], np.float32),
        value=np.array([[0.0, NAN]], np.float32),
    )
    estimator = estimators.sft().plus(regularisers.critic(1.0, clip=clip))

    def loss(value):
        return estimator.loss(Evaluation(ZEROS[:, :2], value=value), batch)

    value = np.array([[1.0, NAN]], np.float32)
    (_, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(value)
    np.testing.assert_allclose(2 * metrics["value_loss"], twice_the_loss, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[slope, 0.0]], rtol=1e-6)


def test_an_unknown_kl_estimator_is_refused():
    with pytest.raises(ValueError, match=r"estimator is 'k4', but .* \['k1', 'k2', 'k3'\]"):
        regularisers.kl(estimator="k4")


@pytest.mark.parametrize(
    ("part", "field"),
    [(regularisers.entropy(), "entropy"), (regularisers.critic(), "value")],
)
def test_what_the_policy_does_not_return_is_named(part, field):
    batch = trajectory(ZEROS, value_target=ZEROS, value=ZEROS)
    with pytest.raises(ValueError, match=f"evaluation.{field} is None, but a regulariser reads it"):
        estimators.sft().plus(part).loss(Evaluation(ZEROS), batch)
