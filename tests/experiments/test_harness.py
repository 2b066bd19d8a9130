import csv
import dataclasses
import json
import os
import pathlib
import platform
import signal

import numpy as np
import pytest

from experiments import harness, method_runs, recording
from experiments.method_runs import Context, Curve, MethodRun
from experiments.rules import PairedRule
from experiments.tuning import Tuning
from jaxpg import runner

KEYS = {
    "system", "claim", "budget", "seeds", "methods", "metric", "rule", "effect", "verdict",
    "wall_time_s", "device", "versions", "git_commit", "command",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    gain: float = 1.0
    scale: float = 1.0


def method(offset, log, name):
    """Its value on a seed is the seed plus an offset; the log counts its runs."""

    def run(config, seeds, context):
        log.append((name, config, tuple(seeds)))
        values = config.scale * np.array(seeds, float) + offset * config.gain
        return MethodRun(values, {"score": Curve([1, 2], np.stack([values - 1, values]))})

    return run


@pytest.fixture
def log():
    return []


@pytest.fixture
def toy(log):
    return harness.Experiment(
        system="a-toy",
        title="A toy",
        claim="New is better than old.",
        metric="score",
        rule=PairedRule("new", ("old",), minimum_effect=0.5),
        methods={"new": method(1.0, log, "new"), "old": method(0.0, log, "old")},
        budgets={"smoke": Config(), "cpu": Config(gain=2.0)},
        num_seeds={"smoke": 3, "cpu": 5},
    )


def run(experiment, out, *argv):
    return harness.main(experiment, [f"--out={out}", "--noprogress", *argv])


def test_a_run_ends_in_its_summary_as_one_line_and_leaves_its_files(toy, tmp_path, capsys):
    assert run(toy, tmp_path) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert json.loads(last) == summary
    assert set(summary) >= KEYS
    assert set(summary) - KEYS <= {"tuning", "config", "notes", "comparisons"}
    assert summary["seeds"] == [0, 1, 2]
    assert summary["methods"]["new"]["values"] == [1.0, 2.0, 3.0]
    assert set(summary["methods"]["new"]) >= {"mean", "low", "high", "values"}
    assert (summary["effect"], summary["verdict"]) == (1.0, "reproduced")
    assert summary["config"] == {"gain": 1.0, "scale": 1.0}
    assert (tmp_path / "curves.png").stat().st_size > 1_000


def test_the_rule_alone_decides(toy, tmp_path):
    assert run(toy, tmp_path, "--config.gain=0.4") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["effect"], summary["verdict"]) == (pytest.approx(0.4), "not reproduced")


def test_the_summary_says_nothing_about_the_machine(toy, tmp_path, capsys):
    run(toy, tmp_path)
    text = (tmp_path / "summary.json").read_text()
    assert str(tmp_path) not in text and str(pathlib.Path.home()) + "/" not in text
    assert platform.node() not in json.loads(text)["device"]
    assert json.loads(text)["device"].startswith("cpu (")


def test_the_numbers_are_in_the_csv_under_their_seeds(toy, tmp_path):
    run(toy, tmp_path, "--seed=7", "--num_seeds=2")
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    curve = [r for r in rows if r["metric"] == "score" and r["method"] == "new"]
    assert [(r["seed"], r["environment steps"], r["value"]) for r in curve] == [
        ("7", "1.0", "7.0"), ("8", "1.0", "8.0"), ("7", "2.0", "8.0"), ("8", "2.0", "9.0"),
    ]  # fmt: skip
    final = [r["value"] for r in rows if r["metric"] == "final score" and r["method"] == "old"]
    assert final == ["7.0", "8.0"]


def test_a_method_that_diverged_is_null_and_not_reproduced(toy, tmp_path):
    broken = dataclasses.replace(
        toy, methods=toy.methods | {"new": lambda c, s, x: MethodRun([1.0, np.nan, 2.0])}
    )
    assert run(broken, tmp_path) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["methods"]["new"]["values"] == [1.0, None, 2.0]
    assert summary["methods"]["new"]["mean"] is summary["effect"] is None
    assert summary["verdict"] == "not reproduced"


