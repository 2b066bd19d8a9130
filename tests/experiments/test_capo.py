"""CAPO: the shifts foretell what a step does, and the experiment runs in small."""

import dataclasses

import numpy as np
import pytest

from experiments import capo_fidelity, harness
from experiments.capo import ACCEPTED, EXPERIMENT, ShareRule
from experiments.capo_setting import Config
from experiments.command_line import Options


@pytest.fixture(scope="module")
def tokens():
    """Each token of real rollouts alone, by the rate of its step."""
    rates = (1e-4, 1e-3, 1e-2, 3e-1)
    return capo_fidelity.of_tokens(rates, seed=1)


def test_the_policy_shift_ranks_tokens_as_the_exact_kl_does(tokens):
    for rate in ("0.001", "0.01"):
        assert tokens[rate]["spearman"] > 0.85
        assert tokens[rate]["spearman_expected"] > 0.99
        assert 0.94 < tokens[rate]["kl_over_expected"] < 1.0
        # The direction holds the sample's own residual: the estimate is biased upwards.
        assert 0.1 < tokens[rate]["kl_over_shift"] < 0.2
    assert tokens["0.3"]["spearman"] > 0.8 and tokens["0.3"]["spearman_expected"] > 0.9


def test_the_expected_shift_becomes_the_kl_as_the_step_becomes_small(tokens):
    away = [abs(tokens[rate]["kl_over_expected"] - 1) for rate in ("0.01", "0.001", "0.0001")]
    assert away[0] > away[1] > away[2] and away[2] < 1e-3


def test_the_shift_of_a_batch_ranks_600_steps_as_the_kl_does():
    assert capo_fidelity.of_batches(600, seed=1) > 0.9


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    """Of the method and its controls, at smoke size."""
    names = ("CAPO", "GRPO", "random rejection", "base policy", ACCEPTED)
    experiment = dataclasses.replace(
        EXPERIMENT, methods={name: EXPERIMENT.methods[name] for name in names}
    )
    options = Options(
        budget="smoke",
        seeds=(0, 1),
        out=tmp_path_factory.mktemp("capo"),
        resume=False,
        record=False,
        progress=False,
        tensorboard=False,
        config=EXPERIMENT.budgets["smoke"],
        changed=(),
        command="",
    )
    return harness.run(experiment, options)


def test_the_control_rejects_as_many_tokens_as_the_method(summary):
    found = summary["methods"]
    numbers = found["CAPO"]["numbers"]
    assert {"tau_h", "tau_f", "rejected_share_positive", "fidelity"} <= set(numbers)
    accepted = 1 - np.array(numbers["rejected_share"])
    np.testing.assert_allclose(found[ACCEPTED]["values"], accepted, rtol=1e-6)
    kept = found["random rejection"]["numbers"]["kept_share"]
    np.testing.assert_allclose(kept, accepted.mean(), atol=1e-4)
    sweep = found["GRPO"]["numbers"]["sweep"]["2 prompts"]
    assert set(sweep) == {"0.007"} and 0 <= sweep["0.007"]["collapsed"] <= 5


def test_the_rule_asks_for_success_and_for_few_rejections():
    names = ("GRPO", "random rejection")
    values = {"CAPO": [0.8] * 5} | {name: [0.5] * 5 for name in names}
    judge = EXPERIMENT.rule.judge
    assert judge(values | {ACCEPTED: [0.95] * 5}).holds
    assert not judge(values | {ACCEPTED: [0.85] * 5}).holds
    assert not judge(values | {"GRPO": [0.78] * 5, ACCEPTED: [0.95] * 5}).holds
    words = ShareRule(ACCEPTED, threshold=0.9).words("success", 5)
    assert words == f"{ACCEPTED} has a value of at least 0.9 in the mean of 5 seeds"


def test_the_aggressive_rate_is_one_of_the_sweep():
    config = EXPERIMENT.budgets["cpu"]
    assert config.learning_rate in config.rates
    with pytest.raises(ValueError, match="quantiles holds 1.0, but each has to lie in"):
        Config(quantiles="0.9, 1.0")
