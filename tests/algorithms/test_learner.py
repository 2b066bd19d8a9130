"""The update: minibatches, schedules, early stop, learning rates as traced numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import types
from jaxpg.algorithms import learner


def numbered(num_rows, num_decisions):
    number = jnp.arange(num_rows * num_decisions, dtype=jnp.float32)
    number = number.reshape(num_rows, num_decisions)
    return types.trajectory(jnp.zeros((num_rows, num_decisions)), number)


@pytest.mark.parametrize("num_minibatches", [1, 2, 4, 6])
def test_minibatches_of_decisions_are_a_partition(num_minibatches):
    batch = numbered(4, 6)
    split = learner.minibatches(jax.random.key(0), batch, num_minibatches, whole_rows=False)
    assert split.reward.shape == (num_minibatches, 24 // num_minibatches, 1)
    assert sorted(split.reward.ravel().tolist()) == list(range(24))


def test_minibatches_of_rows_keep_rows_whole():
    split = learner.minibatches(jax.random.key(0), numbered(6, 3), 3, whole_rows=True)
    assert split.reward.shape == (3, 2, 3)
    assert np.all(np.diff(split.reward, axis=-1) == 1)
    assert sorted(split.group_ids.ravel().tolist()) == list(range(6))


def test_rows_that_belong_together_stay_side_by_side():
    split = learner.minibatches(jax.random.key(0), numbered(12, 2), 2, True, together=3)
    assert split.reward.shape == (2, 6, 2)
    groups = np.asarray(split.group_ids).reshape(4, 3)
    assert np.all(groups == groups[:, :1] + np.arange(3)) and np.all(groups[:, 0] % 3 == 0)
    assert sorted(groups.ravel().tolist()) == list(range(12))


def test_a_share_that_does_not_split_is_refused_and_not_cut():
    with pytest.raises(ValueError, match="num_minibatches=4 does not divide the 6 items"):
        learner.minibatches(jax.random.key(0), numbered(6, 3), 4, whole_rows=True)


def test_every_item_is_equally_likely_in_every_minibatch():
    keys = jax.random.split(jax.random.key(0), 4000)
    split = jax.vmap(lambda k: learner.minibatches(k, numbered(1, 4), 4, False).reward)(keys)
    counts = np.stack([(split[:, m, 0, 0] == item).sum() for m in range(4) for item in range(4)])
    # Binomial(4000, 1/4): five standard deviations are 137.
    assert np.abs(counts - 1000).max() < 137


def test_leaves_of_a_row_follow_their_decisions():
    batch = numbered(2, 4).with_extras(per_row=jnp.array([10.0, 20.0]))
    split = learner.minibatches(jax.random.key(0), batch, 2, whole_rows=False)
    row = split.reward[..., 0] // 4
    np.testing.assert_array_equal(split.extras["per_row"][..., 0], 10 + 10 * row)


def test_four_devices_split_like_one():
    from jaxpg import parallel

    batch = numbered(8, 4)
    whole = learner.minibatches(jax.random.key(3), batch, 2, False).reward[..., 0]
    shares = jax.tree.map(lambda x: x.reshape((4, 2, *x.shape[1:])), batch)
    parts = jax.pmap(
        lambda share: learner.minibatches(jax.random.key(3), share, 2, False).reward[..., 0],
        axis_name=parallel.AXIS,
    )(shares)
    for m in range(2):
        assert sorted(whole[m].tolist()) == sorted(parts[:, m].ravel().tolist())


@pytest.mark.parametrize(
    ("step", "line", "stair"),
    [(0, 1.0, 1.0), (7, 1 - 7 / 80, 1.0), (8, 0.9, 0.9), (40, 0.5, 0.5), (79, 0.0125, 0.1)],
)
def test_schedules_count_gradient_steps(step, line, stair):
    passes = learner.Passes(num_epochs=2, num_minibatches=4)
    np.testing.assert_allclose(learner.learning_rate(1.0, passes, 10)(step), line, rtol=1e-6)
    np.testing.assert_allclose(
        learner.learning_rate(1.0, passes, 10, stair=True)(step), stair, rtol=1e-6
    )
    assert learner.learning_rate(1.0, passes, 10)(1000) == 0.0
