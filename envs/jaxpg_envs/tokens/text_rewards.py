"""Rewards for texts: builders of functions `(prompt, response, metadata) -> float`.

    reward = text_rewards.numeric_match(extract="boxed", tolerance=1e-6)
    reward("What is 1/2?", r"So \\boxed{0.5}", {"answer": "1/2"})  # 1.0

Every function that is built here can be pickled, so it can run in worker processes.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from jaxpg_envs.choices import nearest
from jaxpg_envs.tokens.answers import Extract, extraction, normalised, number, whole

TextReward = Callable[[Any, str, Mapping[str, Any]], float]
"""`(prompt, response, metadata) -> reward`."""


def exact_match(
    *, key: str = "answer", extract: str | Extract = "whole", ignore_case: bool = True
) -> TextReward:
    """1 if the answer is the right one, up to white space, quotation marks and a full stop.

    Args:
      key: where the metadata holds the right answer: a text or number, or a list of several, any
        of which will do. Nothing matches None or an empty text.
      extract: how the answer is found in the response, see `answers.extraction`. It is tried on
        the right answer too, which counts as a whole where nothing is found in it.
      ignore_case: whether letter case does not matter.

    Returns:
      The reward, 0 or 1.

    Raises:
      ValueError: unknown `extract`.
      KeyError: (when called) metadata without the key.

    >>> exact_match()("Capital of France?", " paris. ", {"answer": "Paris"})
    1.0
    """
    same = functools.partial(_same_text, ignore_case=ignore_case)
    return functools.partial(_match, same=same, key=key, extract=extraction(extract))


def numeric_match(
    *, key: str = "answer", extract: str | Extract = "last_number", tolerance: float = 0.0
) -> TextReward:
    """1 if the answer is the right number, however it is written.

    Args:
      key: where the metadata holds the right answer: a number, or a text that holds one, or a
        list of several, any of which will do.
      extract: how the answer is found in the response, see `answers.extraction`. "last_number"
        takes a number out of a sentence; "whole" wants the number alone. It is tried on the right
        answer too (whose last number may follow its derivation), which counts as a whole where
        nothing is found in it.
      tolerance: largest distance from the right number that is accepted, as a share of the right
        number or, below 1, absolute. 0 compares exactly: 0.5 is 1/2, but 0.33 is not 1/3.

    Returns:
      The reward, 0 or 1. A right answer that is no number is compared as text.

    Raises:
      ValueError: unknown `extract`, or negative `tolerance`.
      KeyError: (when called) metadata without the key.

    >>> reward = numeric_match()
    >>> reward("", "She pays $1,200.00 in all.", {"answer": 1200}), reward("", "", {"answer": 0})
    (1.0, 0.0)
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance={tolerance} must be at least 0 and finite")
    same = functools.partial(_same_number, tolerance=Fraction(tolerance))
    return functools.partial(_match, same=same, key=key, extract=extraction(extract))


def matches_format(pattern: str, *, reward: float = 1.0) -> TextReward:
    """A reward for the form of a response, whatever it says.

    Args:
      pattern: regular expression for the whole response; "." matches line breaks too. White space
        around the response, a line break at its end above all, may be there or not.
      reward: paid for a match.

    Returns:
      The reward: `reward` or 0.

    Raises:
      ValueError: not a regular expression.

    >>> matches_format(r"<think>.*</think>\\s*\\d+")("", "<think>4\\n7</think>\\n28\\n", {})
    1.0
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"pattern={pattern!r} is not a regular expression: {error}") from None
    return functools.partial(_format, pattern=compiled, reward=float(reward))


def weighted_sum(*terms: tuple[float, TextReward]) -> TextReward:
    """Several rewards in one.

    Args:
      *terms: pairs of weight and reward, at least one.

    Returns:
      The sum of weight times reward.

    Raises:
      ValueError: no term, or one that is no such pair.

    >>> both = weighted_sum((0.9, exact_match()), (0.1, matches_format("[A-Z].*")))
    >>> both("", "Yes", {"answer": "yes"}), both("", "No", {"answer": "yes"})
    (1.0, 0.1)
    """
    for term in terms or [()]:
        if not isinstance(term, tuple) or len(term) != 2 or not callable(term[1]):
            raise ValueError(f"terms holds {term!r}; each must be a pair (weight, reward)")
    return functools.partial(_sum, terms=terms)


def _match(prompt, response, metadata, *, same, key: str, extract: Extract) -> float:
    right = _right_answers(metadata, key)
    answer = extract(response) if response else None
    if not answer or not answer.strip():
        return 0.0
    return float(any(same(answer, _extracted(text, extract)) for text in right))


def _right_answers(metadata: Mapping[str, Any], key: str) -> list[str]:
    if key not in metadata:
        close = nearest(key, map(str, metadata))
        question = f"; did you mean {close!r}?" if close else ""
        raise KeyError(f"metadata has no key={key!r}, only {sorted(map(str, metadata))}{question}")
    value = metadata[key]
    values = value if isinstance(value, list | tuple) else [value]
    return [text for text in (str(v) for v in values if v is not None) if text.strip()]


def _extracted(right: str, extract: Extract) -> str:
    return extract(right) or whole(right)


def _same_text(answer: str, right: str, *, ignore_case: bool) -> bool:
    return normalised(answer, ignore_case=ignore_case) == normalised(right, ignore_case=ignore_case)


def _same_number(answer: str, right: str, *, tolerance: Fraction) -> bool:
    wanted = number(right)
    if wanted is None:
        return _same_text(answer, right, ignore_case=True)
    given = number(answer)
    return given is not None and abs(given - wanted) <= tolerance * max(1, abs(wanted))


def _format(prompt, response, metadata, *, pattern: re.Pattern, reward: float) -> float:
    if not response or not response.strip():
        return 0.0
    bare = response.strip()
    return reward if any(map(pattern.fullmatch, (response, bare, bare + "\n"))) else 0.0


def _sum(prompt, response, metadata, *, terms) -> float:
    return float(sum(weight * reward(prompt, response, metadata) for weight, reward in terms))
