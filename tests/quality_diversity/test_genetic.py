"""Offspring of pairs through the emitter, in blocks that do not depend on the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import parallel
from jaxpg.quality_diversity import archive as archives
from jaxpg.quality_diversity import cells, emitter
from jaxpg.quality_diversity.genetic import genetic

KEY = jax.random.key(0)
ELITES = {"a": jnp.array([[0.0, 1.0], [2.0, -1.0], [5.0, 5.0]]), "b": jnp.array([0.0, 3.0, -4.0])}


def filled():
    """Three elites in four cells."""
    archive = archives.empty(cells.grid([0.0], [1.0], (4,)), jax.tree.map(lambda x: x[0], ELITES))
    places = jnp.array([[0.1], [0.4], [0.9]])
    return archives.insert(archive, ELITES, jnp.arange(3.0), places)[0]


def emit(key, **settings):
    chosen = genetic(8, **settings)
    return chosen.emit(key, chosen.init(key, None), filled())


def flat(tree):
    return np.concatenate([tree["a"], tree["b"][:, None]], axis=1)


def test_offspring_lie_on_the_line_through_two_elites():
    offspring = jax.jit(lambda key: emit(key, sigma_iso=0.0, sigma_line=0.7))(KEY)
    elites, found = flat(ELITES), set()
    for child in flat(offspring.genotypes):
        fits = []
        for i, first in enumerate(elites):
            for j, second in enumerate(elites):
                line = second - first
                share = 0.0 if i == j else float((child - first) @ line / (line @ line))
                if np.abs(first + share * line - child).max() < 1e-4:
                    fits.append((i, j))
        assert fits
        found.update(fits)
    assert len(found) > 4
    assert not offspring.intended.any() and offspring.asked.shape == (8, 1)


def test_without_noise_offspring_are_elites_and_bounds_hold():
    same = jax.jit(lambda key: emit(key, sigma_iso=0.0, sigma_line=0.0))(KEY)
    elites = {tuple(row) for row in flat(ELITES).tolist()}
    found = {tuple(row) for row in flat(same.genotypes).tolist()}
    assert found <= elites and len(found) > 1
    held = jax.jit(lambda key: emit(key, sigma_iso=9.0, low=-1.0, high=1.0))(KEY)
    assert np.abs(flat(held.genotypes)).max() == 1.0


def test_devices_emit_shares_of_what_one_emits():
    whole = jax.jit(emit)(KEY)
    shares = jax.pmap(lambda _: emit(KEY), axis_name=parallel.AXIS)(jnp.arange(4))
    for one, cut in zip(jax.tree.leaves(whole), jax.tree.leaves(shares), strict=True):
        assert cut.shape[1] == 2
        np.testing.assert_allclose(cut.reshape(one.shape), one, rtol=1e-6)


def test_blocks_count_what_each_operator_added():
    parts = [jnp.arange(8).reshape(4, 2), 10 + jnp.arange(4).reshape(2, 2)]
    joined = emitter.in_blocks(parts, 2)
    np.testing.assert_array_equal(joined, [[0, 1], [2, 3], [10, 11], [4, 5], [6, 7], [12, 13]])
    made = genetic(6)._replace(operators={"few": 2, "many": 4}, num_blocks=2)
    added = jnp.array([True, False, True, False, True, True])
    counts = {name: int(count) for name, count in made.added_by_operator(added).items()}
    assert made.batch_size == 6 and counts == {"added_few": 1, "added_many": 3}
    assert emitter.blocks_of(a=12, b=0, c=20) == 4


def test_sizes_that_make_no_sense_are_one_sentence():
    with pytest.raises(ValueError, match="batch_size is 0, but it has to be at least 1"):
        genetic(0)
    with pytest.raises(ValueError, match="num_b is -1, but it has to be at least 0"):
        emitter.used({"a": 1, "b": -1})
    with pytest.raises(ValueError, match="have 0 offspring: at least 1 is needed"):
        emitter.used({"a": 0, "b": 0})
