"""Running statistics: exact merging, counting beyond float32, frozen use."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import normalisation


def test_mean_and_variance_of_two_dimensions_are_kept_apart():
    statistics = normalisation.initial_statistics(jnp.zeros(2))
    statistics = normalisation.update_statistics(statistics, jnp.array([[0.0, 10.0], [2.0, 30.0]]))
    assert statistics.mean.tolist() == [1.0, 20.0]
    assert statistics.variance.tolist() == [1.0, 100.0]


def test_merging_unequal_batches_is_exact():
    statistics = normalisation.initial_statistics(jnp.zeros(()))
    statistics = normalisation.update_statistics(statistics, jnp.array([0.0, 2.0]))
    statistics = normalisation.update_statistics(statistics, jnp.array([4.0]))
    np.testing.assert_allclose(statistics.mean, 2.0)
    np.testing.assert_allclose(statistics.variance, 8 / 3, rtol=1e-6)


def test_batches_in_any_split_give_numpys_moments():
    data = np.random.default_rng(0).normal(100.0, 5.0, (64, 3)).astype(np.float32)
    statistics = normalisation.initial_statistics(jnp.zeros(3))
    for part in np.split(data, [1, 10, 33]):
        statistics = normalisation.update_statistics(statistics, jnp.asarray(part))
    np.testing.assert_allclose(statistics.mean, data.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics.variance, data.var(0), rtol=1e-3)


def test_the_count_passes_the_end_of_float32_and_of_uint32():
    statistics = normalisation.initial_statistics(jnp.zeros(()))
    statistics = statistics.replace(count=jnp.array([0, 2**24], jnp.uint32))
    once = normalisation.update_statistics(statistics, jnp.ones(1))
    assert once.count.tolist() == [0, 2**24 + 1]
    statistics = statistics.replace(count=jnp.array([0, 2**32 - 1], jnp.uint32))
    carried = normalisation.update_statistics(statistics, jnp.ones(3))
    assert carried.count.tolist() == [1, 2]
    assert float(carried.num_samples) == 2.0**32


def test_a_dimension_that_never_varied_stays_within_the_limit():
    statistics = normalisation.initial_statistics(jnp.zeros(1))
    statistics = normalisation.update_statistics(statistics, jnp.full((100, 1), 3.0))
    moved = normalisation.normalise(statistics, jnp.array([3.001]))
    assert abs(moved[0]) <= normalisation.LIMIT


def test_statistics_of_nothing_change_nothing():
    statistics = normalisation.initial_statistics(jnp.zeros(2))
    sample = jnp.array([0.5, -2.0])
    np.testing.assert_allclose(normalisation.normalise(statistics, sample), sample)


def test_integers_pass_unchanged():
    statistics = normalisation.initial_statistics(jnp.zeros((), jnp.int32))
    assert normalisation.normalise(statistics, jnp.array([3])).dtype == jnp.int32


def test_the_running_return_restarts_after_a_truncation_and_goes_on_over_batches():
    ended = jnp.array([[False, True, False]])
    sums, last = normalisation.running_return(jnp.ones((1, 3)), ended, jnp.zeros(1), 0.5)
    assert sums.tolist() == [[1.0, 1.5, 1.0]]
    sums, _ = normalisation.running_return(jnp.ones((1, 1)), ended[:, :1], last, 0.5)
    assert sums.tolist() == [[1.5]]


def test_rewards_are_scaled_and_not_shifted():
    statistics = normalisation.initial_statistics(jnp.zeros(()))
    statistics = normalisation.update_statistics(statistics, jnp.array([0.0, 4.0]))
    np.testing.assert_allclose(
        normalisation.scale_reward(statistics, jnp.array([2.0, -1.0])), [1.0, -0.5], rtol=1e-5
    )


def test_devices_together_give_the_statistics_of_the_whole_batch():
    from jaxpg import parallel

    data = jnp.arange(16.0).reshape(4, 4) ** 2
    statistics = normalisation.initial_statistics(jnp.zeros(()))
    whole = normalisation.update_statistics(statistics, data)
    shared = jax.pmap(normalisation.update_statistics, axis_name=parallel.AXIS, in_axes=(None, 0))(
        statistics, data
    )
    np.testing.assert_allclose(shared.mean, np.full(4, whole.mean), rtol=1e-6)
    np.testing.assert_allclose(shared.variance, np.full(4, whole.variance), rtol=1e-5)
    assert shared.count[0].tolist() == whole.count.tolist()


def test_an_empty_entry_of_an_observation_changes_nothing():
    rows = jnp.array([[0.0, 10.0], [2.0, 30.0]])
    alone = normalisation.update_statistics(normalisation.initial_statistics(jnp.zeros(2)), rows)
    both = normalisation.update_statistics(
        normalisation.initial_statistics({"empty": jnp.zeros((0, 3)), "rows": jnp.zeros(2)}),
        {"empty": jnp.zeros((2, 0, 3)), "rows": rows},
    )
    assert both.mean["rows"].tolist() == alone.mean.tolist() == [1.0, 20.0]
    assert both.num_samples == alone.num_samples
