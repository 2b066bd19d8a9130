"""Problems of the package reasoning-gym: none twice, with the package's own scores."""

import dataclasses
import functools
import importlib
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxpg_envs.choices import refusal
from jaxpg_envs.tokens.answers import Extract

_MOST_DOUBLINGS = 6
"""Of the number of draws, until a family is given up as too small."""

_NONSENSE = ("", "no answer at all")


def compact(question: str) -> str:
    """The arithmetic expression of a question, with nothing around it.

    Args:
      question: of the families "products", "chain_sum", "decimal_chain_sum", "basic_arithmetic",
        or any that contains one expression of numbers, parentheses and `+ - * /`.

    Returns:
      The expression and an equals sign.

    Raises:
      ValueError: no expression.

    >>> compact("Solve the following multiplication: 4 * 7. Give only the result.")
    '4 * 7 ='
    """
    runs = [run.strip(" .,\n\t") for run in re.findall(r"[-+*/().,\d\s]+", question)]
    expression = max((run for run in runs if re.search(r"\d", run)), key=len, default=None)
    if expression is None:
        raise ValueError(
            f"question={question!r} has no arithmetic expression; choose another format_prompt"
        )
    return f"{expression} ="


class ReasoningScore:
    """`score_answer` of a family of problems, as a reward that can be pickled.

    An answer that the package cannot read, and raises for, scores 0.
    """

    def __init__(self, name: str, difficulty: Mapping[str, Any], extract: Extract):
        """Choose the family.

        Args:
          name: of the family.
          difficulty: its settings.
          extract: how the answer is found in a response.
        """
        self._name = name
        self._difficulty = dict(difficulty)
        self._extract = extract

    def __call__(self, prompt: Any, response: str | None, metadata: Mapping[str, Any]) -> float:
        """Score a response.

        Args:
          prompt: is not read.
          response: text.
          metadata: an entry of the family: "question", "answer" and "metadata".

        Returns:
          Score in [0, 1].
        """
        answer = self._extract(response) if response else None
        if not answer:
            return 0.0
        try:
            return float(self._dataset.score_answer(answer, metadata))
        except Exception:
            return 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_dataset"}

    @functools.cached_property
    def _dataset(self) -> Any:
        return family(self._name, self._difficulty, size=1, seed=0)


def family(name: str, difficulty: Mapping[str, Any], *, size: int, seed: int) -> Any:
    """Build a data set of the package.

    Args:
      name: of the family.
      difficulty: its settings.
      size: number of problems, at least 1.
      seed: of the package, which draws problem i from the seed plus i.

    Returns:
      The data set.

    Raises:
      ImportError: the package is not installed.
      TypeError: a setting that the family does not have.
      ValueError: unknown name, or a setting with a value that is refused.
    """
    try:
        package = importlib.import_module("reasoning_gym")
        families = importlib.import_module("reasoning_gym.factory").DATASETS
    except ImportError:
        raise ImportError(
            "reasoning_gym needs the package reasoning-gym: pip install 'jaxpg[llm]'"
        ) from None
    if name not in families:
        listing = f"the {len(families)} families of the package reasoning-gym"
        raise ValueError(refusal("name", name, families, listing))
    fields = [f for f in dataclasses.fields(families[name][1]) if f.name not in ("seed", "size")]
    for given in difficulty:
        if given not in {field.name for field in fields}:
            names = [field.name for field in fields]
            raise TypeError(refusal(f"reasoning_gym({name!r}): keyword", given, names))
    try:
        return package.create_dataset(name, size=size, seed=seed, **difficulty)
    except (AssertionError, TypeError, ValueError) as error:
        settings = ", ".join(f"{field.name}={_default(field)}" for field in fields)
        raise ValueError(
            f"reasoning_gym({name!r}) with {_listed(difficulty)}: {error or type(error).__name__}; "
            f"its settings are, with their defaults, {settings}"
        ) from error


def distinct_problems(
    name: str,
    difficulty: Mapping[str, Any],
    number: int,
    seed: int,
    format_prompt: Callable[[str], str] = str,
) -> dict[str, dict[str, Any]]:
    """Draw problems until enough of them differ in their text.

    Args:
      name: of the family.
      difficulty: its settings.
      number: of problems, at least 1.
      seed: which ones. Two seeds draw independently.
      format_prompt: `(question) -> text` that tells problems apart.

    Returns:
      Entries of the package by their text, in the order they were drawn.

    Raises:
      ValueError: the family is too small; see `family` too.
    """
    # The package draws problem i from seed + i: neighbouring seeds would share their problems.
    start = random.Random(seed).getrandbits(31)
    found: dict[str, dict[str, Any]] = {}
    for rounds in range(_MOST_DOUBLINGS + 1):
        draws, before, found = number * 2**rounds, len(found), {}
        dataset = family(name, difficulty, size=draws, seed=start)
        for index in range(draws):
            entry = dataset[index]
            found.setdefault(format_prompt(entry["question"]), entry)
            if len(found) == number:
                return found
        if len(found) == before:
            break
    raise ValueError(
        f"reasoning_gym({name!r}) with {_listed(difficulty)} has {len(found)} distinct problems "
        f"in {draws} draws, fewer than the {number} that are asked for with size, num_held_out and "
        f"num_shots together"
    )


def check_scores(
    score: ReasoningScore,
    name: str,
    entries: list[Mapping[str, Any]],
    cut: Callable[[str], str],
) -> None:
    """Check that right answers score 1 through all that happens to a response, and others do not.

    Args:
      score: the reward.
      name: of the family.
      entries: some of its problems.
      cut: what becomes of a response before it is scored.

    Raises:
      ValueError: naming the answer.
    """
    for entry in entries:
        right = entry["answer"]
        if right is not None and score(None, cut(right), entry) < 1.0:
            raise ValueError(
                f"reasoning_gym({name!r}) scores its own answer {right!r} with "
                f"{score(None, cut(right), entry):.6g} once it is cut at the stop strings and "
                f"extracted; choose other stop_strings or another extract"
            )
        for wrong in _NONSENSE:
            if score(None, wrong, entry) >= 1.0:
                raise ValueError(
                    f"reasoning_gym({name!r}) scores the answer {wrong!r} with 1, so it cannot "
                    f"tell right from wrong; choose another family"
                )


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "..." if field.default_factory is dataclasses.MISSING else repr(field.default_factory())


def _listed(difficulty: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name}={value!r}" for name, value in difficulty.items())
    return listed or "its default settings"
