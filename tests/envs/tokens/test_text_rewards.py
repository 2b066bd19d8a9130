"""Rewards for texts: right answers score 1 however they are written, wrong ones never do."""

import pickle
from fractions import Fraction

import pytest

from jaxpg_envs.tokens import answers
from jaxpg_envs.tokens.text_rewards import (
    exact_match,
    matches_format,
    numeric_match,
    weighted_sum,
)

WRITTEN = {
    "1/2": ["1/2", "0.5", ".50", "+0.5", r"\frac{1}{2}", r"$\dfrac{1}{2}$", r"\boxed{0.5}", "5e-1"],
    "1200": ["1,200", "1200.00", "$1,200", "1.2e3", "1200.", "01200"],
    "-3": ["-3", "\u22123", r"$-3$", "-3.0", "-6/2", r"\(-3\)"],
    "12345678901234567890": ["12,345,678,901,234,567,890"],
    "50%": ["50", r"50\%", "50 %"],
}
WRONG = [
    "",
    " ",
    "no idea",
    "13",
    "-12",
    "1/0",
    r"\boxed{}",
    "nan",
    "inf",
    "9" * 5000,
    "1e999999999",
]
REWARDS = [
    exact_match(),
    exact_match(extract="boxed"),
    numeric_match(),
    numeric_match(extract="whole", tolerance=1e-3),
    numeric_match(extract="boxed"),
]


@pytest.mark.parametrize("gold", WRITTEN)
def test_a_number_is_right_however_it_is_written(gold):
    for written in WRITTEN[gold]:
        extract = "boxed" if "boxed" in written else "whole"
        assert numeric_match(extract=extract)("", written, {"answer": gold}) == 1.0, written
        sentence = f"First 7, then the answer is {written}"
        if extract == "whole":
            assert numeric_match()("", sentence, {"answer": gold}) == 1.0, written


@pytest.mark.parametrize("reward", REWARDS)
def test_wrong_empty_and_none_answers_score_0(reward):
    for response in [*WRONG, None]:
        for gold in ("12", 12, "1/3", "", None, [], [None, ""]):
            assert reward("prompt", response, {"answer": gold}) == 0.0, (response, gold)


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("gold", ["12", 12, -0.5, "1/3", "1,000", r"\frac{3}{4}", "x + 1", "Paris"])
def test_gold_answers_score_1_through_the_full_extraction(reward, gold):
    for response in (str(gold), f" {gold}\n", rf"\boxed{{{gold}}}"):
        extract = reward.keywords["extract"]
        if extract(response) is not None and ("boxed" in response) == (extract is answers.boxed):
            assert reward("", response, {"answer": gold}) == 1.0, response


def test_a_gold_answer_may_follow_its_derivation():
    gold = {"answer": "She sold 48/2 = 24 clips in May. 48+24 = 72 in all.\n#### 72"}
    assert numeric_match()("", "That makes 72.", gold) == 1.0
    assert numeric_match()("", "That makes 24.", gold) == 0.0


def test_any_of_several_right_answers_will_do():
    reward = exact_match(key="answers")
    metadata = {"answers": ["Holland", "The Netherlands"]}
    assert reward("", "the  netherlands.", metadata) == 1.0
    assert reward("", "Belgium", metadata) == 0.0


def test_letter_case_counts_when_asked_to():
    assert exact_match()("", '"PARIS"', {"answer": "Paris"}) == 1.0
    assert exact_match(ignore_case=False)("", "PARIS", {"answer": "Paris"}) == 0.0


def test_tolerance_is_relative_above_1_and_absolute_below():
    reward = numeric_match(tolerance=0.01)
    for gold, response, expected in [
        (1000, "1010", 1.0),
        (1000, "1010.1", 0.0),
        (0, "0.01", 1.0),
        (0, "0.011", 0.0),
        ("1/3", "0.33", 1.0),
    ]:
        assert reward("", response, {"answer": gold}) == expected
    assert numeric_match()("", "0.33", {"answer": "1/3"}) == 0.0


def test_whole_answers_are_numbers_and_nothing_else():
    reward = numeric_match(extract="whole")
    assert reward("", "12", {"answer": 12}) == 1.0
    assert reward("", "12 or 13", {"answer": 12}) == 0.0
    assert reward("", "12 apples", {"answer": 12}) == 0.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3-4", "4"),
        ("x = -4", "-4"),
        ("(2+3)*4", "4"),
        ("from 10\u201320", "20"),
        ("it is 3/4.", "3/4"),
        ("1,234 and 1,2345", "2345"),
        ("the 2nd of 1,200,000.50 dollars.", "1,200,000.50"),
        ("version 1.2.3", "3"),
        ("It is...5", "5"),
        ("It is .5", ".5"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert answers.last_number(text) == number


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{x^{2^{3}}}!", "x^{2^{3}}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\fbox {3}", "3"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{2", None),
        ("}{", None),
        ("none", None),
    ],
)
def test_the_last_box_of_a_text(text, content):
    assert answers.boxed(text) == content


def test_numbers_are_exact():
    assert answers.number("0.1") * 3 == Fraction(3, 10)
    assert answers.number("2.50e-2") == Fraction(1, 40)
    assert answers.number(r"-\frac{3}{-4}") == Fraction(3, 4)
    assert answers.number(r"\text{ 7 }") == 7


def test_long_texts_are_read_quickly():
    """Long enough that a search which goes back and forth would take minutes."""
    assert answers.boxed("\\boxed{" * 20_000) is None
    for text, last in (("1" * 50_000, "1" * 50_000), ("1 " * 50_000, "1"), ("-" * 50_000, None)):
        assert answers.boxed(text) is None and answers.last_number(text) == last
        answers.number(last)
    assert answers.last_number("1,111" * 20_000) == "111"


def test_a_format_need_not_end_in_a_line_break():
    reward = matches_format(r"<think>.*</think>\s*<answer>.*</answer>")
    response = "<think>\n2 and 2\n</think>\n<answer>4</answer>"
    for ending in ("", "\n", "\n\n  "):
        assert reward("", response + ending, {}) == 1.0
    assert reward("", response + " or 5", {}) == 0.0
    assert matches_format(r"a\nb\n", reward=0.5)("", "a\nb", {}) == 0.5
    assert reward("", None, {}) == reward("", "", {}) == matches_format(".*")("", " ", {}) == 0.0


def test_rewards_add_up_and_can_be_pickled():
    both = weighted_sum((0.8, numeric_match(extract="boxed")), (0.2, matches_format(".*boxed.*")))
    both = pickle.loads(pickle.dumps(both))
    assert both("", r"\boxed{4}", {"answer": 4}) == pytest.approx(1.0)
    assert both("", r"\boxed{5}", {"answer": 4}) == pytest.approx(0.2)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="did you mean 'last_number'"):
        numeric_match(extract="last_numbers")
    with pytest.raises(ValueError, match="tolerance=-1"):
        numeric_match(tolerance=-1)
    with pytest.raises(ValueError, match="not a regular expression"):
        matches_format("(")
    with pytest.raises(ValueError, match="pair"):
        weighted_sum()
    with pytest.raises(KeyError, match="did you mean 'answer_text'"):
        exact_match()("", "x", {"answer_text": "x"})
