"""SPO's experiment at smoke size, and what it measures against enumeration and finite sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import spo, tracked_values
from experiments.policies import small_mlp
from experiments.spo import EXPERIMENT, SIMULATED, Config
from jaxpg_envs import tokens


def test_it_measures_success_trackers_and_gradients(tmp_path, run_smoke):
    names = ("SPO", "GRPO", "SPO, 8 offline trials")
    found = run_smoke(EXPERIMENT, names, tmp_path)["methods"]
    for name in names:
        assert len(found[name]["values"]) == 2 and 0 < found[name]["mean"] < 1
    numbers = found["SPO"]["numbers"]
    even = numbers["even"]
    assert 0 <= even["eval_tracker_error"] < 1 and abs(even["eval_tracker_correlation"]) <= 1
    assert even["gradient variance, true over batch mean"] > 0
    assert min(numbers[SIMULATED].values()) > 1
    equal = "rollouts in groups of equal rewards, last tenth"
    assert 0 < found["GRPO"]["numbers"]["even"][equal] < 1 and equal not in even
    assert 0.875 <= even["kept_evidence, last tenth"] <= 0.96
    # Trials come before the first update: the curve begins later, and ends at the same place.
    rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]
    sampled = {
        name: [float(row[-2]) for row in rows if name in ",".join(row) and row[-2]]
        for name in ("GRPO", "8 offline trials")
    }
    assert max(sampled["GRPO"]) == max(sampled["8 offline trials"]) == 20 * 32
    assert min(sampled["GRPO"]) < min(sampled["8 offline trials"])


def test_all_methods_sample_the_same_number_of_responses():
    for config in EXPERIMENT.budgets.values():
        trials = config.updates_for(config.offline_trials)
        prompts = 7**config.num_digits
        assert (trials - 1) * config.responses < config.offline_trials * prompts
        assert config.offline_trials * prompts <= trials * config.responses
        assert spo.with_trials(config).settings["offline_trials"] == config.offline_trials
        assert spo.spo(config).settings["offline_trials"] == 0
    small = EXPERIMENT.budgets["smoke"]
    for build in (spo.grpo, spo.spo, spo.uniform, spo.without_baseline):
        sizes = spo.algorithm(build(small), "even", small).description
        assert sizes["num_prompts"] * sizes["group_size"] == small.responses


def test_sizes_that_do_not_fit_are_one_sentence():
    with pytest.raises(ValueError, match="responses is 20, which groups of 8 do not divide"):
        Config(responses=20)
    with pytest.raises(ValueError, match="num_updates is 22, but it has to be at least 23"):
        Config(num_updates=22)
    with pytest.raises(ValueError, match="pools is 'evn', .* did you mean 'even'"):
        Config(pools="evn")


@pytest.fixture(scope="module")
def small():
    """A task with nine prompts and nine answers to each, and a policy."""
    task = tokens.digit_sum(2, 3, 2)
    model = small_mlp(task)
    return task, model, model.init(jax.random.key(0))


def test_the_gradient_variance_is_that_of_all_answers_one_by_one(small):
    task, model, params = small
    values = jnp.asarray(np.random.default_rng(0).random(9), jnp.float32)
    found = jax.jit(tracked_values.gradient_noise(task, model))(params, values)
    prompts = task.prompts(jnp.arange(9))
    answers = tokens.responses(task)

    @jax.jit
    @jax.vmap
    def of(prompt, answer):
        one = jax.tree.map(lambda x: x[None], prompt)
        score = lambda p: tracked_values.score_of(model, p)(one, answer[None], jnp.ones((1, 2)))[0]
        log_prob, gradient = jax.value_and_grad(score)(params)
        return log_prob, jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])

    pairs = [(prompt, answer) for prompt in range(9) for answer in range(9)]
    asked, answered = np.array(pairs).T
    each = jax.tree.map(lambda x: x[asked], prompts)
    tokens_of = jnp.asarray(answers.tokens)[answered]
    log_prob, gradients = map(np.asarray, of(each, tokens_of))
    reward = np.asarray(each.data["answer"] == tokens_of[:, -1], float)
    weight = np.exp(log_prob) / 9
    np.testing.assert_allclose(weight.sum(), 1.0, rtol=1e-5)
    success = np.array([9 * (weight * reward)[asked == p].sum() for p in range(9)])

    def variance(baseline):
        estimates = (reward - baseline[asked])[:, None] * gradients
        mean = weight @ estimates
        return weight @ ((estimates - mean) ** 2).sum(axis=1)

    usual = variance(np.full(9, success.mean()))
    baselines = {"tracked": np.asarray(values), "true": success, "none": np.zeros(9)}
    for name, baseline in baselines.items():
        np.testing.assert_allclose(found[name], variance(baseline) / usual, rtol=1e-3)


def test_single_responses_are_collected_sooner_the_heavier_the_tail():
    even, heavy = (tracked_values.simulated_speed_up(16, 8, 2, sigma) for sigma in (0.5, 1.5))
    assert 1 < even < heavy
    # As many under way as awaited: both wait for the last one.
    assert tracked_values.simulated_speed_up(16, 8, 1, 1.0) == 1.0