def test_a_stopped_experiment_resumes_without_running_a_finished_method_again(
    toy, tmp_path, log, capsys
):
    def stopped(config, seeds, context):
        raise KeyboardInterrupt

    assert run(dataclasses.replace(toy, methods=toy.methods | {"old": stopped}), tmp_path) == 130
    assert "--resume" in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()
    assert run(toy, tmp_path, "--resume") == 0
    assert [name for name, *_ in log] == ["new", "old"]
    resumed = json.loads((tmp_path / "summary.json").read_text())
    assert run(toy, tmp_path / "whole") == 0
    whole = json.loads((tmp_path / "whole" / "summary.json").read_text())
    for summary in (resumed, whole):
        summary.pop("command")
        summary.pop("wall_time_s")
        for found in summary["methods"].values():
            found.pop("wall_time_s")
    assert resumed == whole
    same = [(tmp_path / place / "metrics.csv").read_text() for place in ("", "whole")]
    assert same[0] == same[1]


def test_a_folder_is_not_taken_over_by_another_run(toy, tmp_path, capsys):
    assert run(toy, tmp_path) == 0
    for argv, said in [
        ((), "already holds files: pass --resume"),
        (("--resume", "--seed=1"), "holds another run, its seeds is [0, 1, 2] and not [1, 2, 3]"),
        (("--resume", "--config.gain=3"), "its gain is 1.0 and not 3.0"),
        (("--resume", "--budget=cpu"), "its budget is 'smoke' and not 'cpu'"),
    ]:
        capsys.readouterr()
        assert run(toy, tmp_path, *argv) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    (tmp_path / "experiment.json").write_text("{")
    assert run(toy, tmp_path, "--resume") == 2
    assert "is damaged" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(toy, tmp_path / "file") == 2
    assert "is no folder of a run" in capsys.readouterr().err


def test_what_the_experiment_would_refuse_is_refused_before_anything_runs(toy, tmp_path, log):
    def check(config):
        raise ValueError("gain is 1.0, but it has to be at least 2")

    assert run(dataclasses.replace(toy, check=check), tmp_path / "new") == 2
    assert log == [] and not (tmp_path / "new").exists()


