"""Variation operators against their moments and distributions, and QDax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.quality_diversity import variation

iso_line = jax.jit(variation.iso_line, static_argnums=(3, 4, 5, 6))
mutate = jax.jit(variation.polynomial_mutation, static_argnums=(2, 3, 4, 5))


def parents(number, seed=0):
    """Two batches of parents in two leaves, three numbers in all."""
    random = np.random.RandomState(seed)
    leaves = [random.uniform(size=(number, 1, 2)), random.uniform(size=(number,))] * 2
    first = {"matrix": jnp.float32(leaves[0]), "scalar": jnp.float32(leaves[1])}
    second = jax.tree.map(lambda x: jnp.float32(random.uniform(size=x.shape)), first)
    return first, second


def flat(genotypes):
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(genotypes)], axis=1)


def test_without_iso_noise_offspring_are_on_the_line_of_their_parents():
    first, second = parents(50)
    offspring = iso_line(jax.random.key(0), first, second, 0.0, 0.5)
    shares = (flat(offspring) - flat(first)) / (flat(second) - flat(first))
    np.testing.assert_allclose(shares, np.repeat(shares[:, :1], 3, axis=1), atol=1e-4)
    # One number for each offspring, and another one for the next.
    assert len(np.unique(shares[:, 0])) == 50 and 0.3 < np.std(shares[:, 0]) < 0.7


def test_between_equal_parents_there_is_no_line():
    first, _ = parents(5)
    offspring = iso_line(jax.random.key(0), first, first, 0.0, 0.5)
    np.testing.assert_array_equal(flat(offspring), flat(first))


def test_the_covariance_is_that_of_the_paper():
    one, other = jax.tree.map(lambda x: jnp.repeat(x, 40_000, axis=0), parents(1))
    offspring = flat(iso_line(jax.random.key(0), one, other, 0.1, 0.3))
    line = (flat(other) - flat(one))[0].astype(np.float64)
    expected = 0.1**2 * np.eye(3) + 0.3**2 * np.outer(line, line)
    np.testing.assert_allclose(np.mean(offspring, axis=0), flat(one)[0], atol=0.005)
    np.testing.assert_allclose(np.cov(offspring.T), expected, atol=0.03 * expected.max())


@pytest.mark.parametrize("low, high", [(0.2, 0.6), (0.2, None), (None, 0.6)])
def test_offspring_are_within_the_bounds_that_are_given(low, high):
    first, second = parents(50)
    offspring = flat(iso_line(jax.random.key(0), first, second, 0.3, 0.05, low, high))
    assert (offspring.min() == np.float32(0.2)) == (low is not None)
    assert (offspring.max() == np.float32(0.6)) == (high is not None)


def test_moments_are_those_of_qdax():
    operators = pytest.importorskip("qdax.core.emitters.mutation_operators")
    one, other = jax.tree.map(lambda x: jnp.repeat(x, 40_000, axis=0), parents(1))
    ours = flat(iso_line(jax.random.key(0), one, other, 0.1, 0.3, 0.1, 0.9))
    theirs = flat(operators.isoline_variation(one, other, jax.random.key(1), 0.1, 0.3, 0.1, 0.9))
    np.testing.assert_allclose(np.mean(ours, 0), np.mean(theirs, 0), atol=0.005)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(theirs.T), atol=0.0005)
    for power in (3, 4):
        np.testing.assert_allclose(
            np.mean((ours - flat(one)[0]) ** power, 0),
            np.mean((theirs - flat(one)[0]) ** power, 0),
            atol=3e-4,
        )


@pytest.mark.parametrize("start", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("eta", [0.0, 5.0])
def test_mutations_follow_the_polynomial_within_the_bounds(start, eta):
    low, high = -2.0, 6.0
    genotypes = {"x": jnp.full((2000, 2), low + start * (high - low))}
    changed = np.asarray(mutate(jax.random.key(0), genotypes, eta, 1.0, low, high)["x"])
    assert changed.min() >= low and changed.max() <= high
    change = np.ravel(changed - np.asarray(genotypes["x"])).astype(np.float64) / (high - low)
    # The distribution function of the change, which makes uniform numbers of it.
    power = eta + 1
    down, up = (1 - start) ** power, start**power
    with np.errstate(divide="ignore", invalid="ignore"):
        uniform = np.where(
            change < 0,
            ((1 + np.minimum(change, 0)) ** power - down) / (2 * (1 - down)),
            1 - ((1 - np.maximum(change, 0)) ** power - up) / (2 * (1 - up)),
        )
    moved = np.sort(uniform[change != 0])
    # At a bound half of the mutations stay there.
    assert len(moved) > (0.45 if start in (0.0, 1.0) else 0.99) * change.size
    low_end, high_end = (0.5 if start == 0.0 else 0.0), (0.5 if start == 1.0 else 1.0)
    expected = np.linspace(low_end, high_end, len(moved))
    assert np.max(np.abs(moved - expected)) < 1.7 / np.sqrt(len(moved))


def test_a_proportion_of_the_numbers_is_mutated():
    first, _ = parents(2000)
    key = jax.random.key(0)
    assert np.array_equal(flat(mutate(key, first, 5.0, 0.0, 0.0, 1.0)), flat(first))
    changed = flat(mutate(key, first, 5.0, 0.25, 0.0, 1.0)) != flat(first)
    np.testing.assert_allclose(np.mean(changed, axis=0), 0.25, atol=0.04)
    assert np.all(np.abs(np.corrcoef(changed.T) - np.eye(3)) < 0.1)


def test_seeds_in_a_batch_equal_seeds_alone():
    first, second = parents(4)
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(lambda key: variation.iso_line(key, first, second)))(keys)
    for index in range(3):
        np.testing.assert_allclose(
            flat(jax.tree.map(lambda x: x[index], together)),
            flat(iso_line(keys[index], first, second)),
            rtol=1e-6,
        )


@pytest.mark.parametrize(
    "vary, message",
    [
        (lambda k, x: variation.iso_line(k, x, x, -1.0), "sigma_iso is -1.0"),
        (lambda k, x: variation.iso_line(k, x, x, 0.1, -1.0), "sigma_line is -1.0"),
        (lambda k, x: variation.iso_line(k, x, x, low=1.0, high=1.0), "low has to be below high"),
        (lambda k, x: variation.polynomial_mutation(k, x, -1.0, 0.1, 0.0, 1.0), "eta is -1.0"),
        (lambda k, x: variation.polynomial_mutation(k, x, 1.0, 1.1, 0.0, 1.0), "proportion is 1.1"),
        (lambda k, x: variation.polynomial_mutation(k, x, 1.0, 0.1, 2.0, 1.0), "low is 2.0 and"),
    ],
)
def test_what_is_no_variation_is_refused(vary, message):
    with pytest.raises(ValueError, match=message):
        vary(jax.random.key(0), jnp.zeros((2, 3)))
