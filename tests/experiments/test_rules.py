import numpy as np
import pytest

from experiments.rules import AllOf, NearRule, NotWorseRule, OrderRule, PairedRule, ThresholdRule

BASELINE = np.array([10.0, 50.0, -20.0, 30.0, 0.0])
GAIN = np.array([1.0, 2.0, 3.0, 2.0, 2.0])


def paired(difference, **settings):
    rule = PairedRule("new", ("old",), **{"minimum_effect": 0.0} | settings)
    return rule.judge({"new": BASELINE + difference, "old": BASELINE})


def test_pairing_finds_a_gain_that_the_spread_over_seeds_would_hide():
    assert GAIN.max() < BASELINE.std() / 5
    judgement = paired(GAIN)
    assert judgement.holds
    assert judgement.effect == pytest.approx(2.0)
    assert 0 < judgement.details["old"]["low"] < 2.0 < judgement.details["old"]["high"]


def test_a_gain_in_the_wrong_direction_is_no_gain():
    assert not paired(-GAIN).holds
    assert paired(-GAIN).effect == pytest.approx(-2.0)
    assert paired(-GAIN, higher_is_better=False).holds
    assert not paired(GAIN, higher_is_better=False).holds


def test_a_gain_below_the_minimum_effect_does_not_count():
    assert paired(GAIN, minimum_effect=2.0).holds
    assert not paired(GAIN, minimum_effect=2.1).holds


def test_a_gain_whose_interval_holds_zero_does_not_count():
    assert not paired(np.array([9.0, -8.0, 7.0, -6.0, 2.0])).holds


def test_no_difference_at_all_is_no_gain():
    assert not paired(np.zeros(5)).holds


def test_a_seed_that_diverged_decides_against_the_method():
    assert not paired(np.array([1.0, 2.0, np.nan, 2.0, 2.0])).holds


def test_every_baseline_has_to_be_beaten_and_the_smallest_gain_is_the_effect():
    rule = PairedRule("new", ("old", "older"), minimum_effect=0.5)
    values = {"new": BASELINE + GAIN, "old": BASELINE, "older": BASELINE - 5.0}
    assert rule.judge(values).holds
    assert rule.judge(values).effect == pytest.approx(2.0)
    assert not rule.judge(values | {"older": BASELINE + GAIN + 1.0}).holds


def test_a_relative_gain_is_a_share_of_each_baseline():
    costs = np.array([-100.0, -10.0, -1.0, -1000.0, -50.0])
    rule = PairedRule("new", ("old",), minimum_effect=0.05, relative=True)
    assert rule.judge({"new": 0.94 * costs, "old": costs}).effect == pytest.approx(0.06)
    assert rule.judge({"new": 0.94 * costs, "old": costs}).holds
    assert not rule.judge({"new": 0.96 * costs, "old": costs}).holds


def test_nine_of_ten_seeds_is_nine():
    rule = ThresholdRule("new", threshold=475.0, share=0.9)
    reached, missed = [475.0] * 9, [474.9]
    assert rule.judge({"new": reached + missed}).holds
    assert rule.judge({"new": reached + missed}).effect == pytest.approx(0.9)
    assert not rule.judge({"new": reached[1:] + missed * 2}).holds
    assert "at least 9 of 10 seeds" in rule.words("return", 10)


def test_without_a_share_the_mean_decides():
    rule = ThresholdRule("new", threshold=-250.0)
    assert rule.judge({"new": [-1000.0, 500.0]}).holds
    assert not rule.judge({"new": [-251.0, -250.0]}).holds
    assert not rule.judge({"new": [0.0, np.nan]}).holds


def test_a_threshold_may_be_a_ceiling():
    rule = ThresholdRule("new", threshold=0.01, higher_is_better=False)
    assert rule.judge({"new": [0.0, 0.01]}).holds
    assert not rule.judge({"new": [0.0, 0.04]}).holds


def test_rules_that_are_joined_all_have_to_hold():
    better = PairedRule("new", ("old",), minimum_effect=0.0)
    values = {"new": BASELINE + GAIN, "old": BASELINE}
    assert AllOf((better, ThresholdRule("new", 10.0))).judge(values).holds
    assert not AllOf((better, ThresholdRule("new", 100.0))).judge(values).holds
    assert AllOf((better, ThresholdRule("new", 10.0))).names == ("new", "old")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: PairedRule("a", "b", 0.0), "baselines is 'b'"),
        (lambda: PairedRule("a", (), 0.0), "baselines is ()"),
        (lambda: PairedRule("a", ("a",), 0.0), "hold the method 'a' itself"),
        (lambda: PairedRule("a", ("b",), -1.0), "minimum_effect is -1.0"),
        (lambda: ThresholdRule("a", 0.0, share=90), "share is 90"),
        (
            lambda: AllOf((ThresholdRule("a", 0.0), ThresholdRule("a", 1, higher_is_better=False))),
            "disagree on higher_is_better",
        ),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(build, said):
    with pytest.raises(ValueError) as raised:
        build()
    assert said in str(raised.value)