def test_only_a_run_of_a_budget_as_it_is_written_is_recorded(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recording, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(recording, "git_commit", lambda: "0123abc-dirty")
    for number, argv in enumerate(
        [(), ("--budget=cpu", "--config.gain=5"), ("--budget=cpu", "--num_seeds=4")]
    ):
        assert run(toy, tmp_path / str(number), "--record", *argv) == 2
    assert not (tmp_path / "results").exists()
    assert run(toy, tmp_path / "cpu", "--record", "--budget=cpu") == 0
    assert "differs from its commit" in capsys.readouterr().err
    recorded = json.loads((tmp_path / "results" / "a-toy.json").read_text())
    assert recorded == json.loads((tmp_path / "cpu" / "summary.json").read_text())
    assert (recorded["budget"], recorded["git_commit"]) == ("cpu", "0123abc-dirty")


def test_method_and_baseline_are_tuned_alike_on_seeds_that_no_test_uses(toy, tmp_path, log):
    tuned = dataclasses.replace(
        toy, tuning=Tuning({"gain": (1.0, 3.0), "scale": (1.0, 2.0)}, seeds=(100, 101))
    )
    assert run(tuned, tmp_path, "--budget=cpu") == 0
    trials = json.loads((tmp_path / "summary.json").read_text())["tuning"]
    assert set(trials) == {"new", "old"}
    for found in trials.values():
        assert [trial["setting"] for trial in found] == [
            {"gain": gain, "scale": scale} for gain in (1.0, 3.0) for scale in (1.0, 2.0)
        ]
        assert all(trial["seeds"] == [100, 101] for trial in found)
    finals = {name: config for name, config, seeds in log if seeds == (0, 1, 2, 3, 4)}
    assert finals == {"new": Config(3.0, 2.0), "old": Config(1.0, 2.0)}
    assert [trial["mean"] for trial in trials["new"]] == [101.5, 202.0, 103.5, 204.0]


def test_the_direction_of_the_claim_is_the_direction_of_tuning(toy, tmp_path, log):
    tuned = dataclasses.replace(
        toy,
        rule=PairedRule("new", ("old",), 0.5, higher_is_better=False),
        tuning=Tuning({"gain": (1.0, -3.0, np.nan)}, seeds=(100,)),
    )
    assert run(tuned, tmp_path, "--budget=cpu") == 0
    assert next(c.gain for name, c, seeds in log if name == "new" and 0 in seeds) == -3.0
    assert json.loads((tmp_path / "summary.json").read_text())["effect"] == 3.0


def test_test_seeds_that_tuning_used_are_refused(toy, tmp_path, capsys):
    tuned = dataclasses.replace(toy, tuning=Tuning({"gain": (1.0,)}, seeds=(2,)))
    assert run(tuned, tmp_path) == 2
    assert "the seed 2, which is one of the tuning seeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rule": PairedRule("knew", ("old",), 0.0)}, "did you mean 'new'?"),
        ({"budgets": {"smoke": Config()}}, "'cpu'"),
        ({"num_seeds": {"smoke": 2, "cpu": 4}}, "at least 5"),
        ({"budgets": {"smoke": 1, "cpu": 1, "gup": 1}}, "did you mean 'gpu'?"),
    ],
)
def test_an_experiment_that_could_not_be_decided_is_refused(toy, changes, said):
    with pytest.raises(ValueError) as raised:
        dataclasses.replace(toy, **changes)
    assert said in str(raised.value)


def test_a_method_owes_one_value_for_each_seed(toy, tmp_path):
    lazy = dataclasses.replace(toy, methods=toy.methods | {"old": lambda c, s, x: MethodRun([1.0])})
    with pytest.raises(ValueError, match=r"values of shape \(1,\), but \(3,\) is needed"):
        run(lazy, tmp_path)


def test_a_stopped_training_goes_on_from_its_checkpoint_to_the_same_numbers(tiny_agent, tmp_path):
    seeds, sent = [3, 11], []

    def stop(update, metrics):
        if update == 2 and not sent:
            sent.append(update)
            os.kill(os.getpid(), signal.SIGTERM)

    settings = {"chunk_length": 1, "evaluate_every": 2, "callback": stop}
    context = Context(tmp_path / "stopped", "PPO", resume=True)
    with pytest.raises(method_runs.Stopped):
        context.train(tiny_agent, seeds, 4, **settings)
    resumed = context.train(tiny_agent, seeds, 4, **settings)
    whole = Context(tmp_path / "whole", "PPO").train(tiny_agent, seeds, 4, **settings)
    assert resumed.num_updates == 4 and sent == [2]
    for name, values in whole.metrics.items():
        np.testing.assert_array_equal(resumed.metrics[name], values, err_msg=name)
    found = method_runs.learning_run(resumed)
    assert found.values.shape == (2,)
    curve = found.curves["evaluation return"]
    assert curve.x.tolist() == [2 * 8 * 16, 4 * 8 * 16] and curve.y.shape == (2, 2)


def test_a_failure_with_a_sentence_has_no_stack_trace(toy, tmp_path, capsys):
    def diverges(config, seeds, context):
        raise runner.NonFiniteError("metric 'loss' is not finite at update 3 of 4")

    assert run(dataclasses.replace(toy, methods=toy.methods | {"new": diverges}), tmp_path) == 1
    assert capsys.readouterr().err == "error: metric 'loss' is not finite at update 3 of 4\n"
