"""Alternating measurements, and the record that they leave."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import statistics
from collections.abc import Callable
from importlib import metadata

import jax

RESULTS = pathlib.Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One comparison.

    Attributes:
      bench: its name.
      ours: median of our figure.
      peer: median of the peer's figure.
      peer_name: what it was compared with.
      peer_version: of the peer.
      unit: of both figures.
      ratio: median over the pairs of what is better when larger.
      pairs: every pair `(ours, peer)`, in the order measured.
      target: what the ratio should reach.
      compile_seconds: ours, before the first figure.
      note: what a reader has to know.
    """

    bench: str
    ours: float
    peer: float
    peer_name: str
    peer_version: str
    unit: str
    ratio: float
    pairs: list[tuple[float, float]]
    target: str
    compile_seconds: float | None = None
    note: str = ""


def alternate(
    ours: Callable[[], float], peer: Callable[[], float], num_pairs: int = 5
) -> list[tuple[float, float]]:
    """Measures the two in turn, so that a slow moment of the machine meets both.

    Args:
      ours: one measurement.
      peer: one measurement of the peer.
      num_pairs: how many pairs.

    Returns:
      The pairs.
    """
    pairs = []
    for index in range(num_pairs):
        # Who goes first changes, so that neither always meets the warmer machine.
        if index % 2:
            second, first = peer(), ours()
            pairs.append((first, second))
        else:
            pairs.append((ours(), peer()))
    return pairs


def compare(
    bench: str,
    pairs: list[tuple[float, float]],
    *,
    peer_name: str,
    peer_version: str,
    unit: str,
    target: str,
    lower_is_better: bool = False,
    compile_seconds: float | None = None,
    note: str = "",
) -> Measured:
    """Medians, and the median of the ratios pair by pair.

    Args:
      bench: its name.
      pairs: of `alternate`.
      peer_name: what it was compared with.
      peer_version: of the peer.
      unit: of both figures.
      target: what the ratio should reach, in words.
      lower_is_better: the figures are times; the ratio is peer over ours.
      compile_seconds: ours.
      note: what a reader has to know.

    Returns:
      A `Measured`.
    """
    ratios = [b / a if lower_is_better else a / b for a, b in pairs]
    return Measured(
        bench=bench,
        ours=_round(statistics.median(a for a, _ in pairs)),
        peer=_round(statistics.median(b for _, b in pairs)),
        peer_name=peer_name,
        peer_version=peer_version,
        unit=unit,
        ratio=_round(statistics.median(ratios)),
        pairs=[(_round(a), _round(b)) for a, b in pairs],
        target=target,
        compile_seconds=None if compile_seconds is None else _round(compile_seconds),
        note=note,
    )


def record(measured: Measured) -> None:
    """Prints one JSON line and stores it under `results`.

    Args:
      measured: the comparison.
    """
    entry = dataclasses.asdict(measured) | {
        "device": f"{jax.default_backend()} ({os.cpu_count()} cores)"
        if jax.default_backend() == "cpu"
        else jax.devices()[0].device_kind,
        "versions": {name: metadata.version(name) for name in ("jax", "flax", "optax", "gymnax")}
        | {"python": platform.python_version()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{measured.bench}.json").write_text(json.dumps(entry, indent=1) + "\n")
    print(json.dumps(entry), flush=True)


def _round(value: float) -> float:
    return float(f"{value:.4g}")
