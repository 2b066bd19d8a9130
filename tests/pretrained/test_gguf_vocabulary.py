"""Tokenizers out of GGUF metadata: the ids and bytes of the original."""

import dataclasses

import numpy as np
import pytest

from jaxpg import pretrained
from jaxpg.pretrained import gguf_file, gguf_vocabulary
from jaxpg.pretrained.gguf_header import read_header

pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")
TEXTS = [
    "hello world",
    "Größe, été, 12 345",
    "🙂👩‍👩‍👧 日本語\r\n\tdef f(x):\n    return x",
    "\x00\x7f\u00ad\u0100",
    "",
]


@pytest.mark.parametrize(
    ("pre", "digits", "decomposed"),
    [("smollm", [1, 2, 3], "e\u0301"), ("qwen2", [1, 2, 3], "é"), ("llama-bpe", [259], "e\u0301")],
)
def test_pre_tokenizers_cut_digits_and_normalise_as_published(
    write_vocabulary, byte_tokens, pre, digits, decomposed
):
    tokenizer = pretrained.load(write_vocabulary(pre)).tokenizer
    one = tokenizer.encode("1")[0]
    expected = [one + i for i in range(3)] if len(digits) == 3 else digits
    assert tokenizer.encode("123") == expected
    # Words keep the space before them; a run of letters is no place to cut.
    assert tokenizer.encode("he a") == [256, 257]
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == decomposed
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert b"".join(tokenizer.token_bytes[index] for index in ids) == text.encode()
    assert tokenizer.encode("<|end|><think>", parse_special=True) == [261, 263]
    assert tokenizer.special_ids == (260, 261, 262)


@pytest.mark.parametrize(("pre", "whole"), [("llama-bpe", True), ("qwen2", False)])
def test_only_llama_3_looks_a_whole_word_up_before_it_merges(write_vocabulary, pre, whole):
    tokenizer = pretrained.load(write_vocabulary(pre, merges=["1 2", "12 3"])).tokenizer
    assert (tokenizer.encode("he") == [256]) == whole


def test_a_gguf_vocabulary_has_the_ids_of_its_tokenizer_json(core, read, write_vocabulary):
    parts = tokenizers.pre_tokenizers
    core.pre_tokenizer = parts.Sequence(
        [parts.Digits(individual_digits=True), parts.ByteLevel(add_prefix_space=False)]
    )
    more = [
        ("add_bos_token_id", 260),
        ("add_eos_token_id", 261),
        ("add_eot_token_id", 262),
        ("add_pad_token_id", 261),
        ("add_chat_template", "{{ messages[0].content }}"),
        ("add_add_bos_token", True),
    ]
    ours = pretrained.load(write_vocabulary("smollm", more=more)).tokenizer
    theirs = read({"tokenizer.json": core.to_str()})
    for text in [*TEXTS, "he<|end|><think> a 123"]:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.encode(text, parse_special=True) == theirs.encode(text, parse_special=True)
    assert ours.token_bytes == theirs.token_bytes
    assert (ours.bos_id, ours.eos_id, ours.pad_id, ours.stop_ids) == (260, 261, 261, (261, 262))
    assert ours.template == "{{ messages[0].content }}"
    assert ours.adds_bos
    assert ours.encode("he") == [256]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pre": "qwen"}, "tokenizer.ggml.pre is 'qwen'.*did you mean 'qwen2'"),
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama'.*gpt2"),
        ({"tokens": ["a"] * 5}, "a token stands twice"),
        ({"tokens": [str(i) for i in range(271)]}, "has 271 entries, but the embedding 270"),
        ({"merges": ["he"]}, "the merge 'he' does not name two tokens"),
        ({"merges": ["h e x"]}, "the merge 'h e x' does not"),
        ({"merges": ["qq xx"]}, "merges do not fit"),
        ({"merges": None}, "tokenizer.ggml.merges is missing"),
        ({"token_type": [1, 2]}, "token_type is no list of 264 numbers"),
        ({"token_type": ["a"] * 264}, "token_type is no list of 264 numbers"),
        ({"token_type": [1] * 263 + [9]}, "the type of the token '<think>' is 9"),
        ({"more": [("add_eos_token_id", 264)]}, "eos_token_id is 264, but .* 0 to 263"),
    ],
)
def test_a_gguf_vocabulary_of_another_kind_is_refused_by_its_name(write_vocabulary, changes, words):
    with pytest.raises(pretrained.PretrainedError, match=words):
        pretrained.load(write_vocabulary(**{"pre": "smollm", **changes}))


def test_no_value_of_any_metadata_raises_another_error(write_vocabulary):
    more = [("add_bos_token_id", 260), ("add_chat_template", "x"), ("add_add_bos_token", True)]
    header = read_header(write_vocabulary("smollm", more=more))
    odd = [None, "x", -1, 0, 2**63, float("nan"), True, [], ["a"], np.arange(3), np.ones(1)]
    for key in header.metadata:
        for value in odd:
            damaged = dataclasses.replace(header, metadata={**header.metadata, key: value})
            try:
                gguf_file.read_config(damaged)
                gguf_vocabulary.from_header(damaged, 270)
            except pretrained.PretrainedError as error:
                assert len(str(error)) < 400 + len(str(header.path))
