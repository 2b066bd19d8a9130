"""Rows of a batch as a whole: those of all devices, a device's own, and any selection of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg import parallel
from jaxpg.types import Array, Trajectory


def of_all_devices(rows: Trajectory) -> Trajectory:
    """The batch of all devices, the same on each of them.

    Args:
      rows: `[B, T]`, this device's share.

    Returns:
      `[num_shards B, T]`; groups and rollouts of different devices have different numbers.
    """
    first = parallel.shard_index() * rows.num_rows
    numbered = {"group_ids": rows.group_ids + first, "rollout_ids": rows.rollout_ids + first}
    return parallel.gather(rows.replace(**numbered))


def own_share(rows: Trajectory) -> Trajectory:
    """This device's share of a batch that all devices hold.

    Args:
      rows: `[B, T]`, B a multiple of the number of devices; a group does not reach over two
        shares, and a share's groups are numbered from that of its first row on.

    Returns:
      `[B / num_shards, T]`, its groups and rollouts numbered anew.
    """
    share = parallel.own_share(rows)
    return share.replace(
        group_ids=share.group_ids - share.group_ids[0],
        rollout_ids=share.rollout_ids - share.rollout_ids[0],
    )


def take(rows: Trajectory, index: Array) -> Trajectory:
    """Some rows, in the order given.

    Args:
      rows: `[B, T]`.
      index: `[N]` int in `[0, B)`.

    Returns:
      `[N, T]`; groups and rollouts are numbered by their first row among those taken.
    """
    taken = jax.tree.map(lambda leaf: leaf[index], rows)
    return taken.replace(
        group_ids=_first_alike(taken.group_ids), rollout_ids=_first_alike(taken.rollout_ids)
    )


def join(first: Trajectory, second: Trajectory) -> Trajectory:
    """Puts a second batch behind a first one.

    Args:
      first: `[B, T]`.
      second: `[C, T]`, with the same extras.

    Returns:
      `[B + C, T]`; groups and rollouts of the second get numbers beyond those of the first.
    """
    num_rows = first.num_rows
    moved = second.replace(
        group_ids=second.group_ids + num_rows, rollout_ids=second.rollout_ids + num_rows
    )
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, moved)


def _first_alike(ids: Array) -> Array:
    return jnp.argmax(ids[:, None] == ids[None, :], axis=1).astype(ids.dtype)
