"""Tokenizers out of the metadata of GGUF files."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxpg.pretrained.errors import PretrainedError, one_of
from jaxpg.pretrained.gguf_header import Header
from jaxpg.pretrained.optional import package
from jaxpg.pretrained.tokenizer import Tokenizer

KINDS = NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
DIGITS = {"qwen2": r"\p{N}", "llama-bpe": r"\p{N}{1,3}"}
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = ("llama-bpe", "qwen2", "smollm")


def from_header(header: Header, vocabulary_size: int) -> Tokenizer:
    """Builds the tokenizer that a file describes: byte-level BPE with merges.

    Args:
      header: of the file.
      vocabulary_size: V of the model.

    Returns:
      The tokenizer; the same ids as the original's.

    Raises:
      PretrainedError: the file describes another kind, or disagrees with itself.
    """
    metadata, source = header.metadata, header.path
    pre_tokenizer = metadata.get("tokenizer.ggml.pre")
    one_of(source, "tokenizer.ggml.model", metadata.get("tokenizer.ggml.model"), ["gpt2"])
    one_of(source, "tokenizer.ggml.pre", pre_tokenizer, PRE_TOKENIZERS)
    tokens = _texts(source, metadata, "tokenizer.ggml.tokens")
    merges = [_merge(source, m) for m in _texts(source, metadata, "tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise PretrainedError(f"{source}: a token stands twice in tokenizer.ggml.tokens")
    if len(tokens) > vocabulary_size:
        raise PretrainedError(
            f"{source}: tokenizer.ggml.tokens has {len(tokens)} entries, but the embedding "
            f"{vocabulary_size} rows"
        )
    core = _core(source, vocabulary, merges, pre_tokenizer)
    _add_special(source, core, tokens, metadata.get("tokenizer.ggml.token_type"))
    ids = {
        name: _id(source, metadata, f"tokenizer.ggml.{name}_token_id", len(tokens))
        for name in ("bos", "eos", "eot", "eom", "padding")
    }
    if metadata.get("tokenizer.ggml.add_bos_token") is True and ids["bos"] is not None:
        bos = tokens[ids["bos"]]
        core.post_processor = package("tokenizers.processors").TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, ids["bos"])]
        )
    template = metadata.get("tokenizer.chat_template")
    stops = [ids[name] for name in ("eos", "eot", "eom") if ids[name] is not None]
    return Tokenizer(
        core=core,
        vocabulary_size=vocabulary_size,
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        pad_id=ids["padding"],
        stop_ids=tuple(dict.fromkeys(stops)),
        template=template if isinstance(template, str) else None,
    )


def _core(source: Any, vocabulary: dict[str, int], merges: list[tuple[str, str]], kind: str) -> Any:
    tokenizers = package("tokenizers")
    decoders, models = package("tokenizers.decoders"), package("tokenizers.models")
    normalizers, split = package("tokenizers.normalizers"), package("tokenizers.pre_tokenizers")
    try:
        # Llama 3 looks a whole word up before it merges.
        model = models.BPE(vocabulary, merges, ignore_merges=kind == "llama-bpe")
    except Exception as error:
        raise PretrainedError(f"{source}: tokenizer.ggml.merges do not fit: {error}") from error
    core = tokenizers.Tokenizer(model)
    if kind == "smollm":
        parts = [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
    else:
        pattern = tokenizers.Regex(WORDS.format(digits=DIGITS[kind]))
        parts = [
            split.Split(pattern, "isolated"),
            split.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    if kind == "qwen2":
        core.normalizer = normalizers.NFC()
    core.pre_tokenizer = split.Sequence(parts)
    core.decoder = decoders.ByteLevel()
    return core


def _add_special(source: Any, core: Any, tokens: list[str], types: Any) -> None:
    kinds = np.full(len(tokens), NORMAL) if types is None else types
    if not isinstance(kinds, np.ndarray) or kinds.shape != (len(tokens),):
        raise PretrainedError(
            f"{source}: tokenizer.ggml.token_type is no list of {len(tokens)} numbers, one for "
            f"each token"
        )
    added = package("tokenizers").AddedToken
    found = []
    for token, kind in zip(tokens, kinds.tolist(), strict=True):
        if kind not in KINDS:
            one_of(source, f"the type of the token {token[:100]!r}", kind, KINDS)
        if kind in (CONTROL, USER_DEFINED):
            found.append(added(token, normalized=False, special=kind == CONTROL))
    core.add_tokens(found)


def _texts(source: Any, metadata: dict[str, Any], key: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list):
        raise PretrainedError(f"{source}: {key} is missing, or is no list of texts")
    return value


def _merge(source: Any, merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not left or not right or " " in right:
        raise PretrainedError(f"{source}: the merge {merge!r} does not name two tokens")
    return left, right


def _id(source: Any, metadata: dict[str, Any], key: str, num_tokens: int) -> int | None:
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < num_tokens:
        raise PretrainedError(
            f"{source}: {key} is {value!r}, but the tokens have the ids 0 to {num_tokens - 1}"
        )
    return value
