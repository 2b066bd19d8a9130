"""D3S's experiment: what is counted as trained, where success is read, and two baselines."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import d3s, harness
from experiments.method_runs import Context
from jaxpg.method import Seams
from jaxpg.methods.d3s import Progress
from jaxpg.types import SELECTED, Evaluation, trajectory

CONFIG = d3s.EXPERIMENT.budgets["smoke"]


def scored(seed=0):
    numbers = np.random.default_rng(seed)
    rows = trajectory(
        jnp.full((12, 2), -1.0),
        jnp.asarray(numbers.integers(0, 2, 12), jnp.float32),
        group_ids=jnp.arange(12) // 4,
        entropy=jnp.asarray(numbers.random((12, 2)), jnp.float32),
    )
    return d3s.grpo(CONFIG).score(rows)


def selected(method, rows):
    nothing = [None] * len(Seams._fields)
    seams = Seams(*nothing)._replace(select=None, group_size=4)
    return method.override(seams).select(rows, Progress(jnp.int32(0), jax.random.key(0)))


def test_pods_takes_the_rows_of_d1s_and_standardises_them_again():
    rows = scored()
    ours, pods = (selected(d3s.METHODS[name](CONFIG), rows) for name in ("D1S", "PODS"))
    np.testing.assert_array_equal(ours.mask, pods.mask)
    np.testing.assert_array_equal(ours.extras["advantage"], rows.extras["advantage"])
    kept = np.asarray(pods.mask).any(axis=1).reshape(3, 4)
    reward = np.asarray(rows.total_reward).reshape(3, 4)
    found = np.asarray(pods.extras["advantage"])[:, 0].reshape(3, 4)
    for here, rewards, advantage in zip(kept, reward, found, strict=True):
        two = rewards[here]
        expected = (two - two.mean()) / (two.std(ddof=1) + 1e-6)
        np.testing.assert_allclose(advantage[here], expected, atol=1e-6)
    assert np.abs(found).max() > 0.7


def test_every_selection_starts_with_the_same_share():
    rows = scored()
    shares = {}
    for name in ("D3S", "random selection", "D2S", "D1S-Cross"):
        chosen = selected(d3s.METHODS[name](CONFIG), rows)
        shares[name] = (chosen.mask[:, 0].sum().item(), chosen.extras[SELECTED].sum().item())
    assert shares == dict.fromkeys(shares, (3, 2)) | {"D1S-Cross": (3, 6)}


def test_the_top_fifth_of_the_entropies_has_all_the_gradient():
    rows = scored(1)
    estimator = d3s.top_entropy(CONFIG)
    gradient = jax.grad(lambda x: estimator.loss(Evaluation(x), rows)[0])(rows.log_prob)
    entropy = np.asarray(rows.extras["entropy"])
    highest = entropy >= np.sort(entropy.ravel())[-5]
    expected = -np.where(highest, rows.extras["advantage"], 0.0) / 5
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_tokens_of_an_estimator_are_those_that_it_does_not_mask():
    result = types.SimpleNamespace(
        metrics={"response_length": np.full((2, 1), 3.0), "masked_share": np.array([[0.0], [0.75]])}
    )
    agent = types.SimpleNamespace(description={"num_prompts": 4, "group_size": 8})
    np.testing.assert_allclose(d3s._trained_tokens(result, agent), [[96.0], [24.0]])


def test_success_is_first_reached_between_two_evaluations():
    x = np.array([0.0, 10.0, 20.0, 30.0])
    assert d3s._first(x, np.array([0.5, 0.67, 0.71, 0.6])) == 15.0
    assert d3s._first(x, np.array([0.7, 0.8, 0.8, 0.8])) == 0.0
    assert d3s._first(x, np.array([0.5, 0.6, 0.6, 0.6])) is None


def test_a_method_is_read_at_the_trained_tokens_of_the_rule(tmp_path):
    run = d3s.EXPERIMENT.methods["D3S"](CONFIG, [0], Context(tmp_path, "D3S"))
    curve = run.curves[d3s.SUCCESS]
    # 32 rows of 3 tokens: the schedule's rows, and its share of their tokens rounded up.
    progress = np.arange(6) / 6
    num_rows = np.round(8 + 24 * progress)
    spent = np.cumsum(np.ceil(np.round((0.2 + 0.8 * progress) * 3 * num_rows, 6)))
    np.testing.assert_allclose(curve.x, [0, *spent[1::2]])
    np.testing.assert_allclose(run.values[0], np.interp(40, curve.x, curve.y[:, 0]))
    assert run.numbers["trained tokens"] == curve.x.tolist()
    assert curve.y.shape == run.curves[d3s.HELD_OUT].y.shape == (4, 1)
    assert (run.curves[d3s.HELD_OUT].y != curve.y).any()


@pytest.mark.slow
def test_it_runs_from_the_command_line(tmp_path, capsys):
    argv = [f"--out={tmp_path}", "--noprogress", "--notensorboard", "--num_seeds=1"]
    assert harness.main(d3s.EXPERIMENT, argv) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(summary["methods"]) == list(d3s.METHODS)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_sizes_of_which_nothing_comes_are_refused():
    with pytest.raises(ValueError, match="trained_tokens is 0, but it has to be at least 1"):
        d3s.Config(trained_tokens=0)
