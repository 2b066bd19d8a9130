"""Hugging Face folders: every number lands in its place, and comes back bit for bit."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxpg import networks, pretrained
from jaxpg.pretrained import folder as folders

safetensors = pytest.importorskip("safetensors")
save_file = pytest.importorskip("safetensors.numpy").save_file


def random_params(config, dtype=np.float32):
    """Parameters in the form that the network itself declares."""
    shapes = jax.eval_shape(networks.transformer(config).init, jax.random.key(0))
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), dtype), shapes)


def names_in(path):
    with safetensors.safe_open(path, "np") as file:
        return set(file.keys())


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_every_tensor_lands_transposed_in_its_columns(kind, published, write_folder):
    _, config = kind
    tensors = published(config)
    model = pretrained.load(write_folder(config, tensors))
    assert model.config == config
    params = model.params["params"]
    queries, keys = config.num_heads * 4, config.kv_heads * 4
    columns = {
        "self_attn.q_proj": ("qkv", 0, queries),
        "self_attn.k_proj": ("qkv", queries, queries + keys),
        "self_attn.v_proj": ("qkv", queries + keys, queries + 2 * keys),
        "self_attn.o_proj": ("output", 0, 12),
        "mlp.gate_proj": ("gate_up", 0, 20),
        "mlp.up_proj": ("gate_up", 20, 40),
        "mlp.down_proj": ("down", 0, 12),
    }
    scales = {
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "mlp_norm",
        "self_attn.q_norm": "query_norm",
        "self_attn.k_norm": "key_norm",
    }
    seen = 0
    for name, values in tensors.items():
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if layer is None:
            found = {
                "model.embed_tokens.weight": params["embedding"],
                "model.norm.weight": params["norm"]["scale"],
                "lm_head.weight": params["head"]["kernel"].T if not config.tied else None,
            }[name]
        elif layer[2] in scales:
            found = params["layers"][scales[layer[2]]]["scale"][int(layer[1])]
        else:
            place, start, stop = columns[layer[2]]
            leaf = params["layers"][place]["kernel" if layer[3] == "weight" else "bias"]
            found = leaf[int(layer[1])][..., start:stop].T
        np.testing.assert_array_equal(found, values)
        seen += values.size
    assert seen == sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_trip_keeps_every_bit(kind, dtype, tmp_path):
    _, config = kind
    config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    params = random_params(config, dtype)
    pretrained.save(tmp_path / "out", pretrained.Pretrained(config, params, None, "test"))
    loaded = pretrained.load(tmp_path / "out", dtype)
    assert loaded.config == config
    assert_same_bits(loaded.params, params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_become_float32_exactly(tiny, published, write_folder, dtype):
    tensors = {name: values.astype(dtype) for name, values in published(tiny()).items()}
    params = pretrained.load(write_folder(tiny(), tensors)).params["params"]
    expected = tensors["model.layers.1.mlp.down_proj.weight"].T
    assert params["layers"]["down"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(params["layers"]["down"]["kernel"][1], expected)


def test_a_tied_embedding_is_written_once(tiny, tmp_path):
    config = tiny()
    model = pretrained.Pretrained(config, random_params(config), None, "test")
    pretrained.save(tmp_path / "out", model)
    names = names_in(tmp_path / "out" / "model.safetensors")
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


def test_a_tied_head_may_stand_in_the_file_if_it_is_equal(tiny, published, write_folder):
    tensors = published(tiny())
    embedding = tensors["model.embed_tokens.weight"]
    with_head = write_folder(tiny(), {**tensors, "lm_head.weight": embedding.copy()})
    assert "head" not in pretrained.load(with_head).params["params"]
    other = write_folder(tiny(), {**tensors, "lm_head.weight": embedding + 1}, name="other")
    with pytest.raises(pretrained.PretrainedError, match="lm_head.weight is not equal"):
        pretrained.load(other)


def test_an_untied_model_without_its_head_is_refused(tiny, published, write_folder):
    folder = write_folder(tiny(), published(tiny()), tie_word_embeddings=False)
    with pytest.raises(pretrained.PretrainedError, match=r"lm_head\.weight is missing"):
        pretrained.load(folder)


def shard(folder, tensors):
    """Splits the weights over two files, in the Hub's way."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    places = {name: f"model-{i % 2 + 1:05d}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({k: v for k, v in tensors.items() if places[k] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index, places


