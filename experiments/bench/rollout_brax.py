"""Loop overhead: our rollout on brax ant (spring) against brax's bare jitted step.

Ours adds what training needs: random actions drawn in the loop, termination and truncation told
apart, fresh resets, statistics, and the stored trajectory. The peer is `brax`'s own step, vmapped
and scanned, with nothing around it.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

import jaxpg_envs
from experiments.bench.measuring import alternate, compare, record
from jaxpg import rollout

STEPS = {64: 50, 1024: 10}


def run() -> None:
    """Records `rollout_brax_ant_64` and `rollout_brax_ant_1024`."""
    from importlib import metadata

    for num_envs, num_steps in STEPS.items():
        env, params = jaxpg_envs.make("brax/ant", backend="spring")
        ours, peer = _ours(env, params, num_envs, num_steps), _bare(env, num_envs, num_steps)
        record(
            compare(
                f"rollout_brax_ant_{num_envs}",
                alternate(ours, peer),
                peer_name="brax, bare step",
                peer_version=metadata.version("brax"),
                unit="environment steps/s",
                target="over 0.9",
                note="both take random actions; ours resets, keeps statistics and stores the batch",
            )
        )


def _ours(env, params, num_envs, num_steps):
    def act(carry, observation, reset, keys):
        action = jax.vmap(lambda k: jax.random.uniform(k, (8,), minval=-1.0, maxval=1.0))(keys)
        return carry, action, action, jnp.zeros(num_envs)

    @jax.jit
    def go(rows, key):
        return rollout.rollout(env, params, act, rows, key, num_steps)

    state = {"rows": jax.jit(lambda k: rollout.start(env, params, k, num_envs))(jax.random.key(0))}
    return _timed(lambda key: go(state["rows"], key), state, num_envs * num_steps)


def _bare(env, num_envs, num_steps):
    brax_env = env.brax_env

    @jax.jit
    def go(rows, key):
        def step(rows, key):
            action = jax.random.uniform(key, (num_envs, 8), minval=-1.0, maxval=1.0)
            rows = jax.vmap(brax_env.step)(rows, action)
            return rows, rows.reward

        return jax.lax.scan(step, rows, jax.random.split(key, num_steps))

    keys = jax.random.split(jax.random.key(0), num_envs)
    state = {"rows": jax.jit(jax.vmap(brax_env.reset))(keys)}
    return _timed(lambda key: go(state["rows"], key), state, num_envs * num_steps)


def _timed(go, state, steps):
    counter = iter(range(1_000_000))

    def measure() -> float:
        key = jax.random.key(next(counter))
        began = time.perf_counter()
        state["rows"] = jax.block_until_ready(go(key))[0]
        return steps / (time.perf_counter() - began)

    # Twice: the first result may differ from the start in a weak type, which compiles again.
    measure()
    measure()
    return measure
