"""Fork sums: the first token chooses between working the sum out and guessing it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg_envs.choices import refusal
from jaxpg_envs.tokens.arguments import probability, whole_number
from jaxpg_envs.tokens.keys import keys_of_prompts
from jaxpg_envs.tokens.pools import digit_pool
from jaxpg_envs.tokens.task import (
    Demonstrations,
    Prompts,
    Reward,
    TokenTask,
    WarmStart,
    check_response,
    spelling,
)


class SpecialTokens(NamedTuple):
    """Tokens of a fork sum that are no digits; the digits are 0 to m - 1.

    Attributes:
      scratch: "S", the style that writes running sums; token m.
      guess: "G", the style that guesses; token m + 1.
      filler: "."; token m + 2.
      stop: "EOS"; token m + 3.
    """

    scratch: int
    guess: int
    filler: int
    stop: int


def special_tokens(modulus: int) -> SpecialTokens:
    """The tokens of a fork sum that are no digits.

    Args:
      modulus: m, at least 2.

    Returns:
      Their numbers, m to m + 3.
    """
    return SpecialTokens(modulus, modulus + 1, modulus + 2, modulus + 3)


def fork_sum(
    length: int = 4,
    modulus: int = 7,
    *,
    style_share: float = 0.5,
    step_error: float = 0.15,
    demonstrator: str | Demonstrations = "mixture",
    scratch_error: float = 0.08,
    num_guess_updates: int = 0,
    held_out_fraction: float = 0.0,
    split_seed: int = 0,
) -> TokenTask:
    """Prompts of k digits modulo m; the answer is their sum modulo m.

    A response has 2 k + 2 tokens. Counted from 0, position 0 is the style, S or G; position
    2 j + 1 is digit slot j and position 2 j + 2 the filler after it, for j from 0 to k - 1; the
    last position, 2 k + 1, is EOS, the stop token. S writes the running sum of the first j + 1
    digits in slot j: it adds the next digit to the sum that it wrote before, right or wrong, and
    each step is wrong with a probability, uniformly among the m - 1 wrong digits. G writes
    fillers in the slots, but a uniformly random digit in the last.

    The reward is 1 iff the token at position 2 k - 1, the last slot, is real (no EOS came before
    it) and is the answer; nothing else is judged, neither the style nor whether EOS follows. The
    metric `scratch_share` is the share of responses that begin with S.

    Args:
      length: k, at least 1; `m ** k` is at most 2**24.
      modulus: m, at least 2.
      style_share: share of S in the mixture, in [0, 1].
      step_error: probability that a step of S is wrong in the mixture, in [0, 1].
      demonstrator: what `demonstrations` draws from. "mixture": S and G as above; "scratch": S
        alone, with `scratch_error`; "guess": G alone. Or a function, see
        `tokens.task.Demonstrations`.
      scratch_error: probability that a step of the demonstrator "scratch" is wrong, in [0, 1].
      num_guess_updates: updates of a second phase of the warm start, on G alone, which makes the
        policy forget to choose S; 0 leaves it out.
      held_out_fraction: share of the prompts kept for evaluation, in [0, 1).
      split_seed: which ones.

    Returns:
      The task. Prompts' data are `answer` `[N]` int32. `warm_start` is 500 updates of 256 on the
      mixture by Adam at 3e-3, then the phase on G, alike, if there is one.

    Raises:
      ValueError, TypeError: an argument out of range.

    Source: the small reproductions of high-entropy tokens (`modulus=5`); of HPT
    (`style_share=0.4, demonstrator="scratch", num_guess_updates=400`); and of KDRL, whose teacher
    is `style_share=0.97, step_error=0.06`.

    >>> task = fork_sum(length=2, modulus=5, style_share=1.0, step_error=0.0)
    >>> prompts = task.prompts(jnp.array([14]))
    >>> from jaxpg_envs.tokens.task import transcripts
    >>> transcripts(task, prompts, *task.demonstrations(jax.random.key(0), prompts))
    ['2 4 -> S 2 . 1 . EOS']
    """
    whole_number("length", length, 1)
    whole_number("modulus", modulus, 2)
    whole_number("num_guess_updates", num_guess_updates, 0)
    probability("scratch_error", scratch_error)
    named = {
        "mixture": fork_demonstrations(length, modulus, style_share, step_error),
        "scratch": fork_demonstrations(length, modulus, 1.0, scratch_error),
        "guess": fork_demonstrations(length, modulus, 0.0, 0.0),
    }
    if not callable(demonstrator) and demonstrator not in named:
        raise ValueError(refusal("demonstrator", demonstrator, named))
    phases = [WarmStart("mixture", named["mixture"])]
    if num_guess_updates:
        phases.append(WarmStart("guess", named["guess"], num_updates=num_guess_updates))
    return TokenTask(
        name="fork_sum",
        vocabulary_size=modulus + 4,
        prompt_length=length,
        response_length=2 * length + 2,
        stop_tokens=(special_tokens(modulus).stop,),
        reward=jax.jit(functools.partial(_reward, length, modulus)),
        demonstrations=demonstrator if callable(demonstrator) else named[demonstrator],
        decode=spelling([*map(str, range(modulus)), "S", "G", ".", "EOS"]),
        settings={
            "length": length,
            "modulus": modulus,
            "style_share": style_share,
            "step_error": step_error,
            "demonstrator": "custom" if callable(demonstrator) else demonstrator,
            "scratch_error": scratch_error,
            "num_guess_updates": num_guess_updates,
            "held_out_fraction": held_out_fraction,
            "split_seed": split_seed,
        },
        warm_start=tuple(phases),
        **digit_pool(length, modulus, held_out_fraction, split_seed)._asdict(),
    )


def fork_demonstrations(
    length: int, modulus: int, style_share: float, step_error: float
) -> Demonstrations:
    """Demonstrations of a fork sum: a mixture of S and G.

    Args:
      length: k of the task.
      modulus: m of the task.
      style_share: share of S, in [0, 1].
      step_error: probability that a step of S is wrong, in [0, 1].

    Returns:
      `(key, prompts) -> (tokens [N, 2 k + 2], mask)`, for `TokenTask.demonstrations`.

    Raises:
      ValueError, TypeError: a probability out of range.
    """
    style_share = probability("style_share", style_share)
    step_error = probability("step_error", step_error)
    special = special_tokens(modulus)

    def draw(key: jax.Array, digits: jax.Array) -> jax.Array:
        style_key, wrong_key, offset_key, guess_key = jax.random.split(key, 4)
        scratch = jax.random.bernoulli(style_key, style_share)
        wrong = jax.random.bernoulli(wrong_key, step_error, (length,))
        offset = jax.random.randint(offset_key, (length,), 1, modulus)
        sums = jnp.cumsum(digits + jnp.where(wrong, offset, 0)) % modulus
        guess = jax.random.randint(guess_key, (), 0, modulus)
        guesses = jnp.full(length, special.filler).at[-1].set(guess)
        tokens = jnp.full(2 * length + 2, special.filler)
        tokens = tokens.at[0].set(jnp.where(scratch, special.scratch, special.guess))
        tokens = tokens.at[1:-1:2].set(jnp.where(scratch, sums, guesses))
        return tokens.at[-1].set(special.stop)

    @jax.jit
    def demonstrations(key: jax.Array, prompts: Prompts):
        tokens = jax.vmap(draw)(keys_of_prompts(key, prompts.ids), prompts.tokens)
        return tokens, jnp.ones_like(tokens, bool)

    return demonstrations


def demonstrator_success(
    length: int, modulus: int, *, style_share: float, step_error: float
) -> float:
    """Expected reward of a mixture of S and G, the same for every prompt.

    Args:
      length: k, at least 1.
      modulus: m, at least 2.
      style_share: share of S, in [0, 1].
      step_error: probability that a step of S is wrong, in [0, 1].

    Returns:
      The probability that the last slot holds the answer: by dynamic programming over the distance
      of S's running sum from the true one, and `1 / m` for G.

    Raises:
      ValueError, TypeError: an argument out of range.

    >>> demonstrator_success(4, 7, style_share=0.0, step_error=0.15) * 7
    1.0
    """
    whole_number("length", length, 1)
    whole_number("modulus", modulus, 2)
    style_share = probability("style_share", style_share)
    step_error = probability("step_error", step_error)
    step = np.full(modulus, step_error / (modulus - 1))
    step[0] = 1.0 - step_error
    distance = np.eye(modulus)[0]
    for _ in range(length):
        distance = sum(distance[d] * np.roll(step, d) for d in range(modulus))
    return float(style_share * distance[0] + (1.0 - style_share) / modulus)


def _reward(length, modulus, prompts, tokens, mask, finished) -> Reward:
    check_response(2 * length + 2, prompts, tokens, mask, finished)
    slot = 2 * length - 1
    right = mask[:, slot].astype(bool) & (tokens[:, slot] == prompts.data["answer"])
    scratch = mask[:, 0].astype(bool) & (tokens[:, 0] == special_tokens(modulus).scratch)
    metrics = {"scratch_share": scratch.astype(jnp.float32).mean()}
    return Reward(right.astype(jnp.float32), jnp.ones_like(right), metrics)
