"""Tiny models as published files: every name, shape and row order is written out by hand here."""

import json

import numpy as np
import pytest

from jaxpg import networks, pretrained

TINY = {
    "vocabulary_size": 270,
    "num_layers": 2,
    "width": 12,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_width": 4,
    "mlp_width": 20,
    "max_positions": 64,
}
KINDS = {
    "llama": {},
    "llama_untied_biased": {
        "tied": False,
        "attention_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "rope_theta": 5e6,
        "rope_scaling": networks.RopeScaling("llama3", 8.0),
    },
    "llama_linear": {"rope_scaling": networks.RopeScaling("linear", 4.0), "num_kv_heads": 4},
    "qwen2": {"attention_bias": True, "norm_epsilon": 1e-6, "rope_theta": 1e6},
    "qwen3": {"query_key_norm": True, "tied": False, "num_heads": 5, "num_kv_heads": 1},
}
GGUF_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
# Row j of a head of width 4 in a Llama GGUF is row INTERLEAVED[j] of Hugging Face's.
INTERLEAVED = [0, 2, 1, 3]


@pytest.fixture(params=KINDS)
def kind(request):
    """Every kind of model: (name, configuration)."""
    return request.param, networks.TransformerConfig(**{**TINY, **KINDS[request.param]})


@pytest.fixture
def tiny():
    """A function (**changes) -> the configuration of a tiny Llama."""
    return lambda **changes: networks.TransformerConfig(**{**TINY, **changes})


@pytest.fixture
def published():
    """A function (configuration) -> tensors by Hugging Face's names, float32."""
    return published_tensors


def published_tensors(config, seed=0):
    draw = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens.weight": (config.vocabulary_size, config.width),
        "model.norm.weight": (config.width,),
    }
    if not config.tied:
        shapes["lm_head.weight"] = (config.vocabulary_size, config.width)
    queries = config.num_heads * config.head_size
    keys = config.kv_heads * config.head_size
    for layer in range(config.num_layers):
        start = f"model.layers.{layer}"
        shapes[f"{start}.input_layernorm.weight"] = (config.width,)
        shapes[f"{start}.post_attention_layernorm.weight"] = (config.width,)
        for module, (outputs, inputs, biased) in {
            "self_attn.q_proj": (queries, config.width, config.attention_bias),
            "self_attn.k_proj": (keys, config.width, config.attention_bias),
            "self_attn.v_proj": (keys, config.width, config.attention_bias),
            "self_attn.o_proj": (config.width, queries, config.output_bias),
            "mlp.gate_proj": (config.mlp_width, config.width, config.mlp_bias),
            "mlp.up_proj": (config.mlp_width, config.width, config.mlp_bias),
            "mlp.down_proj": (config.width, config.mlp_width, config.mlp_bias),
        }.items():
            shapes[f"{start}.{module}.weight"] = (outputs, inputs)
            if biased:
                shapes[f"{start}.{module}.bias"] = (outputs,)
        if config.query_key_norm:
            shapes[f"{start}.self_attn.q_norm.weight"] = (config.head_size,)
            shapes[f"{start}.self_attn.k_norm.weight"] = (config.head_size,)
    return {name: draw.normal(size=s).astype(np.float32) for name, s in shapes.items()}


@pytest.fixture
def config_values():
    """A function (configuration) -> `config.json` of Hugging Face, as an object."""
    return published_config


