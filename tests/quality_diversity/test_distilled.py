"""A distilled policy as a file: the same actions afterwards, and nothing else is accepted."""

import dataclasses
import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from jaxpg import networks
from jaxpg.quality_diversity import descriptor_scale
from jaxpg.quality_diversity.distilled import (
    DistilledPolicy,
    PolicyFileError,
    distilled,
    load,
    save,
)

SEEN = spaces.Box(-9.0, 9.0, (3,), jnp.float32)
ACTIONS = spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 4.0]), (2,), jnp.float32)
PAIR = spaces.Tuple((SEEN, spaces.Box(-1.0, 1.0, (2,), jnp.float32)))
TOLD = networks.deterministic(PAIR, ACTIONS, hidden=(4, 3), activation="tanh")
SCALE = descriptor_scale.symmetric([0.0, 0.0], [10.0, 20.0])


class Task:
    """What a distilled policy asks of an environment."""

    name = "task"

    def __init__(self, seen=SEEN):
        self.seen = seen

    def observation_space(self, params):
        return self.seen

    def action_space(self, params):
        return ACTIONS


@pytest.fixture(scope="module")
def policy():
    params = jax.jit(TOLD.init_actor)(jax.random.key(0))
    return distilled(Task(), None, params, SCALE, "tanh")


@pytest.fixture
def written(policy, tmp_path):
    save(tmp_path / "policy.npz", policy)
    return tmp_path / "policy.npz"


def test_it_acts_as_the_network_does_in_the_units_of_the_environment(policy):
    seen = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = jax.jit(policy)(seen, np.array([10.0, 5.0]))
    told = np.tile(np.float32([1.0, -0.5]), (5, 1))
    expected = TOLD.to_environment(TOLD.actor(policy.params, (seen, told)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.shape == (5, 2) and 1.0 < found[:, 1].mean() < 3.0
    one = policy(seen[0], np.array([10.0, 5.0]))
    np.testing.assert_allclose(one, expected[0], rtol=1e-5)


def test_a_loaded_policy_is_the_saved_one(policy, written):
    again = load(written)
    assert isinstance(again, DistilledPolicy)
    assert jax.tree.structure(again) == jax.tree.structure(policy)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not list(written.parent.glob("*.part"))
    save(written, again)
    assert load(written).hidden == (4, 3)


def rewrite(path, **changes):
    """The file with members replaced by bytes or arrays; None leaves one out."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    for name, content in changes.items():
        member = name.replace("__", "/") + ".npy"
        if isinstance(content, np.ndarray):
            stream = io.BytesIO()
            np.save(stream, content)
            content = stream.getvalue()
        members[member] = content
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            if content is not None:
                file.writestr(name, content)


def header_of(path, **changes):
    header = json.loads(np.load(path)["header"].tobytes())
    return np.frombuffer(json.dumps(header | changes).encode(), np.uint8)


KERNEL = "params__torso__Dense_0__kernel"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({KERNEL: None}, "it has no params/torso/Dense_0/kernel"),
        (
            {KERNEL: np.zeros((5, 5), np.float32)},
            r"is float32\[5, 5\], but has to be float32",
        ),
        ({KERNEL: np.zeros((5, 4))}, "is float64"),
        ({KERNEL: np.full((5, 4), np.nan, np.float32)}, "kernel is not finite"),
        ({KERNEL: np.array([[{}] * 4] * 5, object)}, "is object"),
        ({"header": np.frombuffer(b"{]", np.uint8)}, "is no whole policy file"),
        ({"header": np.frombuffer(b"[1]", np.uint8)}, "header is not of format 1"),
    ],
)
def test_a_file_that_is_no_policy_is_refused(written, changes, sentence):
    rewrite(written, **changes)
    with pytest.raises(PolicyFileError, match=sentence):
        load(written)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden": [4, 4]}, r"is float32\[3, 2\], but has to be float32\[4, 2\]"),
        ({"hidden": [4, -3]}, "which is no size"),
        ({"hidden": 4}, "its hidden is 4"),
        ({"num_observations": 2.0}, "its num_observations is 2.0"),
        ({"num_observations": 2}, "kernel is"),
        ({"centre": [0.0]}, "no scale of descriptors"),
        ({"width": [0.0, 1.0]}, "no scale of descriptors"),
        ({"action_low": [float("nan"), 0.0]}, "which is not finite"),
        ({"action_shape": [3]}, "are not of 3 actions"),
        ({"activation": "eval"}, "its activation is 'eval'"),
        ({"activation": None}, "its activation is None"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(written, changes, sentence):
    rewrite(written, header=header_of(written, **changes))
    with pytest.raises(PolicyFileError, match=sentence):
        load(written)


def test_a_damaged_file_is_refused(written):
    content = written.read_bytes()
    for damaged in (content[:-200], content[:100], b"", b"not a zip"):
        written.write_bytes(damaged)
        with pytest.raises(PolicyFileError, match="is no whole policy file"):
            load(written)
    with pytest.raises(FileNotFoundError):
        load(written.parent / "missing.npz")
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("header.npy", b"0" * 1000)
    with pytest.raises(PolicyFileError, match="its header is compressed"):
        load(written)


def test_sizes_that_are_not_the_policys_are_one_sentence(policy, tmp_path):
    with pytest.raises(ValueError, match=r"observation is of shape \(4,\), but its last axis"):
        policy(jnp.zeros(4), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"descriptor is of shape \(3,\), but its last axis"):
        policy(jnp.zeros(3), jnp.zeros(3))
    several = dataclasses.replace(policy, params=jax.tree.map(lambda x: x[None], policy.params))
    with pytest.raises(ValueError, match="save each seed's policy in a file of its own"):
        save(tmp_path / "several.npz", several)
    with pytest.raises(ValueError, match="observations of task are Discrete"):
        distilled(Task(spaces.Discrete(3)), None, policy.params, SCALE)
