"""GRPO of a tiny transformer on fork sums: updates per second against a plain torch loop.

Two layers of width 64; 32 prompts x 8 samples of at most 10 tokens, one gradient step each. With
8 seeds ours trains them at once, and torch one after the other.
"""

from __future__ import annotations

import itertools
import tempfile

import jax

from experiments.bench.measuring import alternate, compare, record
from experiments.bench.peers import Peer
from jaxpg import estimators, networks, pretrained, runner
from jaxpg.algorithms import rlvr
from jaxpg_envs.tokens import fork_sum

NUM_UPDATES = {1: 100, 8: 20}


def ours(task, config, params, num_seeds: int):
    """One measurement of ours, through the runner: updates per second of all seeds."""
    agent = rlvr(
        task,
        networks.transformer(config),
        estimators.grpo(),
        params=params,
        num_prompts=32,
        group_size=8,
        learning_rate=1e-3,
    )
    keys = itertools.count()

    def measure() -> float:
        updates = NUM_UPDATES[num_seeds]
        # The first chunk is not counted: its time may hold compilation.
        result = runner.train(
            agent,
            key=jax.random.key(next(keys)),
            num_updates=2 * updates,
            chunk_length=updates,
            num_seeds=None if num_seeds == 1 else num_seeds,
        )
        measure.compile_seconds = measure.compile_seconds or result.compile_time
        return result.steps_per_second / agent.steps_per_update

    measure.compile_seconds = None
    measure()
    return measure


def against_torch(num_seeds: int, num_pairs: int) -> None:
    """Records `language_model_tiny_<num_seeds>_torch`."""
    task = fork_sum(4, 5)
    config = networks.TransformerConfig(
        vocabulary_size=task.vocabulary_size,
        max_positions=task.prompt_length + task.response_length,
    )
    params = networks.transformer(config).init(jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        pretrained.save(folder, pretrained.Pretrained(config, params, None, "drawn"))
        peer = Peer("torch_tiny", folder, str(num_seeds), str(NUM_UPDATES[num_seeds]))
    measure = ours(task, config, params, num_seeds)
    pairs = alternate(measure, peer.measure, num_pairs)
    peer.close()
    record(
        compare(
            f"language_model_tiny_{num_seeds}_torch",
            pairs,
            peer_name="torch, a plain loop",
            peer_version=peer.version,
            unit="updates/s, all seeds together",
            target="at least 1.0, aim 1.5",
            compile_seconds=measure.compile_seconds,
            note="compile_seconds holds the first chunk of updates, too",
        )
    )


def run(num_pairs: int = 5) -> None:
    """One seed, and eight."""
    against_torch(1, num_pairs)
    against_torch(8, num_pairs)
