"""Cells against brute force in double precision, and tessellations against what they minimise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.quality_diversity import cells

index = jax.jit(lambda tessellation, descriptors: tessellation.index(descriptors))
centres = jax.jit(lambda tessellation: tessellation.centres())

LOW, HIGH = np.array([-1.0, 0.0]), np.array([3.0, 1.0])


def nearest_centre(tessellation, descriptors):
    """The first of the nearest centres, in units of the box."""
    side = HIGH - LOW
    of_cells = np.asarray(centres(tessellation), np.float64)
    differences = (np.asarray(descriptors, np.float64)[:, None] - of_cells[None]) / side
    return np.argmin(np.sum(differences**2, axis=-1), axis=-1)


def descriptors_around(number, seed=0):
    return np.random.RandomState(seed).uniform(-0.3, 1.3, (number, 2)) * (HIGH - LOW) + LOW


@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (1, 7)])
def test_a_grid_gives_the_cell_of_the_nearest_centre(shape):
    tessellation = cells.grid(LOW, HIGH, shape)
    descriptors = descriptors_around(500)
    found = index(tessellation, jnp.float32(descriptors))
    assert found.dtype == jnp.int32 and tessellation.num_cells == len(centres(tessellation))
    np.testing.assert_array_equal(found, nearest_centre(tessellation, descriptors))


def test_a_grid_counts_its_cells_as_numpy_does():
    tessellation = cells.grid([0, 0, 0], [1, 1, 1], (2, 3, 4))
    places = np.stack(np.unravel_index(np.arange(24), (2, 3, 4)), axis=-1)
    np.testing.assert_allclose(centres(tessellation), (places + 0.5) / (2, 3, 4), rtol=1e-6)
    np.testing.assert_array_equal(index(tessellation, centres(tessellation)), np.arange(24))


def test_between_two_cells_the_first_is_taken():
    on_borders = jnp.array([[0.0], [0.25], [0.5], [0.75], [1.0]])
    boxes = cells.grid([0.0], [1.0], (4,))
    assert index(boxes, on_borders).tolist() == [0, 0, 1, 2, 3]
    voronoi = cells.from_centroids([0.0], [1.0], centres(boxes))
    assert index(voronoi, on_borders).tolist() == [0, 0, 1, 2, 3]
    twice = cells.from_centroids([0.0], [1.0], [[0.5], [0.5], [0.9]])
    assert index(twice, on_borders).tolist() == [0, 0, 0, 2, 2]


def test_centroids_give_the_cell_of_the_nearest():
    centroids = np.random.RandomState(1).uniform(LOW, HIGH, (50, 2))
    tessellation = cells.from_centroids(LOW, HIGH, centroids)
    descriptors = descriptors_around(500)
    np.testing.assert_array_equal(
        index(tessellation, jnp.float32(descriptors)), nearest_centre(tessellation, descriptors)
    )


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_box_far_from_the_origin_loses_no_digits(offset):
    centroids = np.random.RandomState(2).uniform(size=(64, 2)).astype(np.float32)
    descriptors = np.random.RandomState(3).uniform(size=(200, 2)).astype(np.float32)
    # Multiples of 2^-10, which both places hold exactly.
    centroids, descriptors = np.round(centroids * 1024) / 1024, np.round(descriptors * 1024) / 1024
    here = index(cells.from_centroids([0, 0], [1, 1], centroids), jnp.float32(descriptors))
    corner = np.full(2, offset)
    there = cells.from_centroids(corner, corner + 1, centroids + offset)
    np.testing.assert_array_equal(index(there, jnp.float32(descriptors + offset)), here)


@pytest.mark.parametrize("kind", ["grid", "centroids"])
def test_descriptors_outside_belong_to_the_border_and_all_indices_are_valid(kind):
    tessellation = cells.grid([0, 0], [1, 1], (4, 4))
    if kind == "centroids":
        tessellation = cells.from_centroids([0, 0], [1, 1], centres(tessellation))
    far = jnp.array([[-1e6, -1e6], [1e6, 1e6], [-1e6, 1e6], [0.1, 1.01]])
    assert index(tessellation, far).tolist() == [0, 15, 3, 3]
    strange = jnp.array([[jnp.nan, 0.5], [jnp.inf, 0.5], [-jnp.inf, jnp.inf], [jnp.nan, jnp.nan]])
    found = index(tessellation, strange)
    assert jnp.all((found >= 0) & (found < 16))


def test_permuting_centroids_permutes_their_cells():
    centroids = np.random.RandomState(4).uniform(LOW, HIGH, (20, 2))
    order = np.random.RandomState(5).permutation(20)
    descriptors = jnp.float32(descriptors_around(100))
    before = index(cells.from_centroids(LOW, HIGH, centroids), descriptors)
    after = index(cells.from_centroids(LOW, HIGH, centroids[order]), descriptors)
    np.testing.assert_array_equal(order[after], before)


k_means = jax.jit(cells.k_means, static_argnums=2)


def test_every_mean_is_the_mean_of_its_samples_and_the_nearest_to_them():
    samples = np.random.RandomState(0).uniform(size=(1000, 2)).astype(np.float32)
    means, labels = map(np.asarray, k_means(samples, samples[:16], 200))
    for mean in range(16):
        np.testing.assert_allclose(
            means[mean], np.mean(samples[labels == mean], axis=0, dtype=np.float64), atol=1e-6
        )
    distances = np.sum((samples[:, None].astype(np.float64) - means) ** 2, axis=-1)
    np.testing.assert_array_equal(np.argmin(distances, axis=1), labels)


def test_a_mean_without_samples_stays_and_no_iteration_changes_nothing():
    samples, starts = jnp.array([[0.0], [0.2]]), jnp.array([[0.1], [5.0]])
    means, labels = k_means(samples, starts, 10)
    np.testing.assert_allclose(means, [[0.1], [5.0]], rtol=1e-6)
    assert labels.tolist() == [0, 0]
    np.testing.assert_array_equal(k_means(samples, starts + 1, 0)[0], starts + 1)


# What scikit-learn 1.9.1's k-means reaches on 4,000 samples with 64 means: the spread of the sizes
# of its cells and the mean squared distance, both on other samples; means over five seeds.
SCIKIT_LEARN = (0.1456, 0.002703)


def quality(centroids):
    """Spread of the cells' sizes relative to their mean, and mean squared distance."""
    samples = np.random.RandomState(0).uniform(size=(20_000, 2)).astype(np.float32)
    labels = np.asarray(index(cells.from_centroids([0, 0], [1, 1], centroids), samples))
    sizes = np.bincount(labels, minlength=len(centroids))
    differences = samples - np.asarray(centroids)[labels]
    return np.std(sizes) / np.mean(sizes), np.mean(np.sum(differences**2, axis=1))