def published_config(config, **changes):
    kind = "qwen3" if config.query_key_norm else "llama"
    if config.attention_bias and not config.output_bias:
        kind = "qwen2"
    values = {
        "model_type": kind,
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.mlp_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "attention_bias": config.output_bias,
        "mlp_bias": config.mlp_bias,
    }
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        values["rope_scaling"] = {"type": "linear", "factor": config.rope_scaling.factor}
    elif config.rope_scaling is not None:
        values["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    return {**values, **changes}


@pytest.fixture
def write_folder(tmp_path):
    """A function (configuration, tensors, **changes of config.json) -> folder."""
    safetensors = pytest.importorskip("safetensors.numpy")

    def write(config, tensors, name="model", **changes):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(published_config(config, **changes)))
        safetensors.save_file(tensors, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def write_gguf(tmp_path):
    """A function (configuration, tensors, ...) -> path of a GGUF file with the same model."""
    gguf = pytest.importorskip("gguf")

    def write(config, tensors, metadata=None, extra=None, raw=None, name="model.gguf", arch=None):
        path = tmp_path / name
        arch = arch or published_config(config)["model_type"]
        writer = gguf.GGUFWriter(path, arch)
        writer.add_block_count(config.num_layers)
        writer.add_context_length(config.max_positions)
        writer.add_embedding_length(config.width)
        writer.add_feed_forward_length(config.mlp_width)
        writer.add_head_count(config.num_heads)
        writer.add_head_count_kv(config.kv_heads)
        writer.add_key_length(config.head_size)
        writer.add_value_length(config.head_size)
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_layer_norm_rms_eps(config.norm_epsilon)
        if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config.rope_scaling.factor)
        for add, *values in metadata or ():
            getattr(writer, add)(*values)
        for tensor, values in tensors.items():
            writer.add_tensor(*gguf_tensor(config, arch, tensor, values))
        for tensor, values in (extra or {}).items():
            writer.add_tensor(tensor, values)
        for tensor, (values, kind) in (raw or {}).items():
            writer.add_tensor(tensor, values, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def gguf_tensor(config, arch, name, values):
    """A tensor as llama.cpp's converter writes it."""
    if name in GGUF_NAMES:
        return GGUF_NAMES[name], values
    _, _, layer, *module, kind = name.split(".")
    module = ".".join(module)
    if arch == "llama" and module in ("self_attn.q_proj", "self_attn.k_proj"):
        assert config.head_size == 4
        heads = range(len(values) // 4)
        values = values[[4 * head + row for head in heads for row in INTERLEAVED]]
    return f"blk.{layer}.{GGUF_MODULES[module]}.{kind}", values


@pytest.fixture
def byte_tokens():
    """A byte-level vocabulary (one character for each byte) with a few merges, as GGUF lists it."""
    pre_tokenizers = pytest.importorskip("tokenizers.pre_tokenizers")
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += ["he", "Ġa", "12", "123", "<|start|>", "<|end|>", "<|stop|>", "<think>"]
    merges = ["h e", "Ġ a", "1 2", "12 3"]
    kinds = [1] * 260 + [3, 3, 3, 4]
    return tokens, merges, kinds


@pytest.fixture
def core(byte_tokens):
    """A byte-level tokenizer, built with the package itself."""
    tokenizers = pytest.importorskip("tokenizers")
    tokens, merges, _ = byte_tokens
    vocabulary = {token: index for index, token in enumerate(tokens[:260])}
    core = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, [tuple(merge.split()) for merge in merges])
    )
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens([tokenizers.AddedToken(t, special=True) for t in tokens[260:263]])
    core.add_tokens([tokenizers.AddedToken(tokens[263], special=False)])
    return core


@pytest.fixture
def read(tiny, published, write_folder):
    """A function (files by name) -> the tokenizer of a folder that holds them."""
    names = iter(range(100))

    def read(files, **changes):
        folder = write_folder(tiny(), published(tiny()), name=f"model{next(names)}", **changes)
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text, encoding="utf-8")
        return pretrained.load(folder).tokenizer

    return read


@pytest.fixture
def write_vocabulary(tiny, published, write_gguf, byte_tokens):
    """A function (pre-tokenizer, **changed metadata) -> path of a GGUF file with a tokenizer."""

    def write(pre, model="gpt2", more=(), **changes):
        tokens, merges, kinds = byte_tokens
        entries = {"tokens": tokens, "merges": merges, "token_type": kinds, **changes}
        metadata = [("add_string", "tokenizer.ggml.model", model)]
        metadata += [("add_string", "tokenizer.ggml.pre", pre)]
        metadata += [("add_array", f"tokenizer.ggml.{k}", v) for k, v in entries.items() if v]
        return write_gguf(tiny(), published(tiny()), [*metadata, *more])

    return write
