"""Devices: the only file that knows how work is spread over them.

Inside an update, batch statistics go through `mean` and `total`; they reduce over the devices
when the update runs on several, and are the identity when it runs on one. Nothing else in the
library asks how many devices there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.types import PyTree

AXIS = "devices"


def num_shards() -> int:
    """Number of devices that share the batch being traced (1 outside of `data_parallel`)."""
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:
        return 1


def shard_index() -> jax.Array | int:
    """This device's index among those that share the batch (0 outside of `data_parallel`)."""
    return jax.lax.axis_index(AXIS) if num_shards() > 1 else 0


def mean(tree: PyTree) -> PyTree:
    """Averages every leaf over the devices: gradients, metrics, batch means of equal shards."""
    return jax.lax.pmean(tree, AXIS) if num_shards() > 1 else tree


def total(tree: PyTree) -> PyTree:
    """Sums every leaf over the devices: counts, sums of rewards."""
    return jax.lax.psum(tree, AXIS) if num_shards() > 1 else tree


def largest(tree: PyTree) -> PyTree:
    """Largest of every leaf over the devices; it carries no gradient."""
    tree = jax.lax.stop_gradient(tree)
    return jax.lax.pmax(tree, AXIS) if num_shards() > 1 else tree
