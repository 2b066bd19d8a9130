"""Scores of levels: signs, means and padding, against arithmetic in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.curricula import scores


def test_regret_is_positive_where_the_antagonist_is_better():
    antagonist, agent = jnp.array([[3.0, 1.0], [0.0, -2.0]]), jnp.array([[1.0], [1.0]])
    assert scores.algorithmic_regret(antagonist, agent).tolist() == [1.0, -2.0]
    assert scores.algorithmic_regret(antagonist, agent, axis=None).item() == -0.5


def test_regret_of_an_algorithm_against_itself_is_0_in_expectation():
    random = np.random.RandomState(0)
    antagonist, agent = random.exponential(size=(2, 500, 64)).astype(np.float32)
    regret = np.asarray(scores.algorithmic_regret(antagonist, agent))
    # The variance of an exponential variable is 1.
    assert abs(regret.mean()) < 4 * np.sqrt(2 / 64 / 500)
    assert (regret < 0).mean() > 0.4
    np.testing.assert_array_equal(regret, -scores.algorithmic_regret(agent, antagonist))


def test_value_losses_are_means_over_real_decisions():
    random = np.random.RandomState(1)
    advantages = random.normal(size=(3, 4, 5)).astype(np.float32)
    mask = random.uniform(size=(3, 4, 5)) < 0.6
    mask[0, 0], mask[0, 1] = True, False
    padded = np.where(mask, advantages, np.nan)
    for axis in (-1, (-2, -1), None):
        size = scores.l1_value_loss(padded, mask.astype(np.float32), axis)
        gain = scores.positive_value_loss(padded, mask, axis)
        with np.errstate(invalid="ignore"):
            count = np.maximum(mask.sum(axis), 1)
        expected = np.where(mask, np.abs(advantages), 0).sum(axis) / count
        np.testing.assert_allclose(size, expected, rtol=1e-5)
        expected = np.where(mask & (advantages > 0), advantages, 0).sum(axis) / count
        np.testing.assert_allclose(gain, expected, rtol=1e-5)
    assert scores.l1_value_loss(padded, mask)[0, 1] == 0  # nothing is real there


def test_the_positive_part_and_the_size_differ_by_the_negative_part():
    advantages = jax.random.normal(jax.random.key(0), (6, 7))
    everything = jnp.ones_like(advantages)
    size = scores.l1_value_loss(advantages, everything)
    gain = scores.positive_value_loss(advantages, everything)
    loss = scores.positive_value_loss(-advantages, everything)
    np.testing.assert_allclose(size, gain + loss, rtol=1e-5)


def test_scores_of_single_levels_are_those_of_a_batch():
    returns = jax.random.normal(jax.random.key(1), (3, 4))
    mask = jnp.ones_like(returns)
    for score in (
        lambda x, m: scores.algorithmic_regret(x, 2 * m),
        scores.l1_value_loss,
        scores.positive_value_loss,
        lambda x, m: scores.final_return(x),
    ):
        np.testing.assert_allclose(jax.vmap(score)(returns, mask), score(returns, mask), rtol=1e-6)
    np.testing.assert_allclose(scores.final_return(returns), np.mean(returns, axis=1), rtol=1e-6)


def test_levels_of_one_do_not_pair_with_levels_of_the_other():
    with pytest.raises(AssertionError):
        scores.algorithmic_regret(jnp.zeros((2, 4)), jnp.zeros((3, 4)))
    with pytest.raises(AssertionError):
        scores.l1_value_loss(jnp.zeros((2, 4)), jnp.ones(4))