@pytest.mark.parametrize("source", ["recorded", "live"])
def test_a_tessellation_is_as_even_as_that_of_scikit_learn(source):
    theirs = SCIKIT_LEARN
    if source == "live":
        cluster = pytest.importorskip("sklearn.cluster")
        found = []
        for seed in range(5):
            samples = np.random.RandomState(1 + seed).uniform(size=(4000, 2))
            fitted = cluster.KMeans(64, n_init=1, random_state=seed).fit(samples)
            found.append(quality(fitted.cluster_centers_))
        theirs = np.mean(found, axis=0)
        np.testing.assert_allclose(theirs, SCIKIT_LEARN, rtol=0.1)
    ours = np.mean(
        [
            quality(cells.centroidal(jax.random.key(seed), [0, 0], [1, 1], 64, 4000).centroids)
            for seed in range(5)
        ],
        axis=0,
    )
    assert np.all(ours < np.array([1.1, 1.01]) * theirs)


def test_seeds_give_tessellations_of_their_own():
    def build(key):
        return cells.centroidal(key, LOW, HIGH, 8, 200, 5)

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(build)(keys)
    assert together.num_cells == 8
    for seed in range(3):
        np.testing.assert_allclose(together.centroids[seed], build(keys[seed]).centroids, atol=1e-5)
        assert np.all((build(keys[seed]).centroids > LOW) & (together.centroids[seed] < HIGH))
    assert np.ptp(together.centroids, axis=0).min() > 0


def test_cells_do_not_depend_on_the_units_of_the_descriptors():
    key, scale = jax.random.key(0), np.array([1.0, 64.0])
    units = cells.centroidal(key, [0, 0], [1, 1], 8, 200, 5)
    scaled = cells.centroidal(key, [0, 0], scale, 8, 200, 5)
    np.testing.assert_allclose(scaled.centroids, units.centroids * scale, rtol=1e-5)
    descriptors = np.random.RandomState(0).uniform(size=(50, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        index(scaled, np.float32(descriptors * scale)), index(units, descriptors)
    )


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: cells.grid([0, 1], [1, 1], (2, 2)), "from 1.0 to 1.0 in dimension 1, but low has"),
        (lambda: cells.grid([0], [np.nan], (2,)), "from 0.0 to nan in dimension 0"),
        (lambda: cells.grid([0], [1, 1], (2,)), r"shapes \(1,\) and \(2,\)"),
        (lambda: cells.grid([0, 0], [1, 1], (2,)), r"shape is \(2,\), but the box has 2 dim"),
        (lambda: cells.grid([0, 0], [1, 1], (2, 0)), r"shape\[1\] is 0, but it has to be at least"),
        (lambda: cells.from_centroids([0], [1], [[0.1], [np.nan]]), r"centroids\[1\] is \[nan\]"),
        (lambda: cells.from_centroids([0], [1], np.zeros((0, 1))), "at least one row"),
        (lambda: cells.from_centroids([0], [1], [[0.1, 0.2]]), r"of shape \(1, 2\)"),
        (lambda: cells.centroidal(jax.random.key(0), [0], [1], 0), "num_cells is 0"),
        (lambda: cells.centroidal(jax.random.key(0), [0], [1], 9, 8), "num_samples is 8"),
        (lambda: cells.centroidal(jax.random.key(0), [1], [0], 9), "from 1.0 to 0.0"),
        (
            lambda: cells.grid([0, 0], [1, 1], (2, 2)).index(jnp.zeros((5, 3))),
            r"descriptors are of shape \(5, 3\), but have to be \[N, 2\]",
        ),
        (
            lambda: cells.from_centroids([0], [1], [[0.5]]).index(jnp.zeros(5)),
            r"descriptors are of shape \(5,\), but have to be \[N, 1\]",
        ),
    ],
)
def test_what_is_no_cell_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
