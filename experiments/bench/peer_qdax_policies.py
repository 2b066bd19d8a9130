"""QDax in a process of its own: populations of policies on the point that is pushed.

The first argument is `genetic`, `pga` or `dcrl`. It prints evaluations per second for the first of
every two lines read, and the QD score for the second.
"""

# ruff: noqa: E402

import functools
import itertools
import json
import sys
import time
import types
from importlib import metadata

import jax
import jax.numpy as jnp

# Its emitters name a type of environments for a brax that is no more; they use none of it.
for name in ("", ".v1", ".v1.envs", ".v1.envs.base_env"):
    module = types.ModuleType(f"qdax.tasks.brax{name}")
    module.__path__ = []
    module.QDEnv = object
    sys.modules[module.__name__] = module

from qdax.core.containers.mapelites_repertoire import compute_euclidean_centroids
from qdax.core.emitters.dcrl_me_emitter import DCRLMEConfig, DCRLMEEmitter
from qdax.core.emitters.mutation_operators import isoline_variation
from qdax.core.emitters.pga_me_emitter import PGAMEConfig, PGAMEEmitter
from qdax.core.emitters.standard_emitters import MixingEmitter
from qdax.core.map_elites import MAPElites
from qdax.core.neuroevolution.buffers.buffer import DCRLTransition, QDTransition
from qdax.core.neuroevolution.networks.networks import MLP, MLPDC
from qdax.utils.metrics import default_qd_metrics

kind, settings = sys.argv[1], json.loads(sys.argv[2])
NUM_STEPS = 50


class Point:
    """What the emitters ask an environment."""

    observation_size = 4
    action_size = 2
    state_descriptor_length = 2
    descriptor_length = 2
    descriptor_limits = (-jnp.ones(2), jnp.ones(2))


layers = (settings["hidden"], settings["hidden"], Point.action_size)
network = MLP(layer_sizes=layers, final_activation=jnp.tanh)


def score(policies, key):
    del key
    nothing = jnp.zeros(Point.descriptor_length)

    def episode(policy):
        def step(state, time_step):
            position, velocity = state
            observation = jnp.concatenate(state)
            action = network.apply(policy, observation)
            velocity = 0.9 * velocity + 0.02 * action
            position = jnp.clip(position + velocity, -1.0, 1.0)
            fields = {
                "obs": observation,
                "next_obs": jnp.concatenate([position, velocity]),
                "rewards": 1.0 - 0.5 * jnp.sum(action**2),
                "dones": jnp.zeros(()),
                "truncations": jnp.float32(time_step == NUM_STEPS - 1),
                "actions": action,
                "state_desc": nothing,
                "next_state_desc": nothing,
            }
            if kind == "dcrl":
                transition = DCRLTransition(desc=nothing, desc_prime=nothing, **fields)
            else:
                transition = QDTransition(**fields)
            return (position, velocity), transition

        start = (jnp.zeros(2), jnp.zeros(2))
        (position, _), steps = jax.lax.scan(step, start, jnp.arange(NUM_STEPS))
        return jnp.sum(steps.rewards), position, steps

    fitness, descriptors, steps = jax.vmap(episode)(policies)
    return fitness, descriptors, {} if kind == "genetic" else {"transitions": steps}


def emitter():
    offspring = settings["offspring"]
    variation = functools.partial(
        isoline_variation, iso_sigma=settings["sigma_iso"], line_sigma=settings["sigma_line"]
    )
    if kind == "genetic":
        return MixingEmitter(
            mutation_fn=None,
            variation_fn=variation,
            variation_percentage=1.0,
            batch_size=offspring,
        )
    sizes = {
        "num_critic_training_steps": settings["num_critic_steps"],
        "num_pg_training_steps": settings["num_policy_steps"],
        "critic_hidden_layer_size": (settings["critic_hidden"],) * 2,
        "policy_learning_rate": settings["policy_learning_rate"],
        "batch_size": settings["batch_size"],
        "replay_buffer_size": settings["capacity"],
    }
    if kind == "pga":
        config = PGAMEConfig(env_batch_size=offspring, **sizes)
        return PGAMEEmitter(config, network, Point(), variation)
    config = DCRLMEConfig(
        ga_batch_size=offspring // 2,
        dcrl_batch_size=offspring // 4,
        ai_batch_size=offspring // 4,
        lengthscale=settings["length_scale"],
        **sizes,
    )
    told = MLPDC(layer_sizes=layers, final_activation=jnp.tanh)
    return DCRLMEEmitter(config, network, told, Point(), variation)


algorithm = MAPElites(
    scoring_function=score,
    emitter=emitter(),
    metrics_function=functools.partial(default_qd_metrics, qd_offset=0.0),
)
cells = compute_euclidean_centroids((settings["grid"],) * 2, -1.0, 1.0)


@jax.jit
def init(key):
    key_start, key_init, key_run = jax.random.split(key, 3)
    keys = jax.random.split(key_start, settings["offspring"])
    start = jax.vmap(network.init, in_axes=(0, None))(keys, jnp.zeros(Point.observation_size))
    repertoire, emitter_state, _ = algorithm.init(start, cells, key_init)
    return repertoire, emitter_state, key_run


@functools.partial(jax.jit, donate_argnums=0)
def go(carry):
    return jax.lax.scan(algorithm.scan_update, carry, (), length=settings["num_iterations"])


def measure(seed):
    carry = jax.block_until_ready(init(jax.random.key(seed)))
    began = time.perf_counter()
    _, metrics = jax.block_until_ready(go(carry))
    seconds = time.perf_counter() - began
    yield settings["num_iterations"] * settings["offspring"] / seconds
    yield float(jnp.ravel(metrics["qd_score"])[-1])


began = time.perf_counter()
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
