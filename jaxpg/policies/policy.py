"""Deterministic policies: observation in, orders out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.types import Array, PyTree

Observation = Mapping[str, Array]
"""What a policy sees, `[B, ...]` each: stock in slots, past demand, costs, lead times, ..."""

Action = dict[str, Array]
"""Orders: `stores [B, S, max(W, 1)]`, `warehouses [B, W]` and `echelons [B, E]`, in units."""


@dataclasses.dataclass(frozen=True)
class DeterministicPolicy:
    """A parametric function in two pieces: raw outputs, and the orders that they stand for.

    The second piece has no parameters. As a part of the environment it lets a stochastic policy
    choose the raw outputs, so that both kinds of learning act through the same head.

    Attributes:
      init: `(key) -> params`.
      outputs: `(params, observation) -> [B, num_outputs]`, any real numbers.
      action: `(outputs [B, num_outputs], observation) -> Action`.
      num_outputs: N.
    """

    init: Callable[[Array], PyTree]
    outputs: Callable[[PyTree, Observation], Array]
    action: Callable[[Array, Observation], Action]
    num_outputs: int

    def apply(self, params: PyTree, observation: Observation) -> Action:
        """The orders of B scenarios.

        Args:
          params: from `init`, or learned since.
          observation: every entry has the leading axis `[B]`.

        Returns:
          An `Action`.
        """
        return self.action(self.outputs(params, observation), observation)


def rounded(policy: DeterministicPolicy) -> DeterministicPolicy:
    """The same policy with orders of whole units, for demand in whole units.

    It has no gradient, and suppliers with little stock may be asked for up to half a unit for each
    customer more than they have: meant for stores that order from outside, after training.

    Args:
      policy: any.

    Returns:
      A `DeterministicPolicy` with the same parameters.
    """
    return dataclasses.replace(
        policy,
        action=lambda outputs, observation: jax.tree.map(
            jnp.round, policy.action(outputs, observation)
        ),
    )


def orders(stores: Array, warehouses: Array | None = None, echelons: Array | None = None) -> Action:
    """An action; what is left out has no such locations.

    Args:
      stores: `[B, S, max(W, 1)]`.
      warehouses: `[B, W]`, or None for W = 0.
      echelons: `[B, E]`, or None for E = 0.

    Returns:
      An `Action`.
    """
    none = jnp.zeros((stores.shape[0], 0), jnp.result_type(stores))
    return {
        "stores": stores,
        "warehouses": none if warehouses is None else warehouses,
        "echelons": none if echelons is None else echelons,
    }


def on_hand(slots: Array) -> Array:
    """What suppliers can ship in this period.

    Args:
      slots: `[..., P]`.

    Returns:
      `[...]`, slot 0. A stock that rounding left below zero is empty.
    """
    # Not relu: its derivative at an empty stock is 0, here it is 1.
    return jnp.where(slots[..., 0] < 0, 0.0, slots[..., 0])


def check_sizes(network: Any, observation: Observation) -> None:
    """Checks that an observation is one of a network's.

    Args:
      network: has the attributes of `jaxpg_envs.inventory.network.Network`.
      observation: leading axis `[B]`.

    Raises:
      ValueError: another number of locations or slots.
    """
    sizes = {
        "stores": (network.num_stores, network.store_slots),
        "warehouses": (network.num_warehouses, network.warehouse_slots),
        "echelons": (network.num_echelons, network.echelon_slots),
    }
    for name, (number, slots) in sizes.items():
        shape = jnp.shape(observation[name])
        if len(shape) != 3 or shape[1] != number or (number and shape[2] != slots):
            raise ValueError(
                f"observation[{name!r}] has shape {shape}, but [B, {number}, {slots}] is needed"
            )
    # One column too few would be broadcast.
    shape, edges = jnp.shape(observation["lead_time"]), np.shape(network.adjacency)
    if shape[1:] != edges:
        raise ValueError(
            f"observation['lead_time'] has shape {shape}, but [B, {edges[0]}, {edges[1]}] is needed"
        )


def check_stores_only(observation: Observation, num_stores: int) -> None:
    """Checks that stores order from outside.

    Args:
      observation: leading axis `[B]`.
      num_stores: S.

    Raises:
      ValueError: another number of stores, or warehouses above them.
    """
    shape, above = jnp.shape(observation["stores"]), jnp.shape(observation["warehouses"])
    if len(shape) != 3 or shape[1] != num_stores:
        raise ValueError(
            f"observation['stores'] has shape {shape}, but [B, {num_stores}, slots] is needed"
        )
    if above[1]:
        raise ValueError(
            f"observation['warehouses'] has shape {above}, but this policy is for stores that "
            f"order from outside, without warehouses"
        )


def check_history(observation: Observation, history: int) -> None:
    """Checks that enough past demand is seen.

    Args:
      observation: leading axis `[B]`.
      history: periods that the policy reads.

    Raises:
      ValueError: fewer periods.
    """
    shape = jnp.shape(observation["past_demand"])
    if shape[1] < history:
        raise ValueError(
            f"observation['past_demand'] has shape {shape}, but the policy reads {history} "
            f"periods: build the environment with history={history}"
        )
