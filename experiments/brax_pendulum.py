"""Our PPO beside brax's own PPO at equal steps: brax's inverted pendulum, spring backend.

python -m experiments.brax_pendulum --budget=cpu
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg_envs
from experiments import harness
from experiments.method_runs import Context, Curve, MethodRun, trained
from experiments.rules import NotWorseRule
from experiments.tuning import Tuning
from jaxpg import estimators, networks, rollout
from jaxpg.algorithms import on_policy
from jaxpg.runner import EVALUATION_SEED
from jaxpg.types import Algorithm

METRIC = "evaluation return (at most 500)"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of both agents; what one of them names otherwise has the same meaning.

    Attributes:
      total_steps: environment steps of one seed and method.
      episode_length: at which an episode is truncated.
      num_envs: environments side by side.
      num_steps: steps of each in one update.
      num_epochs: passes over each batch.
      num_minibatches: gradient steps in each pass.
      learning_rate: constant, of Adam.
      discount: in [0, 1].
      trace_decay: lambda.
      clip: of the probability ratio.
      entropy: coefficient.
      hidden: width of the two layers of policy and critic.
      evaluations: during training.
      eval_envs: episodes of an evaluation.
    """

    total_steps: int = 300_000
    episode_length: int = 500
    num_envs: int = 64
    num_steps: int = 32
    num_epochs: int = 4
    num_minibatches: int = 8
    learning_rate: float = 1e-3
    discount: float = 0.97
    trace_decay: float = 0.95
    clip: float = 0.3
    entropy: float = 1e-3
    hidden: int = 64
    evaluations: int = 6
    eval_envs: int = 32

    @property
    def num_updates(self) -> int:
        """Updates of one seed."""
        return max(1, self.total_steps // (self.num_envs * self.num_steps))


def ours(config: Config) -> Algorithm:
    """PPO with observations normalised and a tanh-normal policy, as brax's has."""
    env, env_params = _environment(config)
    network = networks.actor_critic(
        env.observation_space(env_params),
        env.action_space(env_params),
        hidden=(config.hidden, config.hidden),
        activation="silu",
        distribution="tanh_normal",
        state_dependent_std=True,
    )
    return on_policy(
        env,
        env_params,
        estimators.ppo(
            config.clip,
            discount=config.discount,
            trace_decay=config.trace_decay,
            entropy=config.entropy,
        ),
        networks=network,
        num_envs=config.num_envs,
        num_steps=config.num_steps,
        num_epochs=config.num_epochs,
        num_minibatches=config.num_minibatches,
        learning_rate=config.learning_rate,
        normalise_observations=True,
        eval_envs=config.eval_envs,
        eval_deterministic=True,
    )


def brax_ppo(config: Config, seeds: Sequence[int], context: Context) -> MethodRun:
    """`brax.training.agents.ppo`, one seed after the other, evaluated like ours."""
    runs = [_brax_seed(config, seed, context) for seed in seeds]
    steps = runs[0][1]
    curves = np.stack([curve for _, _, curve in runs], axis=1)
    return MethodRun([value for value, _, _ in runs], {METRIC: Curve(steps, curves)})


def _brax_seed(config: Config, seed: int, context: Context) -> tuple[float, list, list]:
    env, env_params = _environment(config)
    # Only now: brax reports on import, and the adapter has just silenced that.
    from brax.training.agents.ppo import networks as brax_networks
    from brax.training.agents.ppo import train as brax_train

    def factory(*sizes, **options):
        hidden = (config.hidden, config.hidden)
        return brax_networks.make_ppo_networks(
            *sizes,
            policy_hidden_layer_sizes=hidden,
            value_hidden_layer_sizes=hidden,
            **options,
        )

    steps, returns = [], []

    def report(step: int, metrics: dict) -> None:
        steps.append(float(step))
        returns.append(float(metrics["eval/episode_reward"]))

    with _replicated_as_before():
        make_policy, params, _ = brax_train.train(
            environment=env.brax_env,
            num_timesteps=config.num_updates * config.num_envs * config.num_steps,
            episode_length=config.episode_length,
            num_envs=config.num_envs,
            unroll_length=config.num_steps,
            batch_size=config.num_envs // config.num_minibatches,
            num_minibatches=config.num_minibatches,
            num_updates_per_batch=config.num_epochs,
            learning_rate=config.learning_rate,
            discounting=config.discount,
            gae_lambda=config.trace_decay,
            clipping_epsilon=config.clip,
            entropy_cost=config.entropy,
            max_grad_norm=0.5,
            normalize_observations=True,
            network_factory=factory,
            num_evals=config.evaluations + 1,
            num_eval_envs=config.eval_envs,
            deterministic_eval=True,
            seed=seed,
            progress_fn=report,
        )
    policy = make_policy(params, deterministic=True)

    def act(carry, observation, reset, keys):
        action, _ = policy(observation, keys[0])
        return carry, action, action, jnp.zeros(reset.shape)

    # The starts of our own last evaluation.
    key = jax.random.fold_in(jax.random.key(EVALUATION_SEED), config.num_updates)
    returns_at_the_end, _, _ = jax.jit(
        lambda key: rollout.evaluate(env, env_params, act, key, num_envs=config.eval_envs)
    )(key)
    return float(jnp.mean(returns_at_the_end)), steps, returns


@contextlib.contextmanager
def _replicated_as_before() -> Iterator[None]:
    """Gives brax's trainer the function that it calls and that jax has removed."""

    def replicate(tree, devices):
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * len(devices)), tree)

    with mock.patch.object(jax, "device_put_replicated", replicate, create=True):
        yield


def _environment(config: Config):
    return jaxpg_envs.make(
        "brax/inverted_pendulum", backend="spring", max_steps_in_episode=config.episode_length
    )


EXPERIMENT = harness.Experiment(
    system="brax_pendulum",
    title="PPO on brax inverted pendulum (spring)",
    claim="At equal environment steps our PPO is not worse than brax's own.",
    metric=METRIC,
    rule=NotWorseRule("PPO", "brax PPO", margin=0.1),
    methods={"PPO": trained(ours, label=METRIC), "brax PPO": brax_ppo},
    budgets={
        "smoke": Config(total_steps=4_096, episode_length=50, hidden=8, evaluations=1, eval_envs=4),
        "cpu": Config(),
        "gpu": Config(total_steps=3_000_000, num_envs=1024),
    },
    num_seeds={"smoke": 2, "cpu": 5, "gpu": 10},
    tuning=Tuning({"learning_rate": (3e-4, 1e-3, 3e-3)}, seeds=(1000, 1001)),
    check=ours,
    notes=(
        "Both use the same settings, the learning rate from the same grid, and the last evaluation "
        "has the same starts.",
        "brax resets an environment to its first start, ours to a fresh one.",
        "brax 0.14.2 calls jax.device_put_replicated, which jax has removed: the baseline runs "
        "with an equivalent put back.",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.main(EXPERIMENT))
