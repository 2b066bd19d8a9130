"""What a token task is: prompts, a reward for responses, and demonstrations of them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxpg_envs.tokens.arguments import whole_number


@struct.dataclass
class Prompts:
    """N prompts of at most P tokens.

    Attributes:
      tokens: `[N, P]` int32, padded on the left with 0, which may be a real token too.
      mask: `[N, P]` bool, True where a token is real.
      ids: `[N]` int32, index in the pool that the prompts were taken from.
      data: pytree of `[N, ...]` arrays that the reward and the demonstrations read.
    """

    tokens: jax.Array
    mask: jax.Array
    ids: jax.Array
    data: Any


class Reward(NamedTuple):
    """What a task says about B responses.

    Attributes:
      value: `[B]` float32.
      valid: `[B]` bool, False where no reward could be found out; such a row is not to be learnt
        from, and its value means nothing.
      metrics: scalars by name, over the batch; may be empty.
    """

    value: jax.Array
    valid: jax.Array
    metrics: dict[str, jax.Array]


Demonstrations = Callable[[jax.Array, Prompts], tuple[jax.Array, jax.Array]]
"""`(key, prompts) -> (tokens [N, R] int32, mask [N, R] bool)`, one response to each prompt."""


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """One phase of supervised training that makes the policy that reinforcement starts from.

    Attributes:
      name: what it teaches.
      demonstrations: what to imitate, see `Demonstrations`.
      num_updates: gradient steps, at least 1.
      batch_size: demonstrations in a step, at least 1, their prompts drawn from the training pool.
      learning_rate: Adam's, above 0.
    """

    name: str
    demonstrations: Demonstrations
    num_updates: int = 500
    batch_size: int = 256
    learning_rate: float = 3e-3

    def __post_init__(self):
        whole_number("num_updates", self.num_updates, 1)
        whole_number("batch_size", self.batch_size, 1)
        if not callable(self.demonstrations):
            raise TypeError(
                f"demonstrations={self.demonstrations!r} must be a function (key, prompts) -> "
                f"(tokens, mask)"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TokenTask:
    """Prompts to be answered in tokens, and what an answer is worth.

    Two tasks are equal only if they are the same object, so a task can be a static argument of
    `jax.jit`; `dataclasses.replace` makes a variant.

    Attributes:
      name: what tables call it.
      vocabulary_size: V; every token is in `[0, V)`.
      prompt_length: P, tokens of the longest prompt.
      response_length: R, tokens that a response may have, the stop token included.
      stop_tokens: tokens that end a response; empty where every response has R tokens.
      num_prompts: prompts to train on.
      num_held_out: prompts to evaluate on that are not among those to train on; 0 where none was
        kept out, and evaluation then uses the training pool.
      prompts: `(ids [N] int32) -> Prompts`, ids in `[0, num_prompts)`; jits and vmaps.
      held_out: the same with ids in `[0, num_held_out)`. None takes `prompts`.
      reward: `(prompts, tokens [B, R] int32, mask [B, R] bool, finished [B] bool) -> Reward`.
        The mask is a prefix of ones, the stop token included; tokens outside of it may be
        anything. `finished` is False where the length limit cut a response off.
      demonstrations: see `Demonstrations`, or None.
      allowed: `[R, V]` bool, tokens that may be chosen at each step, or None for all.
      stop_strings: texts that end a response.
      decode: `(ids) -> str` on the host, or None for numbers with spaces between.
      settings: plain values; a checkpoint made under other settings is refused.
      warm_start: phases of supervised training, in order; empty where there is none.
    """

    name: str
    vocabulary_size: int
    prompt_length: int
    response_length: int
    stop_tokens: tuple[int, ...] = ()
    num_prompts: int
    num_held_out: int = 0
    prompts: Callable[[jax.Array], Prompts]
    held_out: Callable[[jax.Array], Prompts] | None = None
    reward: Callable[[Prompts, jax.Array, jax.Array, jax.Array], Reward]
    demonstrations: Demonstrations | None = None
    allowed: jax.Array | None = None
    stop_strings: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warm_start: tuple[WarmStart, ...] = ()

    def __post_init__(self):
        for field in ("vocabulary_size", "prompt_length", "response_length", "num_prompts"):
            whole_number(field, getattr(self, field), 1)
        whole_number("num_held_out", self.num_held_out, 0)
        if not isinstance(self.stop_tokens, tuple):
            raise TypeError(f"stop_tokens={self.stop_tokens!r} must be a tuple of tokens")
        for token in self.stop_tokens:
            whole_number("stop_tokens", token, 0, self.vocabulary_size - 1)
        _check_functions(self)
        _check_allowed(self)
        if isinstance(self.stop_strings, str) or not all(self.stop_strings):
            raise ValueError(
                f"stop_strings={self.stop_strings!r} must be a tuple of strings, none empty"
            )
        if self.held_out is None:
            if self.num_held_out:
                raise ValueError(f"held_out=None has no {self.num_held_out} prompts: give both")
            object.__setattr__(self, "held_out", self.prompts)


def transcripts(task: TokenTask, prompts: Prompts, tokens: jax.Array, mask: jax.Array) -> list[str]:
    """Prompts and responses for people to read.

    Args:
      task: where they are from.
      prompts: N prompts.
      tokens: `[N, R]` int, responses.
      mask: `[N, R]`, 1 where a token is real; the others are left out.

    Returns:
      N lines, "prompt -> response".
    """
    decode = task.decode or _numbers
    columns = (prompts.tokens, prompts.mask, tokens, mask)
    lines = []
    for asked, real, answered, sampled in zip(*map(np.asarray, columns), strict=True):
        prompt = decode(asked[real.astype(bool)].tolist())
        lines.append(f"{prompt} -> {decode(answered[sampled.astype(bool)].tolist())}")
    return lines


def spelling(vocabulary: Sequence[str], separator: str = " ") -> Callable[[Sequence[int]], str]:
    """Decoder of a small vocabulary.

    Args:
      vocabulary: name of each token.
      separator: what stands between two of them.

    Returns:
      `(ids) -> str`.

    Raises:
      ValueError: (when called) an id that is no token.

    >>> spelling(["0", "1", "EOS"])([1, 0, 2])
    '1 0 EOS'
    """
    vocabulary = tuple(vocabulary)

    def decode(ids: Sequence[int]) -> str:
        for token in ids:
            whole_number("ids", token, 0, len(vocabulary) - 1)
        return separator.join(vocabulary[token] for token in ids)

    return decode


def check_response(
    response_length: int,
    prompts: Prompts,
    tokens: jax.Array,
    mask: jax.Array,
    finished: jax.Array,
) -> None:
    """Check the shapes that a reward is given.

    Args:
      response_length: R of the task.
      prompts: B prompts.
      tokens: should be `[B, R]` integers.
      mask: should be `[B, R]`.
      finished: should be `[B]`.

    Raises:
      ValueError: another shape.
      TypeError: tokens that are no integers.
    """
    num_prompts = prompts.tokens.shape[0]
    wanted = {
        "tokens": (tokens, (num_prompts, response_length)),
        "mask": (mask, (num_prompts, response_length)),
        "finished": (finished, (num_prompts,)),
    }
    for name, (array, shape) in wanted.items():
        if jnp.shape(array) != shape:
            raise ValueError(
                f"{name} has shape {jnp.shape(array)}; for {num_prompts} prompts and responses of "
                f"{response_length} tokens it must be {shape}"
            )
    if not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
        raise TypeError(f"tokens has dtype {jnp.result_type(tokens)}; it must be an integer one")


def _numbers(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def _check_functions(task: TokenTask) -> None:
    for field in ("prompts", "reward"):
        if not callable(getattr(task, field)):
            raise TypeError(f"{field}={getattr(task, field)!r} must be a function")
    for field in ("held_out", "demonstrations", "decode"):
        value = getattr(task, field)
        if value is not None and not callable(value):
            raise TypeError(f"{field}={value!r} must be a function or None")


def _check_allowed(task: TokenTask) -> None:
    if task.allowed is None:
        return
    shape = (task.response_length, task.vocabulary_size)
    if jnp.shape(task.allowed) != shape:
        raise ValueError(f"allowed has shape {jnp.shape(task.allowed)}; it must be {shape}")
    empty = np.flatnonzero(~np.asarray(task.allowed, bool).any(1))
    if empty.size:
        raise ValueError(f"allowed leaves no token at step {empty[0]}; it must leave one at least")
