"""Identities between estimators, and expectations by enumeration of small problems."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import estimators
from jaxpg.estimator import Estimator
from jaxpg.parts import aggregates, references, regularisers, stabilisers
from jaxpg.types import Evaluation, trajectory

RNG = np.random.default_rng(0)
MASK = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], np.float32)
OLD = np.log(RNG.uniform(0.2, 0.8, (4, 3))).astype(np.float32)
REWARD = np.array([1.0, 0.0, 0.3, 2.0], np.float32)
GROUP_IDS = np.array([0, 0, 1, 1])


@functools.partial(jax.jit, static_argnums=0)
def gradient(estimator, log_prob, old=OLD, mask=MASK):
    batch = trajectory(old, jnp.asarray(REWARD), mask=mask, group_ids=GROUP_IDS)
    return jax.grad(lambda log_prob: estimator.loss(Evaluation(log_prob), batch)[0])(log_prob)


# Reductions


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "cispo", "reinforce_whitened"])
def test_at_the_behaviour_policy_it_is_reinforce_with_its_own_advantage(name):
    estimator = estimators.CATALOGUE[name]()
    reinforce = dataclasses.replace(
        estimator, reference=references.detached, stabiliser=stabilisers.none
    )
    np.testing.assert_allclose(gradient(estimator, OLD), gradient(reinforce, OLD), rtol=1e-5)


def test_gspo_at_the_behaviour_policy_is_grpo():
    np.testing.assert_allclose(
        gradient(estimators.gspo(), OLD), gradient(estimators.grpo(), OLD), rtol=1e-5, atol=1e-7
    )


def test_gspo_on_rows_of_one_decision_is_grpo():
    first = np.array([[1, 0, 0]] * 4, np.float32)
    now = OLD + np.array([[0.5], [-0.5], [0.1], [-0.1]], np.float32)
    gspo, grpo = estimators.gspo(0.2, 0.2), estimators.grpo(0.2)
    ours = gradient(gspo, now, mask=first)
    np.testing.assert_allclose(ours, gradient(grpo, now, mask=first), rtol=1e-5)
    assert np.abs(ours).max() > 0.1


@pytest.mark.parametrize("name", ["cispo_masked", "dapo"])
def test_cispo_inside_the_bounds_is_the_clipped_surrogate(name):
    now = OLD + RNG.uniform(-0.15, 0.15, (4, 3)).astype(np.float32)
    np.testing.assert_allclose(
        gradient(estimators.cispo(), now), gradient(estimators.CATALOGUE[name](), now), rtol=1e-5
    )


def test_rloo_is_dr_grpo_times_length_and_n_over_n_minus_one():
    np.testing.assert_allclose(
        gradient(estimators.rloo(), OLD), gradient(estimators.dr_grpo(), OLD) * 3 * 2, rtol=1e-5
    )


def test_a_constant_length_is_a_scale():
    np.testing.assert_allclose(
        gradient(estimators.dr_grpo(length=12), OLD) * 4,
        gradient(estimators.dr_grpo(), OLD),
        rtol=1e-6,
    )


def test_dapo_with_equal_bounds_is_grpo_with_the_token_mean():
    now = OLD + RNG.normal(size=(4, 3)).astype(np.float32)
    token_mean = dataclasses.replace(estimators.grpo(), aggregate=aggregates.decision_mean)
    np.testing.assert_array_equal(
        gradient(estimators.dapo(0.2, 0.2), now), gradient(token_mean, now)
    )


# What carries a gradient


def test_only_the_likelihood_carries_a_gradient():
    def reference(log_likelihood, batch):
        return log_likelihood + batch.log_prob

    estimator = Estimator(
        "probe",
        advantage=lambda batch: batch.extra("a"),
        reference=reference,
        stabiliser=stabilisers.selected("w"),
    ).plus(regularisers.kl(1.0), regularisers.behaviour_kl(), regularisers.critic())

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(log_prob, probes):
        old, a, w, anchor, target = probes
        batch = trajectory(
            old, a=a, w=w, reference_log_prob=anchor, value_target=target, value=target
        )
        return estimator.loss(Evaluation(log_prob, value=log_prob), batch)[0]

    own, stopped = gradients(OLD, tuple(RNG.normal(size=(5, 4, 3)).astype(np.float32)))
    assert np.abs(own).min() > 0
    for leaf in stopped:
        np.testing.assert_array_equal(leaf, np.zeros((4, 3)))


def test_the_advantage_s_critic_gets_no_policy_gradient():
    estimator = dataclasses.replace(estimators.ppo(entropy=0.0), regularisers=())

    @jax.jit
    @jax.grad
    def leak(value):
        no = jnp.zeros((4, 3), bool)
        batch = trajectory(
            OLD, jnp.asarray(REWARD), terminated=no, mask=MASK, value=value, next_value=value
        )
        return estimator.loss(Evaluation(OLD), batch)[0]

    np.testing.assert_array_equal(leak(OLD), np.zeros((4, 3)))


# Expectations over a softmax of three arms


LOGITS = np.array([0.2, -0.4, 0.5], np.float32)
POLICY = np.exp(LOGITS) / np.exp(LOGITS).sum()
ARM_REWARD = np.array([1.0, -0.5, 2.0], np.float32)
EXACT = POLICY * (ARM_REWARD - POLICY @ ARM_REWARD)


@pytest.mark.parametrize("mu", [0.0, 0.7])
@pytest.mark.parametrize("reference", ["policy", "demonstrator", "uniform"])
def test_the_common_objective_has_one_gradient_under_every_reference_policy(reference, mu):
    demonstrator = np.array([0.1, 0.3, 0.6])
    sampler = {
        "policy": POLICY,
        "demonstrator": demonstrator,
        "uniform": np.full(3, 1 / 3),
    }[reference]

    def objective(logits):
        policy = np.exp(logits) / np.exp(logits).sum()
        divergence = np.sum(demonstrator * np.log(demonstrator / policy))
        return policy @ ARM_REWARD - mu * divergence

    wide, h = LOGITS.astype(float), 1e-6
    exact = [(objective(wide + h * e) - objective(wide - h * e)) / (2 * h) for e in np.eye(3)]
    # One row for each arm, weighted by how often the reference policy draws it.
    estimator = Estimator(
        "common",
        advantage=lambda batch: batch.extra("unified"),
        stabiliser=stabilisers.selected("frequency"),
        aggregate=aggregates.row_sum_mean,
    )
    column = lambda x: np.asarray(x, np.float32)[:, None]
    batch = trajectory(
        column(np.log(sampler)),
        unified=column(ARM_REWARD + mu * demonstrator / POLICY),
        frequency=column(3 * sampler),
    )

    @jax.jit
    @jax.grad
    def loss(logits):
        return estimator.loss(Evaluation(jax.nn.log_softmax(logits)[:, None]), batch)[0]

    np.testing.assert_allclose(-loss(LOGITS), exact, atol=1e-6)


@functools.partial(jax.jit, static_argnums=0)
def expected_gradient(estimator, behaviour):
    """Minus the loss's gradient, averaged over all pairs of arms that the behaviour draws."""
    pairs = np.array(list(itertools.product(range(3), repeat=2)))

    def loss(logits, pair):
        batch = trajectory(
            jnp.log(behaviour)[pair][:, None],
            jnp.asarray(ARM_REWARD)[pair],
            group_ids=jnp.zeros(2, int),
        )
        log_prob = jax.nn.log_softmax(logits)[pair][:, None]
        return estimator.loss(Evaluation(log_prob), batch)[0]

    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0))(jnp.asarray(LOGITS), pairs)
    return -(behaviour[pairs].prod(-1) @ gradients)


