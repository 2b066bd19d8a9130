"""Files of archives: what is written is read, and what is foreign or damaged is refused."""

import contextlib
import io
import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.quality_diversity import archive, archive_file, cells

GRID = cells.grid([0, -1], [1, 1], (2, 3))
VORONOI = cells.from_centroids([0, -1], [1, 1], np.random.RandomState(0).uniform(size=(6, 2)))
EXAMPLE = {
    "layers": [jnp.zeros((3, 2)), jnp.zeros((), jnp.int32)],
    "half": jnp.zeros(4, jnp.bfloat16),
}


def filled(tessellation=GRID):
    random = np.random.RandomState(1)
    genotypes = jax.tree.map(
        lambda x: jnp.asarray(10 * random.normal(size=(8, *x.shape)), x.dtype), EXAMPLE
    )
    descriptors = jnp.float32(random.uniform([0, -1], [1, 1], (8, 2)))
    held = archive.empty(tessellation, EXAMPLE)
    return archive.insert(held, genotypes, jnp.float32(random.normal(size=8)), descriptors)[0]


HELD = filled()


def load(path, example=EXAMPLE, environment="arm", num_cells=6):
    return archive_file.load(path, example, environment=environment, num_cells=num_cells)


@pytest.fixture
def path(tmp_path):
    archive_file.save(tmp_path / "archive.npz", HELD, environment="arm")
    return tmp_path / "archive.npz"


def rewrite(path, compression=zipfile.ZIP_STORED, **members):
    """Writes the file anew with other members, None leaving one out."""
    with zipfile.ZipFile(path) as file:
        content = {name.removesuffix(".npy"): file.read(name) for name in file.namelist()}
    for name, member in members.items():
        if isinstance(member, np.ndarray):
            buffer = io.BytesIO()
            np.save(buffer, member)
            member = buffer.getvalue()
        content[name] = member
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, member in content.items():
            if member is not None:
                file.writestr(f"{name}.npy", member)


def header(path, **changes):
    with np.load(path) as file:
        fields = json.loads(file["header"].tobytes()) | changes
    return np.frombuffer(json.dumps(fields).encode(), np.uint8)


@pytest.mark.parametrize("tessellation", [GRID, VORONOI], ids=["grid", "centroids"])
def test_what_is_written_is_read(tmp_path, tessellation):
    held = filled(tessellation)
    archive_file.save(tmp_path / "a", held, environment="arm")
    read = load(tmp_path / "a", jax.eval_shape(lambda: EXAMPLE))
    assert jax.tree.structure(read) == jax.tree.structure(held)
    for new, old in zip(jax.tree.leaves(read), jax.tree.leaves(held), strict=True):
        assert new.dtype == old.dtype and isinstance(new, jax.Array)
        np.testing.assert_array_equal(new, old)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_read_archive_can_be_donated_and_numpy_opens_the_file(path):
    read = load(path)
    fill = jax.jit(archive.insert, donate_argnums=0)
    fill(read, jax.tree.map(lambda x: x[:1], HELD.genotypes), jnp.ones(1), jnp.zeros((1, 2)))
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["fitness"], HELD.fitness)


def test_several_seeds_are_refused(path):
    before = path.read_bytes()
    seeds = jax.tree.map(lambda x: jnp.stack([x, x]), HELD)
    with pytest.raises(ValueError, match=r"fitness is of shape \(2, 6\): save each seed's"):
        archive_file.save(path, seeds, environment="arm")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"environment": "ant"}, "environment is 'arm' there, but 'ant' was asked for"),
        ({"num_cells": 7}, "num_cells is '6' there, but 7 was asked for"),
        ({"example": {**EXAMPLE, "half": jnp.zeros(4)}}, "bfloat16.*float32"),
        ({"example": {**EXAMPLE, "half": jnp.zeros(5, jnp.bfloat16)}}, "other genotypes"),
        ({"example": EXAMPLE["layers"]}, "other genotypes"),
    ],
)
def test_another_archive_is_refused(path, asked, message):
    with pytest.raises(archive_file.ArchiveFileError, match=message):
        load(path, **asked)


@pytest.mark.parametrize(
    "members, message",
    [
        (lambda p: {"fitness": None}, "it has no fitness"),
        (lambda p: {"fitness": np.array([{}] * 6, object)}, r"fitness is object\[6\], but has to"),
        (lambda p: {"fitness": pickle.dumps([0.0] * 6)}, "no whole archive file"),
        (lambda p: {"header": pickle.dumps({})}, "no whole archive file"),
        (lambda p: {"fitness": np.zeros(6)}, r"fitness is float64\[6\], but has to be float32"),
        (lambda p: {"fitness": np.float32([np.nan] * 6)}, "a fitness is NaN"),
        (lambda p: {"descriptors": np.full((6, 2), np.inf, np.float32)}, "not finite"),
        (lambda p: {"descriptors": np.zeros((6, 3), np.float32)}, r"has to be float32\[6, 2\]"),
        (lambda p: {"high": np.float32([1, -1])}, "its cells are refused: the box goes from -1.0"),
        (lambda p: {"genotypes_0001": None}, "it has no genotypes_0001"),
        (lambda p: {"header": header(p, format=9)}, "not of format 1"),
        (lambda p: {"header": header(p, environment=3)}, "header has no environment"),
        (lambda p: {"header": header(p, grid=[2, 4])}, r"grid \[2, 4\] has not 6 cells"),
        (lambda p: {"header": header(p, grid=[-2, -3])}, r"shape\[0\] is -2"),
        (lambda p: {"header": header(p, grid="23")}, "header has no grid"),
        (lambda p: {"header": header(p, grid=None)}, "it has no centroids"),
        (
            lambda p: {
                "header": header(p, grid=None),
                "centroids": np.full((6, 2), np.nan, np.float32),
            },
            r"centroids\[0\] is \[nan, nan\]",
        ),
        (lambda p: {"header": np.frombuffer(b"[" * 100_000, np.uint8)}, "cannot be read"),
        (lambda p: {"compression": zipfile.ZIP_DEFLATED}, "its header is compressed"),
    ],
)
def test_a_damaged_file_is_refused(path, members, message):
    rewrite(path, **members(path))
    with pytest.raises(archive_file.ArchiveFileError, match=message) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_array_that_claims_more_than_it_holds_is_refused(path):
    claim = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(claim, fields)
    rewrite(path, low=claim.getvalue() + bytes(8))
    with pytest.raises(archive_file.ArchiveFileError, match="its low is cut short"):
        load(path)


def test_a_file_cut_anywhere_or_changed_anywhere_is_refused_or_whole(path):
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(archive_file.ArchiveFileError):
            load(path)
    for place in range(0, len(content), 31):
        changed = bytearray(content)
        changed[place] ^= 0x55
        path.write_bytes(bytes(changed))
        with contextlib.suppress(archive_file.ArchiveFileError):
            load(path)


def test_what_is_no_archive_file_is_refused(tmp_path):
    (tmp_path / "pickle").write_bytes(pickle.dumps(np.zeros(3)))
    with pytest.raises(archive_file.ArchiveFileError, match="no whole archive file"):
        load(tmp_path / "pickle")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")
