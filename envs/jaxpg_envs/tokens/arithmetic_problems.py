"""Problems of arithmetic, their answers and the work that leads to them, as plain text."""

import itertools
from typing import NamedTuple

import numpy as np

OPERATIONS = "+-*"
"""Operations that a problem may ask for."""


class Problem(NamedTuple):
    """Two numbers to be added, subtracted or multiplied.

    Attributes:
      first: at least 0.
      operation: one of `OPERATIONS`.
      second: at least 0.
      level: digits of the longer number beyond the fewest that the pool has.
    """

    first: int
    operation: str
    second: int
    level: int

    @property
    def question(self) -> str:
        """As in "12+7="."""
        return f"{self.first}{self.operation}{self.second}="

    @property
    def answer(self) -> str:
        """As in "19" or "-5", without leading zeros."""
        results = {
            "+": self.first + self.second,
            "-": self.first - self.second,
            "*": self.first * self.second,
        }
        return str(results[self.operation])


def problems(operations: str, num_digits: tuple[int, int], num_problems: int) -> list[Problem]:
    """Choose different problems, as many of each kind as there are.

    A kind is an operation and the number of digits of each number. All kinds get the same number
    of problems, but for those that have no more: one-digit sums are only 100.

    Args:
      operations: a string of different `OPERATIONS`.
      num_digits: `(fewest, most)` digits of a number; a one-digit number is 0 to 9.
      num_problems: how many, at least 1; all of them where there are no more.

    Returns:
      The problems in order of level, kind and size: always the same for the same arguments.

    >>> [problem.question for problem in problems("+", (1, 1), 3)][0][1]
    '+'
    """
    fewest, most = num_digits
    lengths = range(fewest, most + 1)
    kinds = sorted(itertools.product(lengths, lengths, operations), key=lambda kind: max(kind[:2]))
    sizes = [_count(first) * _count(second) for first, second, _ in kinds]
    shares = _equal_shares(sizes, num_problems)
    chosen = []
    for kind, (length, other, operation) in enumerate(kinds):
        for number in _sample(sizes[kind], shares[kind], kind):
            first, second = divmod(int(number), _count(other))
            level = max(length, other) - fewest
            chosen.append(
                Problem(_lowest(length) + first, operation, _lowest(other) + second, level)
            )
    return chosen


def extremes(operations: str, num_digits: tuple[int, int]) -> list[Problem]:
    """Problems among which are the longest question, answer and work of all.

    Args:
      operations: see `problems`.
      num_digits: see `problems`.

    Returns:
      Every operation on the smallest and the largest number.
    """
    fewest, most = num_digits
    ends = (_lowest(fewest), 10**most - 1)
    return [
        Problem(first, operation, second, 0)
        for first, operation, second in itertools.product(ends, operations, ends)
    ]


def response(problem: Problem, scratchpad: bool) -> tuple[str, list[int]]:
    """What a demonstration writes, and which of its characters repeat the answer's.

    Args:
      problem: the problem.
      scratchpad: write work and a comma before the answer: for sums and differences the answer
        backwards, in the order in which carries arise; for products the products with each digit
        of the second number, from the last, joined by "+".

    Returns:
      `(text, copies)`: for each character its place in the answer, or -1.

    >>> response(Problem(12, "+", 7, 0), scratchpad=True)
    ('91,19', [1, 0, -1, 0, 1])
    >>> response(Problem(34, "*", 12, 0), scratchpad=True)[0]
    '68+340,408'
    """
    answer = problem.answer
    places = list(range(len(answer)))
    if not scratchpad:
        return answer, places
    if problem.operation != "*":
        return f"{answer[::-1]},{answer}", [*places[::-1], -1, *places]
    digits = reversed(str(problem.second))
    parts = [str(problem.first * int(digit) * 10**place) for place, digit in enumerate(digits)]
    work = "+".join(parts) + ","
    return work + answer, [-1] * len(work) + places


def _lowest(num_digits: int) -> int:
    return 0 if num_digits == 1 else 10 ** (num_digits - 1)


def _count(num_digits: int) -> int:
    return 10**num_digits - _lowest(num_digits)


def _equal_shares(sizes: list[int], total: int) -> list[int]:
    """Shares that sum to the total (or to all there is), equal but for what is too small."""
    shares = [0] * len(sizes)
    by_size = sorted(range(len(sizes)), key=sizes.__getitem__)
    for done, kind in enumerate(by_size):
        shares[kind] = min(sizes[kind], total // (len(sizes) - done))
        total -= shares[kind]
    return shares


def _sample(size: int, number: int, seed: int) -> np.ndarray:
    if number == size:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, number, replace=False))
