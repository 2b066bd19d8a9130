"""TD3 on Pendulum-v1: steps per second and what was learned, against stable-baselines3.

Both take one step and one gradient step in turn, with the same settings and the same networks.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import jax

import jaxpg_envs
from experiments.bench.measuring import alternate, compare, record
from experiments.bench.peers import Peer
from jaxpg import exploration, networks, runner
from jaxpg.algorithms import td3

TOTAL_STEPS = 8000
EVAL_EPISODES = 50
NUM_SEEDS = 3
SETTINGS = {
    "learning_rate": 1e-3,
    "learning_starts": 100,
    "batch_size": 256,
    "tau": 0.005,
    "discount": 0.99,
    "noise": 0.1,
    "policy_delay": 2,
    "policy_noise": 0.2,
    "noise_clip": 0.5,
    "hidden": [256, 256],
}
"""Stable-baselines3's defaults, but for smaller networks and noise in the actions."""

SHARED = ("learning_starts", "batch_size", "tau", "discount", "policy_delay", "policy_noise")


class Ours:
    """Trains a seed at a time, through the runner."""

    def __init__(self):
        """Builds the agent and compiles it."""
        env, params = jaxpg_envs.make("Pendulum-v1")
        rate = SETTINGS["learning_rate"]
        self._agent = td3(
            env,
            params,
            networks=networks.deterministic(
                env.observation_space(params), env.action_space(params), hidden=SETTINGS["hidden"]
            ),
            capacity=TOTAL_STEPS,
            exploration=exploration.Gaussian(SETTINGS["noise"]),
            noise_clip=SETTINGS["noise_clip"],
            actor_learning_rate=rate,
            critic_learning_rate=rate,
            eval_envs=EVAL_EPISODES,
            **{name: SETTINGS[name] for name in SHARED},
        )
        self._seeds = itertools.count()
        self._result = None
        self.compile_seconds = self._train(2, 1000).compile_time

    def _train(self, num_chunks: int, seed: int) -> runner.Result:
        # The first chunk is not counted: its time may hold compilation.
        chunk = 400
        return runner.train(
            self._agent,
            key=jax.random.key(seed),
            num_updates=num_chunks * chunk,
            chunk_length=chunk,
            log_every=chunk,
            evaluate_every=0,
        )

    def speed(self) -> float:
        """Trains the next seed; steps per second."""
        self._result = self._train(TOTAL_STEPS // 400, next(self._seeds))
        return self._result.steps_per_second

    def mean_return(self) -> float:
        """Of the seed that was trained last."""
        return float(self._result.evaluations["eval_return"][-1])


def both(
    speed: Callable[[], float], mean_return: Callable[[], float], costs: list[float]
) -> Callable[[], float]:
    """A measurement of speed that also notes the cost of what was learned.

    Args:
      speed: trains.
      mean_return: of what was trained.
      costs: grows by the return with its sign turned.

    Returns:
      The measurement.
    """

    def measure() -> float:
        measured = speed()
        costs.append(-mean_return())
        return measured

    return measure


def run() -> None:
    """Records `off_policy_pendulum` (speed) and `off_policy_pendulum_cost` (what was learned)."""
    name = "stable_baselines3_td3"
    peer = Peer(name, str(TOTAL_STEPS), str(EVAL_EPISODES), json.dumps(SETTINGS))
    ours, our_costs, peer_costs = Ours(), [], []
    pairs = alternate(
        both(ours.speed, ours.mean_return, our_costs),
        both(peer.measure, peer.measure, peer_costs),
        NUM_SEEDS,
    )
    peer.close()
    about = {"peer_name": "stable-baselines3", "peer_version": peer.version}
    record(
        compare(
            "off_policy_pendulum",
            pairs,
            unit="environment steps/s, a gradient step of 256 transitions with each",
            target="at least 3",
            compile_seconds=ours.compile_seconds,
            note="compile_seconds holds the first chunk of updates, too",
            **about,
        )
    )
    record(
        compare(
            "off_policy_pendulum_cost",
            list(zip(our_costs, peer_costs, strict=True)),
            unit=f"cost of an episode (minus its return) after {TOTAL_STEPS} steps, mean of "
            f"{EVAL_EPISODES} episodes without noise",
            target="about 1",
            lower_is_better=True,
            note="each pair is a seed of ours and one of the peer's",
            **about,
        )
    )
