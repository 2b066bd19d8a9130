"""Digit sums modulo the base: one token is the answer, what stands before it is free."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

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


def digit_sum(
    num_digits: int = 3,
    base: int = 7,
    response_length: int | None = None,
    *,
    variable_length: bool = False,
    success: float | Sequence[float] = 0.56,
    demonstrator: str | Demonstrations = "chain",
    held_out_fraction: float = 0.0,
    split_seed: int = 0,
) -> TokenTask:
    """Prompts of n digits in base b; the answer is their sum modulo b.

    Fixed length: the vocabulary is the b digits, there is no stop token, and the reward is 1 iff
    the last of the R tokens is the answer. Demonstrations write running sums: token t is the sum
    of the first `max(1, n - R + 1 + t)` digits, so the last token is the sum of all.

    Variable length: the vocabulary is the digits, "." (token b, scratch) and "EOS" (token b + 1,
    stop). The reward is 1 iff the response ends in EOS and the token before it is the answer. A
    demonstration writes 0 to D = R - n - 1 scratch tokens (i of them with a probability in
    proportion to D + 1 - i, on average D / 3) and the n running sums. If the last one is right,
    EOS follows; if it is wrong, scratch tokens follow up to the limit. So wrong answers are
    longer: right ones have `L = n + 1 + D / 3` tokens on average, and of advantages that sum to
    zero the positive ones fall on a share `L / (L + R)` of the tokens, 0.36 by default.

    Args:
      num_digits: n, at least 1; `b ** n` is at most 2**24.
      base: b, at least 2.
      response_length: R. By default 3, or 12 with `variable_length`, where it is at least n + 1.
      variable_length: see above.
      success: probability that the answer of a "chain" or "independent" demonstration is right,
        in [0, 1]; or two of them, for a pool of mixed difficulty: that of the first prompt (all
        digits 0) and that of the last, evenly spaced between in lexicographic order.
      demonstrator: what `demonstrations` draws from.
        "chain": each sum goes on from the one written before it, right or wrong, and each step is
        wrong (uniformly among the wrong digits) as often as makes `success`. Below `1 / b` the
        last step is always wrong, and the others are as good as that needs.
        "independent" (fixed length only): each digit is wrong with probability `1 - success`,
        whatever was written before. It takes longer to imitate, and hardly tells about new prompts.
        "exact": nothing is wrong.
        Or a function, see `tokens.task.Demonstrations`.
      held_out_fraction: share of the prompts kept for evaluation, in [0, 1).
      split_seed: which ones.

    Returns:
      The task. Prompts' data are `answer` `[N]` int32 and `success` `[N]` float32. `warm_start` is
      one phase of batches of 256, Adam at 3e-3, on the "chain", or on "independent" if that is
      chosen: 500 updates, or 2000 for "independent" and with `variable_length`.

    Raises:
      ValueError, TypeError: an argument out of range.

    Source: the small reproductions of SPO (success 0.56, or (0.02, 0.98)) and of BAPO (0.25, of
    fixed and of variable length).

    >>> task = digit_sum()
    >>> task.num_prompts, task.decode(task.prompts(jnp.array([342])).tokens[0])
    (343, '6 6 6')
    """
    whole_number("num_digits", num_digits, 1)
    whole_number("base", base, 2)
    if response_length is None:
        response_length = 12 if variable_length else 3
    whole_number("response_length", response_length, num_digits + 1 if variable_length else 1)
    lowest, highest = _success_range(success)
    named = _demonstrators(response_length, base, variable_length)
    if not callable(demonstrator) and demonstrator not in named:
        raise ValueError(refusal("demonstrator", demonstrator, named))

    def difficulty(numbers):
        place = numbers.astype(jnp.float32) / (base**num_digits - 1)
        return {"success": lowest + (highest - lowest) * place}

    taught = "independent" if demonstrator == "independent" else "chain"
    slow = variable_length or taught == "independent"
    reward = _reward_before_stop if variable_length else _reward_at_end
    vocabulary = [*map(str, range(base))] + [".", "EOS"] * variable_length
    return TokenTask(
        name="digit_sum",
        vocabulary_size=len(vocabulary),
        prompt_length=num_digits,
        response_length=response_length,
        stop_tokens=(base + 1,) if variable_length else (),
        reward=jax.jit(functools.partial(reward, response_length, base)),
        demonstrations=demonstrator if callable(demonstrator) else named[demonstrator],
        decode=spelling(vocabulary),
        settings={
            "num_digits": num_digits,
            "base": base,
            "response_length": response_length,
            "variable_length": variable_length,
            "success": [lowest, highest],
            "demonstrator": "custom" if callable(demonstrator) else demonstrator,
            "held_out_fraction": held_out_fraction,
            "split_seed": split_seed,
        },
        warm_start=(WarmStart(taught, named[taught], num_updates=2000 if slow else 500),),
        **digit_pool(num_digits, base, held_out_fraction, split_seed, difficulty)._asdict(),
    )


def _reward_at_end(response_length, base, prompts, tokens, mask, finished) -> Reward:
    check_response(response_length, prompts, tokens, mask, finished)
    right = mask[:, -1].astype(bool) & (tokens[:, -1] == prompts.data["answer"])
    return Reward(right.astype(jnp.float32), jnp.ones_like(right), {})


def _reward_before_stop(response_length, base, prompts, tokens, mask, finished) -> Reward:
    check_response(response_length, prompts, tokens, mask, finished)
    length = mask.astype(jnp.int32).sum(1)
    row = jnp.arange(tokens.shape[0])
    stopped = (length >= 2) & (tokens[row, length - 1] == base + 1)
    right = stopped & (tokens[row, length - 2] == prompts.data["answer"])
    return Reward(right.astype(jnp.float32), jnp.ones_like(right), {})


def _demonstrators(
    response_length: int, base: int, variable_length: bool
) -> dict[str, Demonstrations]:
    draw = functools.partial(_stopped if variable_length else _running, response_length, base)

    def demonstrator(offsets, exact=False) -> Demonstrations:
        @jax.jit
        def demonstrations(key: jax.Array, prompts: Prompts):
            keys = keys_of_prompts(key, prompts.ids)
            success = prompts.data["success"]
            success = jnp.ones_like(success) if exact else success
            return jax.vmap(functools.partial(draw, offsets))(keys, prompts.tokens, success)

        return demonstrations

    named = {"chain": demonstrator(_chained), "exact": demonstrator(_chained, exact=True)}
    if not variable_length:
        named["independent"] = demonstrator(_independent)
    return named


def _running(response_length, base, offsets, key, digits, success):
    """Running sums of one prompt; returns tokens `[R]` and mask `[R]`."""
    last = jnp.maximum(digits.shape[0] - response_length + jnp.arange(response_length), 0)
    sums = jnp.cumsum(digits)[last] + offsets(key, base, success, response_length)
    return sums % base, jnp.ones(response_length, bool)


def _stopped(response_length, base, offsets, key, digits, success):
    """Scratch, running sums, then EOS if the last is right; returns tokens `[R]`, mask `[R]`."""
    scratch_key, offset_key = jax.random.split(key)
    num_digits = digits.shape[0]
    most = response_length - num_digits - 1
    weights = jnp.arange(most + 1, 0, -1, dtype=jnp.float32)
    num_scratch = jax.random.categorical(scratch_key, jnp.log(weights))
    offset = offsets(offset_key, base, success, num_digits)
    sums = (jnp.cumsum(digits) + offset) % base
    right = offset[-1] % base == 0
    place = jnp.arange(response_length) - num_scratch
    written = sums[jnp.clip(place, 0, num_digits - 1)]
    tokens = jnp.where((place >= 0) & (place < num_digits), written, base)
    tokens = jnp.where(right & (place == num_digits), base + 1, tokens)
    return tokens, ~right | (place <= num_digits)


def _independent(key, base, success, number):
    """How far each written sum is off."""
    return _offset(key, base, jnp.full(number, 1.0 - success))


def _chained(key, base, success, number):
    """How far each written sum is off, if the error of a step stays in the sums after it."""
    return jnp.cumsum(_offset(key, base, _step_errors(success, base, number)))


def _offset(key, base, error):
    """0 with probability `1 - error`, else uniform in 1 to `base - 1`."""
    wrong_key, offset_key = jax.random.split(key)
    wrong = jax.random.bernoulli(wrong_key, error)
    return jnp.where(wrong, jax.random.randint(offset_key, error.shape, 1, base), 0)


def _step_errors(success, base, number):
    """Probabilities `[number]` that steps are wrong which leave the last sum right with another.

    A step that is wrong with probability e multiplies `P(right) - 1 / b` by `1 - e b / (b - 1)`,
    which is at least `-1 / (b - 1)`.
    """
    chance = 1.0 / base
    product = (success - chance) / (1.0 - chance)
    even = jnp.full(number, jnp.maximum(product, 0.0) ** (1.0 / number))
    if number == 1:
        uneven = product[None]
    else:
        rest = jnp.clip(-product * (base - 1), 0.0, 1.0) ** (1.0 / (number - 1))
        uneven = jnp.full(number, rest).at[-1].set(-1.0 / (base - 1))
    return jnp.clip((1.0 - jnp.where(product >= 0, even, uneven)) * (1.0 - chance), 0.0, 1.0)


def _success_range(success) -> tuple[float, float]:
    if not isinstance(success, Sequence):
        return (probability("success", success),) * 2
    if len(success) != 2:
        raise ValueError(f"success={success!r} must be one probability or two of them")
    return probability("success", success[0]), probability("success", success[1])
