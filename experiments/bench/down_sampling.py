"""D3S with a quarter of the rows: the time of an update against one from all rows.

A transformer of 2 layers and width 256 on 16 prompts x 8 responses of 64 tokens, no stop; the same
estimator, samples and shapes. Sampling, which stays as it is, is part of both.
"""

from __future__ import annotations

import time

import jax

from experiments.bench.measuring import alternate, compare, record
from jaxpg import estimators, methods, networks
from jaxpg.algorithms import rlvr
from jaxpg.estimator import Estimator
from jaxpg.method import Method
from jaxpg.types import Algorithm
from jaxpg_envs.tokens import digit_sum

PROMPTS, RESPONSES, LENGTH, UPDATES = 16, 8, 64, 3
QUARTER = (0.25, 0.25)


def algorithm(method: Estimator | Method) -> Algorithm:
    """A method on responses so long that learning from them takes most of an update."""
    task = digit_sum(3, 7, LENGTH)
    config = networks.TransformerConfig(
        task.vocabulary_size,
        2,
        width=256,
        num_heads=4,
        mlp_width=1024,
        max_positions=task.prompt_length + LENGTH,
    )
    return rlvr(
        task,
        networks.transformer(config),
        method,
        num_prompts=PROMPTS,
        group_size=RESPONSES,
        learning_rate=1e-4,
    )


def measuring(method: Estimator | Method):
    """One measurement: seconds of an update, in a program of a few."""
    agent = algorithm(method)

    @jax.jit
    def updates(state):
        return jax.lax.scan(lambda state, _: agent.update(state), state, length=UPDATES)

    state = jax.jit(agent.init)(jax.random.key(0))

    def measure() -> float:
        began = time.perf_counter()
        jax.block_until_ready(updates(state))
        return (time.perf_counter() - began) / UPDATES

    measure.compile_seconds = UPDATES * measure()
    return measure


def run(num_pairs: int = 5) -> None:
    """Records `down_sampling_quarter`."""
    estimator = estimators.dapo(0.2, 0.2)
    ours = measuring(methods.d3s(1, rows=QUARTER, estimator=estimator))
    peer = measuring(estimator)
    record(
        compare(
            "down_sampling_quarter",
            alternate(ours, peer, num_pairs),
            peer_name="the same estimator without selection",
            peer_version="same",
            unit="s/update",
            target="over 1.5",
            lower_is_better=True,
            compile_seconds=ours.compile_seconds,
            note="compile_seconds holds the first call, too",
        )
    )
