"""Tasks from the package reasoning-gym: over a hundred families of generated problems."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jaxpg_envs.tokens.answers import Extract, extraction
from jaxpg_envs.tokens.arguments import whole_number
from jaxpg_envs.tokens.host_rewards import HostReward
from jaxpg_envs.tokens.reasoning_gym_problems import (
    ReasoningScore,
    check_scores,
    distinct_problems,
)
from jaxpg_envs.tokens.task import TokenTask
from jaxpg_envs.tokens.text import Tokenizer, text_task

_CHECKED = 16
"""Problems whose right answer is scored before the task is handed out."""

_SPARE_TOKENS = 8


def reasoning_gym(
    tokenizer: Tokenizer,
    name: str,
    *,
    size: int,
    seed: int = 0,
    num_held_out: int = 0,
    response_length: int | None = None,
    prompt_length: int | None = None,
    format_prompt: Callable[[str], str] = str,
    prefix: str = "",
    suffix: str = "",
    num_shots: int = 0,
    chat: bool = False,
    stop_strings: Sequence[str] = ("\n",),
    extract: str | Extract = "whole",
    num_workers: int = 2,
    time_limit: float = 5.0,
    **difficulty: Any,
) -> TokenTask:
    """A task from a family of generated problems, scored by the package itself.

    The model is shown `prefix`, the solved problems, then the problem and `suffix`. A solved
    problem is shown like any other, followed by a space, its answer and a line break. No two
    problems have the same text: those to train on, those held out and the solved ones are all
    different. Those held out do not depend on `size`.

    Args:
      tokenizer: see `Tokenizer`.
      name: of the family, such as "products", "chain_sum" or "countdown".
      size: problems to train on, at least 1.
      seed: which problems.
      num_held_out: problems to evaluate on.
      response_length: R, tokens that a response may have. By default those of the longest right
        answer and 8 more, which leaves no room for a derivation.
      prompt_length: P; None takes the tokens of the longest prompt.
      format_prompt: `(question) -> text`; `compact` leaves the arithmetic expression: "4 * 7 =".
      prefix: text in front of everything.
      suffix: text behind each problem.
      num_shots: solved problems.
      chat: see `text_task`.
      stop_strings: texts that end a response.
      extract: how the answer is found in a response, see `answers.extraction`. The package gives
        an answer with other words around it a part of the reward.
      num_workers: worker processes for the scores; 0 scores in this process without a time limit.
        Some families compute what an answer says, which can take for ever.
      time_limit: seconds for one score. A response that takes longer gets 0, and is counted.
      **difficulty: settings of the family.

    Returns:
      The task. What its reward reads is the package's entry: "question", "answer", "metadata".

    Raises:
      ImportError: the package is not installed.
      TypeError: a setting that the family does not have.
      ValueError: unknown name, a setting that is refused, fewer distinct problems than asked for,
        or a family whose right answers do not score 1, or whose wrong ones do.

    Source: Stojanovski et al. 2025, "Reasoning Gym"; the package `reasoning-gym`.
    """
    whole_number("size", size, 1)
    whole_number("num_held_out", num_held_out, 0)
    whole_number("num_shots", num_shots, 0)
    number = num_held_out + num_shots + size
    found = list(distinct_problems(name, difficulty, number, seed, format_prompt).items())
    held_out, rest = found[:num_held_out], found[num_held_out:]
    shots, training = rest[:num_shots], rest[num_shots:]
    score = ReasoningScore(name, difficulty, extraction(extract))
    check_scores(
        score,
        name,
        [entry for _, entry in found[:_CHECKED]],
        lambda text: text[: min((text.find(s) for s in stop_strings if s in text), default=None)],
    )
    solved = "".join(f"{text}{suffix} {_answer(name, entry)}\n" for text, entry in shots)
    return text_task(
        tokenizer,
        training,
        HostReward(score, num_workers=num_workers, time_limit=time_limit, default=0.0),
        response_length=_response_length(tokenizer, name, found, response_length),
        prompt_length=prompt_length,
        held_out=held_out,
        template=lambda problem: f"{prefix}{solved}{problem}{suffix}",
        chat=chat,
        stop_strings=stop_strings,
        name=f"reasoning_gym/{name}",
    )


def _answer(name: str, entry: dict[str, Any]) -> str:
    if entry["answer"] is None:
        raise ValueError(
            f"reasoning_gym({name!r}) gives no right answers, so num_shots must be 0 and "
            f"response_length must be given"
        )
    return entry["answer"]


def _response_length(tokenizer: Tokenizer, name: str, found: list, given: int | None) -> int:
    if given is None:
        longest = max(len(tokenizer.encode(_answer(name, entry))) for _, entry in found)
        return longest + _SPARE_TOKENS
    whole_number("response_length", given, 1)
    lengths = [len(tokenizer.encode(e["answer"])) for _, e in found if e["answer"] is not None]
    too_long = sum(length >= given for length in lengths)
    if too_long:
        warnings.warn(
            f"{too_long} of {len(found)} right answers of reasoning_gym({name!r}) and a stop token "
            f"have more than response_length={given} tokens, the longest {max(lengths) + 1}",
            RuntimeWarning,
            stacklevel=3,
        )
    return given
