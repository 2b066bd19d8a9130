"""QDax in a process of its own: MAP-Elites on the planar arm, or a tessellation of the unit box.

With `arm` it prints evaluations per second for the first of every two lines read, and the QD score
for the second; with `cvt` the seconds of a tessellation for each line.
"""

import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata

import jax
import jax.numpy as jnp
from qdax.core.containers.mapelites_repertoire import (
    compute_cvt_centroids,
    compute_euclidean_centroids,
)
from qdax.core.emitters.mutation_operators import isoline_variation
from qdax.core.emitters.standard_emitters import MixingEmitter
from qdax.core.map_elites import MAPElites
from qdax.tasks.arm import arm_scoring_function
from qdax.utils.metrics import default_qd_metrics

task, settings = sys.argv[1], json.loads(sys.argv[2])


def tessellation(seed: int) -> jax.Array:
    return compute_cvt_centroids(
        num_descriptors=2,
        num_init_cvt_samples=settings["num_samples"],
        num_centroids=settings["num_cells"],
        minval=0.0,
        maxval=1.0,
        key=jax.random.key(seed),
    )


def arm() -> Callable[[int], Iterator[float]]:
    side = int(settings["num_cells"] ** 0.5)
    centroids = (
        tessellation(0)
        if settings["cells"] == "cvt"
        else compute_euclidean_centroids((side, side), 0.0, 1.0)
    )
    emitter = MixingEmitter(
        mutation_fn=None,
        variation_fn=functools.partial(
            isoline_variation,
            iso_sigma=settings["sigma_iso"],
            line_sigma=settings["sigma_line"],
            minval=0.0,
            maxval=1.0,
        ),
        variation_percentage=1.0,
        batch_size=settings["batch_size"],
    )
    algorithm = MAPElites(
        scoring_function=arm_scoring_function,
        emitter=emitter,
        metrics_function=functools.partial(default_qd_metrics, qd_offset=settings["offset"]),
    )

    @jax.jit
    def init(key: jax.Array):
        key_start, key_init, key_run = jax.random.split(key, 3)
        start = jax.random.uniform(key_start, (settings["batch_size"], settings["num_joints"]))
        repertoire, emitter_state, _ = algorithm.init(start, centroids, key_init)
        return repertoire, emitter_state, key_run

    @jax.jit
    def go(carry):
        return jax.lax.scan(algorithm.scan_update, carry, (), length=settings["num_iterations"])

    def run(seed: int) -> Iterator[float]:
        carry = jax.block_until_ready(init(jax.random.key(seed)))
        began = time.perf_counter()
        _, metrics = jax.block_until_ready(go(carry))
        seconds = time.perf_counter() - began
        yield settings["num_iterations"] * settings["batch_size"] / seconds
        yield float(jnp.ravel(metrics["qd_score"])[-1])

    return run


def cvt() -> Callable[[int], Iterator[float]]:
    def run(seed: int) -> Iterator[float]:
        began = time.perf_counter()
        jax.block_until_ready(tessellation(seed))
        yield time.perf_counter() - began

    return run


began = time.perf_counter()
measure = {"arm": arm, "cvt": cvt}[task]()
list(measure(10_000))
print(
    json.dumps(
        {"version": metadata.version("qdax"), "compile_seconds": time.perf_counter() - began}
    ),
    flush=True,
)
for seed in itertools.count():
    if not sys.stdin.readline():
        break
    for index, figure in enumerate(measure(seed)):
        if index:
            sys.stdin.readline()
        print(figure, flush=True)
