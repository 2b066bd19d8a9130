"""Exact success of a policy on a task small enough to write down every response."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg_envs.tokens.task import Prompts, TokenTask


class Responses(NamedTuple):
    """Every response that a task can end with, none twice.

    Attributes:
      tokens: `[E, R]` int32, 0 where there is no token.
      mask: `[E, R]` bool, True where a token is real.
      finished: `[E]` bool, whether a stop token ends it rather than the length limit.
    """

    tokens: np.ndarray
    mask: np.ndarray
    finished: np.ndarray


def responses(task: TokenTask, limit: int = 200_000) -> Responses:
    """Enumerate the responses of a task.

    Args:
      task: one without stop strings. Only its `allowed` tokens are used.
      limit: largest number of responses.

    Returns:
      The responses, a prefix-free set: a policy's probabilities of them sum to 1.

    Raises:
      ValueError: stop strings, or more responses than the limit.

    >>> from jaxpg_envs.tokens.digit_sum import digit_sum
    >>> responses(digit_sum(num_digits=2, base=3, response_length=2)).tokens.shape
    (9, 2)
    """
    if task.stop_strings:
        raise ValueError(
            f"task={task.name!r} ends at the texts {task.stop_strings}; only tasks that end at "
            f"tokens can be enumerated"
        )
    choices = _choices(task)
    _check_number(task, choices, limit)
    length = task.response_length
    prefixes, found = np.zeros((1, 0), np.int32), []
    for step, (going_on, stopping) in enumerate(choices):
        found.append((_extended(prefixes, stopping), step + 1, True))
        prefixes = _extended(prefixes, going_on)
    found.append((prefixes, length, False))
    sizes = [len(rows) for rows, _, _ in found]
    lengths = np.repeat([end for _, end, _ in found], sizes)
    return Responses(
        tokens=np.concatenate([_padded(rows, length) for rows, _, _ in found]),
        mask=np.arange(length) < lengths[:, None],
        finished=np.repeat([stopped for _, _, stopped in found], sizes),
    )


def exact_success(
    task: TokenTask,
    score: Callable[[Prompts, jax.Array, jax.Array], jax.Array],
    prompts: Prompts,
    limit: int = 200_000,
) -> jax.Array:
    """Expected reward of a policy on each prompt, by enumeration of every response.

    Args:
      task: see `responses`.
      score: `(prompts [E], tokens [E, R], mask [E, R]) -> [E]`, log-probability (nats) of whole
        responses, that of the stop token included.
      prompts: N prompts.
      limit: see `responses`.

    Returns:
      `[N]` float32: the sum over responses of probability times reward (0 where the reward is not
      valid), for a reward of 0 or 1 the probability of success.

    Raises:
      ValueError: see `responses`.
    """
    every = Responses(*map(jnp.asarray, responses(task, limit)))
    number = every.finished.shape[0]

    def of_one(prompt: Prompts) -> jax.Array:
        copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (number, *leaf.shape)), prompt)
        reward = task.reward(copies, *every)
        probability = jnp.exp(score(copies, every.tokens, every.mask))
        return jnp.sum(jnp.where(reward.valid, probability * reward.value, 0.0))

    # One prompt after the other: all at once would hold N times E responses.
    return jax.lax.map(of_one, prompts)


def _choices(task: TokenTask) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each step the tokens that go on and those that end the response."""
    stops = np.isin(np.arange(task.vocabulary_size), task.stop_tokens)
    if task.allowed is None:
        allowed = np.ones((task.response_length, task.vocabulary_size), bool)
    else:
        allowed = np.asarray(task.allowed, bool)
    return [(np.flatnonzero(row & ~stops), np.flatnonzero(row & stops)) for row in allowed]


def _check_number(task: TokenTask, choices, limit: int) -> None:
    number, prefixes = 0, 1
    for going_on, stopping in choices:
        number += prefixes * len(stopping)
        prefixes *= len(going_on)
    if number + prefixes > limit:
        raise ValueError(
            f"task={task.name!r} has {number + prefixes} responses, more than limit={limit}; "
            f"choose a smaller vocabulary or response length, or sample instead"
        )


def _extended(prefixes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Every prefix with every one of the tokens behind it."""
    rows = np.repeat(prefixes, len(tokens), axis=0)
    column = np.tile(tokens, len(prefixes)).astype(np.int32)
    return np.concatenate([rows, column[:, None]], axis=1)


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, length - rows.shape[1])))
