"""Tasks in text: prompts that a tokenizer encodes, and a Python reward that reads the responses."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg_envs.choices import refusal
from jaxpg_envs.tokens.arguments import whole_number
from jaxpg_envs.tokens.fingerprint import fingerprint
from jaxpg_envs.tokens.host_callback import host_reward
from jaxpg_envs.tokens.host_rewards import HostReward, Row, WholeBatch
from jaxpg_envs.tokens.task import Prompts, TokenTask
from jaxpg_envs.tokens.text_rewards import TextReward

Messages = Sequence[Mapping[str, str]]
"""A conversation: dictionaries with "role" and "content"."""

Example = tuple[str | Messages, Mapping[str, Any]]
"""A prompt, and what the reward is told about it."""


class Tokenizer(Protocol):
    """What a text task asks of a tokenizer; anything that has it will do.

    Two more names are used where they are there: `bos_id`, the token that begins a text, which is
    put in front of a prompt if `adds_bos` is true and the prompt does not begin with it.
    """

    vocabulary_size: int
    stop_ids: Sequence[int]

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of tokens."""

    def encode_chat(self, messages: Messages) -> list[int]:
        """Tokens of a conversation up to where the model's answer begins.

        Only asked for prompts that are conversations. `chat` is asked where this is missing.
        """


def text_task(
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    reward: TextReward | WholeBatch | HostReward,
    *,
    response_length: int,
    prompt_length: int | None = None,
    held_out: Sequence[Example] | int = 0,
    template: str | Callable[[str], str] = "{prompt}",
    chat: bool = False,
    stop_strings: Sequence[str] = ("\n",),
    overlong: str = "refuse",
    name: str = "text",
) -> TokenTask:
    """A task from prompts in text and a Python reward.

    The response that the reward reads is the decoded text in front of the first token of
    `tokenizer.stop_ids` and of the first stop string; other special tokens stay in it. Its
    metadata is the example's, with `token_ids` (all that were sampled, stop token included) and
    `finished` (False where the length limit cut the response off) in addition.

    Args:
      tokenizer: see `Tokenizer`.
      examples: to train on, in order: an example's id is its index, so that equal prompts with
        different metadata are different prompts.
      reward: `(prompt, response, metadata) -> number or None`, the prompt as in the example. A
        function runs in this process; a `HostReward` chooses worker processes, a time limit, and
        what a row gets whose reward fails.
      response_length: R, tokens that a response may have, the stop token included.
      prompt_length: P, tokens that a prompt may have; None takes those of the longest.
      held_out: examples to evaluate on, none with the prompt of a training example; a number
        takes that many from the end of `examples`.
      template: what the model is shown of a prompt: a text in which "{prompt}" is replaced, or a
        function.
      chat: whether the text is shown as a user's message in the model's own conversation format.
        Prompts that are lists of messages always are, without the template.
      stop_strings: texts that end a response. The sampler looks for them too.
      overlong: for a prompt longer than P, "refuse" it, or "skip" the example with a warning.
        Prompts are never cut.
      name: what tables call the task.

    Returns:
      The task. `data["example"]` of its prompts is the index among all examples, those held out
      after those to train on; `settings["fingerprint"]` depends on every prompt and its metadata.

    Raises:
      ValueError: no examples, a prompt that is empty or too long, prompts that are both to train
        on and held out, or an option that is not valid.
      TypeError: an example that is no pair of prompt and metadata.
    """
    if overlong not in ("refuse", "skip"):
        raise ValueError(refusal("overlong", overlong, ["refuse", "skip"]))
    if isinstance(stop_strings, str):
        raise TypeError(f"stop_strings={stop_strings!r} must be a sequence of strings")
    encode = functools.partial(_encoded, tokenizer, _template(template), chat)
    training, evaluation = (
        _fitting([(encode(_prompt(example)), example) for example in part], prompt_length, overlong)
        for part in _split(examples, held_out)
    )
    if not training:
        raise ValueError("examples is empty; at least one is needed to train on")
    _check_disjoint(training, evaluation)
    ids = [tokens for tokens, _ in training + evaluation]
    every = [example for _, example in training + evaluation]
    longest = max(map(len, ids)) if prompt_length is None else prompt_length
    table = _Table(ids, longest)
    stop_tokens, stop_strings = tuple(map(int, tokenizer.stop_ids)), tuple(stop_strings)
    host = reward if isinstance(reward, HostReward) else HostReward(reward)
    describe = functools.partial(_describe, tokenizer, stop_strings, every)
    return TokenTask(
        name=name,
        vocabulary_size=tokenizer.vocabulary_size,
        prompt_length=longest,
        response_length=response_length,
        stop_tokens=stop_tokens,
        num_prompts=len(training),
        num_held_out=len(evaluation),
        prompts=table.part(0, len(training)),
        held_out=table.part(len(training), len(every)) if evaluation else None,
        reward=host_reward(host, describe),
        stop_strings=stop_strings,
        decode=lambda tokens: tokenizer.decode(list(tokens), skip_special=False),
        settings={
            "name": name,
            "prompt_length": longest,
            "response_length": response_length,
            "num_prompts": len(training),
            "num_held_out": len(evaluation),
            "stop_tokens": list(stop_tokens),
            "stop_strings": list(stop_strings),
            "fingerprint": fingerprint([ids, [metadata for _, metadata in every]]),
        },
    )


