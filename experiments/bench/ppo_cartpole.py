"""PPO on CartPole: environment steps per second against rejax and stable-baselines3.

Same network (two tanh torsos of 64 x 64), 128 steps, 4 epochs of 4 minibatches.
"""

from __future__ import annotations

import itertools

import jax

import jaxpg_envs
from experiments.bench.measuring import alternate, compare, record
from experiments.bench.peers import Peer
from jaxpg import estimators, runner
from jaxpg.algorithms import on_policy

UPDATES = {64: 60, 2048: 4}


def ours(num_envs: int):
    """One measurement of ours, through the runner; and the seconds of the first compilation."""
    env, params = jaxpg_envs.make("CartPole-v1")
    agent = on_policy(env, params, estimators.ppo(), num_envs=num_envs, learning_rate=1e-3)
    seeds = itertools.count()

    def measure() -> float:
        updates = UPDATES[num_envs]
        # The first chunk is not counted: its time may hold compilation.
        result = runner.train(
            agent,
            key=jax.random.key(next(seeds)),
            num_updates=2 * updates,
            chunk_length=updates,
        )
        measure.compile_seconds = measure.compile_seconds or result.compile_time
        return result.steps_per_second

    measure.compile_seconds = None
    measure()
    return measure


def against_rejax(num_envs: int) -> None:
    """Records `ppo_cartpole_<num_envs>_rejax`."""
    peer = Peer("rejax", str(num_envs), str(UPDATES[num_envs]))
    measure = ours(num_envs)
    pairs = alternate(measure, peer.measure)
    peer.close()
    record(
        compare(
            f"ppo_cartpole_{num_envs}_rejax",
            pairs,
            peer_name="rejax",
            peer_version=peer.version,
            unit="environment steps/s",
            target="at least 1.2, aim 1.5",
            compile_seconds=measure.compile_seconds,
            note="compile_seconds holds the first chunk of updates, too",
        )
    )


def against_stable_baselines3(num_envs: int = 64) -> None:
    """Records `ppo_cartpole_<num_envs>_stable_baselines3`."""
    peer = Peer("stable_baselines3", str(num_envs), "2")
    measure = ours(num_envs)
    pairs = alternate(measure, peer.measure)
    peer.close()
    record(
        compare(
            f"ppo_cartpole_{num_envs}_stable_baselines3",
            pairs,
            peer_name="stable-baselines3",
            peer_version=peer.version,
            unit="environment steps/s",
            target="at least 8",
            compile_seconds=measure.compile_seconds,
        )
    )


def run() -> None:
    """All three comparisons."""
    against_rejax(64)
    against_rejax(2048)
    against_stable_baselines3(64)
