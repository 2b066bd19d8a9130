"""The leaderboard: every method at the same samples, and a picture that can be read."""

import pytest

from experiments import leaderboard
from experiments.leaderboard import EXPERIMENT, METHODS


@pytest.fixture(scope="module")
def summary(tmp_path_factory, run_smoke):
    """Of two methods and the policy that they begin with, at smoke size."""
    out = tmp_path_factory.mktemp("leaderboard")
    names = ("GRPO", "DAPO", "base policy")
    return run_smoke(EXPERIMENT, names, out), out


def test_methods_are_scored_and_audited_side_by_side(summary):
    found, out = summary
    for name in ("GRPO", "DAPO"):
        method = found["methods"][name]
        assert len(method["values"]) == 2 and 0 <= method["mean"] <= 1
        for audit in method["numbers"]["audit"].values():
            assert 0 <= audit["bias"] <= 1 and audit["noise"] > 0 and audit["scale"] > 0
    assert (out / "picture.png").stat().st_size > 10_000


def test_dapo_is_read_where_it_has_sampled_as_much_as_the_others(summary):
    _, out = summary
    rows = [line.split(",") for line in (out / "metrics.csv").read_text().splitlines()[1:]]
    last = {
        name: max(float(row[-2]) for row in rows if row[-4] == name and row[-2])
        for name in ("GRPO", "DAPO")
    }
    assert last["GRPO"] == last["DAPO"] == 128


def test_all_methods_take_the_same_number_of_responses():
    for config in EXPERIMENT.budgets.values():
        EXPERIMENT.check(config)
        for entry in METHODS.values():
            agent = leaderboard.algorithm(entry, "fork sum", EXPERIMENT.budgets["smoke"])
            sizes = agent.description["num_prompts"] * agent.description["group_size"]
            assert sizes == EXPERIMENT.budgets["smoke"].responses
