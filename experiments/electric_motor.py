"""Electric drives: gym-electric-motor's trajectories, controllers that learn, and gradients.

python -m experiments.electric_motor --budget=cpu
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import electric_motor_gradients as gradients
from experiments import electric_motor_replay as replay
from experiments import harness
from experiments.electric_motor_control import (
    MAGNET_CURRENTS,
    MAGNET_DIRECT,
    SERIES_CURRENT,
    SERIES_SPEED,
    Config,
    cost_of,
    ddpg,
    designed,
    idle,
    ppo,
)
from experiments.figures import COLOURS, DOTS_PER_INCH, GREY
from experiments.method_runs import Context, MethodRun
from experiments.rules import AllOf, PairedRule, ThresholdRule
from jaxpg_envs.motor import controllers, solvers

METRIC = "cost of a step, or error"

A, A_SINGLE = "A against GEM, float64", "A against GEM, float32"
PPO_CURRENT, DDPG_CURRENT = "C current, PPO", "C current, DDPG"
PI_CURRENT, BEST_CURRENT, NO_CURRENT = "C current, PI", "C current, deadbeat", "C current, idle"
PPO_SPEED, DDPG_SPEED = "C speed, PPO", "C speed, DDPG"
PI_SPEED, NO_SPEED = "C speed, cascaded PI", "C speed, idle"
PPO_DQ, PI_DQ = "C dq currents, PPO", "C dq currents, PI"
BEST_DQ, NO_DQ = "C dq currents, deadbeat", "C dq currents, idle"
FOUND, SQUARES = "D parameters, by gradient", "D parameters, least squares"
TUNED, BY_HAND, BY_RULE = "D gains, by gradient", "D gains, by hand", "D gains, by a rule"


def against_gem(precise: bool):
    """A method: the largest deviation from the stored trajectories; the same for every seed.

    Args:
      precise: float64 and four steps of Runge and Kutta's method an interval, against float32 and
        one: what training runs with.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        del context
        found = {}
        for name, case in itertools.islice(replay.CASES.items(), config.replayed):
            with jax.enable_x64(precise):
                ours = replay.play(case, solver=solvers.rk4(4 if precise else 1))
            theirs, steps = replay.stored(name)
            found[name] = replay.deviation(case, ours["seen"][steps], theirs["seen"])
        rounded = {name: float(f"{value:.2g}") for name, value in found.items()}
        return MethodRun(np.full(len(seeds), max(found.values())), numbers={"cases": rounded})

    return method


