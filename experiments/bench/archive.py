"""Archives: insertion beside a sort, tessellations and MAP-Elites on the planar arm beside QDax."""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.bench.measuring import alternate, compare, record
from experiments.bench.peers import Peer
from jaxpg.algorithms.map_elites import map_elites
from jaxpg.quality_diversity import Cells, archive, centroidal, grid
from jaxpg.quality_diversity.genetic import genetic
from jaxpg.types import Algorithm, Metrics, PyTree
from jaxpg_envs.locomotion import score_arm

NUM_OFFSPRING = 4096
REPEATS = 50
SETTINGS = {
    "num_cells": 1024,
    "num_samples": 50_000,
    "num_joints": 8,
    "batch_size": 128,
    "num_iterations": 400,
    "sigma_iso": 0.005,
    "sigma_line": 0.05,
    "offset": 1.0,
}


def run() -> None:
    """Records `archive_insert`, `archive_cvt` and `archive_arm_<cells>` with their QD scores."""
    _insertion()
    _tessellation()
    for name, cells, target in (
        ("grid", grid([0, 0], [1, 1], (32, 32)), "at least 8"),
        ("cvt", _cvt(0), "at least 3"),
    ):
        _arm(name, cells, target)


def _insertion() -> None:
    cells = grid([0, 0], [1, 1], (32, 32))
    key_fitness, key_descriptors, key_genotypes = jax.random.split(jax.random.key(0), 3)
    genotypes = jax.random.uniform(key_genotypes, (NUM_OFFSPRING, SETTINGS["num_joints"]))
    descriptors = jax.random.uniform(key_descriptors, (NUM_OFFSPRING, 2))
    fitness = jax.random.normal(key_fitness, (NUM_OFFSPRING,))
    insert = jax.jit(archive.insert, donate_argnums=0)
    sort = jax.jit(jnp.argsort)
    held = [archive.empty(cells, genotypes[0])]

    def ours() -> float:
        began = time.perf_counter()
        for _ in range(REPEATS):
            held[0], added = insert(held[0], genotypes, fitness, descriptors)
        jax.block_until_ready(added)
        return (time.perf_counter() - began) / REPEATS * 1e6

    def peer() -> float:
        began = time.perf_counter()
        for _ in range(REPEATS):
            order = sort(fitness)
        jax.block_until_ready(order)
        return (time.perf_counter() - began) / REPEATS * 1e6

    began = time.perf_counter()
    ours()
    compile_seconds = time.perf_counter() - began
    peer()
    record(
        compare(
            "archive_insert",
            alternate(ours, peer),
            peer_name="argsort of as many numbers",
            peer_version=f"jax {jax.__version__}",
            unit="microseconds",
            target="at least 1",
            lower_is_better=True,
            compile_seconds=compile_seconds,
            note=f"{NUM_OFFSPRING} offspring of 8 numbers into a grid of 1,024 cells",
        )
    )


def _cvt(seed: int) -> Cells:
    return centroidal(
        jax.random.key(seed), [0, 0], [1, 1], SETTINGS["num_cells"], SETTINGS["num_samples"]
    )


def _tessellation() -> None:
    seeds = itertools.count()

    def ours() -> float:
        began = time.perf_counter()
        jax.block_until_ready(_cvt(next(seeds)))
        return time.perf_counter() - began

    compile_seconds = ours()
    peer = Peer("qdax", "cvt", json.dumps(SETTINGS))
    pairs = alternate(ours, peer.measure, 3)
    peer.close()
    record(
        compare(
            "archive_cvt",
            pairs,
            peer_name="QDax, scikit-learn's k-means",
            peer_version=peer.version,
            unit="seconds",
            target="-",
            lower_is_better=True,
            compile_seconds=compile_seconds,
            note="1,024 cells from 50,000 samples in two dimensions",
        )
    )


def _arm(name: str, cells: Cells, target: str) -> None:
    batch_size, num_iterations = SETTINGS["batch_size"], SETTINGS["num_iterations"]
    agent = map_elites(
        score_arm,
        cells,
        genetic(
            batch_size,
            sigma_iso=SETTINGS["sigma_iso"],
            sigma_line=SETTINGS["sigma_line"],
            low=0.0,
            high=1.0,
        ),
        lambda key: jax.random.uniform(key, (batch_size, SETTINGS["num_joints"])),
        offset=SETTINGS["offset"],
    )
    beside_qdax(
        f"archive_arm_{name}",
        agent,
        lambda: Peer("qdax", "arm", json.dumps(SETTINGS | {"cells": name})),
        num_iterations=num_iterations,
        batch_size=batch_size,
        target=target,
        score="QD score with offset 1",
        note=(
            f"{num_iterations} iterations of {batch_size} offspring, {SETTINGS['num_joints']} "
            f"joints, {SETTINGS['num_cells']} cells, metrics after every iteration"
        ),
    )


def beside_qdax(
    bench: str,
    agent: Algorithm,
    start_peer: Callable[[], Peer],
    *,
    num_iterations: int,
    batch_size: int,
    target: str,
    score: str,
    note: str,
    num_pairs: int = 10,
) -> None:
    """Records the speed, metrics after every iteration included, and the QD score of each seed.

    Args:
      bench: name of the record of the speed; that of the scores ends on `_qd_score`.
      agent: ours.
      start_peer: the peer, which prints evaluations per second and QD score in turn.
      num_iterations: of a run.
      batch_size: evaluations of an iteration.
      target: of the speed's ratio.
      score: what the QD score is, in words.
      note: what a reader has to know.
      num_pairs: runs of each.
    """
    start = jax.jit(agent.init)
    scores: list[float] = []
    peer_scores: list[float] = []

    @functools.partial(jax.jit, donate_argnums=0)
    def go(state: PyTree) -> tuple[PyTree, Metrics]:
        return jax.lax.scan(lambda state, _: agent.update(state), state, length=num_iterations)

    def ours(seed: int) -> float:
        state = jax.block_until_ready(start(jax.random.key(seed)))
        began = time.perf_counter()
        _, metrics = jax.block_until_ready(go(state))
        seconds = time.perf_counter() - began
        scores.append(float(metrics["qd_score"][-1]))
        return num_iterations * batch_size / seconds

    def theirs() -> float:
        speed = peer.measure()
        peer_scores.append(peer.measure())
        return speed

    began = time.perf_counter()
    ours(10_000)
    compile_seconds = time.perf_counter() - began
    scores.clear()
    peer = start_peer()
    seeds = itertools.count()
    pairs = alternate(lambda: ours(next(seeds)), theirs, num_pairs)
    peer.close()
    about = {"peer_name": "QDax", "peer_version": peer.version}
    record(
        compare(
            bench,
            pairs,
            unit="evaluations/s",
            target=target,
            compile_seconds=compile_seconds,
            note=note,
            **about,
        )
    )
    record(
        compare(
            f"{bench}_qd_score",
            list(zip(scores, peer_scores, strict=True)),
            unit=score,
            target="about 1",
            note=f"{note}; each pair is a seed of ours and one of the peer's",
            **about,
        )
    )
