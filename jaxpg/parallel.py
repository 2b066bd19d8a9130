"""Devices: the only file that knows how work is spread over them.

Inside an update, batch statistics go through `mean` and `total`; they reduce over the devices
when the update runs on several, and are the identity when it runs on one. Nothing else in the
library asks how many devices there are.

A state is kept in one *merged* form, which is the form that one device works on and that
checkpoints hold. `split` gives every device its share: what belongs to single environments (the
leaves below `state.world.rows`) is cut along its leading axis, everything else is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

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
    """Takes the largest of every leaf over the devices; carries no gradient."""
    tree = jax.lax.stop_gradient(tree)
    return jax.lax.pmax(tree, AXIS) if num_shards() > 1 else tree


def gather(tree: PyTree) -> PyTree:
    """Joins the devices' leaves along their leading axes, the same for all devices.

    Args:
      tree: of arrays `[N, ...]`.

    Returns:
      Of arrays `[num_shards N, ...]`, in the order of the devices.
    """
    if num_shards() == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)


def own_share(tree: PyTree) -> PyTree:
    """This device's part of what all devices hold: undoes `gather`.

    Args:
      tree: of arrays `[N, ...]`, N a multiple of the number of devices.

    Returns:
      Of arrays `[N / num_shards, ...]`.
    """
    if num_shards() == 1:
        return tree

    def part(leaf: jax.Array) -> jax.Array:
        local = leaf.shape[0] // num_shards()
        return jax.lax.dynamic_slice_in_dim(leaf, shard_index() * local, local)

    return jax.tree.map(part, tree)


def check_devices(num_devices: int, world_size: int) -> None:
    """Refuses a number of devices that is not there or does not divide the environments.

    Args:
      num_devices: over all hosts.
      world_size: of the algorithm: environments or prompts over all devices.

    Raises:
      ValueError: in one sentence.
    """
    if not 1 <= num_devices <= jax.device_count():
        raise ValueError(
            f"num_devices is {num_devices}, but between 1 and {jax.device_count()} devices of "
            f"kind {jax.default_backend()!r} can be used here"
        )
    if jax.process_count() > 1 and num_devices != jax.device_count():
        raise ValueError(
            f"num_devices is {num_devices}, but with {jax.process_count()} processes all "
            f"{jax.device_count()} devices have to take part"
        )
    if num_devices > 1 and (world_size == 0 or world_size % num_devices):
        raise ValueError(
            f"num_devices is {num_devices}, which does not divide the {world_size} environments, "
            f"prompts, agents or blocks of the algorithm into equal shares"
        )


def data_parallel(function: Callable[..., Any], num_devices: int) -> Callable[..., Any]:
    """Compiles `(state, shared) -> (state, metrics)`, the state donated.

    Args:
      function: its batch statistics go through this module.
      num_devices: 1 compiles for the default device; otherwise state and metrics have a leading
        axis of devices (see `split`), and `shared` is the same for every device.

    Returns:
      The compiled function.
    """
    if num_devices == 1:
        return jax.jit(function, donate_argnums=0)
    mapped = jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=(0, None),
        devices=None if jax.process_count() > 1 else jax.devices()[:num_devices],
        donate_argnums=0,
    )
    return mapped if jax.process_count() == 1 else _started_together(mapped)


def split(state: PyTree, num_devices: int, num_seeds: int | None = None) -> PyTree:
    """Gives every device of this process its share of a merged state.

    Args:
      state: merged; with seeds every leaf has a leading axis `[num_seeds]`.
      num_devices: over all processes; 1 returns the state as it is.
      num_seeds: None if there is no axis of seeds.

    Returns:
      The state with a leading axis of this process's devices.
    """
    if num_devices == 1:
        return state
    axis = 0 if num_seeds is None else 1
    local = num_devices // jax.process_count()
    first = jax.process_index() * local

    def share(path: Any, leaf: jax.Array) -> jax.Array:
        if not _is_row(path):
            return jnp.broadcast_to(leaf, (local, *leaf.shape))
        shape = leaf.shape
        cut = leaf.reshape((*shape[:axis], num_devices, -1, *shape[axis + 1 :]))
        return jnp.moveaxis(cut, axis, 0)[first : first + local]

    return jax.tree_util.tree_map_with_path(share, state)


def merge(state: PyTree, num_devices: int, num_seeds: int | None = None) -> PyTree:
    """Undoes `split`, gathering the shares of all processes.

    Args:
      state: with a leading axis of this process's devices.
      num_devices: over all processes; 1 returns the state as it is.
      num_seeds: None if there is no axis of seeds.

    Returns:
      The merged state.
    """
    if num_devices == 1:
        return state
    axis = 0 if num_seeds is None else 1
    leaves = jax.tree_util.tree_leaves_with_path(state)
    gathered = iter(_gathered([leaf for path, leaf in leaves if _is_row(path)]))

    def whole(path: Any, leaf: jax.Array) -> jax.Array:
        if not _is_row(path):
            # All devices hold the same; in several processes, asking for the first one's entry
            # would be a program that they have to run together.
            return leaf[0] if jax.process_count() == 1 else leaf.addressable_data(0)[0]
        rows = jnp.moveaxis(next(gathered), 0, axis)
        return rows.reshape((*rows.shape[:axis], -1, *rows.shape[axis + 2 :]))

    return jax.tree_util.tree_map_with_path(whole, state)


def is_primary() -> bool:
    """Whether this process writes files and shows progress."""
    return jax.process_index() == 0


def _started_together(mapped: Any) -> Callable[..., Any]:
    """Lets every process arrive before the first call.

    The processes then compile at the same time, and none waits so long in its first collective
    that it gives up on the others.
    """
    arrived = []

    def run(state: PyTree, shared: Any) -> Any:
        if not arrived:
            ocp.multihost.sync_global_processes("jaxpg: first call")
            arrived.append(True)
        return mapped(state, shared)

    return run


def _gathered(leaves: list[jax.Array]) -> list[jax.Array]:
    """Arrays `[local devices, ...]` of all processes, in one exchange: many can wait for ever."""
    if jax.process_count() == 1:
        return leaves
    local = [_own_entries(leaf) for leaf in leaves]
    content = b"".join(array.tobytes() for array in local)
    # Every process holds as much as any other.
    whole = multihost_utils.process_allgather(np.frombuffer(content, np.uint8))
    joined, first = [], 0
    for leaf, array in zip(leaves, local, strict=True):
        part = whole[:, first : first + array.nbytes].tobytes()
        first += array.nbytes
        entries = np.frombuffer(part, array.dtype).reshape((-1, *array.shape[1:]))
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        entries = jnp.asarray(entries)
        joined.append(jax.random.wrap_key_data(entries) if is_key else entries)
    return joined


def _own_entries(leaf: jax.Array) -> np.ndarray:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ordered = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    shards = (shard.data for shard in ordered)
    return np.concatenate(
        [np.asarray(jax.random.key_data(shard) if is_key else shard) for shard in shards]
    )


def _is_row(path: Any) -> bool:
    names = [getattr(entry, "name", None) for entry in path]
    return names[:2] == ["world", "rows"]
