import importlib
import json
import re

import pytest

from experiments.catalogue import __main__ as command
from experiments.catalogue import table
from experiments.catalogue.system import STATES, System
from experiments.catalogue.systems import SYSTEMS

SLUGS = """
a-lol active-view aepo awm bapo capo copg d3s dcg-map-elites electric-motor empg ggtd grace groove
harpg hdpo high-entropy-tokens hnpg hpt iot-scheduling kdrl latentseek leakgan ma-rlhf memact n2n
noise-mask otr p3o pacs pcpg pg-rank promptpg props rag-rl remix retroformer rl4lms satori sec
soft-grpo spark spo stratified-grpo supo vppo
""".split()

EMPTY = "".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in table.BLOCKS)


def summary(system, verdict="reproduced"):
    return {
        "system": system,
        "metric": "accuracy",
        "methods": {
            "SPO": {"mean": 0.71234, "low": 0.7, "high": 0.72},
            "GRPO": {"mean": 1234.5, "low": None, "high": None},
        },
        "seeds": [0, 1, 2, 3, 4],
        "rule": "SPO has more accuracy",
        "verdict": verdict,
        "device": "cpu (2 cores)",
        "wall_time_s": 61.2,
    }


def test_the_catalogue_holds_the_46_systems_once_each():
    assert sorted(system.slug for system in SYSTEMS) == sorted(SLUGS)
    assert len(SLUGS) == len({system.arxiv for system in SYSTEMS}) == 46


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.slug)
def test_a_row_is_complete_and_names_only_what_exists(system):
    assert re.fullmatch(r"\d{4}\.\d{5}", system.arxiv)
    assert " — " in system.title
    for name in system.implementation:
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute)
    if system.experiment:
        assert importlib.import_module(system.experiment).EXPERIMENT.system == system.slug


def test_only_a_recorded_run_gives_a_verdict():
    planned, built = (
        System("spo", "2509.13232", "a — b"),
        System("spo", "2509.13232", "a — b", ("x",)),
    )
    assert planned.state({}) == "planned"
    assert built.state({}) == "implemented"
    for verdict in ("reproduced", "not reproduced"):
        assert built.state({"spo": summary("spo", verdict)}) == verdict
        assert verdict in STATES


def test_the_readme_is_in_step_with_the_recorded_runs(capsys):
    assert command.main(["--check"]) == 0, capsys.readouterr().err


def test_recorded_runs_are_named_after_their_system_and_come_from_no_smoke():
    for path in table.recording.RESULTS.glob("*.json"):
        recorded = json.loads(path.read_text())
        assert recorded["system"] == path.stem
        assert recorded["budget"] in ("cpu", "gpu")
        assert len(recorded["seeds"]) >= 5


def test_a_recorded_run_stands_in_the_row_of_its_system():
    text = table.systems_table({"spo": summary("spo")})
    row = next(line for line in text.splitlines() if "2509.13232" in line)
    assert "| reproduced |" in row
    assert "SPO 0.7123 [0.7, 0.72], GRPO 1,234 [-, -]; 5 seeds" in row
    assert "45 planned, 1 reproduced" in text or "1 reproduced" in text


def test_a_run_of_no_published_system_is_listed_as_learning():
    text = table.learning_table({"spo": summary("spo"), "cartpole": summary("cartpole")})
    assert "experiments.cartpole" in text and "61 s" in text
    assert "experiments.spo" not in text


def test_the_leaderboard_has_the_best_method_first_and_its_audit_beside_it():
    methods = {
        "base policy": {"mean": 0.4, "low": 0.3, "high": 0.5, "numbers": {"a": 0.5, "b": 0.3}},
        "GRPO": {
            "mean": 0.9,
            "low": 0.8,
            "high": 1.0,
            "numbers": {
                "a": 0.95,
                "b": 0.85,
                "learning_rate": 0.001,
                "audit": {"stale": {"bias": 0.25, "noise": 11.5, "scale": 20.0}},
            },
        },
    }
    result = {"methods": methods, "metric": "success", "config": {"tasks": "a, b"}, "notes": ["N."]}
    lines = table.leaderboard_table(result).splitlines()
    assert lines[0] == "| method | success | a | b | learning rate | bias, stale | noise, stale |"
    assert lines[2] == "| GRPO | 0.9 [0.8, 1] | 0.95 | 0.85 | 0.001 | 0.25 | 11.5 |"
    assert lines[3] == "| base policy | 0.4 [0.3, 0.5] | 0.5 | 0.3 |  |  |  |"
    assert lines[-1] == "N." and table.leaderboard_table(None) == ""


def test_benchmarks_are_listed_with_and_without_a_peer():
    rows = [
        {
            "bench": "ppo",
            "ours": 250000.0,
            "peer": 1000.0,
            "peer_version": "2.7",
            "unit": "steps/s",
            "ratio": 250.0,
            "peer_name": "sb3",
            "target": 10,
        },
        {
            "bench": "audit",
            "ours": 0.5,
            "peer": None,
            "peer_version": None,
            "unit": "s",
            "ratio": None,
            "note": "a | b",
        },
    ]
    text = table.benchmarks_table(rows)
    assert "| ppo | 250,000 steps/s | 1,000 steps/s (sb3 2.7) | 250.00 | 10 |  |  |" in text
    assert r"| audit | 0.5 s |  |  |  |  | a \| b |" in text


def test_benchmark_files_hold_one_or_many(tmp_path):
    (tmp_path / "a.json").write_text('{"bench": "one"}')
    (tmp_path / "b.json").write_text('[{"bench": "two"}, {"bench": "three"}]')
    found = [row["bench"] for row in table.recorded_benchmarks(tmp_path)]
    assert found == ["one", "two", "three"]


def test_writing_twice_changes_nothing_and_the_text_around_stays():
    readme = f"# Title\n{EMPTY}the end\n"
    once = table.rewritten(readme, {"spo": summary("spo")}, [])
    assert once.startswith("# Title\n") and once.endswith("the end\n")
    assert table.rewritten(once, {"spo": summary("spo")}, []) == once
    assert table.rewritten(once, {}, []) != once


def test_a_readme_without_markers_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="learning:begin"):
        table.rewritten(EMPTY.replace("learning", "earning"), {}, [])


def test_the_command_writes_checks_and_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "README", tmp_path / "README.md")
    assert command.main([]) == 2
    table.README.write_text(EMPTY)
    assert command.main(["--check"]) == 1
    assert table.README.read_text() == EMPTY
    assert command.main([]) == 0
    assert command.main(["--check"]) == 0
    assert command.main(["--chekc"]) == 2
    assert "Traceback" not in capsys.readouterr().err
