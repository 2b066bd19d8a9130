"""A safetensors file may claim anything; it is believed only as far as its bytes reach."""

import json
import struct

import numpy as np
import pytest

from jaxpg import pretrained
from jaxpg.pretrained import safetensors_file

pytest.importorskip("safetensors")


def whole(header, data=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def claim(dtype="F32", shape=(2, 2), offsets=(0, 16)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it has 0 bytes"),
        (b"\x80\x04\x95", "it has 3 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "claims a header of 9223372036854775808 bytes, but 2"),
        (whole({"t": claim()})[:-1], "no whole safetensors file"),
        (whole({"t": claim()}) + b"\0", "no whole safetensors file"),
        (whole({"t": claim(shape=(2**40, 2**40))}), "no whole safetensors file"),
        (whole({"t": claim(offsets=(0, 2**62))}), "no whole safetensors file"),
        (whole({"t": claim(), "u": claim()}), "no whole safetensors file"),
        (whole({"t": claim("F99")}), "no whole safetensors file"),
        (whole(b"[" * 1000), "no whole safetensors file"),
        (whole({"t": claim("I32")}), "the tensor t is 'I32'.*BF16"),
        (whole({"t": claim("F64", (2,))}), "the tensor t is 'F64'"),
    ],
)
def test_a_claim_beyond_the_bytes_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(pretrained.PretrainedError, match=words):
        safetensors_file.read(path)


def test_a_pickle_is_not_opened(tmp_path, tiny, config_values):
    (tmp_path / "config.json").write_text(json.dumps(config_values(tiny())))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(pretrained.PretrainedError, match="holds neither model.safetensors nor"):
        pretrained.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1]", "holds a list"),
        (b"{", "is no JSON"),
        (b"[" * 10**5, "no JSON"),
        (b"\xff", "no JSON"),
    ],
)
def test_a_configuration_that_is_no_object_is_refused(tmp_path, content, words):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(pretrained.PretrainedError, match=words):
        pretrained.load(tmp_path)


def test_a_path_that_holds_nothing_is_named(tmp_path):
    with pytest.raises(pretrained.PretrainedError, match="neither a folder nor a file"):
        pretrained.load(tmp_path / "nothing")
    with pytest.raises(pretrained.PretrainedError, match=r"holds no config\.json"):
        pretrained.load(tmp_path)


def test_a_device_is_no_plain_file(tmp_path):
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(pretrained.PretrainedError, match="leads out of its folder"):
        pretrained.load(tmp_path)


def test_damage_to_a_header_raises_nothing_else(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors_file.write(path, {"t": np.ones((2, 2), np.float32), "u": np.ones(3, np.float16)})
    content, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draw.integers(0, len(content))] = draw.integers(0, 256)
        path.write_bytes(damaged)
        try:
            for stored in safetensors_file.read(path).values():
                assert stored.read().shape == stored.shape
        except pretrained.PretrainedError:
            pass
