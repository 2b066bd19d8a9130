"""A learned rule as a file: the same rule afterwards, and nothing else is accepted."""

import json

import jax
import numpy as np
import pytest

from jaxpg.networks import LearnedRule, learned_rule
from jaxpg.networks.lpg_file import RuleFileError, load, save

RULE = learned_rule(num_targets=3, embedding=4, hidden=5)
BIAS = "params/policy_head/bias"


@pytest.fixture(scope="module")
def params():
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(RULE.init, jax.random.key(0))
    return jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), shapes)


@pytest.fixture
def written(params, tmp_path):
    save(tmp_path / "rule.npz", params, RULE)
    return tmp_path / "rule.npz"


def rewrite(path, **changes):
    """The file with arrays replaced; None leaves one out."""
    with np.load(path) as file:
        arrays = dict(file) | changes
    np.savez(path, **{name: x for name, x in arrays.items() if x is not None})


def header_of(path, **changes):
    header = json.loads(np.load(path)["header"].tobytes())
    return np.frombuffer(json.dumps(header | changes).encode(), np.uint8)


def test_a_loaded_rule_is_the_saved_one(params, written):
    rule, again = load(written, expected=RULE)
    assert isinstance(rule, LearnedRule)
    assert (rule.num_targets, rule.embedding, rule.hidden) == (3, 4, 5)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    step, target = np.ones((1, 2), np.float32), np.full((1, 2, 3), 1 / 3, np.float32)
    rollout = (step, 0 * step, step, target, target)
    expected = jax.jit(RULE.apply)(params, *rollout)
    for a, b in zip(jax.jit(rule.apply)(again, *rollout), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    save(str(written), again, rule)
    assert not list(written.parent.glob("*.part"))
    load(str(written))


def test_a_rule_of_other_sizes_is_refused(written):
    sentence = r"rule is of .*'hidden': 5}, but has to be of .*'hidden': 6}"
    with pytest.raises(RuleFileError, match=sentence):
        load(written, expected=learned_rule(num_targets=3, embedding=4, hidden=6))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({BIAS: None}, f"it has no {BIAS}"),
        ({BIAS: np.zeros(2, np.float32)}, r"is float32\[2\], but has to be float32\[1\]"),
        ({BIAS: np.zeros(1)}, "is float64"),
        ({BIAS: np.float32([np.nan])}, "bias is not finite"),
        ({BIAS: np.array([{}], object)}, "is object"),
        ({"header": np.frombuffer(b"{]", np.uint8)}, "is no whole file of a learned rule"),
        ({"header": np.frombuffer(b"[1]", np.uint8)}, "header is not of format 1"),
    ],
)
def test_a_file_that_is_no_rule_is_refused(written, changes, sentence):
    rewrite(written, **changes)
    with pytest.raises(RuleFileError, match=sentence):
        load(written)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden": 6}, "but has to be float32"),
        ({"hidden": 10**9}, "its hidden is 1000000000, which is no size"),
        ({"num_targets": 3.0}, "its num_targets is 3.0, which is no size"),
        ({"embedding": None}, "its embedding is None, which is no size"),
        ({"embedding": True}, "its embedding is True, which is no size"),
        ({"format": 2}, "its header is not of format 1"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(written, changes, sentence):
    rewrite(written, header=header_of(written, **changes))
    with pytest.raises(RuleFileError, match=sentence):
        load(written)


def test_a_damaged_file_is_refused(written):
    content = written.read_bytes()
    for damaged in (content[:-200], content[:100], b"", b"not a zip"):
        written.write_bytes(damaged)
        with pytest.raises(RuleFileError, match="is no whole file of a learned rule"):
            load(written)
    with pytest.raises(FileNotFoundError):
        load(written.parent / "missing.npz")


def test_parameters_that_are_not_the_rules_are_not_written(params, tmp_path):
    several = jax.tree.map(lambda x: x[None], params)
    with pytest.raises(ValueError, match="save each seed's rule in a file of its own"):
        save(tmp_path / "rule.npz", several, RULE)
    with pytest.raises(ValueError, match=r"has params/.* \(4, 1\), but a rule of"):
        save(tmp_path / "rule.npz", params, learned_rule(num_targets=3, embedding=6, hidden=5))
    assert not list(tmp_path.iterdir())
