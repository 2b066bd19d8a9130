"""Tokenizers out of Hugging Face folders, and back."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

from jaxpg.pretrained.errors import PretrainedError, one_of
from jaxpg.pretrained.optional import package
from jaxpg.pretrained.plain_values import LARGEST_JSON, read_json
from jaxpg.pretrained.tokenizer import Tokenizer

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"

Find = Callable[[str], pathlib.Path | None]


def read(find: Find, model: dict[str, Any], vocabulary_size: int) -> Tokenizer | None:
    """Reads the tokenizer of a folder.

    Args:
      find: name of a file -> its path, or None where the folder has none.
      model: values of `config.json`, for ids that the tokenizer's files do not name.
      vocabulary_size: V of the model.

    Returns:
      The tokenizer; None without a `tokenizer.json`.

    Raises:
      PretrainedError: a file is damaged, of an unknown kind, or disagrees with another.
    """
    path = find(TOKENIZER)
    if path is None:
        return None
    core = _core(path)
    settings_path, generation_path = find(SETTINGS), find(GENERATION)
    settings = {} if settings_path is None else read_json(settings_path)
    generation = {} if generation_path is None else read_json(generation_path)

    def named(kind: str) -> int | None:
        if settings_path is None:
            return next(iter(_ids(f"{kind}_token_id", generation, model)), None)
        return _token_id(core, settings.get(f"{kind}_token"), settings_path)

    eos_id = named("eos")
    stops = [] if eos_id is None else [eos_id]
    # A chat model often ends a turn with another token than a text.
    stops += _ids("eos_token_id", generation, model)
    try:
        return Tokenizer(
            core=core,
            vocabulary_size=vocabulary_size,
            bos_id=named("bos"),
            eos_id=eos_id,
            pad_id=named("pad"),
            stop_ids=tuple(dict.fromkeys(stops)),
            template=_template(find(TEMPLATE), settings.get("chat_template")),
        )
    except PretrainedError as error:
        raise PretrainedError(f"{path}: {error}") from error


def write(folder: pathlib.Path, tokenizer: Tokenizer, max_positions: int) -> None:
    """Writes a tokenizer's files.

    Args:
      folder: that exists.
      tokenizer: to write.
      max_positions: longest row of the model.
    """
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
    }
    for kind in ("bos", "eos", "pad"):
        index = getattr(tokenizer, f"{kind}_id")
        if index is not None:
            settings[f"{kind}_token"] = tokenizer.core.id_to_token(index)
    if tokenizer.template is not None:
        settings["chat_template"] = tokenizer.template
    (folder / TOKENIZER).write_text(tokenizer.core.to_str(pretty=True), encoding="utf-8")
    _write_json(folder / SETTINGS, settings)
    _write_json(folder / GENERATION, token_ids(tokenizer))


def token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Ids as Hugging Face's configurations name them.

    Args:
      tokenizer: to describe.

    Returns:
      Those of bos, eos (a list if there are several) and pad that it has.
    """
    stops = list(tokenizer.stop_ids)
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": stops[0] if len(stops) == 1 else stops or None,
        "pad_token_id": tokenizer.pad_id,
    }
    return {name: value for name, value in ids.items() if value is not None}


def _core(path: pathlib.Path) -> Any:
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise PretrainedError(f"{path} has {size} bytes, but at most {LARGEST_JSON} are read")
    tokenizers = package("tokenizers")
    try:
        core = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise PretrainedError(f"{path} describes no tokenizer: {error}") from error
    one_of(path, "model", type(core.model).__name__, ["BPE"])
    if core.model.dropout:
        raise PretrainedError(f"{path}: dropout is {core.model.dropout}, but ids cannot be random")
    # Saved with a training set's settings, it would silently cut prompts.
    core.no_truncation()
    core.no_padding()
    return core


def _token_id(core: Any, token: Any, source: pathlib.Path) -> int | None:
    content = token.get("content") if isinstance(token, dict) else token
    if content is None:
        return None
    index = None
    with contextlib.suppress(TypeError, UnicodeError):
        index = core.token_to_id(content)
    if index is None:
        raise PretrainedError(
            f"{source} names the token {str(content)[:100]!r}, which {TOKENIZER} lacks"
        )
    return index


def _ids(key: str, *holders: dict[str, Any]) -> list[int]:
    """Whole numbers of the first object that has the key."""
    value = next((holder[key] for holder in holders if holder.get(key) is not None), [])
    ids = value if isinstance(value, list) else [value]
    if any(isinstance(index, bool) or not isinstance(index, int) for index in ids):
        raise PretrainedError(f"{key} is {str(ids)[:100]}, but ids have to be whole numbers")
    return ids


def _template(file: pathlib.Path | None, setting: Any) -> str | None:
    """A file of its own goes first; several templates have names, of which one is the default."""
    if file is not None:
        if file.stat().st_size > LARGEST_JSON:
            raise PretrainedError(f"{file} has more than {LARGEST_JSON} bytes")
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise PretrainedError(f"{file} is no UTF-8") from error
    if isinstance(setting, list):
        named = [entry for entry in setting if isinstance(entry, dict)]
        setting = next((e.get("template") for e in named if e.get("name") == "default"), None)
    return setting if isinstance(setting, str) else None


def _write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
