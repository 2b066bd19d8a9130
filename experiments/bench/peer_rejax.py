"""rejax's PPO on CartPole, in a process of its own: prints steps per second for each line read."""

import json
import sys
import time
from importlib import metadata

import jax
from rejax import PPO

num_envs, num_updates = int(sys.argv[1]), int(sys.argv[2])
algorithm = PPO.create(
    env="CartPole-v1",
    num_envs=num_envs,
    num_steps=128,
    num_epochs=4,
    num_minibatches=4,
    learning_rate=1e-3,
    total_timesteps=num_updates * num_envs * 128,
    eval_freq=num_updates * num_envs * 128,
    skip_initial_evaluation=True,
    agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
)
# Training alone: no evaluation.
algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())
train = jax.jit(algorithm.train)
began = time.perf_counter()
jax.block_until_ready(train(jax.random.PRNGKey(0)))
print(
    json.dumps(
        {
            "version": metadata.version("rejax"),
            "compile_seconds": time.perf_counter() - began,
        }
    ),
    flush=True,
)
for seed, _ in enumerate(sys.stdin):
    began = time.perf_counter()
    jax.block_until_ready(train(jax.random.PRNGKey(seed)))
    print(num_updates * num_envs * 128 / (time.perf_counter() - began), flush=True)
