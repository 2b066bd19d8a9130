import importlib
import json

import pytest

from experiments import harness


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "brax_pendulum"])
def test_a_module_is_named_after_its_experiment(name):
    experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
    assert experiment.module == name
    experiment.check(experiment.budgets["cpu"])


def test_cartpole_runs_from_the_command_line(tmp_path, capsys):
    from experiments.cartpole import EXPERIMENT

    argv = [f"--out={tmp_path}", "--noprogress", "--notensorboard"]
    assert harness.main(EXPERIMENT, argv) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["budget"] == "smoke" and summary["seeds"] == [0, 1]
    assert set(summary["methods"]) == {"PPO", "A2C", "REINFORCE + baseline"}
    # A random policy balances for about 20 steps.
    assert summary["methods"]["PPO"]["mean"] > 60
    assert (tmp_path / "curves.png").exists()
    assert (tmp_path / "ppo" / "run" / "evaluations.csv").exists()


def test_sizes_that_do_not_fit_are_refused_before_anything_is_compiled(tmp_path, capsys):
    from experiments.cartpole import EXPERIMENT

    argv = [f"--out={tmp_path}", "--config.num_minibatches=3"]
    assert harness.main(EXPERIMENT, argv) == 2
    assert "do not split into num_minibatches=3" in capsys.readouterr().err