def identified(by_gradient: bool):
    """A method: the largest relative error of the parameters of a motor that each seed draws.

    Args:
      by_gradient: through the simulator, or by least squares on the same recording.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        del context
        errors, found = [], []
        for seed in seeds:
            true, actions, currents = gradients.recorded(seed, config.recording)
            if by_gradient:
                values = gradients.identify(actions, currents, config.identification_steps)
            else:
                values = gradients.by_least_squares(actions, currents)
            errors.append(gradients.largest_error(values, true))
            found.append({name: float(f"{values[name] / true[name]:.5g}") for name in true})
        return MethodRun(np.array(errors), numbers={"found over true": found})

    return method


def tuned(config: Config, seeds: list[int], context: Context) -> MethodRun:
    """A method: a PI controller whose gains were trained through the drive from those by hand."""
    del context
    env, params = MAGNET_DIRECT.made
    values, gains = [], []
    for seed in seeds:
        found = gradients.tuned_gains(
            env, params, _by_hand(params), jax.random.key(seed), num_steps=config.tuning_steps
        )
        values.append(cost_of(MAGNET_DIRECT, found, config))
        gains.append(
            [float(f"{float(gain):.4g}") for gain in (found.loops[0].kp, found.loops[0].ki)]
        )
    return MethodRun(np.array(values), numbers={"kp, ki": gains})


def _by_hand(params):
    """The gains that the card of the system gives."""
    return controllers.current_pi(params, kp=0.08, ki=60.0)


METHODS = {
    A: against_gem(True),
    A_SINGLE: against_gem(False),
    PPO_CURRENT: ppo(SERIES_CURRENT),
    DDPG_CURRENT: ddpg(SERIES_CURRENT),
    PI_CURRENT: designed(SERIES_CURRENT, controllers.current_pi),
    BEST_CURRENT: designed(SERIES_CURRENT, controllers.deadbeat),
    NO_CURRENT: idle(SERIES_CURRENT),
    PPO_SPEED: ppo(SERIES_SPEED),
    DDPG_SPEED: ddpg(SERIES_SPEED),
    PI_SPEED: designed(SERIES_SPEED, controllers.speed_cascade),
    NO_SPEED: idle(SERIES_SPEED),
    PPO_DQ: ppo(MAGNET_CURRENTS),
    PI_DQ: designed(MAGNET_CURRENTS, controllers.field_oriented),
    BEST_DQ: designed(MAGNET_CURRENTS, controllers.deadbeat),
    NO_DQ: idle(MAGNET_CURRENTS),
    FOUND: identified(True),
    SQUARES: identified(False),
    TUNED: tuned,
    BY_HAND: designed(MAGNET_DIRECT, _by_hand),
    BY_RULE: designed(MAGNET_DIRECT, controllers.current_pi),
}


def _at_most(method: str, value: float) -> ThresholdRule:
    return ThresholdRule(method, value, higher_is_better=False)


def _less(method: str, baseline: str) -> PairedRule:
    return PairedRule(method, (baseline,), 0.0, higher_is_better=False)


RULE = AllOf(
    (
        _at_most(A, 5e-5),
        _at_most(PPO_CURRENT, 0.03),
        _at_most(DDPG_CURRENT, 0.03),
        _at_most(PPO_DQ, 0.02),
        _at_most(FOUND, 0.01),
        _less(FOUND, SQUARES),
        _less(TUNED, BY_HAND),
    )
)


def picture(summary: Mapping[str, Any]) -> Figure:
    """Reference, current and voltage over time, for PI and for the agents.

    Args:
      summary: of a run.

    Returns:
      A figure of two rows, the currents above and the duty cycles below.
    """
    figure = Figure(figsize=(11, 6), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(
        "Series DC motor, the same reference for every controller",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    shown = ((PI_CURRENT, "PI"), (PPO_CURRENT, "PPO"), (DDPG_CURRENT, "DDPG"))
    grid = figure.subplots(2, len(shown), sharex=True, sharey="row")
    for column, (method, label) in enumerate(shown):
        entry = summary["methods"][method]
        lived = entry["numbers"]["trace"]
        time = np.arange(len(lived["value"])) * 0.1
        top, bottom = grid[:, column]
        top.plot(time, 210.0 * np.asarray(lived["reference"]), color=GREY, label="reference")
        top.plot(time, 210.0 * np.asarray(lived["value"]), color=COLOURS[column], label="current")
        top.set_title(label, loc="left", fontsize=10)
        top.legend(fontsize=8, frameon=False, loc="upper right")
        bottom.step(time, 60.0 * np.asarray(lived["action"]), color=COLOURS[column], linewidth=0.8)
        bottom.set_xlabel("time, ms")
    grid[0, 0].set_ylabel("current, A")
    grid[1, 0].set_ylabel("mean voltage, V")
    for axes in grid.flat:
        axes.grid(axis="y", alpha=0.25, linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


EXPERIMENT = harness.Experiment(
    system="electric-motor",
    title="Electric drives: trajectories, learned control and gradients",
    claim=(
        "The drives of gym-electric-motor, as vmapped and differentiable environments, take the "
        "same trajectories; agents learn to control them; and gradients through them identify a "
        "motor and tune a controller."
    ),
    metric=METRIC,
    rule=RULE,
    methods=METHODS,
    budgets={
        "smoke": Config(
            replayed=1,
            total_steps=64,
            num_envs=4,
            num_steps=8,
            num_epochs=1,
            num_minibatches=2,
            ddpg_steps=32,
            ddpg_envs=4,
            ddpg_gradient_steps=1,
            test_drives=2,
            test_steps=20,
            recording=60,
            identification_steps=2,
            tuning_steps=2,
        ),
        "cpu": Config(),
        "gpu": Config(total_steps=10_000_000, num_envs=1024, test_drives=1024),
    },
    num_seeds={"smoke": 1, "cpu": 5, "gpu": 5},
    picture=picture,
    notes=(
        "A: observations of 37 drives over 300 steps, the largest difference from those stored of "
        "gym-electric-motor 3.0.3, in normalised units. C: minus the mean reward of a step on "
        "references that no run trained on, with resets where a limit is violated; deadbeat "
        "control knows the motor. D: the largest relative error of resistance and inductances, of "
        "a motor up to 30 % off the data sheet, from 0.1 s with noise on the currents; and the "
        "cost of a step of PI control of a permanently excited motor with back-EMF feed-forward.",
        "B, the speed, is the benchmark `motor`.",
        "Designed controllers and A have no seeds.",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.main(EXPERIMENT))
