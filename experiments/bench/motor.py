"""Electric drives against gym-electric-motor: many at once, 64 in gymnasium, one, and learning.

Random actions; the peer runs with its default solver (dopri5, relative tolerance 1e-6), ours with
one step of Runge and Kutta's method for each interval in single precision, whose deviation from it
is part A of the experiment `electric_motor`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaxpg_envs
from experiments.bench.measuring import alternate, compare, record
from experiments.bench.peers import Peer
from jaxpg import algorithms, estimators, rollout, runner
from jaxpg_envs.motor import gymnasium_drives

DRIVES = ("Cont-CC-SeriesDc-v0", "Finite-CC-PMSM-v0", "Cont-SC-SCIM-v0")
NUM_DRIVES = 4096
NUM_STEPS = 100
IN_A_VECTOR = 64
PEER_STEPS = 5000


def run() -> None:
    """Records `motor_<drive>`, `motor_vector_<drive>` and `motor_single_<drive>`."""
    for name in DRIVES:
        peer = Peer("gym_electric_motor", name, str(PEER_STEPS))
        short = name.removesuffix("-v0").replace("-", "_").lower()
        for kind, ours, target, note in (
            ("", _rollout(name), "at least 500", f"{NUM_DRIVES} drives, resets included"),
            ("vector_", _vector(name), "at least 20", f"{IN_A_VECTOR} drives in gymnasium"),
            ("single_", _single(name), "aim 1", "one drive in gymnasium"),
        ):
            record(
                compare(
                    f"motor_{kind}{short}",
                    alternate(ours, peer.measure),
                    peer_name="gym-electric-motor, dopri5",
                    peer_version=peer.version,
                    unit="environment steps/s",
                    target=target,
                    compile_seconds=ours.compile_seconds,
                    note=f"{note}; one step of Runge and Kutta's method an interval",
                )
            )
        peer.close()
    _training()


def _training(name: str = "Cont-CC-PMSM-v0", num_steps: int = 1_000_000) -> None:
    """Records `motor_training`: PPO with networks and minibatches of the same sizes."""
    env, params = jaxpg_envs.make(name)
    # As many gradient steps per environment step as the peer's defaults: 10 passes in 64s.
    agent = algorithms.on_policy(
        env,
        params,
        estimators.ppo(clip=0.2),
        num_envs=16,
        num_steps=128,
        num_epochs=10,
        num_minibatches=32,
        learning_rate=3e-4,
    )
    num_updates = agent.updates_for(num_steps)
    seeds = itertools.count()

    def train(updates: int) -> tuple[float, float]:
        began = time.perf_counter()
        # The first chunk is not counted: its time may hold compilation.
        result = runner.train(
            agent,
            key=jax.random.key(next(seeds)),
            num_updates=updates,
            chunk_length=updates // 4,
        )
        return result.steps_per_second, time.perf_counter() - began

    whole = train(num_updates)[1]
    peer = Peer("gym_electric_motor_ppo", name, "20000")

    def ours() -> float:
        return train(num_updates // 5)[0]

    pairs = alternate(ours, peer.measure, 3)
    peer.close()
    record(
        compare(
            "motor_training",
            pairs,
            peer_name="stable-baselines3's PPO on gym-electric-motor",
            peer_version=peer.version,
            unit="environment steps/s of learning",
            target="-",
            note=(
                f"{num_steps:,} steps of {name} took {whole:.0f} s, compilation included; the "
                f"peer's figure is from 20,000 steps"
            ),
        )
    )


def _rollout(name: str) -> Callable[[], float]:
    env, params = jaxpg_envs.make(name)
    space = env.action_space(params)

    def act(carry, observation, reset, keys):
        # One draw for all drives, as a policy's network would act for all of them.
        key = jax.random.fold_in(keys[0], 0)
        if hasattr(space, "n"):
            action = jax.random.randint(key, (NUM_DRIVES,), 0, space.n)
        else:
            shape = (NUM_DRIVES, *space.shape)
            action = jax.random.uniform(key, shape, minval=space.low, maxval=space.high)
        return carry, action, action, jnp.zeros(NUM_DRIVES)

    @jax.jit
    def go(rows, key):
        rows, steps, _ = rollout.rollout(env, params, act, rows, key, NUM_STEPS)
        # What a learner reads of a rollout.
        return rows, (steps.observation, steps.reward, steps.terminated)

    begun = jax.jit(lambda key: rollout.start(env, params, key, NUM_DRIVES))(jax.random.key(0))
    state = {"rows": begun, "calls": 0}

    def measure() -> float:
        state["calls"] += 1
        key = jax.random.key(state["calls"])
        began = time.perf_counter()
        state["rows"], steps = go(state["rows"], key)
        jax.block_until_ready(steps)
        return NUM_DRIVES * NUM_STEPS / (time.perf_counter() - began)

    return _warm(measure)


def _vector(name: str) -> Callable[[], float]:
    env = gymnasium_drives.make_vector(name, IN_A_VECTOR)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(PEER_STEPS // 10)]

    def measure() -> float:
        began = time.perf_counter()
        for action in actions:
            env.step(action)
        return IN_A_VECTOR * len(actions) / (time.perf_counter() - began)

    return _warm(measure)


def _single(name: str) -> Callable[[], float]:
    env = gymnasium_drives.make(name)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(PEER_STEPS)]

    def measure() -> float:
        began = time.perf_counter()
        for action in actions:
            if env.step(action)[2]:
                env.reset()
        return len(actions) / (time.perf_counter() - began)

    return _warm(measure)


def _warm(measure: Callable[[], float]) -> Callable[[], float]:
    began = time.perf_counter()
    measure()
    measure.compile_seconds = time.perf_counter() - began
    return measure
