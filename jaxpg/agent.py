"""What learns from stored transitions, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxpg.networks import DeterministicNetworks
from jaxpg.replay import Transition
from jaxpg.types import Array, Metrics, PyTree


class Agent(NamedTuple):
    """What learns from stored transitions, however they were collected.

    Attributes:
      name: of the algorithm.
      networks: what acts.
      init: `(key) -> state`.
      update: `(state, transitions [B], key) -> (state, metrics)`: one gradient step. Metrics are
        scalars and always finite. On several devices each has its share of the batch, and the
        key is the same on all.
      policy: `(state) -> params` that act in `networks.actor`.
      settings: plain values, for checkpoints.
    """

    name: str
    networks: DeterministicNetworks
    init: Callable[[Array], PyTree]
    update: Callable[[PyTree, Transition, Array], tuple[PyTree, Metrics]]
    policy: Callable[[PyTree], PyTree]
    settings: Mapping[str, Any]
