"""gym-electric-motor: steps per second with random actions, for each line read.

Its default solver (dopri5), no dashboard; episodes are reset where they end, as ours are.
"""

import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")

import gym_electric_motor as gem  # noqa: E402

name, num_steps = sys.argv[1], int(sys.argv[2])

began = time.perf_counter()
env = gem.make(name, visualization=()).unwrapped
env.reset(seed=0)
env.action_space.seed(0)
actions = [env.action_space.sample() for _ in range(num_steps)]


def play():
    """Steps per second; the actions were drawn before."""
    env.reset()
    start = time.perf_counter()
    for action in actions:
        if env.step(action)[2]:
            env.reset()
    return num_steps / (time.perf_counter() - start)


play()
print(json.dumps({"version": "3.0.3", "compile_seconds": time.perf_counter() - began}), flush=True)
for _ in sys.stdin:
    print(play(), flush=True)
