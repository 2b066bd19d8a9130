"""The experiment with learned rules in small: shares of A2C, regrets of one run, levels drawn."""

import dataclasses

import numpy as np
import pytest

from experiments import groove
from experiments.groove_runs import held_out_levels, references
from experiments.rules import ThresholdRule

SMOKE = groove.EXPERIMENT.budgets["smoke"]


@pytest.fixture(scope="module")
def summary(tmp_path_factory, run_smoke):
    out = tmp_path_factory.mktemp("groove")
    methods = (groove.GROOVE, groove.REPLAYED, groove.FRESH)
    rule = ThresholdRule(groove.GROOVE, 0.6)
    return run_smoke(groove.EXPERIMENT, methods, out, rule=rule), out


def test_levels_are_drawn_and_regrets_are_of_the_same_run(summary):
    found, out = summary
    levels = found["methods"][groove.GROOVE]["numbers"]["levels"]
    scores = [entry["score"] for entry in levels["best"]]
    assert scores == sorted(scores, reverse=True) and levels["unscored"][0]["score"] is None
    assert np.shape(levels["best"][0]["level"]["walls"]) == (9,)
    assert (out / "picture.png").stat().st_size > 10_000
    # The regrets are read from that run's folder: nothing was trained for them.
    assert not (out / "regret-of-replayed-levels" / "run").exists()
    fresh = found["methods"][groove.FRESH]["values"]
    assert np.isfinite(fresh).all()


def test_levels_held_out_are_the_same_for_all_and_larger_ones_are_larger():
    _, levels, lifetimes = held_out_levels(SMOKE, large=False)
    _, again, _ = held_out_levels(dataclasses.replace(SMOKE, meta_steps=9), large=False)
    np.testing.assert_array_equal(levels.walls, again.walls)
    assert len(lifetimes) == SMOKE.held_out
    _, large, _ = held_out_levels(SMOKE, large=True)
    assert large.size.min() > levels.size.max()
    assert (references(SMOKE)["optimal"] >= 0).all()


def test_the_rule_speaks_of_the_methods_and_sizes_are_checked():
    assert set(groove.RULE.names) <= set(groove.METHODS)
    with pytest.raises(ValueError, match="distribution is 'large'.*small"):
        dataclasses.replace(SMOKE, distribution="large")
    with pytest.raises(ValueError, match="meta_steps is 0"):
        dataclasses.replace(SMOKE, meta_steps=0)
