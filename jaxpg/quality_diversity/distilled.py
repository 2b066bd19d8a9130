"""An archive distilled into one policy: tell it a descriptor, and it acts."""

from __future__ import annotations

import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from jaxpg import array_file, networks
from jaxpg.array_file import ArrayFileError
from jaxpg.networks import DeterministicNetworks
from jaxpg.networks.mlp import ACTIVATIONS
from jaxpg.quality_diversity.descriptor_scale import Scale
from jaxpg.types import Array, PyTree

FORMAT = 1
MOST_ENTRIES = 1024
"""Of a list in the header."""


class PolicyFileError(ArrayFileError):
    """A file that is damaged, or holds something else than a policy."""


@functools.partial(struct.dataclass, eq=False)  # Hashed by identity, so that it can be jitted.
class DistilledPolicy:
    """A policy that is told a descriptor, with all that it needs to be called.

    Attributes:
      params: of the network, float32.
      num_observations: size of an observation.
      centre: `[D]`, the descriptor that the network sees as 0.
      width: `[D]`, the distance from it that it sees as 1.
      action_low: least entries of the environment's action.
      action_high: largest entries.
      action_shape: of the environment's action.
      hidden: widths of the network's layers.
      activation: between them.
    """

    params: PyTree
    num_observations: int = struct.field(pytree_node=False)
    centre: tuple[float, ...] = struct.field(pytree_node=False)
    width: tuple[float, ...] = struct.field(pytree_node=False)
    action_low: tuple[float, ...] = struct.field(pytree_node=False)
    action_high: tuple[float, ...] = struct.field(pytree_node=False)
    action_shape: tuple[int, ...] = struct.field(pytree_node=False)
    hidden: tuple[int, ...] = struct.field(pytree_node=False)
    activation: str = struct.field(pytree_node=False)

    def __call__(self, observation: Array, descriptor: Array) -> Array:
        """Acts.

        Args:
          observation: `[..., num_observations]` float.
          descriptor: `[D]` or `[..., D]` float, what to do, in the units of the environment's box.

        Returns:
          The environment's action, `[..., *action_shape]` float.

        Raises:
          ValueError: sizes that are not the policy's.
        """
        for name, given, size in (
            ("observation", jnp.shape(observation), self.num_observations),
            ("descriptor", jnp.shape(descriptor), len(self.width)),
        ):
            if not given or given[-1] != size:
                raise ValueError(
                    f"{name} is of shape {given}, but its last axis has to be of size {size}"
                )
        scale = Scale(np.float32(self.centre), np.float32(self.width))
        told = scale.scaled(jnp.asarray(descriptor, jnp.float32))
        told = jnp.broadcast_to(told, (*jnp.shape(observation)[:-1], len(self.width)))
        network = self.network
        return network.to_environment(network.actor(self.params, (observation, told)))

    @property
    def network(self) -> DeterministicNetworks:
        """Its functions, on pairs of observation and descriptor in the network's units."""
        low, high = (
            np.reshape(np.float32(bound), self.action_shape)
            for bound in (self.action_low, self.action_high)
        )
        sizes = (self.num_observations, len(self.width))
        return networks.deterministic(
            spaces.Tuple([spaces.Box(-jnp.inf, jnp.inf, (n,), jnp.float32) for n in sizes]),
            spaces.Box(low, high, self.action_shape, jnp.float32),
            hidden=self.hidden,
            activation=self.activation,
        )


def distilled(
    env: Environment, env_params: PyTree, params: PyTree, scale: Scale, activation: str = "relu"
) -> DistilledPolicy:
    """The policy of some parameters.

    Args:
      env: whose observations are boxes.
      env_params: its parameters.
      params: of an actor of `networks.deterministic` for pairs of observation and descriptor.
      scale: of the descriptors that it saw.
      activation: see `networks.mlp.ACTIVATIONS`.

    Returns:
      A `DistilledPolicy`.

    Raises:
      ValueError: observations that are no box.
    """
    space, box = env.observation_space(env_params), env.action_space(env_params)
    if hasattr(space, "spaces") or hasattr(space, "n"):
        raise ValueError(
            f"observations of {env.name} are {type(space).__name__}, but a distilled policy reads "
            f"boxes"
        )
    layers = params["params"]
    torso = layers.get("torso", {})
    low, high = (
        tuple(np.broadcast_to(np.asarray(bound, float), box.shape).reshape(-1).tolist())
        for bound in (box.low, box.high)
    )
    return DistilledPolicy(
        params=params,
        num_observations=math.prod(space.shape),
        centre=tuple(float(x) for x in scale.centre),
        width=tuple(float(x) for x in scale.width),
        action_low=low,
        action_high=high,
        action_shape=tuple(box.shape),
        hidden=tuple(torso[f"Dense_{i}"]["bias"].shape[-1] for i in range(len(torso))),
        activation=activation,
    )


