"""What the runner adds to each chunk: logging, progress, checks, a checkpoint.

The peer is the bare compiled chunk, called in a loop. A checkpoint is written after every chunk,
which is more often than the default.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time

import jax

import jaxpg_envs
from experiments.bench.measuring import alternate, compare, record
from jaxpg import estimators, programs, runner
from jaxpg.algorithms import on_policy

CHUNK, CHUNKS = 250, 3


def run() -> None:
    """Records `runner_overhead`: the bare loop's time over the runner's."""
    env, params = jaxpg_envs.make("CartPole-v1")
    agent = on_policy(env, params, estimators.ppo(), num_envs=64, learning_rate=1e-3)
    chunk = programs.chunk(agent, CHUNK, None, 1)
    init = jax.jit(agent.init)

    def bare() -> float:
        state = init(jax.random.key(0))
        began = time.perf_counter()
        for _ in range(CHUNKS):
            state, metrics = chunk(state, CHUNK)
            jax.block_until_ready(metrics)
        return (time.perf_counter() - began) / CHUNKS

    def with_runner() -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            began = []
            runner.train(
                agent,
                key=jax.random.key(0),
                num_updates=CHUNK * CHUNKS,
                chunk_length=CHUNK,
                checkpoint_every=CHUNK,
                out=folder,
                progress=True,
                callback=lambda update, metrics: began.append(time.perf_counter()),
            )
        # From the end of the first chunk to the end of the last: whole cycles.
        return (began[-1] - began[0]) / (len(began) - 1)

    bare()
    pairs = alternate(with_runner, bare)
    seconds = sorted(b for _, b in pairs)[len(pairs) // 2]
    record(
        compare(
            "runner_overhead",
            pairs,
            peer_name="bare compiled chunk",
            peer_version="same",
            unit="s a chunk",
            target="over 0.98",
            lower_is_better=True,
            note=f"a chunk of {CHUNK} updates takes {seconds:.1f} s",
        )
    )
