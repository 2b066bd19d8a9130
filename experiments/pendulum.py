"""Proximal policy optimisation swings up Pendulum-v1: continuous actions, truncated episodes.

python -m experiments.pendulum --budget=cpu
"""

from __future__ import annotations

import dataclasses
import sys

import jaxpg_envs
from experiments import harness
from experiments.method_runs import trained
from experiments.rules import ThresholdRule
from jaxpg import estimators
from jaxpg.algorithms import on_policy
from jaxpg.choices import at_least
from jaxpg.types import Algorithm


@dataclasses.dataclass(frozen=True)
class Config:
    """Of PPO.

    Attributes:
      total_steps: environment steps of one seed.
      num_envs: environments side by side.
      num_steps: steps of each in one update.
      learning_rate: falling linearly to 0.
      num_epochs: passes over each batch.
      num_minibatches: gradient steps in each pass.
      discount: in [0, 1]; also that of the return by which rewards are scaled.
      trace_decay: lambda of the advantage.
      clip: of the ratio.
      evaluations: during training.
      eval_envs: episodes of an evaluation.
    """

    total_steps: int = 500_000
    num_envs: int = 32
    num_steps: int = 64
    learning_rate: float = 1e-3
    num_epochs: int = 10
    num_minibatches: int = 8
    discount: float = 0.95
    trace_decay: float = 0.95
    clip: float = 0.2
    evaluations: int = 20
    eval_envs: int = 32

    def __post_init__(self):
        """Refuses sizes of which nothing comes."""
        for name in ("num_envs", "num_steps", "evaluations", "eval_envs"):
            at_least(name, getattr(self, name), 1)
        at_least("total_steps", self.total_steps, self.num_envs * self.num_steps)


def ppo(config: Config) -> Algorithm:
    """The agent, with observations and rewards scaled by running statistics."""
    env, env_params = jaxpg_envs.make("Pendulum-v1")
    estimator = estimators.ppo(
        config.clip, discount=config.discount, trace_decay=config.trace_decay, entropy=0.0
    )
    return on_policy(
        env,
        env_params,
        estimator,
        num_envs=config.num_envs,
        num_steps=config.num_steps,
        num_epochs=config.num_epochs,
        num_minibatches=config.num_minibatches,
        learning_rate=config.learning_rate,
        anneal_updates=config.total_steps // (config.num_envs * config.num_steps),
        normalise_observations=True,
        normalise_rewards=True,
        reward_discount=config.discount,
        eval_envs=config.eval_envs,
        eval_deterministic=True,
    )


METRIC = "evaluation return (at most 0)"

EXPERIMENT = harness.Experiment(
    system="pendulum",
    title="PPO on Pendulum-v1",
    claim="PPO swings the pendulum up and holds it: a mean return above -250.",
    metric=METRIC,
    rule=ThresholdRule("PPO", threshold=-250.0),
    methods={"PPO": trained(ppo, label=METRIC)},
    budgets={
        "smoke": Config(total_steps=40_960, evaluations=4),
        "cpu": Config(),
        "gpu": Config(),
    },
    num_seeds={"smoke": 2, "cpu": 10, "gpu": 10},
    check=ppo,
    notes=(
        "Observations are scaled by their running mean and variance, rewards by the running "
        "standard deviation of the discounted return; evaluations count the plain rewards.",
        "After training, 32 deterministic episodes for each seed, with the same starts for all.",
        "Settings were checked on the seeds 100 to 103.",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.main(EXPERIMENT))
