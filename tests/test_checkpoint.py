"""Checkpoints: trees survive as they are; damage, strangers and full disks are one sentence."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg.checkpoint import CheckpointError, Checkpoints

# Orbax's reader of a damaged file may end its event loop untidily.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DESCRIPTION = {"algorithm": "test", "rate": 0.1}


def state(scale=1.0):
    params = {"w": scale * jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    return {
        "params": params,
        "optimiser": optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params),
        "typed_key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4), 2),
        "legacy_key": jax.random.PRNGKey(5),
        "by_number": {1: jnp.int32(7), 10: jnp.bool_(True)},
        "empty": (),
        "nothing": jnp.zeros((0, 3)),
    }


def filled(folder, steps=(1,), **kwargs):
    checkpoints = Checkpoints(folder, **kwargs)
    for step in steps:
        checkpoints.save(step, state(step), DESCRIPTION)
    checkpoints.wait()
    return checkpoints


def test_every_kind_of_leaf_and_container_comes_back_as_it_was(tmp_path):
    saved = state()
    step, restored = filled(tmp_path).restore(jax.eval_shape(state), DESCRIPTION)
    assert step == 1
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(saved), jax.tree.leaves(restored), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.weak_type == b.weak_type
        np.testing.assert_array_equal(a, b)
    assert jax.random.uniform(restored["typed_key"]) == jax.random.uniform(saved["typed_key"])


def test_a_restored_optimiser_goes_on_where_it_was(tmp_path):
    optimiser = optax.adam(0.1)
    w, moments = jnp.zeros(()), optimiser.init(jnp.zeros(()))
    for gradient in (1.0, 1.0):
        change, moments = optimiser.update(jnp.float32(gradient), moments)
        w = w + change
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, (w, moments), {})
    _, (w, moments) = checkpoints.restore((w, moments), {})
    change, _ = optimiser.update(jnp.float32(-1.0), moments)
    np.testing.assert_allclose(w + change, -0.226199, atol=5e-6)


def test_the_arrays_may_be_donated_right_after_saving(tmp_path):
    donate = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    tree = {"w": jnp.arange(1_000_000.0)}
    checkpoints.save(1, tree, {})
    donate(tree)
    _, restored = checkpoints.restore({"w": jax.ShapeDtypeStruct((1_000_000,), jnp.float32)}, {})
    np.testing.assert_array_equal(restored["w"], np.arange(1_000_000.0))


def test_the_last_few_are_kept(tmp_path):
    assert filled(tmp_path, range(1, 6), keep=2).steps() == [4, 5]


def test_a_folder_without_checkpoints_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint; it holds none"):
        Checkpoints(tmp_path / "absent").restore(state(), DESCRIPTION)
    with pytest.raises(CheckpointError, match=r"holds no checkpoint 9; it holds \[1\]"):
        filled(tmp_path).restore(state(), DESCRIPTION, step=9)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def remove(path):
    path.unlink()


def claim_nothing(path):
    path.write_bytes(b"")


def data_file(folder):
    """The largest file of the merged arrays."""
    return max((folder / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", [truncate, flip, remove, claim_nothing])
def test_a_damaged_checkpoint_names_the_last_good_one(tmp_path, damage):
    checkpoints = filled(tmp_path, (1, 2))
    damage(data_file(tmp_path / "2"))
    with pytest.raises(CheckpointError, match=r"2 is damaged .*; the last good one is .*1: delete"):
        checkpoints.restore(state(), DESCRIPTION)
    assert checkpoints.restore(state(), DESCRIPTION, step=1)[0] == 1


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path):
    checkpoints = filled(tmp_path / "good")
    expected = [np.asarray(x) for x in jax.tree.leaves(state(1)["params"])]
    for path in sorted((tmp_path / "good" / "1").rglob("*")):
        if not path.is_file() or not path.stat().st_size:
            continue
        bad = tmp_path / "bad"
        shutil.copytree(tmp_path / "good", bad)
        flip(bad / path.relative_to(tmp_path / "good"))
        try:
            _, restored = Checkpoints(bad).restore(state(), DESCRIPTION)
            for a, b in zip(expected, jax.tree.leaves(restored["params"]), strict=True):
                np.testing.assert_array_equal(a, b)
        except CheckpointError:
            pass
        shutil.rmtree(bad)
    assert checkpoints.steps() == [1]


def test_damage_to_the_only_checkpoint_says_that_nothing_is_left(tmp_path):
    checkpoints = filled(tmp_path)
    (tmp_path / "1" / "metadata" / "metadata").write_text("{")
    with pytest.raises(CheckpointError, match="no earlier one is whole"):
        checkpoints.restore(state(), DESCRIPTION)


def test_a_foreign_checkpoint_is_refused_with_the_difference(tmp_path):
    checkpoints = filled(tmp_path)
    with pytest.raises(CheckpointError, match=r"another configuration: rate is 0.1 there and 0.2"):
        checkpoints.restore(state(), DESCRIPTION | {"rate": 0.2})
    with pytest.raises(CheckpointError, match="arrays of other shapes"):
        checkpoints.restore({"w": jnp.zeros(3)}, DESCRIPTION)


def test_a_file_that_claims_a_huge_array_allocates_nothing(tmp_path):
    checkpoints = filled(tmp_path)
    path = tmp_path / "1" / "metadata" / "metadata"
    path.write_text(path.read_text().replace("float32[2, 3]", "float32[2000000000, 3000]"))
    with pytest.raises(CheckpointError, match="arrays of other shapes"):
        checkpoints.restore(state(), DESCRIPTION)


def test_an_unfinished_checkpoint_does_not_count(tmp_path):
    checkpoints = filled(tmp_path)
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    assert checkpoints.steps() == [1]


def test_a_full_disk_is_one_sentence_and_leaves_earlier_checkpoints(tmp_path, monkeypatch):
    checkpoints = filled(tmp_path)

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(checkpoints._manager), "save", no_space)
    checkpoints.save(2, state(2), DESCRIPTION)
    with pytest.raises(CheckpointError, match=r"No space left on device.*the last good one is .*1"):
        checkpoints.wait()
    assert checkpoints.restore(state(), DESCRIPTION)[0] == 1


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    checkpoints.save(1, state(), DESCRIPTION)
    with pytest.raises(CheckpointError, match="could not be written to .*; none exists"):
        checkpoints.wait()


def test_a_relative_folder_is_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert filled(pathlib.Path("here")).steps() == [1]
