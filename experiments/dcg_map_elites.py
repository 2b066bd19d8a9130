"""Archives of policies: a critic that is told descriptors, and one policy out of an archive.

python -m experiments.dcg_map_elites --budget=cpu
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import harness
from experiments.dcg_map_elites_runs import Config, arm, population
from experiments.figures import COLOURS, DOTS_PER_INCH, GREY
from experiments.rules import AllOf, NearRule, PairedRule, ThresholdRule

ME, PGA, DCG, DCRL = "MAP-Elites", "PGA-MAP-Elites", "DCG-MAP-Elites", "DCRL-MAP-Elites"
SHARE, ERROR = "DCG actor, share of the archive", "DCG actor, 1 - error of descriptors"
ARM = "MAP-Elites on the arm"

METHODS = {
    ME: population("genetic"),
    PGA: population("pga"),
    DCG: population("dcg", pictured=True),
    DCRL: population("dcrl"),
    SHARE: population("dcg", "share"),
    ERROR: population("dcg", "error"),
    ARM: arm,
}

RULE = AllOf(
    (
        PairedRule(DCG, (PGA,), 0.15, relative=True),
        PairedRule(PGA, (ME,), 1.0, relative=True),
        ThresholdRule(SHARE, 0.8),
        ThresholdRule(ERROR, 0.85),
        NearRule(ARM, 765.0, 35.0),
    )
)


def picture(summary: Mapping[str, Any]) -> Figure:
    """The archives as maps, and the one policy asked for eight descriptors.

    Args:
      summary: of a run.

    Returns:
      A figure of five panels.
    """
    figure = Figure(figsize=(13, 3.4), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(
        "Where a point can end after 50 steps, and how little it costs",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    panels = figure.subplots(1, 5)
    found = summary["methods"]
    maps = {name: found[name]["numbers"]["map"] for name in (ME, PGA, DCG, DCRL) if name in found}
    values = [value for rows in maps.values() for row in rows for value in row if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    for axes, (name, rows) in zip(panels, maps.items(), strict=False):
        cells = np.array([[np.nan if value is None else value for value in row] for row in rows])
        drawn = axes.imshow(
            cells.T, origin="lower", extent=(-1, 1, -1, 1), vmin=low, vmax=high, cmap="viridis"
        )
        axes.set_facecolor("0.92")
        axes.set_title(
            f"{name}\n{np.isfinite(cells).mean():.0%} of the cells", fontsize=9, loc="left"
        )
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
    bar = figure.colorbar(drawn, ax=panels[: len(maps)].tolist(), shrink=0.8, pad=0.01)
    bar.set_label("fitness", fontsize=9)
    asked = found[DCG]["numbers"]["asked"]
    last = panels[-1]
    for path, target in zip(asked["paths"], asked["targets"], strict=True):
        x, y = np.asarray(path).T
        last.plot(x, y, color=COLOURS[0], linewidth=1.2)
        last.plot(*target, "o", markersize=5, markerfacecolor="none", color=GREY)
    last.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    last.set_title("one policy, told where to end (o)", fontsize=9, loc="left")
    return figure


EXPERIMENT = harness.Experiment(
    system="dcg-map-elites",
    title="DCG-MAP-Elites: descriptor-conditioned gradients",
    claim=(
        "A critic and a policy that are told descriptors fill an archive better than a plain "
        "critic, whose gradient fights diversity, and better than genetic variation alone; and the "
        "policy reproduces the archive."
    ),
    metric="QD score, or as named",
    rule=RULE,
    methods=METHODS,
    budgets={
        "smoke": Config(
            grid=3,
            offspring=8,
            iterations=2,
            critic_steps=2,
            policy_steps=1,
            hidden=4,
            critic_hidden=4,
            arm_iterations=2,
        ),
        "cpu": Config(),
        "gpu": Config(
            env="locomotion/ant-omni",
            grid=0,
            offspring=256,
            iterations=4000,
            critic_steps=300,
            policy_steps=150,
            hidden=128,
            critic_hidden=256,
            length_scale=0.48,
        ),
    },
    num_seeds={"smoke": 1, "cpu": 5, "gpu": 10},
    x_label="evaluations",
    picture=picture,
    notes=(
        "On a point that is pushed for 50 steps; 64 offspring in each of 40 iterations for every "
        "method, on a grid of 16 x 16 cells. DCG's policy is also rolled out 64 times in each "
        "iteration; these episodes are learned from, but neither enter the archive nor count as "
        "evaluations.",
        "The share is the sum of fitness of DCG's one policy, asked for the descriptor of every "
        "elite, over the archive's; the error is the mean distance to what was asked, in a box "
        "whose side is 2.",
        "The arm: eight joints, 32 x 32 cells, 400 iterations of 128 offspring.",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.main(EXPERIMENT))
