"""stable-baselines3's TD3 on Pendulum: trains, then evaluates, for every two lines read.

Prints steps per second after the first line and the mean return after the second.
"""

import itertools
import json
import sys
import time

import numpy as np
import stable_baselines3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

total_steps, eval_episodes = int(sys.argv[1]), int(sys.argv[2])
settings = json.loads(sys.argv[3])


def build(seed: int) -> stable_baselines3.TD3:
    return stable_baselines3.TD3(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", 1, seed=seed),
        learning_rate=settings["learning_rate"],
        buffer_size=total_steps,
        learning_starts=settings["learning_starts"],
        batch_size=settings["batch_size"],
        tau=settings["tau"],
        gamma=settings["discount"],
        train_freq=1,
        gradient_steps=1,
        action_noise=NormalActionNoise(np.zeros(1), np.full(1, settings["noise"])),
        policy_delay=settings["policy_delay"],
        target_policy_noise=settings["policy_noise"],
        target_noise_clip=settings["noise_clip"],
        policy_kwargs={"net_arch": settings["hidden"]},
        seed=seed,
        device="cpu",
    )


build(0).learn(settings["learning_starts"] + 100)
print(json.dumps({"version": stable_baselines3.__version__, "compile_seconds": 0.0}), flush=True)
for seed in itertools.count():
    if not sys.stdin.readline():
        break
    agent = build(seed)
    began = time.perf_counter()
    agent.learn(total_steps)
    print(total_steps / (time.perf_counter() - began), flush=True)
    sys.stdin.readline()
    starts = make_vec_env("Pendulum-v1", 1, seed=10_000)
    print(evaluate_policy(agent, starts, n_eval_episodes=eval_episodes)[0], flush=True)
