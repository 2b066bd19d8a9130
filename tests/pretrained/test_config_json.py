"""The shapes of published models, and what is not computed here."""

import json

import pytest

from jaxpg import networks, pretrained
from jaxpg.pretrained import config_json
from jaxpg.pretrained.layout import leaves

QWEN3_06B = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
}


def test_the_width_of_a_head_is_not_the_width_over_the_heads():
    config = config_json.from_json(QWEN3_06B, "config.json")
    shapes = {name: shape for leaf in leaves(config) for name, shape, _ in leaf.tensors()}
    assert shapes["model.layers.0.self_attn.q_proj.weight"] == (2048, 1024)
    assert shapes["model.layers.27.self_attn.o_proj.weight"] == (1024, 2048)
    assert shapes["model.layers.0.self_attn.q_norm.weight"] == (128,)
    assert len(shapes) == 28 * 11 + 2


def test_newer_files_hold_the_rotary_settings_together(tiny, config_values):
    old = config_values(tiny(rope_theta=5e5, rope_scaling=networks.RopeScaling("llama3", 32.0)))
    new = {k: v for k, v in old.items() if k not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = {**old["rope_scaling"], "rope_theta": 5e5}
    read = config_json.from_json(new, "config.json")
    assert read == config_json.from_json(old, "config.json")
    assert read.rope_scaling == networks.RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)


def test_mistral_is_llama_where_its_window_is_no_limit(tiny, config_values):
    values = config_values(tiny(), model_type="mistral", sliding_window=None)
    assert config_json.from_json(values, "config.json") == tiny()
    with pytest.raises(pretrained.PretrainedError, match="sliding_window is 32, but only full"):
        config_json.from_json({**values, "sliding_window": 32}, "config.json")


def test_writing_is_the_opposite_of_reading(kind, config_values):
    name, config = kind
    values = config_json.to_json(config)
    assert values["model_type"] == name.partition("_")[0]
    assert config_json.from_json(json.loads(json.dumps(values)), "config.json") == config
    assert config_json.from_json(config_values(config), "config.json") == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "lama"}, "model_type is 'lama'.*did you mean 'llama'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}, "auto_map"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'.*linear"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor is missing"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is not 1"),
        ({"num_key_value_heads": 3}, "num_kv_heads is 3, which does not divide num_heads=4"),
        ({"head_dim": 3}, "head_width is 3"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "64"}, "hidden_size is '64', but it has to be a whole number"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05, but .* above 0"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'.*true or false"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_its_name(tiny, config_values, changes, words):
    with pytest.raises(pretrained.PretrainedError, match=rf"^config\.json: .*{words}"):
        config_json.from_json(config_values(tiny(), **changes), "config.json")


def test_no_value_of_any_key_raises_another_error(tiny, config_values):
    values = config_values(tiny(rope_scaling=networks.RopeScaling("llama3", 8.0)))
    odd = [None, "x", -1, 0, 1e300, float("nan"), [], [1], {}, {"rope_type": []}, True, 2**70]
    for key in values:
        for value in odd:
            try:
                config_json.from_json({**values, key: value}, "config.json")
            except pretrained.PretrainedError as error:
                assert len(str(error)) < 300
