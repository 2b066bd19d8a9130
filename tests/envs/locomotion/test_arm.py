"""The planar arm against its kinematics, link by link, and against QDax's task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.locomotion import planar_arm, score_arm


def hand_of(genes):
    """Where the hand is in float64, adding one link after another."""
    angle, hand = 0.0, np.zeros(2)
    for gene in genes:
        angle += 2 * np.pi * gene - np.pi
        hand = hand + np.array([np.cos(angle), np.sin(angle)])
    return hand / (2 * len(genes)) + 0.5


@pytest.mark.parametrize("num_links", [1, 3, 8])
def test_the_hand_is_where_the_links_lead_and_fitness_is_the_evenness(num_links):
    genes = np.random.default_rng(num_links).random((20, num_links)).astype(np.float32)
    fitness, hand = planar_arm(genes)
    np.testing.assert_allclose(hand, [hand_of(row) for row in genes], atol=1e-6)
    mean = genes.mean(-1, keepdims=True)
    np.testing.assert_allclose(fitness, -np.sqrt(((genes - mean) ** 2).mean(-1)), atol=1e-6)


def test_an_arm_of_equal_genes_has_fitness_0_and_a_straight_arm_reaches_the_rim():
    fitness, hand = planar_arm(jnp.full((2, 5), 0.5))
    assert fitness.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(hand, [[1.0, 0.5]] * 2, atol=1e-6)


def test_genes_outside_their_bounds_count_as_the_bound():
    genes = jnp.array([-0.3, 0.2, 1.7])
    for given, clipped in zip(planar_arm(genes), planar_arm(jnp.clip(genes, 0, 1)), strict=True):
        np.testing.assert_array_equal(given, clipped)


def test_leading_axes_are_free():
    genes = jax.random.uniform(jax.random.key(0), (2, 3, 4))
    fitness, hand = planar_arm(genes)
    assert (fitness.shape, hand.shape) == ((2, 3), (2, 3, 2))
    np.testing.assert_allclose(planar_arm(genes[1, 2])[1], hand[1, 2], atol=1e-6)


@pytest.mark.parametrize("genes", [jnp.zeros(()), jnp.zeros((3, 0))])
def test_an_arm_without_links_is_refused(genes):
    with pytest.raises(ValueError, match="an arm has at least one link"):
        planar_arm(genes)


def test_the_scoring_function_ignores_what_is_asked_and_has_no_steps():
    genes = jax.random.uniform(jax.random.key(0), (3, 4))
    scores = score_arm(jax.random.key(1), genes, jnp.zeros((3, 2)))
    fitness, hand = planar_arm(genes)
    np.testing.assert_array_equal(scores.fitness, fitness)
    np.testing.assert_array_equal(scores.descriptors, hand)
    assert scores.steps == ()
    assert jax.tree.structure(jax.eval_shape(score_arm, None, genes)).num_leaves == 2


def test_the_scores_are_those_of_qdax():
    arm = pytest.importorskip("qdax.tasks.arm")
    genes = jax.random.uniform(jax.random.key(0), (200, 8), minval=-0.2, maxval=1.2)
    fitness, descriptors, _ = arm.arm_scoring_function(genes, jax.random.key(0))
    scores = score_arm(jax.random.key(0), genes)
    np.testing.assert_array_equal(scores.fitness, fitness)
    np.testing.assert_array_equal(scores.descriptors, descriptors)
