"""GGUF files: the same model as the folder it was made of, whatever the row order and the type."""

import jax
import numpy as np
import pytest

from jaxpg import networks, pretrained
from jaxpg.pretrained import gguf_file
from jaxpg.pretrained.gguf_header import read_header

gguf = pytest.importorskip("gguf")


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def rope_freqs(head_width, theta, factor, low=1.0, high=4.0, original=8192):
    """Llama 3's divisors as its reference code computes them, one frequency at a time."""
    divisors = []
    for i in range(0, head_width, 2):
        wavelength = 2 * np.pi * theta ** (i / head_width)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def test_a_gguf_file_is_the_folder_bit_for_bit(kind, published, write_folder, write_gguf):
    _, config = kind
    tensors = published(config)
    scaled = config.rope_scaling is not None and config.rope_scaling.kind == "llama3"
    extra = {"rope_freqs.weight": rope_freqs(4, 5e6, 8.0)} if scaled else {}
    from_gguf = pretrained.load(write_gguf(config, tensors, extra=extra))
    from_folder = pretrained.load(write_folder(config, tensors))
    assert from_gguf.config == from_folder.config == config
    assert from_gguf.tokenizer is None
    assert_same_bits(from_gguf.params, from_folder.params)


def test_rows_of_a_llama_file_are_taken_back_head_by_head():
    stored = np.array([0, 4, 1, 5, 2, 6, 3, 7])
    np.testing.assert_array_equal(gguf_file.halves(stored, 1), np.arange(8))
    two_heads = np.array([0, 2, 1, 3, 4, 6, 5, 7])
    np.testing.assert_array_equal(gguf_file.halves(two_heads, 2), np.arange(8))
    np.testing.assert_array_equal(gguf_file.halves(two_heads[:, None], 2)[:, 0], np.arange(8))


@pytest.mark.parametrize("name", [k.name for k in gguf.GGML_QUANT_SIZES])
def test_every_type_is_read_as_its_reference_reads_it_or_refused(tiny, published, write_gguf, name):
    config = tiny(num_layers=1, mlp_width=256)
    kind = gguf.GGMLQuantizationType[name]
    per_block, bytes_per_block = gguf.GGML_QUANT_SIZES[kind]
    width = 256 // per_block * bytes_per_block
    # Small bytes: scales of half a word stay finite.
    stored = np.random.default_rng(0).integers(0, 100, (12, width), dtype=np.uint8)
    tensors = published(config)
    del tensors["model.layers.0.mlp.down_proj.weight"]
    path = write_gguf(config, tensors, raw={"blk.0.ffn_down.weight": (stored, kind)})
    try:
        expected = gguf.dequantize(stored, kind)
    except NotImplementedError:
        with pytest.raises(pretrained.PretrainedError, match=rf"ffn_down\.weight is .*{name}"):
            pretrained.load(path)
        return
    down = pretrained.load(path).params["params"]["layers"]["down"]["kernel"][0]
    np.testing.assert_array_equal(down.T, expected)


def test_nibbles_of_q4_0_are_low_ones_first(tiny, published, write_gguf):
    config = tiny(num_layers=1, mlp_width=32)
    row = np.frombuffer(np.float16(1).tobytes() + bytes([0xF0] + [0x88] * 15), np.uint8)
    tensors = published(config)
    del tensors["model.layers.0.mlp.down_proj.weight"]
    raw = {"blk.0.ffn_down.weight": (np.tile(row, (12, 1)), gguf.GGMLQuantizationType.Q4_0)}
    params = pretrained.load(write_gguf(config, tensors, raw=raw)).params["params"]
    values = params["layers"]["down"]["kernel"][0, :, 0]
    assert (values[0], values[16], values[1]) == (-8, 7, 0)


def test_parameters_may_be_bfloat16(tiny, published, write_gguf):
    model = pretrained.load(write_gguf(tiny(), published(tiny())), dtype="bfloat16")
    assert {x.dtype.name for x in jax.tree.leaves(model.params)} == {"bfloat16"}
    assert (model.config.dtype, model.config.param_dtype) == ("bfloat16", "bfloat16")


def test_llama_3s_scaling_is_recovered_from_its_divisors(tiny, published, write_gguf):
    # 64 wide heads with theta 5e5, as in Llama 3.2, reach both ends of the ramp.
    divisors = rope_freqs(64, 5e5, 32.0)
    np.testing.assert_allclose(1 / divisors[[0, 15, 16, 31]], [1, 0.605573, 0.303743, 1 / 32], 1e-5)
    path = write_gguf(tiny(), published(tiny()), extra={"rope_freqs.weight": divisors})
    found = gguf_file._llama3_scaling(read_header(path), 64, 5e5)
    assert found == networks.RopeScaling("llama3", 32.0)
    with pytest.raises(pretrained.PretrainedError, match=r"rope_freqs\.weight is not Llama 3's"):
        pretrained.load(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([("add_vocab_size", 271)], "vocab_size is 271, but .* 270"),
        ([("add_rope_dimension_count", 2)], "rope.dimension_count is 2, but .* 4"),
        ([("add_expert_count", 8)], "expert_count is 8"),
        ([("add_sliding_window", 16)], "sliding_window is 16, but only full attention"),
        ([("add_logit_scale", 2.0)], "'logit_scale' is not known"),
        ([("add_string", "llama.rope.scaling.type", "yarn")], "scaling.type is 'yarn'.*linear"),
    ],
)
def test_metadata_that_would_change_the_model_is_refused(
    tiny, published, write_gguf, metadata, words
):
    with pytest.raises(pretrained.PretrainedError, match=words):
        pretrained.load(write_gguf(tiny(), published(tiny()), metadata))


def test_metadata_without_effect_is_accepted(tiny, published, write_gguf):
    harmless = [("add_vocab_size", 270), ("add_rope_dimension_count", 4), ("add_expert_count", 0)]
    path = write_gguf(tiny(), published(tiny()), [*harmless, ("add_string", "general.x", "y")])
    assert pretrained.load(path).config == tiny()


def test_an_architecture_is_refused_by_its_name(tiny, published, write_gguf):
    with pytest.raises(pretrained.PretrainedError, match="architecture is 'lama'.*mean 'llama'"):
        pretrained.load(write_gguf(tiny(), published(tiny()), arch="lama"))


def test_every_tensor_is_consumed_and_every_parameter_filled(tiny, published, write_gguf):
    tensors = published(tiny())
    extra = {"blk.0.attn_q_norm.weight": np.ones(4, np.float32)}
    with pytest.raises(pretrained.PretrainedError, match=r"attn_q_norm\.weight has no place"):
        pretrained.load(write_gguf(tiny(), tensors, extra=extra))
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(pretrained.PretrainedError, match=r"blk\.1\.ffn_up\.weight is missing"):
        pretrained.load(write_gguf(tiny(), tensors, name="other.gguf"))
    # A Qwen3 without its norms, and a model that claims more layers than it has.
    config = tiny(query_key_norm=True)
    with pytest.raises(pretrained.PretrainedError, match=r"attn_q_norm\.weight is missing"):
        pretrained.load(write_gguf(config, published(tiny()), name="qwen.gguf"))
    config, tensors = tiny(num_layers=2**30), published(tiny(num_layers=1))
    with pytest.raises(pretrained.PretrainedError, match=r"blk\.1\..* is missing"):
        pretrained.load(write_gguf(config, tensors, name="deep.gguf"))
