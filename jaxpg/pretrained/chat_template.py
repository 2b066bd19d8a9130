"""Chat templates: programs out of files, rendered in a sandbox."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpg.pretrained.errors import PretrainedError
from jaxpg.pretrained.optional import package

LARGEST_TEMPLATE = 2**20
LARGEST_TEXT = 2**24
"""Characters of a template, and of what it may render."""


def render(
    template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
) -> str:
    """Renders a conversation.

    The template sees no clock: the same messages are the same text on every day.

    Args:
      template: in Jinja's language, with the settings of Hugging Face's templates.
      messages: each with `"role"` and what else the template reads, mostly `"content"`.
      variables: other names that the template sees.

    Returns:
      The text.

    Raises:
      ValueError: a message has no role.
      PretrainedError: the template is invalid, refuses the messages, or leaves its sandbox.
    """
    messages = list(messages)
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(
                f"messages[{index}] is {str(message)[:100]!r}, but it has to be a mapping with a "
                f"'role' (a text) and a 'content'"
            )
    pieces, length = [], 0
    try:
        for piece in _compiled(template).generate(messages=messages, **variables):
            pieces.append(piece)
            length += len(piece)
            if length > LARGEST_TEXT:
                raise PretrainedError(
                    f"the chat template renders more than {LARGEST_TEXT} characters"
                )
    except PretrainedError:
        raise
    except Exception as error:
        # Whatever the template's own program raises: of Jinja, of Python's operators, ...
        raise PretrainedError(f"the chat template cannot be rendered: {error}") from error
    return "".join(pieces)


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    if len(template) > LARGEST_TEMPLATE:
        raise PretrainedError(
            f"the chat template has {len(template)} characters, but at most {LARGEST_TEMPLATE} "
            f"are read"
        )
    return _environment().from_string(template)


@functools.cache
def _environment() -> Any:
    sandbox = package("jinja2.sandbox")

    class Sandbox(sandbox.ImmutableSandboxedEnvironment):
        """Also keeps one product from filling the memory."""

        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or _size(left) * _size(right) > LARGEST_TEXT:
                raise PretrainedError(
                    f"the chat template computes {operator} of {str(left)[:20]!r} and "
                    f"{str(right)[:20]!r}, which is not allowed"
                )
            return super().call_binop(context, operator, left, right)

    # Whitespace as in Hugging Face's `apply_chat_template`, for which templates are written.
    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment


def _size(value: Any) -> float:
    if isinstance(value, int | float):
        return abs(value)
    return len(value) if hasattr(value, "__len__") else 1


def _to_json(value: Any, indent: int | None = None) -> str:
    """Jinja's own filter escapes `<` for HTML, which would change the tokens."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise PretrainedError(f"the chat template refuses the messages: {message}")
