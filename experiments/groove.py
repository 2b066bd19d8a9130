"""A learned update rule, and levels chosen by how far it stays behind a known algorithm.

python -m experiments.groove --budget=cpu
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import harness
from experiments.figures import COLOURS, DOTS_PER_INCH
from experiments.groove_runs import (
    Config,
    handcrafted,
    larger,
    regret,
    trained,
    transfer,
    untrained,
)
from experiments.rules import AllOf, NotWorseRule, PairedRule, ThresholdRule
from jaxpg_envs import gridworld

GROOVE, RANDOM, FROZEN = "GROOVE", "LPG, random levels", "LPG, frozen levels"
VALUE, L1_VALUE, RETURN = "by positive value loss", "by L1 value loss", "by final return"
UNTRAINED = "untrained rule"
REPLAYED, FRESH = "regret of replayed levels", "regret of random levels"
LARGE_GROOVE, LARGE_RANDOM = "GROOVE, larger levels", "LPG, larger levels"

METHODS = {
    GROOVE: trained("rank"),
    RANDOM: trained("random"),
    FROZEN: trained("frozen"),
    VALUE: trained("rank", "positive_value_loss"),
    L1_VALUE: trained("rank", "l1_value_loss"),
    RETURN: trained("rank", "final_return"),
    UNTRAINED: untrained,
    REPLAYED: regret("episode_score_replayed", GROOVE),
    FRESH: regret("episode_score_fresh", GROOVE),
    LARGE_GROOVE: larger("rank", GROOVE),
    LARGE_RANDOM: larger("random", RANDOM),
    "handcrafted levels, GROOVE's rule": handcrafted("rank", GROOVE),
    "handcrafted levels, LPG's rule": handcrafted("random", RANDOM),
    "handcrafted levels, A2C": handcrafted(),
    **{
        f"{words}, {by}": transfer(task, of, **world)
        for words, task, world in (
            ("dense grid of random places", "gridworld/dense", {"observation": "planes"}),
            ("CartPole-v1", "CartPole-v1", {}),
            ("Breakout-MinAtar", "Breakout-MinAtar", {}),
        )
        for by, of in (("GROOVE's rule", GROOVE), ("A2C", None))
    },
}

RULE = AllOf(
    (
        ThresholdRule(GROOVE, 0.6),
        ThresholdRule(RANDOM, 0.6),
        PairedRule(REPLAYED, (FRESH,), 0.0),
        NotWorseRule(LARGE_GROOVE, LARGE_RANDOM, 0.05),
    )
)


def picture(summary: Mapping[str, Any]) -> Figure:
    """Levels that the curriculum kept for their regret, above levels that nobody has scored.

    Args:
      summary: of a run.

    Returns:
      A figure of two rows.
    """
    levels = summary["methods"][GROOVE]["numbers"]["levels"]
    rows = {"kept": levels["best"], "random, not scored": levels["unscored"]}
    width = max(1, *(len(found) for found in rows.values()))
    figure = Figure(figsize=(2.6 * width, 6.4), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(
        "Levels of the buffer at the end: those of the highest regret, and new ones",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    panels = figure.subplots(2, width, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for row, (words, found) in enumerate(rows.items()):
        for axes, entry in zip(panels[row], found, strict=False):
            axes.axis("on")
            fields = {name: np.asarray(value) for name, value in entry["level"].items()}
            gridworld.picture.draw(axes, gridworld.GridParams(**fields))
            score = "" if entry["score"] is None else f", regret {entry['score']:.2f}"
            axes.set_xlabel(f"{words}{score}", fontsize=8, color=COLOURS[0] if row == 0 else "0.3")
    return figure


EXPERIMENT = harness.Experiment(
    system="groove",
    title="GROOVE: a rule learned on levels of high regret",
    claim=(
        "An update rule learned by the gradient through the learning of many agents brings new "
        "agents near A2C on levels it never saw, a curriculum by algorithmic regret replays levels "
        "on which the rule is further behind than on random ones, and the rule that comes of it is "
        "no worse on larger levels."
    ),
    metric="return in shares of A2C's, or as named",
    rule=RULE,
    methods=METHODS,
    budgets={
        "smoke": Config(
            distribution="tiny",
            agents=2,
            agents_at_once=2,
            workers=2,
            steps=4,
            inner_updates=1,
            hidden=4,
            meta_steps=8,
            buffer=8,
            held_out=2,
            evaluations=1,
            transfer_updates=2,
            handcrafted_updates=2,
        ),
        "cpu": Config(),
        "gpu": Config(
            distribution="all",
            agents=512,
            agents_at_once=32,
            workers=64,
            hidden=256,
            meta_learning_rate=1e-4,
            meta_steps=5000,
            buffer=4000,
            transfer_updates=5000,
        ),
    },
    num_seeds={"smoke": 1, "cpu": 5, "gpu": 10},
    x_label="meta-steps",
    picture=picture,
    notes=(
        "Levels of 4 to 6 cells a side with 1 to 3 objects, lifetimes of 50 to 100 updates; 64 "
        "levels held out, the same for all methods and seeds. The larger levels have 7 or 8 cells "
        "a side, 2 to 4 objects and lifetimes of 100 to 150 updates.",
        "Regrets are means over meta-training of what an A2C agent reaches more than the rule's "
        "on the levels of agents that finished, in units of return; they are of the run of GROOVE.",
        "On the handcrafted levels (five of LPG's and four mazes, none of them in training, "
        "2,500 updates) the numbers are shares of the optimal return, a mean over levels.",
        "On CartPole, Breakout and the dense grid whose objects come back in random places the "
        "numbers are returns of neural networks that the rule, or A2C, trained with Adam at a "
        "rate of 5e-4 for 400 updates of 64 x 20 steps; the rule has seen tables only.",
        "The meta-learning rate is the formula card's, for all methods. Each agent's meta-gradient "
        "is clipped, for all methods, where the published program clips none.",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.main(EXPERIMENT))
