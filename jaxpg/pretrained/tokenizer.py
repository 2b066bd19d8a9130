"""A tokenizer: text to ids and back, the bytes of each token, conversations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxpg.pretrained import chat_template, token_bytes
from jaxpg.pretrained.errors import PretrainedError
from jaxpg.pretrained.optional import package


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to token ids and back.

    `encode` adds no token of its own, so nothing is added twice. Ids of padding may be ids of real
    tokens: masks are made from lengths, never by comparing with `pad_id`.

    Attributes:
      core: of the package `tokenizers`; it cuts nothing off and pads nothing.
      vocabulary_size: V of the model; ids without a token may follow the last token.
      bos_id: that starts a text, or None.
      eos_id: that ends a text, or None.
      pad_id: None if the files name none.
      stop_ids: every id that ends a response; `eos_id` is the first.
      template: of conversations, in Jinja's language, or None.
    """

    core: Any = dataclasses.field(repr=False)
    vocabulary_size: int
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    template: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Checks that every id is one of the model's."""
        largest = max(self.core.get_vocab(with_added_tokens=True).values(), default=0)
        named = [("bos_id", self.bos_id), ("eos_id", self.eos_id), ("pad_id", self.pad_id)]
        named += [("stop_ids", index) for index in self.stop_ids]
        for name, value in [*named, ("the largest id of a token", largest)]:
            if value is not None and not 0 <= value < self.vocabulary_size:
                raise PretrainedError(
                    f"{name} is {value}, but the model's vocabulary ends at "
                    f"{self.vocabulary_size - 1}"
                )
        token_bytes.kind_of(self.core)

    def encode(self, text: str, parse_special: bool = False) -> list[int]:
        """Turns text into ids.

        Args:
          text: any.
          parse_special: control tokens written out in the text become themselves; else their
            characters are text like any other.

        Returns:
          Ids in `[0, V)`.
        """
        core = self.core if parse_special else self._literal
        return core.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Turns ids into text.

        Args:
          ids: in `[0, V)`; those without a token are no text.
          skip_special: leave control tokens out.

        Returns:
          The text; bytes that are no UTF-8 become U+FFFD.

        Raises:
          ValueError: an id is outside.
        """
        ids = [int(index) for index in ids]
        for index in ids:
            if not 0 <= index < self.vocabulary_size:
                raise ValueError(
                    f"ids holds {index}, but the vocabulary has ids 0 to {self.vocabulary_size - 1}"
                )
        return self.core.decode(ids, skip_special_tokens=skip_special)

    @functools.cached_property
    def token_bytes(self) -> tuple[bytes, ...]:
        """The raw bytes of each of the V tokens; see `token_bytes.token_bytes`."""
        return token_bytes.token_bytes(self.core, self.vocabulary_size)

    @functools.cached_property
    def special_ids(self) -> tuple[int, ...]:
        """The control tokens, ascending."""
        added = self.core.get_added_tokens_decoder()
        return tuple(sorted(index for index, token in added.items() if token.special))

    @functools.cached_property
    def adds_bos(self) -> bool:
        """Whether the model was trained on texts that start with `bos_id`; `encode` adds none."""
        start = self.core.encode("", add_special_tokens=True).ids[:1]
        return self.bos_id is not None and start == [self.bos_id]

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Renders a conversation with the model's template.

        Args:
          messages: `{"role": "user", "content": "..."}`, oldest first.
          add_generation_prompt: end with the start of the assistant's turn.
          **variables: other names that the template reads, as `enable_thinking`.

        Returns:
          The text, control tokens written out.

        Raises:
          ValueError: there is no template, or it refuses the messages.
        """
        if self.template is None:
            raise ValueError(
                "this tokenizer has no chat template: set one with "
                "dataclasses.replace(tokenizer, template=...), or encode plain text"
            )
        special = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        known = {
            name: self.core.id_to_token(index)
            for name, index in special.items()
            if index is not None
        }
        return chat_template.render(
            self.template,
            messages,
            {**known, "add_generation_prompt": add_generation_prompt, **variables},
        )

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """Renders a conversation and turns it into ids, with nothing before or after it.

        Args:
          messages: see `chat`. Control tokens that are written in their contents become control
            tokens, as in every toolkit that tokenizes the rendered text.
          add_generation_prompt: see `chat`.
          **variables: see `chat`.

        Returns:
          Ids in `[0, V)`.
        """
        text = self.chat(messages, add_generation_prompt, **variables)
        return self.encode(text, parse_special=True)

    @functools.cached_property
    def _literal(self) -> Any:
        # A copy: the switch is a state of the object, and other threads may be encoding.
        core = package("tokenizers").Tokenizer.from_str(self.core.to_str())
        core.encode_special_tokens = True
        return core
