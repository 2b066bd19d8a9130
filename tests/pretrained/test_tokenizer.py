"""Tokenizers out of folders: ids, bytes, control tokens."""

import dataclasses
import json

import numpy as np
import pytest

from jaxpg import pretrained
from jaxpg.pretrained.token_bytes import byte_of_character

tokenizers = pytest.importorskip("tokenizers")
TEXTS = [
    "hello world",
    "Größe, été, 12 345",
    "🙂👩‍👩‍👧 日本語\r\n\tdef f(x):\n    return x",
    "\x00\x7f\u00ad\u0100",
    "",
]


@pytest.fixture
def settings():
    return {"bos_token": "<|start|>", "eos_token": {"content": "<|end|>"}, "pad_token": "<|end|>"}


@pytest.fixture
def tokenizer(core, settings, read):
    return read({"tokenizer.json": core.to_str(), "tokenizer_config.json": settings})


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert b"".join(tokenizer.token_bytes[index] for index in ids) == text.encode()
    assert tokenizer.decode(ids) == text
    assert len(tokenizer.token_bytes) == tokenizer.vocabulary_size == 270
    assert tokenizer.token_bytes[264:] == (b"",) * 6


def test_the_alphabet_of_bytes_is_the_packages():
    assert set(byte_of_character()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_of_character().values()) == list(range(256))
    for byte in range(128):
        spelled = tokenizers.pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(
            chr(byte)
        )
        assert byte_of_character()[spelled[0][0]] == byte


def test_control_tokens_in_a_text_are_text_unless_asked_for(tokenizer):
    text = "he<|end|>he"
    assert tokenizer.encode(text, parse_special=True) == [256, 261, 256]
    literal = tokenizer.encode(text)
    assert not set(literal) & set(tokenizer.special_ids)
    assert tokenizer.decode(literal) == text
    assert tokenizer.special_ids == (260, 261, 262)


def test_decoding_keeps_control_tokens_and_can_leave_them_out(tokenizer):
    # <think> is a token of its own and no control token: a reward has to see it.
    ids = np.array([263, 256, 261])
    assert tokenizer.decode(ids) == "<think>he<|end|>"
    assert tokenizer.decode(ids, skip_special=True) == "<think>he"
    assert tokenizer.decode([269]) == ""
    for outside in (-1, 270):
        with pytest.raises(ValueError, match=f"ids holds {outside}, but .* 0 to 269"):
            tokenizer.decode([outside])


def test_half_a_character_is_replaced_and_its_bytes_are_kept(tokenizer):
    ids = tokenizer.encode("é")
    assert tokenizer.decode(ids[:1]) == "\ufffd"
    assert tokenizer.token_bytes[ids[0]] == b"\xc3"


def test_named_ids_and_every_id_that_stops(core, settings, read):
    files = {"tokenizer.json": core.to_str(), "tokenizer_config.json": settings}
    tokenizer = read(files)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (260, 261, 261)
    assert tokenizer.stop_ids == (261,)
    assert read(files, eos_token_id=[262, 261]).stop_ids == (261, 262)
    generation = {"generation_config.json": {"eos_token_id": [262, 263]}}
    assert read(files | generation, eos_token_id=260).stop_ids == (261, 262, 263)
    alone = read({"tokenizer.json": core.to_str(), **generation}, bos_token_id=260)
    assert (alone.bos_id, alone.eos_id, alone.pad_id, alone.stop_ids) == (
        260,
        262,
        None,
        (262, 263),
    )


def test_a_text_never_starts_twice(core, settings, read):
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 260)]
    )
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer = read(
        {
            "tokenizer.json": core.to_str(),
            "tokenizer_config.json": {**settings, "chat_template": template},
        }
    )
    assert tokenizer.adds_bos
    assert tokenizer.encode("he") == [256]
    assert tokenizer.encode_chat([{"role": "user", "content": "he"}]) == [260, 256, 261]


def test_settings_of_a_training_set_cut_and_pad_nothing(core, settings, read):
    core.enable_truncation(2)
    core.enable_padding(length=8, pad_id=261)
    tokenizer = read({"tokenizer.json": core.to_str(), "tokenizer_config.json": settings})
    assert tokenizer.encode("abc") == [
        id_of("a"),
        id_of("b"),
        id_of("c"),
    ]


