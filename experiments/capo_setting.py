"""What CAPO's experiment runs on: sizes, the aggressive regime, the policy, thresholds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.policies import shortly_warmed, small_mlp, warm_started
from jaxpg import estimators, runner
from jaxpg.algorithms import rlvr
from jaxpg.choices import at_least
from jaxpg.estimator import Estimator
from jaxpg.method import Method, Seams
from jaxpg.methods.capo import OBJECTIVE_SHIFT, POLICY_SHIFT
from jaxpg.types import Algorithm
from jaxpg_envs import tokens

TUNING_SEEDS = (1_000, 1_001, 1_002, 1_003, 1_004)
CHUNK = 128
"""Tokens planned at one time: those of an update."""
GRPO = functools.partial(estimators.grpo, epsilon=1e-4)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes that all methods share, and the aggressive regime.

    Attributes:
      num_updates: of each method, one gradient step each.
      num_prompts: of an update.
      group_size: responses to each.
      learning_rate: of Adam: the first rate of the sweep at which GRPO collapsed for 3 or more of
        the 5 tuning seeds.
      sweep_rates: rates of GRPO's sweep, by commas; "" leaves the sweep out.
      sweep_factor: the sweep's larger batch, in batches.
      conservative: the conservative run has a learning rate so much smaller, and 12 times the
        batch.
      quantiles: of the shifts of the policy at the start, by commas: both thresholds; the one with
        which tuning seeds end best is taken.
      calibration_updates: whose shifts are looked at, the policy standing still.
      evaluations: during training.
      eval_prompts: of an evaluation, from the pool of 343.
      warm_start_updates: at most so many of supervised training.
      fidelity_steps: of the fidelity of whole batches.
    """

    num_updates: int = 400
    num_prompts: int = 4
    group_size: int = 8
    learning_rate: float = 7e-3
    sweep_rates: str = "1e-3, 2e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3, 1.6e-2, 3.2e-2"
    sweep_factor: int = 8
    conservative: float = 5.0
    quantiles: str = "0.9, 0.95, 0.99, 0.999"
    calibration_updates: int = 20
    evaluations: int = 16
    eval_prompts: int = 343
    warm_start_updates: int = 10_000
    fidelity_steps: int = 600

    def __post_init__(self):
        """Refuses sizes of which nothing comes."""
        for name in ("num_updates", "num_prompts", "evaluations", "eval_prompts", "sweep_factor"):
            at_least(name, getattr(self, name), 1)
        at_least("group_size", self.group_size, 2)
        at_least("calibration_updates", self.calibration_updates, 2)
        for rate in self.rates:
            at_least("sweep_rates", rate, 0)
        for quantile in self.shares:
            if not 0 < quantile < 1:
                raise ValueError(f"quantiles holds {quantile}, but each has to lie in (0, 1)")

    @property
    def rates(self) -> tuple[float, ...]:
        """Those of the sweep."""
        return _numbers(self.sweep_rates)

    @property
    def shares(self) -> tuple[float, ...]:
        """The quantiles to try."""
        return _numbers(self.quantiles)


@functools.lru_cache
def task(warm_start_updates: int) -> tokens.TokenTask:
    """Digit sums; the same object every time, so that programs are shared."""
    return shortly_warmed(tokens.digit_sum(), warm_start_updates)


def algorithm(method: Estimator | Method, config: Config, **overrides: Any) -> Algorithm:
    """A method on the task."""
    chosen = task(config.warm_start_updates)
    model, params = warm_started(chosen, build=small_mlp)
    settings = {
        "num_prompts": config.num_prompts,
        "group_size": config.group_size,
        "learning_rate": config.learning_rate,
        "eval_prompts": config.eval_prompts,
        "eval_greedy": False,
    }
    return rlvr(chosen, model, method, params=params, **(settings | overrides))


@functools.lru_cache
def started_with(config: Config) -> float:
    """Success of the policy that all of them begin with."""
    return float(np.mean(before(config, TUNING_SEEDS)))


@functools.lru_cache
def calibrated(build: Callable[..., Method], config: Config) -> dict[float, dict[str, float]]:
    """Thresholds: quantiles of both shifts at the start, on two tuning seeds.

    The policy stands still, and the moments see as many batches as are looked at; the first, of
    which no moments exist, is left out.

    Args:
      build: of CAPO or a variant.
      config: gives the learning rate and the quantiles.

    Returns:
      The arguments `tau_h` and `tau_f` by quantile.
    """
    method = build(tau_h=0, tau_f=0, learning_rate=config.learning_rate, chunk=CHUNK)

    def override(seams: Seams) -> Seams:
        changed = method.override(seams)

        def after(params, rows, metrics, state):
            state, _ = changed.after(params, rows, metrics, state)
            found = {}
            for tau, name in (("tau_h", OBJECTIVE_SHIFT), ("tau_f", POLICY_SHIFT)):
                size = jnp.where(rows.mask > 0, jnp.abs(rows.extra(name)), jnp.nan)
                for share in config.shares:
                    found[f"{tau} {share}"] = jnp.nanquantile(size, share)
            return state, found

        return changed._replace(after=after)

    still = dataclasses.replace(method, override=override)
    found = runner.train(
        algorithm(still, config, optimiser=optax.set_to_zero()),
        key=jnp.stack([jax.random.key(seed) for seed in TUNING_SEEDS[:2]]),
        num_updates=config.calibration_updates,
    ).metrics
    return {
        share: {tau: float(np.mean(found[f"{tau} {share}"][1:])) for tau in ("tau_h", "tau_f")}
        for share in config.shares
    }


def before(config: Config, seeds: Sequence[int]) -> list[float]:
    """Success of the policy at the start, by the seed of the draws."""
    agent = algorithm(GRPO(), config)
    state = jax.jit(agent.init)(jax.random.key(0))
    evaluate = jax.jit(agent.evaluate)
    return [float(evaluate(state, jax.random.key(seed))["eval_success"]) for seed in seeds]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())