STALE = np.array([0.5, 0.3, 0.2], np.float32)


def test_reinforce_is_unbiased():
    estimator = estimators.reinforce(discount=1.0)
    np.testing.assert_allclose(expected_gradient(estimator, POLICY), EXACT, atol=1e-6)


def test_leave_one_out_is_unbiased_and_centring_shrinks_by_one_over_n():
    np.testing.assert_allclose(expected_gradient(estimators.rloo(), POLICY), EXACT, atol=1e-6)
    np.testing.assert_allclose(
        expected_gradient(estimators.dr_grpo(), POLICY), EXACT / 2, atol=1e-6
    )


def test_dividing_by_the_standard_deviation_biases_the_direction():
    biased = np.asarray(expected_gradient(estimators.grpo(), POLICY))
    cosine = biased @ EXACT / np.linalg.norm(biased) / np.linalg.norm(EXACT)
    assert 0.5 < cosine < 0.999


def test_off_policy_the_ratio_repairs_the_expectation_and_the_clip_biases_it():
    leave_one_out = estimators.rloo()
    weighted = dataclasses.replace(leave_one_out, reference=references.behaviour)
    clipped = dataclasses.replace(weighted, stabiliser=stabilisers.clip(0.2))

    # Under the stale policy the other arm is a baseline that the current policy does not move.
    np.testing.assert_allclose(expected_gradient(weighted, STALE), EXACT, atol=1e-6)
    for biased in (leave_one_out, clipped):
        assert np.abs(expected_gradient(biased, STALE) - EXACT).max() > 0.02


def test_where_the_clip_does_not_bind_it_changes_no_expectation():
    near = (0.9 * POLICY + 0.1 * STALE).astype(np.float32)
    weighted = dataclasses.replace(estimators.rloo(), reference=references.behaviour)
    clipped = dataclasses.replace(weighted, stabiliser=stabilisers.clip(0.2))
    np.testing.assert_allclose(expected_gradient(clipped, near), EXACT, atol=1e-6)
