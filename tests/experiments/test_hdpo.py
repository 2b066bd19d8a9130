"""HDPO's experiment in small: gaps against what is known, a rule that names its methods."""

import numpy as np
import pytest

from experiments import hdpo, hdpo_retail
from experiments.hdpo_methods import TRACE
from experiments.hdpo_problems import LOST
from experiments.method_runs import Context
from experiments.rules import ThresholdRule

SMOKE = hdpo.EXPERIMENT.budgets["smoke"]


@pytest.fixture(scope="module")
def summary(tmp_path_factory, run_smoke):
    out = tmp_path_factory.mktemp("hdpo")
    rule = ThresholdRule(hdpo.B, 2.0, higher_is_better=False)
    return run_smoke(hdpo.EXPERIMENT, (hdpo.B, hdpo.B_BASE), out, rule=rule), out


def test_gaps_are_percent_of_the_optimum(summary):
    found, _ = summary
    base = found["methods"][hdpo.B_BASE]
    # 7.271 against 6.836, whatever the seed.
    assert base["values"] == pytest.approx([100 * (7.2709 - 6.8359) / 6.8359] * 2, abs=0.01)
    learned = found["methods"][hdpo.B]
    costs = 6.8359 * (1 + np.mean(learned["values"]) / 100)
    assert learned["numbers"]["cost"] == pytest.approx(costs, rel=1e-3)


def test_the_picture_shows_learning_and_a_store(summary):
    found, out = summary
    numbers = found["methods"][hdpo.B]["numbers"]
    assert {len(series) for series in numbers["store"].values()} == {TRACE}
    assert len(numbers["learning"]["steps"]) == len(numbers["learning"]["cost"])
    assert (out / "picture.png").stat().st_size > 20_000


def test_the_score_function_acts_through_the_same_head(tmp_path):
    run = hdpo.METHODS[hdpo.B_SCORE](SMOKE, [0], Context(tmp_path, "score"))
    assert run.values.shape == (1,) and np.isfinite(run.values).all()
    samples = SMOKE.one_store_steps * SMOKE.one_store_batch * SMOKE.more_samples * 50
    assert run.numbers["periods_of_a_seed"] == samples


def test_who_knows_the_demand_earns_most():
    problem = hdpo_retail.retail(SMOKE.num_products, SMOKE.forecaster_steps)
    quantile = hdpo.METHODS[hdpo.F_QUANTILE](SMOKE, [0], None)
    assert 0 < quantile.values[0] < 100
    assert quantile.numbers["profit"] < quantile.numbers["most"] == round(problem.most, 3)


def test_seeds_that_have_few_scenarios_have_their_own(tmp_path):
    run = hdpo.METHODS[hdpo.E_GRAPH_FEW](SMOKE, [0, 1], Context(tmp_path, "few"))
    assert run.values.shape == (2,) and run.values[0] != run.values[1]


def test_the_rule_speaks_of_the_methods_and_sizes_are_checked():
    assert set(hdpo.RULE.names) <= set(hdpo.METHODS)
    assert LOST.reference(SMOKE) == pytest.approx(6.836, abs=5e-4)
    with pytest.raises(ValueError, match="batch_size is 0, but it has to be at least 1"):
        hdpo.Config(batch_size=0)