def response_text(
    tokenizer: Tokenizer, ids: Sequence[int], stop_strings: Sequence[str] = ()
) -> tuple[str, bool]:
    """What a response says.

    Args:
      tokenizer: see `Tokenizer`.
      ids: tokens that were sampled.
      stop_strings: texts that end a response.

    Returns:
      `(text, stopped)`: the text in front of the first stop token and the first stop string, and
      whether there is one of them. Special tokens that do not stop stay in the text.
    """
    stops = set(tokenizer.stop_ids)
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    text = tokenizer.decode(list(ids[:end]), skip_special=False)
    places = [text.find(stop) for stop in stop_strings if stop in text]
    return text[: min(places, default=None)], bool(places) or end < len(ids)


class _Table:
    """Prompts by number, as arrays."""

    def __init__(self, ids: Sequence[Sequence[int]], longest: int):
        tokens = np.zeros((len(ids), longest), np.int32)
        for row, prompt in zip(tokens, ids, strict=True):
            row[longest - len(prompt) :] = prompt
        self._tokens = jnp.asarray(tokens)
        self._lengths = jnp.asarray([len(prompt) for prompt in ids], jnp.int32)

    def part(self, start: int, end: int) -> Callable[[jax.Array], Prompts]:
        """The prompts from `start` to `end`, under ids that count from 0."""

        def prompts(ids: jax.Array) -> Prompts:
            ids = jnp.asarray(ids)
            # A traced id cannot be checked, and a gather clamps it.
            if not isinstance(ids, jax.core.Tracer) and ids.size:
                for extreme in (int(ids.min()), int(ids.max())):
                    whole_number("ids", extreme, 0, end - start - 1)
            numbers = ids.astype(jnp.int32) + start
            tokens = self._tokens[numbers]
            places = jnp.arange(tokens.shape[-1])
            mask = places >= tokens.shape[-1] - self._lengths[numbers][:, None]
            return Prompts(tokens, mask, ids.astype(jnp.int32), {"example": numbers})

        return prompts


def _split(
    examples: Sequence[Example], held_out: Sequence[Example] | int
) -> tuple[list[Example], list[Example]]:
    examples = list(examples)
    if not isinstance(held_out, int | np.integer):
        return examples, list(held_out)
    whole_number("held_out", held_out, 0, max(0, len(examples) - 1))
    place = len(examples) - held_out
    return examples[:place], examples[place:]


