"""HPT's experiment: the two halves of one after the other, and a base that hides its skill."""

import json

import jax
import numpy as np
import pytest

from experiments import harness, hpt
from experiments.method_runs import Context

CONFIG = hpt.EXPERIMENT.budgets["smoke"]


def test_a_method_leaves_success_and_what_it_learned_from(tmp_path):
    run = hpt.EXPERIMENT.methods["HPT, gate 0"](CONFIG, [0], Context(tmp_path, "HPT"))
    assert run.values.shape == (1,) and 0 <= run.values[0] <= 1
    shown = run.curves["share of prompts that send a demonstration"].y
    assert shown.shape == (CONFIG.num_updates, 1) and 0 < shown.max() <= 1


@pytest.mark.slow
def test_it_runs_from_the_command_line(tmp_path, capsys):
    argv = [f"--out={tmp_path}", "--noprogress", "--notensorboard", "--num_seeds=1"]
    assert harness.main(hpt.EXPERIMENT, argv) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(summary["methods"]) == list(hpt.EXPERIMENT.methods)
    for found in summary["methods"].values():
        assert 0 <= found["mean"] <= 1
    assert summary["verdict"] in ("reproduced", "not reproduced")


def test_the_second_half_begins_with_what_the_first_one_made_of_the_same_seed(
    tmp_path, monkeypatch
):
    begun, trained = [], []
    original = hpt.algorithm

    def algorithm(method, config, params=None, **sizes):
        begun.append(params)
        return original(method, config, params, **sizes)

    def train(self, algorithm, seeds, num_updates, **options):
        trained.append(run(self, algorithm, seeds, num_updates, **options))
        return trained[-1]

    run = Context.train
    monkeypatch.setattr(hpt, "algorithm", algorithm)
    monkeypatch.setattr(Context, "train", train)
    left = hpt.in_turn(CONFIG, [3, 4], Context(tmp_path, "in turn"))
    first = jax.tree.leaves(trained[0].state.params)
    for number, params in enumerate(begun[1:]):
        for ours, theirs in zip(jax.tree.leaves(params), first, strict=True):
            np.testing.assert_array_equal(ours, theirs[number])
    assert begun[0] is None and left.values.shape == (2,)
    x = left.curves[hpt.SUCCESS].x
    assert x[-1] == CONFIG.num_updates and (np.diff(x) > 0).all()


def test_sizes_of_which_nothing_comes_are_refused():
    with pytest.raises(ValueError, match="num_updates is 0, but it has to be at least 1"):
        hpt.Config(num_updates=0)
