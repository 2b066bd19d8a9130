"""Arithmetic as text, character by character, exact and of graded difficulty."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg_envs.tokens.arguments import probability, whole_number
from jaxpg_envs.tokens.arithmetic_problems import OPERATIONS, Problem, extremes, problems, response
from jaxpg_envs.tokens.keys import keys_of_prompts
from jaxpg_envs.tokens.pools import LARGEST, pool
from jaxpg_envs.tokens.task import (
    Demonstrations,
    Prompts,
    Reward,
    TokenTask,
    WarmStart,
    check_response,
    spelling,
)

CHARACTERS = "0123456789+-*=,$"
"""The vocabulary: a token is a place in it. A comma ends the work, "$" ends the response."""

_SEPARATOR, _STOP = CHARACTERS.index(","), CHARACTERS.index("$")


def arithmetic(
    operations: str = "+",
    num_digits: tuple[int, int] = (1, 2),
    *,
    num_problems: int = 10_000,
    scratchpad: bool = False,
    digit_error: float = 0.25,
    held_out_fraction: float = 0.1,
    split_seed: int = 0,
) -> TokenTask:
    """Questions such as "12+7=", to be answered by "19" and a stop.

    The vocabulary is `CHARACTERS`; its first ten tokens are the digits. The reward is 1 iff the
    response ends in "$" within the limit and what stands before it is the answer, without leading
    zeros; what stands up to the last comma, if there is one, is work and not judged.

    Args:
      operations: what to ask for, a string of different ones of "+", "-" and "*". The answer of a
        difference may be negative.
      num_digits: `(fewest, most)` digits of each number, from 1 to 9: the graded difficulty.
      num_problems: size of the pool, held-out problems included, from 1 to 2**24; all the problems
        where there are no more. Each operation at each pair of lengths gets the same number of
        them, as far as it has so many.
      scratchpad: whether demonstrations write work before the answer: sums and differences
        backwards ("91,19"), products digit by digit ("68+340,408").
      digit_error: probability that a digit of a demonstrated answer is wrong, uniformly among the
        wrong ones, in [0, 1]. Work that repeats a digit repeats its error.
      held_out_fraction: share of the pool kept for evaluation, in [0, 1).
      split_seed: which problems; the pool itself is always the same.

    Returns:
      The task. Prompts' data are `answer` `[N, A]` int32 padded on the right, `answer_length`
      `[N]` int32, `level` `[N]` int32 (digits of the longer number beyond the fewest), `success`
      `[N]` float32 (probability that a demonstration is right: it falls with the digits of the
      answer) and `problem` `[N]` int32 (number in the whole pool, which is in order of level).
      `warm_start` is one phase, 2000 updates of 256 on the demonstrations by Adam at 3e-3.

    Raises:
      ValueError, TypeError: an argument out of range.

    Source: the larger variants of the small reproductions of SPO, ReMix and BAPO.

    >>> task = arithmetic("*", (2, 2), scratchpad=True, digit_error=0.0)
    >>> prompts = task.prompts(jnp.array([0]))
    >>> from jaxpg_envs.tokens.task import transcripts
    >>> transcripts(task, prompts, *task.demonstrations(jax.random.key(0), prompts))
    ['10*10= -> 0+100,100$']
    """
    operations, num_digits = _checked(operations, num_digits)
    whole_number("num_problems", num_problems, 1, LARGEST)
    digit_error = probability("digit_error", digit_error)
    tables = _tables(
        problems(operations, num_digits, num_problems),
        extremes(operations, num_digits),
        scratchpad,
        digit_error,
    )
    demonstrations = _demonstrations(tables, digit_error)
    return TokenTask(
        name="arithmetic",
        vocabulary_size=len(CHARACTERS),
        prompt_length=tables.question.shape[1],
        response_length=tables.response.shape[1],
        stop_tokens=(_STOP,),
        reward=jax.jit(functools.partial(_reward, tables.response.shape[1])),
        demonstrations=demonstrations,
        decode=spelling(CHARACTERS, separator=""),
        settings={
            "operations": operations,
            "num_digits": list(num_digits),
            "num_problems": num_problems,
            "scratchpad": scratchpad,
            "digit_error": digit_error,
            "held_out_fraction": held_out_fraction,
            "split_seed": split_seed,
        },
        warm_start=(WarmStart("noisy", demonstrations, num_updates=2000),),
        **pool(
            functools.partial(_prompts, tables), len(tables.level), held_out_fraction, split_seed
        )._asdict(),
    )


class _Tables(NamedTuple):
    """One row for each problem of the pool; tokens are int8, widths those of the extremes."""

    question: jax.Array
    question_mask: jax.Array
    answer: jax.Array
    answer_length: jax.Array
    response: jax.Array
    response_length: jax.Array
    copies: jax.Array
    level: jax.Array
    success: jax.Array


def _tables(
    pooled: list[Problem], longest: list[Problem], scratchpad: bool, digit_error: float
) -> _Tables:
    texts, copies = zip(*(response(problem, scratchpad) for problem in pooled), strict=True)
    answers = [problem.answer for problem in pooled]
    questions = [problem.question for problem in pooled]
    question_width = max(len(problem.question) for problem in longest)
    answer_width = max(len(problem.answer) for problem in longest)
    width = max(len(response(problem, scratchpad)[0]) for problem in longest) + 1
    num_digits = np.array([sum(map(str.isdigit, answer)) for answer in answers])
    question = _table([_tokens(text) for text in questions], question_width, left=True)
    lengths = np.array([len(text) for text in questions])
    columns = _Tables(
        question=question,
        question_mask=np.arange(question_width) >= question_width - lengths[:, None],
        answer=_table([_tokens(text) for text in answers], answer_width),
        answer_length=np.array([len(text) for text in answers], np.int32),
        response=_table([_tokens(text + "$") for text in texts], width),
        response_length=np.array([len(text) + 1 for text in texts], np.int32),
        copies=_table([[*places, -1] for places in copies], width),
        level=np.array([problem.level for problem in pooled], np.int32),
        success=((1.0 - digit_error) ** num_digits).astype(np.float32),
    )
    return _Tables(*map(jnp.asarray, columns))


def _tokens(text: str) -> list[int]:
    return [CHARACTERS.index(character) for character in text]


def _table(rows: list[list[int]], width: int, left: bool = False) -> np.ndarray:
    padded = [
        [0] * (width - len(row)) + row if left else row + [0] * (width - len(row)) for row in rows
    ]
    return np.array(padded, np.int8)


def _prompts(tables: _Tables, problem: jax.Array):
    data = {
        "answer": tables.answer[problem].astype(jnp.int32),
        "answer_length": tables.answer_length[problem],
        "level": tables.level[problem],
        "success": tables.success[problem],
        "problem": problem,
    }
    return tables.question[problem], tables.question_mask[problem], data


def _demonstrations(tables: _Tables, digit_error: float) -> Demonstrations:
    def draw(key, answer, written, copies):
        wrong_key, offset_key = jax.random.split(key)
        wrong = jax.random.bernoulli(wrong_key, digit_error, answer.shape) & (answer < 10)
        offset = jax.random.randint(offset_key, answer.shape, 1, 10)
        answer = jnp.where(wrong, (answer + offset) % 10, answer)
        return jnp.where(copies >= 0, answer[copies], written)

    @jax.jit
    def demonstrations(key: jax.Array, prompts: Prompts):
        problem = prompts.data["problem"]
        written = tables.response[problem].astype(jnp.int32)
        copies = tables.copies[problem].astype(jnp.int32)
        keys = keys_of_prompts(key, prompts.ids)
        tokens = jax.vmap(draw)(keys, prompts.data["answer"], written, copies)
        mask = jnp.arange(written.shape[1]) < tables.response_length[problem][:, None]
        return jnp.where(mask, tokens, 0), mask

    return demonstrations


def _reward(response_length, prompts, tokens, mask, finished) -> Reward:
    check_response(response_length, prompts, tokens, mask, finished)
    answer, answer_length = prompts.data["answer"], prompts.data["answer_length"]
    step = jnp.arange(response_length)
    end = mask.astype(jnp.int32).sum(1) - 1
    stopped = jnp.take_along_axis(tokens, end[:, None], 1)[:, 0] == _STOP
    comma = (tokens == _SEPARATOR) & (step < end[:, None])
    start = jnp.where(comma, step, -1).max(1) + 1
    places = start[:, None] + jnp.arange(answer.shape[1])
    written = jnp.take_along_axis(tokens, jnp.minimum(places, response_length - 1), 1)
    beyond = jnp.arange(answer.shape[1]) >= answer_length[:, None]
    same = ((written == answer) | beyond).all(1) & (end - start == answer_length)
    right = stopped & same
    return Reward(right.astype(jnp.float32), jnp.ones_like(right), {})


def _checked(operations, num_digits) -> tuple[str, tuple[int, int]]:
    if not isinstance(operations, str) or not operations:
        raise ValueError(f"operations={operations!r} must be a string of '+', '-' and '*'")
    for operation in operations:
        if operation not in OPERATIONS:
            raise ValueError(
                f"operations={operations!r} holds {operation!r}; it must be a string of "
                f"'+', '-' and '*'"
            )
    if len(set(operations)) < len(operations):
        raise ValueError(f"operations={operations!r} must not hold the same one twice")
    try:
        fewest, most = num_digits
    except (TypeError, ValueError):
        raise ValueError(f"num_digits={num_digits!r} must be (fewest, most)") from None
    fewest = whole_number("num_digits[0]", fewest, 1, 9)
    return operations, (fewest, whole_number("num_digits[1]", most, fewest, 9))