def test_shards_are_the_whole(tiny, published, write_folder):
    tensors = published(tiny())
    folder = write_folder(tiny(), tensors)
    whole = pretrained.load(folder)
    shard(folder, tensors)
    assert_same_bits(pretrained.load(folder).params, whole.params)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../outside.safetensors",
        "..",
        "a/b.safetensors",
        "",
        "x\\y",
        "link",
        "circle",
    ],
)
def test_an_index_cannot_lead_out_of_its_folder(tiny, published, write_folder, tmp_path, name):
    tensors = published(tiny())
    folder = write_folder(tiny(), tensors)
    index, places = shard(folder, tensors)
    save_file(tensors, tmp_path / "outside.safetensors")
    (folder / "link").symlink_to(tmp_path / "outside.safetensors")
    (folder / "circle").symlink_to(folder / "circle")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(places, name)}))
    with pytest.raises(
        pretrained.PretrainedError, match="no name of a file|leads (out|in a c)|no plain file"
    ):
        pretrained.load(folder)


def test_the_hubs_cache_keeps_its_files_beside_the_snapshot(
    tiny, published, write_folder, tmp_path
):
    folder = write_folder(tiny(), published(tiny()))
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert pretrained.load(snapshot).config == tiny()


def test_an_index_and_its_shards_have_to_agree(tiny, published, write_folder):
    tensors = published(tiny())
    folder = write_folder(tiny(), tensors)
    index, places = shard(folder, tensors)
    for changed, message in (
        ({**places, "model.norm.weight": "missing.safetensors"}, "disagree|which is missing"),
        ({k: v for k, v in places.items() if k != "model.norm.weight"}, "disagree about the tens"),
        ({**places, "another": next(iter(places.values()))}, "disagree about the tensor another"),
        (["x"], "weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(pretrained.PretrainedError, match=message):
            pretrained.load(folder)


def test_every_tensor_is_named_that_is_missing_unknown_or_of_another_shape(
    tiny, published, write_folder
):
    tensors, name = published(tiny()), "model.layers.1.self_attn.k_proj.weight"
    missing = {k: v for k, v in tensors.items() if k != name}
    for index, (changed, message) in enumerate(
        (
            (missing, f"{name} is missing"),
            ({**tensors, "model.layers.0.extra.weight": np.zeros(3)}, "is .F64., which"),
            ({**tensors, "model.layers.0.extra": np.zeros(3, np.float32)}, "extra has no place"),
            ({**tensors, name: tensors[name].T.copy()}, "shape .12, 8., but .* .8, 12."),
        )
    ):
        folder = write_folder(tiny(), changed, name=f"model{index}")
        with pytest.raises(pretrained.PretrainedError, match=message):
            pretrained.load(folder)


def test_old_files_may_hold_rotary_frequencies(tiny, published, write_folder):
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}
    assert pretrained.load(write_folder(tiny(), published(tiny()) | buffer)).config == tiny()


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 2**31 - 1}, {"vocab_size": 2**31 - 1}, {"head_dim": 2**30}]
)
def test_a_claim_of_the_configuration_allocates_nothing(
    tiny, published, write_folder, changes, monkeypatch
):
    folder = write_folder(tiny(), published(tiny()), **changes)
    monkeypatch.setattr(np, "empty", lambda *_, **__: pytest.fail("allocated"))
    with pytest.raises(pretrained.PretrainedError, match="tensor"):
        pretrained.load(folder)


def test_a_folder_that_holds_files_is_not_overwritten(tiny, tmp_path):
    model = pretrained.Pretrained(tiny(), random_params(tiny()), None, "test")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files: name a new one"):
        pretrained.save(tmp_path, model)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_folder_has_no_place_for_is_not_saved_in_part(tiny, tmp_path):
    config = tiny()
    params = random_params(config)
    joined = networks.LoRA(rank=2)
    joined = joined.join(params, joined.init(jax.random.key(0), config))
    with_value = dataclasses.replace(config, value_head=True)
    odd = {"params": {**params["params"], "norm": {"scale": jnp.ones(5)}}}
    for changed, parameters, message in (
        (config, joined, "lora.*merge adapters"),
        (with_value, random_params(with_value), "value_head is True"),
        (config, odd, "norm/scale of shape .5., but"),
        (config, {"params": {}}, "no embedding"),
        (dataclasses.replace(config, output_bias=True), params, "no model type"),
        (config, jax.tree.map(lambda x: x.astype(jnp.int32), params), "cast them first"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrained.save(
                tmp_path / "out", pretrained.Pretrained(changed, parameters, None, "test")
            )
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(folders.safetensors_file, "write", fails)
    with pytest.raises(OSError, match="full"):
        pretrained.save(
            tmp_path / "out", pretrained.Pretrained(tiny(), random_params(tiny()), None, "test")
        )
    assert not list(tmp_path.iterdir())


def test_only_two_types_are_computed_in(tmp_path):
    with pytest.raises(ValueError, match="dtype is 'float16'.*bfloat16"):
        pretrained.load(tmp_path, dtype="float16")
