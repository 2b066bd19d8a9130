"""stable-baselines3's PPO on CartPole: prints steps per second for each line read."""

import json
import sys
import time

import stable_baselines3
from stable_baselines3.common.env_util import make_vec_env

num_envs, num_updates = int(sys.argv[1]), int(sys.argv[2])
agent = stable_baselines3.PPO(
    "MlpPolicy",
    make_vec_env("CartPole-v1", num_envs),
    n_steps=128,
    batch_size=num_envs * 128 // 4,
    n_epochs=4,
    learning_rate=1e-3,
    ent_coef=0.01,
    device="cpu",
)
agent.learn(num_envs * 128)
print(json.dumps({"version": stable_baselines3.__version__, "compile_seconds": 0.0}), flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    agent.learn(num_updates * num_envs * 128)
    print(num_updates * num_envs * 128 / (time.perf_counter() - began), flush=True)
