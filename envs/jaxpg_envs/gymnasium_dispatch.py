"""Cheap calls from Python into jitted code: what a step costs beside its arithmetic."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def jit_on_leaves(function: Callable, carry: Any) -> Callable:
    """Jit a function of a carry in such a way that only the leaves of the carry are passed.

    The states of environments are dataclasses, which JAX takes apart in Python at every call; for
    small environments that costs more than the step itself.

    Args:
      function: `function(carry, *args) -> (carry, *results)`.
      carry: an example, whose structure the function keeps.

    Returns:
      Jitted `f(leaves, *args) -> (leaves, results)`.
    """
    structure = jax.tree.structure(carry)

    def on_leaves(leaves, *args):
        following, *results = function(jax.tree.unflatten(structure, leaves), *args)
        return jax.tree.leaves(following), results

    return jax.jit(on_leaves)


def fetch(tree: Any) -> Any:
    """Device arrays as numpy arrays of the caller's own, writable.

    Args:
      tree: pytree of device arrays.

    Returns:
      The same pytree of numpy arrays.
    """
    leaves, structure = jax.tree.flatten(tree)
    if jax.default_backend() != "cpu":
        # Start all transfers before waiting for the first.
        for leaf in leaves:
            leaf.copy_to_host_async()
    return jax.tree.unflatten(structure, [np.array(leaf) for leaf in leaves])