def test_the_words_say_what_the_code_does():
    rule = PairedRule("SPO", ("GRPO", "PPO"), minimum_effect=0.05)
    assert rule.words("accuracy", 10) == (
        "SPO has more accuracy than GRPO and than PPO: the mean difference of 10 paired seeds is "
        "at least 0.05 and its bootstrapped 95% interval excludes 0"
    )
    relative = PairedRule("HDPO", ("base-stock",), 0.05, higher_is_better=False, relative=True)
    assert "less cost than base-stock" in relative.words("cost", 5)
    assert "at least 5%" in relative.words("cost", 5)


@pytest.mark.parametrize(
    ("ours", "holds"),
    [
        ([9.5, 9.6, 9.7, 9.5, 9.6], True),  # 4% below on average, within the margin of 10%
        ([8.5, 8.6, 8.7, 8.5, 8.6], False),
        ([5.0, 15.0, 5.0, 15.0, 9.0], False),  # the interval is too wide to tell
        ([12.0] * 5, True),
    ],
)
def test_not_worse_needs_an_interval_above_the_margin(ours, holds):
    rule = NotWorseRule("a", "b", margin=0.1)
    assert rule.judge({"a": ours, "b": [10.0] * 5}).holds is holds
    less = NotWorseRule("a", "b", margin=0.1, higher_is_better=False)
    negated = {"a": [-v for v in ours], "b": [-10.0] * 5}
    assert less.judge(negated).holds is holds


def test_a_margin_is_a_share():
    with pytest.raises(ValueError, match="margin is 0, but it has to be a share"):
        NotWorseRule("a", "b", margin=0)
    assert "lies above -10% of" in NotWorseRule("a", "b", margin=0.1).words("return", 5)


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        ([0.7, 0.8, 0.7, 0.8], True),
        ([0.7] * 4, True),  # at the tolerance
        ([0.8] * 4, True),
        ([0.69] * 4, False),
        ([0.81] * 4, False),
        ([0.2, 1.3, 0.2, 1.3], True),  # the mean decides
        ([0.75, 0.75, 0.75, np.nan], False),
    ],
)
def test_near_is_a_distance_of_the_mean_in_either_direction(values, holds):
    rule = NearRule("a", target=0.75, tolerance=0.05)
    assert rule.judge({"a": values}).holds is holds


def test_what_is_left_of_the_tolerance_is_the_effect():
    judgement = NearRule("a", target=0.75, tolerance=0.05).judge({"a": [0.71, 0.73]})
    assert judgement.effect == pytest.approx(0.02)
    assert judgement.details["distance"]["mean"] == pytest.approx(-0.03)
    assert NearRule("a", 0.75, 0.05).judge({"a": [0.9, 0.9]}).effect == pytest.approx(-0.1)


def test_near_goes_with_rules_of_either_direction():
    more = PairedRule("b", ("a",), minimum_effect=0.1)
    both = AllOf((NearRule("a", 0.75, 0.05), more))
    assert both.judge({"a": [0.74] * 3, "b": [0.9] * 3}).holds
    assert not both.judge({"a": [0.74] * 3, "b": [0.8] * 3}).holds
    assert not both.judge({"a": [0.6] * 3, "b": [0.9] * 3}).holds
    less = PairedRule("b", ("a",), minimum_effect=0.1, higher_is_better=False)
    AllOf((NearRule("a", 0.75, 0.05, higher_is_better=False), less))
    assert "a has entropy within 0.05 of 0.75 in the mean of 10 seeds" in both.words("entropy", 10)


def test_a_tolerance_of_nothing_is_refused():
    with pytest.raises(ValueError, match="tolerance is 0, but it has to be above 0"):
        NearRule("a", 0.75, tolerance=0)


def test_an_order_needs_every_step_beyond_the_spread_of_paired_seeds():
    rule = OrderRule(("low", "middle", "high"))
    values = {"low": BASELINE, "middle": BASELINE + GAIN, "high": BASELINE + 3 * GAIN}
    judgement = rule.judge(values)
    assert judgement.holds and judgement.effect == pytest.approx(2.0)
    assert judgement.details["middle < high"]["mean"] == pytest.approx(4.0)
    assert OrderRule(rule.order, minimum_step=2.0).judge(values).holds
    assert not OrderRule(rule.order, minimum_step=2.1).judge(values).holds
    # Two equal neighbours, swapped ones, and a step that the seeds disagree on.
    assert not rule.judge(values | {"high": values["middle"]}).holds
    assert not OrderRule(("middle", "low", "high")).judge(values).holds
    unsure = BASELINE + GAIN + np.array([9.0, -8.0, 7.0, -6.0, 2.0])
    assert not rule.judge(values | {"high": unsure}).holds
    assert not rule.judge(values | {"low": BASELINE * np.nan}).holds
    said = "entropy rises from each to the next of low < middle < high"
    assert said in rule.words("entropy", 5) and rule.names == rule.order


@pytest.mark.parametrize("order", [("a",), (), ("a", "b", "a")])
def test_what_is_no_order_is_refused(order):
    with pytest.raises(ValueError, match="at least two names are needed, each of them once"):
        OrderRule(order)
