"""The archive against a dictionary, the order of a batch, and QDax."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.quality_diversity import archive, cells

insert = jax.jit(archive.insert)
sample = jax.jit(archive.sample, static_argnums=2)


def solutions(number, seed=0, levels=None, first=0):
    """Genotypes that know their number, fitness, and descriptors in and around the unit box."""
    random = np.random.RandomState(seed)
    fitness = random.normal(size=number) if levels is None else random.randint(levels, size=number)
    descriptors = random.uniform(-0.1, 1.1, (number, 2)).astype(np.float32)
    numbers = np.arange(first + 1, first + 1 + number)
    genotypes = {"number": numbers.astype(np.int32), "pair": np.stack([numbers, -numbers], 1) * 0.5}
    return jax.tree.map(jnp.asarray, genotypes), jnp.float32(fitness), jnp.asarray(descriptors)


EXAMPLE = jax.tree.map(lambda x: x[0], solutions(1)[0])
GRID = cells.grid([0, 0], [1, 1], (4, 4))
VORONOI = cells.from_centroids([0, 0], [1, 1], np.random.RandomState(9).uniform(size=(16, 2)))


def same(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


class Dictionary:
    """An archive written out: solutions enter one by one, and none replaces its equal."""

    def __init__(self):
        self.held = {}

    def insert(self, places, fitness, descriptors, first):
        added = {}
        for row, (place, value) in enumerate(zip(places, fitness, strict=True)):
            valid = value > -np.inf and np.all(np.isfinite(descriptors[row]))
            if valid and (place not in self.held or value > self.held[place][0]):
                self.held[place] = (value, first + 1 + row, descriptors[row])
                added[place] = row
        # Who was replaced by a later row of the same batch did not enter.
        return sorted(added.values())


@pytest.mark.parametrize("tessellation", [GRID, VORONOI], ids=["grid", "centroids"])
@pytest.mark.parametrize("levels", [None, 4], ids=["distinct", "ties"])
def test_it_holds_what_a_dictionary_holds(tessellation, levels):
    held, model = archive.empty(tessellation, EXAMPLE), Dictionary()
    for seed in range(4):
        genotypes, fitness, descriptors = solutions(40, seed, levels, first=40 * seed)
        fitness = fitness.at[5].set(jnp.nan).at[6].set(-jnp.inf)
        descriptors = descriptors.at[7, 0].set(jnp.nan).at[8, 1].set(jnp.inf)
        held, added = insert(held, genotypes, fitness, descriptors)
        places = np.asarray(tessellation.index(descriptors))
        rows = model.insert(places, np.asarray(fitness), np.asarray(descriptors), 40 * seed)
        assert np.flatnonzero(added).tolist() == rows
    assert np.flatnonzero(archive.occupied(held)).tolist() == sorted(model.held)
    for place, (value, number, descriptor) in model.held.items():
        assert held.fitness[place] == value and held.genotypes["number"][place] == number
        np.testing.assert_array_equal(held.genotypes["pair"][place], [number * 0.5, -number * 0.5])
        np.testing.assert_array_equal(held.descriptors[place], descriptor)


@pytest.mark.parametrize("order", list(itertools.permutations([1.0, 5.0, 3.0])))
def test_the_fittest_of_a_batch_in_one_cell_enters_in_any_order(order):
    fitness = jnp.array(order)
    genotypes = {"number": jnp.int32(10 * fitness), "pair": jnp.stack([fitness, -fitness], 1)}
    descriptors = jnp.stack([0.01 * fitness, 0.02 * fitness], axis=1)
    together, added = insert(archive.empty(GRID, EXAMPLE), genotypes, fitness, descriptors)
    alone = archive.empty(GRID, EXAMPLE)
    for row in range(3):
        one = jax.tree.map(lambda x: x[row : row + 1], (genotypes, fitness, descriptors))
        alone, _ = insert(alone, *one)
    same(together, alone)
    assert added.tolist() == [value == 5.0 for value in order]
    assert together.fitness[0] == 5.0 and together.genotypes["number"][0] == 50
    np.testing.assert_allclose(together.descriptors[0], [0.05, 0.1], rtol=1e-6)


def test_of_equals_the_first_stays_however_the_batch_is_split():
    genotypes, _, descriptors = solutions(6)
    descriptors = jnp.full_like(descriptors, 0.3)
    whole, added = insert(archive.empty(GRID, EXAMPLE), genotypes, jnp.ones(6), descriptors)
    assert added.tolist() == [True] + [False] * 5
    halves = archive.empty(GRID, EXAMPLE)
    for part in (slice(0, 3), slice(3, 6)):
        batch = jax.tree.map(lambda x: x[part], (genotypes, jnp.ones(6), descriptors))
        halves, _ = insert(halves, *batch)
    same(whole, halves)
    assert set(np.asarray(whole.genotypes["number"]).tolist()) == {0, 1}


def test_inserting_twice_changes_nothing_and_fitness_never_falls():
    held = archive.empty(GRID, EXAMPLE)
    for seed in range(3):
        batch = solutions(40, seed)
        after, _ = insert(held, *batch)
        assert jnp.all(after.fitness >= held.fitness)
        again, added = insert(after, *batch)
        assert not jnp.any(added)
        same(again, after)
        held = after


def test_outside_the_box_the_border_cell_is_filled_with_what_was_observed():
    genotypes, _, _ = solutions(2)
    outside = jnp.array([[-3.0, 0.1], [0.9, 7.0]])
    held, _ = insert(archive.empty(GRID, EXAMPLE), genotypes, jnp.zeros(2), outside)
    assert np.flatnonzero(archive.occupied(held)).tolist() == [0, 15]
    np.testing.assert_array_equal(held.descriptors[jnp.array([0, 15])], outside)


def test_permuting_the_batch_or_the_cells_permutes_the_result():
    batch = solutions(40)
    before, added = insert(archive.empty(VORONOI, EXAMPLE), *batch)
    order = np.random.RandomState(1).permutation(40)
    after, added_after = insert(
        archive.empty(VORONOI, EXAMPLE), *jax.tree.map(lambda x: x[order], batch)
    )
    same(after, before)
    np.testing.assert_array_equal(added_after, added[order])

    order = np.random.RandomState(2).permutation(16)
    shuffled = VORONOI.replace(centroids=VORONOI.centroids[order])
    after, _ = insert(archive.empty(shuffled, EXAMPLE), *batch)
    for part in ("genotypes", "fitness", "descriptors"):
        same(getattr(after, part), jax.tree.map(lambda x: x[order], getattr(before, part)))


def test_what_is_no_fitness_leaves_the_rest_of_its_cell_alone():
    genotypes, _, _ = solutions(4)
    fitness = jnp.array([jnp.nan, -7.0, -jnp.inf, -9.0])
    held, added = insert(archive.empty(GRID, EXAMPLE), genotypes, fitness, jnp.full((4, 2), 0.6))
    assert added.tolist() == [False, True, False, False]
    assert held.fitness[10] == -7.0 and held.genotypes["number"][10] == 2
    held, added = insert(archive.empty(GRID, EXAMPLE), genotypes, fitness, jnp.full((4, 2), np.nan))
    assert not jnp.any(added) and not jnp.any(archive.occupied(held))
    same(held, archive.empty(GRID, EXAMPLE))


def test_metrics_of_a_half_full_grid():
    genotypes, _, _ = solutions(8)
    fitness = jnp.arange(8.0) - 10.0
    held, _ = insert(archive.empty(GRID, EXAMPLE), genotypes, fitness, GRID.centres()[::2])
    found = archive.metrics(held, offset=11.0)
    assert found["qd_score"] == jnp.sum(fitness) + 11.0 * 8
    assert found["coverage"] == 50.0 and found["max_fitness"] == -3.0
    nothing = archive.metrics(archive.empty(GRID, EXAMPLE), offset=11.0)
    assert nothing["qd_score"] == 0.0 and nothing["coverage"] == 0.0


def test_draws_are_uniform_over_occupied_cells_and_one_for_all_parts():
    held, _ = insert(archive.empty(GRID, EXAMPLE), *solutions(12))
    genotypes, descriptors, places = sample(jax.random.key(0), held, 20_000)
    numbers, counts = np.unique(places, return_counts=True)
    assert numbers.tolist() == np.flatnonzero(archive.occupied(held)).tolist()
    expected = 20_000 / len(numbers)
    # A chi-squared statistic of 9 degrees of freedom is beyond 30 once in 2,000 times.
    assert len(numbers) <= 10 and np.sum((counts - expected) ** 2 / expected) < 30.0
    same(genotypes, jax.tree.map(lambda x: x[places], held.genotypes))
    same(descriptors, held.descriptors[places])


@pytest.mark.parametrize("place", [0, 15])
def test_a_single_solution_is_drawn_always(place):
    genotypes, _, _ = solutions(1)
    held, _ = insert(
        archive.empty(GRID, EXAMPLE), genotypes, jnp.zeros(1), GRID.centres()[place][None]
    )
    assert set(sample(jax.random.key(0), held, 50)[2].tolist()) == {place}


def test_an_empty_archive_is_refused():
    with pytest.raises(ValueError, match="the archive is empty"):
        archive.sample(jax.random.key(0), archive.empty(GRID, EXAMPLE), 2)


def test_seeds_in_a_batch_equal_seeds_alone():
    def run(key, shift):
        genotypes, fitness, descriptors = solutions(40)
        held = archive.empty(VORONOI, EXAMPLE)
        held, added = archive.insert(held, genotypes, fitness, descriptors + shift)
        return held, added, archive.sample(key, held, 8), archive.metrics(held)

    keys, shifts = jax.random.split(jax.random.key(0), 3), jnp.array([0.0, 0.1, 0.2])
    together = jax.jit(jax.vmap(run))(keys, shifts)
    alone = jax.jit(run)
    for index in range(3):
        same(jax.tree.map(lambda x: x[index], together), alone(keys[index], shifts[index]))


def test_a_donated_archive_is_changed_in_place_and_the_cells_stay():
    held = archive.empty(VORONOI, EXAMPLE)
    where = held.genotypes["pair"].unsafe_buffer_pointer()
    after, _ = jax.jit(archive.insert, donate_argnums=0)(held, *solutions(40))
    assert after.genotypes["pair"].unsafe_buffer_pointer() == where
    assert held.genotypes["pair"].is_deleted() and not VORONOI.centroids.is_deleted()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda g, f, d: (g, f, d[:, :1]), r"descriptors are of shape \(4, 1\), but have to be"),
        (lambda g, f, d: (g, f[:3], d), r"fitness is of shape \(3,\), but has to be \(4,\)"),
        (lambda g, f, d: (g["pair"], f, d), "but the archive holds"),
        (
            lambda g, f, d: ({**g, "pair": g["pair"][:, :1]}, f, d),
            r"genotypes\['pair'\] are of shape \(4, 1\), but have to be \(4, 2\)",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        archive.insert(archive.empty(GRID, EXAMPLE), *change(*solutions(4)))


# The number of the solution that QDax 0.5.0 holds in each cell after three batches, 0 for none.
HELD_BY_QDAX = {
    "grid": [13, 19, 12, 23, 30, 0, 11, 6, 29, 36, 0, 1, 28, 27, 20, 4],
    "centroids": [12, 30, 13, 36, 19, 23, 28, 35, 20, 0, 11, 21, 4, 0, 1, 22],
}


@pytest.mark.parametrize("kind", ["grid", "centroids"])
@pytest.mark.parametrize("source", ["recorded", "live"])
def test_it_holds_what_qdax_holds(kind, source):
    tessellation = {"grid": GRID, "centroids": VORONOI}[kind]
    batches = [solutions(12, seed, first=12 * seed) for seed in range(3)]
    held = archive.empty(tessellation, EXAMPLE)
    for batch in batches:
        held, _ = insert(held, *batch)
    if source == "recorded":
        assert held.genotypes["number"].tolist() == HELD_BY_QDAX[kind]
        return
    containers = pytest.importorskip("qdax.core.containers.mapelites_repertoire")
    genotypes, fitness, descriptors = batches[0]
    theirs = containers.MapElitesRepertoire.init(
        genotypes, fitness, descriptors, tessellation.centres()
    )
    for genotypes, fitness, descriptors in batches[1:]:
        theirs = theirs.add(genotypes, descriptors, fitness)
    same(held.genotypes, theirs.genotypes)
    same(held.fitness, theirs.fitnesses[:, 0])
    same(held.descriptors, theirs.descriptors)
    utils = pytest.importorskip("qdax.utils.metrics")
    for name, value in utils.default_qd_metrics(theirs, 3.0).items():
        np.testing.assert_allclose(archive.metrics(held, 3.0)[name], value, rtol=1e-6)