def save(path: str | pathlib.Path, policy: DistilledPolicy) -> None:
    """Writes a policy as an npz of plain arrays; a file that is there is replaced at the end.

    Args:
      path: of the file, in a folder that exists.
      policy: of one seed.

    Raises:
      ValueError: parameters that are not those of the policy's network, as with several seeds.
    """
    path = pathlib.Path(path)
    expected = _shapes(policy)
    given = {name: np.asarray(leaf, np.float32) for name, leaf in _named(policy.params).items()}
    for name in expected.keys() | given.keys():
        there = given[name].shape if name in given else "missing"
        if there != expected.get(name):
            raise ValueError(
                f"the policy's {name} is {there}, but its network has {expected.get(name)}: save "
                f"each seed's policy in a file of its own"
            )
    header = {name: getattr(policy, name) for name in _FIELDS} | {"format": FORMAT}
    array_file.write(path, given, header)


def load(path: str | pathlib.Path) -> DistilledPolicy:
    """Reads a policy, without executing anything of the file.

    Args:
      path: of the file.

    Returns:
      A `DistilledPolicy`: `policy(observation, descriptor)` acts.

    Raises:
      PolicyFileError: the file is damaged or holds something else.
      OSError: there is no such file, or it cannot be read.
    """
    with array_file.opened(pathlib.Path(path), "policy file", PolicyFileError) as file:
        policy = _policy(array_file.header(file, FORMAT))
        params = {
            name: array_file.array(file, name, np.float32, shape)
            for name, shape in _shapes(policy).items()
        }
        for name, leaf in params.items():
            if not np.all(np.isfinite(leaf)):
                raise ArrayFileError(f"its {name} is not finite")
        return policy.replace(params=_nested(params))


_FIELDS = {
    "num_observations": int,
    "centre": float,
    "width": float,
    "action_low": float,
    "action_high": float,
    "action_shape": int,
    "hidden": int,
    "activation": str,
}
"""Names of the header, and the types of their entries."""


def _policy(header: dict[str, Any]) -> DistilledPolicy:
    """What the header says, without parameters."""
    fields = {}
    for name, kind in _FIELDS.items():
        value = header.get(name)
        single = name in ("num_observations", "activation")
        entries = [value] if single else value
        if (
            not isinstance(entries, list)
            or len(entries) > MOST_ENTRIES
            or any(type(entry) is not kind for entry in entries)
        ):
            raise ArrayFileError(f"its {name} is {str(value)[:100]}")
        if kind is int and any(not 1 <= entry <= 2**24 for entry in entries):
            raise ArrayFileError(f"its {name} is {str(value)[:100]}, which is no size")
        if kind is float and not all(map(math.isfinite, entries)):
            raise ArrayFileError(f"its {name} is {str(value)[:100]}, which is not finite")
        fields[name] = value if single else tuple(value)
    num_actions = math.prod(fields["action_shape"])
    if not len(fields["centre"]) == len(fields["width"]) >= 1 or 0.0 in fields["width"]:
        raise ArrayFileError("its centre and width are no scale of descriptors")
    if not len(fields["action_low"]) == len(fields["action_high"]) == num_actions:
        raise ArrayFileError(f"its action_low and action_high are not of {num_actions} actions")
    if fields["activation"] not in ACTIVATIONS:
        raise ArrayFileError(f"its activation is {fields['activation'][:100]!r}")
    return DistilledPolicy(params=(), **fields)


def _shapes(policy: DistilledPolicy) -> dict[str, tuple[int, ...]]:
    """Of the parameters that the policy's network needs."""
    shapes = jax.eval_shape(policy.network.init_actor, jax.random.key(0))
    return {name: leaf.shape for name, leaf in _named(shapes).items()}


def _named(params: PyTree) -> dict[str, Any]:
    return {
        "/".join(entry.key for entry in path): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
    }


def _nested(params: dict[str, np.ndarray]) -> PyTree:
    tree: dict[str, Any] = {}
    for name, leaf in params.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        # `jnp.array` copies: a device may otherwise share the file's memory.
        place[last] = jnp.array(leaf)
    return tree
