"""What the tests of methods share: seams that do nothing, and agents that are run in small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.method import Seams


@pytest.fixture(scope="session")
def plain_seams():
    """Seams that do nothing and are told apart."""
    return Seams(
        init=lambda key, params: (),
        collect=lambda key, params, world, state: (None, world, {}),
        score=lambda params, rows, state: rows,
        select=lambda rows, state: rows,
        loss=lambda params, rows, state: (0.0, {}),
        after=lambda params, rows, metrics, state: (state, {}),
        evaluate=lambda params, rows: None,
    )


@pytest.fixture(scope="session")
def overridden(plain_seams):
    """The names of the seams that a method replaces."""

    def names(method):
        after = method.override(plain_seams)
        pairs = zip(Seams._fields, plain_seams, after, strict=True)
        return {name for name, old, new in pairs if old is not new}

    return names


@pytest.fixture(scope="session")
def leaves():
    """The numbers of a pytree, keys included."""

    def numbers(tree):
        return [
            np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
            for x in jax.tree.leaves(tree)
        ]

    return numbers
