"""A GGUF file may claim anything; it is believed only as far as its bytes reach."""

import struct

import numpy as np
import pytest

from jaxpg import pretrained
from jaxpg.pretrained.gguf_file import read_config
from jaxpg.pretrained.gguf_header import read_header

gguf = pytest.importorskip("gguf")
U32, TEXT, ARRAY, F32 = 4, 8, 9, 0


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def tensor(name, dims, kind=F32, offset=0):
    return (
        text(name)
        + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        + struct.pack("<IQ", kind, offset)
    )


def whole(entries=(), tensors=(), data=b"\0" * 64, counts=None, start=b"GGUF", version=3):
    counts = counts or (len(tensors), len(entries))
    head = start + struct.pack("<IQQ", version, *counts) + b"".join(entries) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


def test_the_header_says_what_the_reference_reader_reads(tiny, published, write_gguf):
    more = [
        ("add_array", "x.texts", ["a", "ü"]),
        ("add_array", "x.numbers", [1, 2, 3]),
        ("add_float32", "x.half", 0.5),
        ("add_bool", "x.yes", True),
        ("add_int64", "x.long", -5),
    ]
    path = write_gguf(tiny(), published(tiny()), more)
    header, reference = read_header(path), gguf.GGUFReader(path)
    theirs = {k: v.contents() for k, v in reference.fields.items() if not k.startswith("GGUF.")}
    assert header.metadata.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(header.metadata[key], value)
    assert header.tensors.keys() == {tensor.name for tensor in reference.tensors}
    for tensor in reference.tensors:
        ours = header.tensors[tensor.name]
        assert ours.shape == tuple(tensor.shape[::-1].tolist())
        assert (ours.kind, ours.offset) == (tensor.tensor_type, tensor.data_offset)
        assert ours.size == tensor.n_bytes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it has 0 bytes"),
        (whole(start=b"PK\3\4"), "does not start with GGUF"),
        (whole(version=1), "version 1, but versions 2 and 3"),
        (whole(version=3 << 24), "version 50331648, but"),
        (whole(counts=(2**60, 0)), "claims 1152921504606846976 tensors"),
        (whole(counts=(0, 2**60)), "claims 1152921504606846976 metadata entries"),
        (whole([entry("k", TEXT, struct.pack("<Q", 2**62))]), "cut off: it claims 461168"),
        (whole([struct.pack("<Q", 2**63)]), "cut off: it claims 92233"),
        (whole([entry("k", TEXT, struct.pack("<Q", 1) + b"\xff")]), "no UTF-8"),
        (whole([entry("k", 99, b"")]), "'k' is of type 99"),
        (whole([entry("k", ARRAY, struct.pack("<IQ", U32, 2**62))]), "cut off: it claims"),
        (whole([entry("k", ARRAY, struct.pack("<IQ", TEXT, 2**61))]), "texts in k, but"),
        (whole([entry("k", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "without lists of lists"),
        (whole([entry("k", 7, b"\1")] * 2), "'k' stands there twice"),
        (whole([entry("general.alignment", U32, struct.pack("<I", 3))]), "a power of two"),
        (whole([entry("general.alignment", U32, struct.pack("<I", 0))]), "a power of two"),
        (whole(tensors=[tensor("t", [])]), "t has 0 axes"),
        (whole(tensors=[tensor("t", [1] * 5)]), "t has 5 axes"),
        (whole(tensors=[tensor("t", [2**40, 2**40])]), "t claims bytes 96 to 483570"),
        (whole(tensors=[tensor("t", [2**63, 2])]), "t claims bytes"),
        (whole(tensors=[tensor("t", [17])]), "t claims bytes 64 to 132, but .* after 128"),
        (whole(tensors=[tensor("t", [1], offset=2**62)]), "t claims bytes"),
        (whole(tensors=[tensor("t", [0])]), "rows of 0 values"),
        (whole(tensors=[tensor("t", [33], kind=2)]), "rows of 33 values, but Q4_0 .* 32"),
        (whole(tensors=[tensor("t", [4], kind=777)]), "t is of type number 777.*Q4_1"),
        (whole(tensors=[tensor("t", [4], kind=9)]), "t is of type Q8_1, which cannot be read"),
        (whole(tensors=[tensor("t", [1]), tensor("t", [1], offset=32)]), "t stands there twice"),
        (whole(tensors=[tensor("t", [9]), tensor("u", [1], offset=32)]), "t and u overlap"),
    ],
)
def test_a_claim_beyond_the_bytes_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(pretrained.PretrainedError, match=words) as raised:
        pretrained.load(path)
    assert len(str(raised.value)) < 400 + len(str(path))


def test_a_file_that_is_cut_off_anywhere_is_refused(tiny, published, write_gguf, tmp_path):
    content = write_gguf(tiny(), published(tiny())).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 2500, 41), len(content) - 33]:
        cut.write_bytes(content[:length])
        with pytest.raises(pretrained.PretrainedError):
            read_header(cut)


def test_a_damaged_header_is_refused_or_read_but_raises_nothing_else(
    tiny, published, write_gguf, tmp_path
):
    content = write_gguf(tiny(), published(tiny())).read_bytes()
    draw = np.random.default_rng(0)
    path = tmp_path / "damaged.gguf"
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in draw.integers(0, 2500, size=draw.integers(1, 4)):
            damaged[place] = draw.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_config(read_header(path))
        except pretrained.PretrainedError:
            refused += 1
    assert refused > 100
