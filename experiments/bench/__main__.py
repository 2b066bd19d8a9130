"""Runs the benchmarks named on the command line, or all of them."""

import sys

from experiments.bench import (
    archive,
    audit_speed,
    down_sampling,
    inventory,
    language_model_tiny,
    meta,
    motor,
    off_policy_pendulum,
    populations,
    ppo_cartpole,
    rollout_brax,
    runner_overhead,
    smollm2_grpo_step,
    smollm2_sampling,
    smollm2_training,
)
from jaxpg.choices import one_of

BENCHES = {
    "archive": archive.run,
    "ppo_cartpole": ppo_cartpole.run,
    "rollout_brax": rollout_brax.run,
    "audit_speed": audit_speed.run,
    "runner_overhead": runner_overhead.run,
    "down_sampling": down_sampling.run,
    "inventory": inventory.run,
    "language_model_tiny": language_model_tiny.run,
    "meta": meta.run,
    "motor": motor.run,
    "off_policy_pendulum": off_policy_pendulum.run,
    "populations": populations.run,
    "smollm2_sampling": smollm2_sampling.run,
    "smollm2_training": smollm2_training.run,
    "smollm2_grpo_step": smollm2_grpo_step.run,
}


def main() -> None:
    """Each benchmark prints one JSON line for each comparison and stores it."""
    names = sys.argv[1:] or list(BENCHES)
    try:
        for name in names:
            one_of("bench", name, BENCHES)
    except ValueError as error:
        sys.exit(str(error))
    for name in names:
        BENCHES[name]()


if __name__ == "__main__":
    main()
