"""What a vector environment says beside observations, in gymnasium's layout.

gymnasium stores the info of a batch as one dictionary of arrays, in which each name has a companion
`_name`: `[num_envs]` bool, the environments that reported it. The others hold zeros.
"""

import functools
from typing import Any

import gymnasium
import jax
import numpy as np

from jaxpg_envs.gymnasium_spaces import from_arrays


def masked(info: dict, mask: np.ndarray) -> dict:
    """The info of a batch, of which some environments report nothing.

    Args:
      info: pytree of arrays `[num_envs, ...]`.
      mask: `[num_envs]` bool, the environments that report it.

    Returns:
      gymnasium's dictionary; empty where nobody reports.

    >>> masked({"lives": np.array([3, 2])}, np.array([True, False]))
    {'lives': array([3, 0]), '_lives': array([ True, False])}
    """
    if not mask.any():
        return {}
    infos = {}
    for name, value in info.items():
        if isinstance(value, dict):
            infos[name] = masked(value, mask)
        else:
            infos[name] = jax.tree.map(functools.partial(_zeroed, mask), value)
        infos[f"_{name}"] = mask.copy()
    return infos


def _zeroed(mask: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    rows = leaf.copy()
    rows[~mask] = 0
    return rows


def final_infos(
    space: gymnasium.Space, observation: Any, info: dict, ended: np.ndarray
) -> dict[str, Any]:
    """The ends of episodes in same-step mode.

    Args:
      space: observation space of one environment.
      observation: pytree of arrays `[num_envs, ...]`, before the reset.
      info: pytree of arrays `[num_envs, ...]` of the ending steps.
      ended: `[num_envs]` bool, the environments that ended.

    Returns:
      "final_obs", an object array with None where nothing ended, "final_info", and their masks.
    """
    observations = np.full(ended.shape, None, object)
    for i in np.flatnonzero(ended):
        row = jax.tree.map(lambda leaf, i=i: np.array(leaf[i]), observation)
        observations[i] = from_arrays(space, row)
    return {
        "final_obs": observations,
        "_final_obs": ended.copy(),
        "final_info": masked(info, ended),
        "_final_info": ended.copy(),
    }
