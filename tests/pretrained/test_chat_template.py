"""Chat templates are programs of strangers: they render text, and reach nothing else."""

import ast
import pathlib

import pytest

from jaxpg import pretrained
from jaxpg.pretrained import optional
from jaxpg.pretrained.chat_template import render

pytest.importorskip("jinja2")
MESSAGES = [{"role": "user", "content": "a<b"}, {"role": "assistant", "content": "c"}]


def test_a_conversation_is_rendered_with_the_whitespace_of_hugging_face():
    template = """{% for m in messages %}
    {% if m.role == 'user' %}
[{{ m['role'] }}] {{ m['content'] }}
    {% else %}
{{ m.content | trim }}{% break %}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}>{% endif %}"""
    assert render(template, MESSAGES, {"add_generation_prompt": True}) == "[user] a<b\nc>"
    assert render(template, MESSAGES[:1], {}) == "[user] a<b\n"


def test_json_in_a_template_is_not_escaped_for_a_browser():
    assert render("{{ messages[0] | tojson }}", MESSAGES[:1], {}) == (
        '{"role": "user", "content": "a<b"}'
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ render.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include 'etc/passwd' %}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ 'x' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ 1 / 0 }}",
        "{% for %}",
        "x" * (2**20 + 1),
    ],
)
def test_a_template_that_leaves_its_sandbox_is_refused(template):
    with pytest.raises(pretrained.PretrainedError, match="the chat template"):
        assert render(template, MESSAGES, {}) == ""
    assert MESSAGES[0]["role"] == "user"


def test_a_template_may_refuse_the_messages_in_its_own_words():
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="refuses the messages: roles must alternate"):
        render(template, MESSAGES, {})


@pytest.mark.parametrize("messages", ["hello", [{"content": "x"}], [{"role": 3}]])
def test_messages_have_roles(messages):
    with pytest.raises(ValueError, match=r"messages\[0\] is .*'role'"):
        render("", messages, {})


def test_a_tokenizer_without_a_template_says_so(byte_tokens):
    tokenizers = pytest.importorskip("tokenizers")
    core = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    core.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = pretrained.Tokenizer(core, vocabulary_size=1)
    with pytest.raises(ValueError, match="no chat template: set one"):
        tokenizer.chat(MESSAGES)


def test_a_missing_package_is_one_sentence_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ImportError, match=r"'gguf', which is not .*pip install 'jaxpg\[llm\]'"):
        optional.package("gguf")


def test_the_packages_of_the_extra_are_imported_when_they_are_used():
    extra = {"gguf", "jinja2", "safetensors", "tokenizers", "torch", "transformers"}
    for path in pathlib.Path(pretrained.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
                assert not {name.split(".")[0] for name in names} & extra, path