def _prompt(example: Any) -> str | Messages:
    """The prompt of an example, which is checked."""
    pair = isinstance(example, tuple | list) and len(example) == 2
    if not pair or not isinstance(example[1], Mapping):
        raise TypeError(
            f"examples holds {example!r}; each must be a pair (prompt, metadata), the metadata a "
            f"dictionary"
        )
    prompt = example[0]
    messages = isinstance(prompt, list | tuple) and all(isinstance(m, Mapping) for m in prompt)
    if not isinstance(prompt, str) and not messages:
        raise TypeError(f"examples holds the prompt {prompt!r}; it must be a text or messages")
    return prompt


def _template(template: str | Callable[[str], str]) -> Callable[[str], str]:
    if callable(template):
        return template
    if "{prompt}" not in template:
        raise ValueError(f"template={template!r} must contain '{{prompt}}'")
    return lambda prompt: template.replace("{prompt}", prompt)


def _encoded(
    tokenizer: Tokenizer,
    template: Callable[[str], str],
    chat: bool,
    prompt: str | Messages,
) -> list[int]:
    shown = template(prompt) if isinstance(prompt, str) else list(prompt)
    if chat and isinstance(shown, str):
        shown = [{"role": "user", "content": shown}]
    begins = getattr(tokenizer, "bos_id", None)
    if isinstance(shown, str):
        ids = list(tokenizer.encode(shown))
        if getattr(tokenizer, "adds_bos", False) and ids[:1] != [begins]:
            ids = [begins, *ids]
    else:
        ids = _of_conversation(tokenizer, shown)
    if not ids:
        raise ValueError(f"examples holds the prompt {prompt!r}, which has no tokens")
    if begins is not None and ids[:2] == [begins, begins]:
        raise ValueError(
            f"the prompt {prompt!r} begins with the token that begins a text twice: leave it out "
            f"of the template"
        )
    return ids


def _of_conversation(tokenizer: Tokenizer, messages: Messages) -> list[int]:
    encode = getattr(tokenizer, "encode_chat", None) or tokenizer.chat
    ids = encode(messages)
    if isinstance(ids, str):
        # Encoded like any text, its control tokens would be characters.
        raise TypeError(
            "tokenizer.chat returned a text; a tokenizer needs encode_chat(messages) -> token ids"
        )
    return list(ids)


def _fitting(
    encoded: list[tuple[list[int], Example]], prompt_length: int | None, overlong: str
) -> list[tuple[list[int], Example]]:
    if prompt_length is None:
        return encoded
    whole_number("prompt_length", prompt_length, 1)
    fitting = [pair for pair in encoded if len(pair[0]) <= prompt_length]
    too_long = [pair for pair in encoded if len(pair[0]) > prompt_length]
    if too_long:
        longest = max(len(ids) for ids, _ in too_long)
        sentence = (
            f"{len(too_long)} of {len(encoded)} prompts have more than prompt_length="
            f"{prompt_length} tokens, the longest {longest}"
        )
        if overlong == "refuse":
            raise ValueError(f"{sentence}; raise it, or leave them out with overlong='skip'")
        warnings.warn(f"{sentence}; they are left out", RuntimeWarning, stacklevel=3)
    return fitting


def _check_disjoint(training: list, evaluation: list) -> None:
    seen = {tuple(ids) for ids, _ in training}
    shared = [example for ids, example in evaluation if tuple(ids) in seen]
    if shared:
        raise ValueError(
            f"held_out has {len(shared)} prompts that are also trained on, such as "
            f"{shared[0][0]!r}; take them out of one of the two"
        )


def _describe(
    tokenizer: Tokenizer,
    stop_strings: tuple[str, ...],
    examples: list[Example],
    data: Mapping[str, np.ndarray],
    ids: list[int],
    finished: bool,
) -> Row:
    prompt, metadata = examples[int(data["example"])]
    text, stopped = response_text(tokenizer, ids, stop_strings)
    return prompt, text, {**metadata, "token_ids": ids, "finished": finished or stopped}
