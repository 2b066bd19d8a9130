"""Adapters in PEFT's format: bit for bit, and no key lost."""

import json

import jax
import numpy as np
import pytest

from jaxpg import networks, pretrained

safetensors = pytest.importorskip("safetensors.numpy")


def made(config, targets=networks.lora.TARGETS, rank=3, dtype=np.float32):
    """Adapters that all differ from zero."""
    lora = networks.LoRA(rank, 6.0, targets)
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: lora.init(key, config), jax.random.key(0))
    drawn = jax.tree.map(lambda x: np.asarray(draw.normal(size=x.shape), dtype), shapes)
    return lora, jax.tree.map(jax.numpy.asarray, drawn)


@pytest.fixture
def saved(tiny, tmp_path):
    lora, adapters = made(tiny())
    pretrained.save_adapters(tmp_path / "adapters", lora, adapters, tiny(), base="tiny")
    return tmp_path / "adapters"


@pytest.mark.parametrize("targets", [networks.lora.TARGETS, ("q", "v"), ("down",)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_trip_keeps_every_bit(kind, targets, dtype, tmp_path):
    _, config = kind
    lora, adapters = made(config, targets, dtype=jax.numpy.dtype(dtype))
    pretrained.save_adapters(tmp_path / "out", lora, adapters, config)
    loaded, back = pretrained.load_adapters(tmp_path / "out", config)
    assert loaded == lora
    assert jax.tree.structure(back) == jax.tree.structure(adapters)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(adapters), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_keys_and_shapes_are_those_of_peft(saved, tiny):
    tensors = safetensors.load_file(saved / "adapter_model.safetensors")
    _, adapters = made(tiny())
    start = "base_model.model.model.layers.1.self_attn.k_proj"
    factors = adapters["layers"]["qkv"]["k"]
    np.testing.assert_array_equal(tensors[f"{start}.lora_A.weight"], factors["a"][1].T)
    np.testing.assert_array_equal(tensors[f"{start}.lora_B.weight"], factors["b"][1].T)
    assert tensors[f"{start}.lora_A.weight"].shape == (3, 12)
    assert tensors[f"{start}.lora_B.weight"].shape == (8, 3)
    assert len(tensors) == 2 * 7 * 2
    settings = json.loads((saved / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (3, 6, "LORA")
    assert set(settings["target_modules"]) == {
        f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")
    }


def rewrite(folder, tensors=None, **settings):
    if tensors is not None:
        safetensors.save_file(tensors, folder / "adapter_model.safetensors")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_an_unknown_missing_or_misshapen_tensor_is_named(saved, tiny):
    tensors = safetensors.load_file(saved / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    rest = {key: value for key, value in tensors.items() if key != name}
    prefixed = {key.replace("base_model.", ""): value for key, value in tensors.items()}
    head = {"base_model.model.lm_head.lora_A.weight": np.ones((3, 12), np.float32)}
    for changed, message in (
        (rest, r"up_proj\.lora_B\.weight is missing"),
        ({**tensors, **head}, r"lm_head\.lora_A\.weight has no place"),
        (prefixed, "is missing .and 55 more"),
        ({**tensors, name: tensors[name].T.copy()}, r"shape \[3, 20\], but .* \[20, 3\]"),
    ):
        rewrite(saved, changed)
        with pytest.raises(pretrained.PretrainedError, match=message):
            pretrained.load_adapters(saved, tiny())
    rewrite(saved, tensors)
    with pytest.raises(pretrained.PretrainedError, match=r"layers\.1\..* has no place"):
        pretrained.load_adapters(saved, tiny(num_layers=1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'.*LORA"),
        ({"use_rslora": True}, "use_rslora is True, but only False"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias is all, but only 'none'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is pissa"),
        ({"target_modules": ["q_proj"]}, "target_modules is .'q_proj'., but the tensors"),
        ({"r": 4}, r"shape \[3, 12\], but the settings ask for \[4, 12\]"),
        ({"r": 0}, "r is 0, but it has to be a whole number"),
        ({"lora_alpha": None}, "lora_alpha is missing"),
    ],
)
def test_settings_that_are_not_computed_here_are_refused(saved, tiny, settings, words):
    rewrite(saved, **settings)
    with pytest.raises(pretrained.PretrainedError, match=words):
        pretrained.load_adapters(saved, tiny())


def test_a_pattern_of_modules_is_answered_by_the_tensors(saved, tiny):
    rewrite(saved, target_modules="(a+)+$", lora_dropout=0.1, inference_mode=False)
    assert pretrained.load_adapters(saved, tiny())[0] == networks.LoRA(3, 6.0)


def test_adapters_of_another_model_are_not_saved(tiny, tmp_path):
    lora, adapters = made(tiny())
    with pytest.raises(ValueError, match=r"shape \[2, 12, 3\], but .* \[1, 12, 3\]"):
        pretrained.save_adapters(tmp_path / "out", lora, adapters, tiny(num_layers=1))
    with pytest.raises(ValueError, match=r"lora\.targets is \['q'\]"):
        pretrained.save_adapters(tmp_path / "out", networks.LoRA(3, 6.0, ("q",)), adapters, tiny())
    assert not list(tmp_path.iterdir())


def test_a_folder_without_adapters_is_named(tmp_path, tiny):
    with pytest.raises(pretrained.PretrainedError, match=r"holds no adapter_config\.json"):
        pretrained.load_adapters(tmp_path, tiny())
