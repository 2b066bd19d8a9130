"""stable-baselines3 PPO on gym-electric-motor: learning steps per second for each line read."""

import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")

import gym_electric_motor as gem  # noqa: E402
import stable_baselines3  # noqa: E402
from gymnasium.wrappers import FlattenObservation  # noqa: E402

name, num_steps = sys.argv[1], int(sys.argv[2])
env = FlattenObservation(gem.make(name, visualization=()).unwrapped)
agent = stable_baselines3.PPO("MlpPolicy", env, device="cpu")
agent.learn(2048)
print(json.dumps({"version": stable_baselines3.__version__, "compile_seconds": 0.0}), flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    before = agent.num_timesteps
    agent.learn(num_steps, reset_num_timesteps=False)
    print((agent.num_timesteps - before) / (time.perf_counter() - began), flush=True)