def id_of(character):
    return sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()).index(character)


def test_a_template_of_its_own_file_goes_first(core, read):
    files = {"tokenizer.json": core.to_str()}
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    assert read(files).template is None
    assert read(files | {"tokenizer_config.json": {"chat_template": named}}).template == "d"
    both = {"tokenizer_config.json": {"chat_template": "c"}, "chat_template.jinja": "own"}
    assert read(files | both).template == "own"


def test_tokens_with_byte_fallback_are_text_or_one_byte(read):
    vocabulary = {"<unk>": 0, "<0xC3>": 1, "<0xA9>": 2, "\u2581": 3, "a": 4, "\u2581a": 5}
    core = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, [("\u2581", "a")], byte_fallback=True, unk_token="<unk>")
    )
    parts = tokenizers.decoders
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never")
    core.decoder = parts.Sequence(
        [parts.Replace("\u2581", " "), parts.ByteFallback(), parts.Fuse()]
    )
    tokenizer = read({"tokenizer.json": core.to_str()})
    ids = tokenizer.encode("a aé")
    assert ids == [4, 5, 1, 2]
    assert b"".join(tokenizer.token_bytes[index] for index in ids) == "a aé".encode()
    assert tokenizer.decode(ids) == "a aé"


def test_saving_keeps_ids_bytes_and_template(core, settings, read, tiny, tmp_path):
    generation = {"eos_token_id": [261, 262], "bos_token_id": 260}
    files = {"tokenizer_config.json": {**settings, "chat_template": "{{ messages[0].content }}ü"}}
    before = read({"tokenizer.json": core.to_str(), "generation_config.json": generation, **files})
    model = pretrained.load(tmp_path / "model0")
    pretrained.save(tmp_path / "out", model)
    after = pretrained.load(tmp_path / "out").tokenizer
    for field in dataclasses.fields(before):
        if field.name != "core":
            assert getattr(after, field.name) == getattr(before, field.name)
    assert after.token_bytes == before.token_bytes
    for text in TEXTS:
        assert after.encode(text) == before.encode(text)
    assert after.core.to_str() == before.core.to_str()
    small = dataclasses.replace(model, tokenizer=dataclasses.replace(before, vocabulary_size=265))
    with pytest.raises(ValueError, match="vocabulary_size=265, but the model 270"):
        pretrained.save(tmp_path / "other", small)


def changed(core, **changes):
    values = json.loads(core.to_str())
    for path, value in changes.items():
        inside = values
        *steps, last = path.split("__")
        for step in steps:
            inside = inside[step]
        inside[last] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder": None}, "decoder is None.*ByteLevel"),
        ({"decoder": {"type": "WordPiece", "prefix": "#", "cleanup": True}}, "'WordPiece'"),
        ({"model__dropout": 0.5}, "dropout is 0.5, but ids cannot be random"),
        ({"model__vocab__a": 4000000000}, "largest id of a token is 4000000000, but .* 269"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "'WordLevel'"),
        ({"model__merges": [["no", "such"]]}, "describes no tokenizer"),
        ({"model__type": "Own"}, "describes no tokenizer"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused_by_its_name(core, read, changes, words):
    with pytest.raises(pretrained.PretrainedError, match=words):
        read({"tokenizer.json": changed(core, **changes)})


def test_ids_that_the_files_disagree_about_are_refused(core, settings, read):
    files = {"tokenizer.json": core.to_str()}
    for more, message in (
        ({"tokenizer_config.json": {"bos_token": "<s>"}}, "names the token '<s>', which"),
        ({"tokenizer_config.json": {"bos_token": 5}}, "names the token '5', which"),
        ({"generation_config.json": {"eos_token_id": [270]}}, "is 270, but .* ends at 269"),
        ({"generation_config.json": {"eos_token_id": ["x"]}}, "eos_token_id is .'x'., but ids"),
    ):
        with pytest.raises(pretrained.PretrainedError, match=message):
            read(files | more)
