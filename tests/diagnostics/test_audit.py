"""What theory says of each estimator's bias, shown on problems that are solved exactly.

Every statement is about the mean of 1000 batches or more; "unbiased" means within four standard
errors, see `jaxpg.diagnostics.moments.significance`.
"""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest

from jaxpg import estimators
from jaxpg.diagnostics import audit, bandit, gradient_audit, random_mdp, token_tree
from jaxpg.estimator import Estimator
from jaxpg.method import Method
from jaxpg.parts import aggregates, likelihoods, references, stabilisers

NUM_BATCHES = 1000


def flipped() -> Estimator:
    """RLOO with the wrong sign."""
    right = estimators.rloo()
    return dataclasses.replace(right, advantage=lambda batch: -right.advantage(batch))


def leaking() -> Estimator:
    """A baseline that has seen the action: the value of what followed it."""
    return Estimator(
        name="leaking",
        advantage=lambda batch: batch.total_reward[:, None] - batch.extra("next_value"),
        reference=references.detached,
        aggregate=aggregates.row_sum_mean,
        needs=("next_value",),
    )


def sequence_weighted(clip: float | None = None) -> Estimator:
    """RLOO with the probability ratio of the whole sequence: right for any behaviour policy."""
    return dataclasses.replace(
        estimators.rloo(),
        # Each of a row's decisions carries the gradient of the whole row: count it once.
        aggregate=aggregates.sequence_mean,
        likelihood=likelihoods.sequence,
        reference=references.behaviour_sequence_sum,
        stabiliser=stabilisers.none if clip is None else stabilisers.clip(clip),
    )


def with_aggregate(aggregate) -> Estimator:
    return dataclasses.replace(estimators.rloo(), aggregate=aggregate)


@pytest.fixture(scope="module")
def tree():
    """One prompt, texts of one length, on-policy."""
    return audit(
        {
            "reinforce": estimators.reinforce(discount=1.0),
            "reinforce_batch_mean": estimators.reinforce_batch_mean(),
            "reinforce_with_baseline": estimators.reinforce_with_baseline(discount=1.0),
            "a2c": estimators.a2c(discount=1.0),
            "impala": estimators.impala(discount=1.0),
            "ppo": estimators.ppo(discount=1.0, trace_decay=1.0, normalise=False),
            "ppo, whitened": estimators.ppo(discount=1.0, trace_decay=1.0),
            "rloo": estimators.rloo(),
            "dr_grpo": estimators.dr_grpo(),
            "grpo": estimators.grpo(),
            "hpt": estimators.hpt(),
            "spo": estimators.spo(),
            "aepo": estimators.aepo(),
            "reinforce, discounted": estimators.reinforce(discount=0.5),
            "sft": estimators.sft(),
            "sft on demonstrations": estimators.srft_offline(),
            "flipped": flipped(),
            "leaking": leaking(),
        },
        token_tree(3, 3),
        num_batches=NUM_BATCHES,
    )


@pytest.fixture(scope="module")
def lengths():
    """Three prompts, texts that end early, on-policy."""
    return audit(
        {
            "rloo": estimators.rloo(),
            "dr_grpo": estimators.dr_grpo(),
            "sequence ratio": sequence_weighted(),
            "decision mean": with_aggregate(aggregates.decision_mean),
            "sequence mean": with_aggregate(aggregates.sequence_mean),
            "fixed length sum": with_aggregate(aggregates.fixed_length_sum(7.0)),
            "standard deviation": dataclasses.replace(
                estimators.grpo(), aggregate=aggregates.row_sum_mean
            ),
            "grpo": estimators.grpo(),
            "hpt": estimators.hpt(),
            "spo": estimators.spo(),
            "reinforce_whitened": estimators.reinforce_whitened(),
        },
        token_tree(2, 4, eos=0, num_prompts=3, reward=_price),
        num_batches=NUM_BATCHES,
    )


@pytest.fixture(scope="module")
def stale():
    """As `tree`, but another policy acted."""
    return audit(
        {
            "sequence ratio": sequence_weighted(),
            "sequence ratio, clipped": sequence_weighted(clip=0.1),
            "decision ratio": dataclasses.replace(
                sequence_weighted(),
                aggregate=aggregates.row_sum_mean,
                likelihood=likelihoods.decision,
                reference=references.behaviour,
            ),
            "dr_grpo": estimators.dr_grpo(clip=0.1),
            "rloo": estimators.rloo(),
            "impala": estimators.impala(discount=1.0),
        },
        token_tree(3, 3),
        num_batches=NUM_BATCHES,
        staleness=0.2,
    )


def _price(prompt: int, tokens: tuple[int, ...]) -> float:
    return len(tokens) * (prompt - 0.5) + tokens[0]


ON_POLICY = [
    *("reinforce", "reinforce_batch_mean", "reinforce_with_baseline"),
    *("a2c", "impala", "ppo", "rloo"),
]


@pytest.mark.parametrize("name", ON_POLICY)
def test_unbiased_on_policy(tree, name):
    row = tree[name]
    assert row["unbiased"]
    assert row["scale"] == pytest.approx(1.0, abs=4 * row["scale_error"])
    assert row["cosine"] == pytest.approx(1.0, abs=4 * row["cosine_error"])
    assert row["masked_share"] == 0
    assert row["effective_sample_size"] == pytest.approx(1.0)


def test_mean_of_the_group_with_the_row_itself_shrinks_by_one_nth(tree, lengths):
    for report, name in itertools.product((tree, lengths), ("dr_grpo", "hpt")):
        row = report[name]
        assert not row["unbiased"]
        assert row["unbiased_direction"]
        assert row["scale"] == pytest.approx(7 / 8, abs=4 * row["scale_error"])


@pytest.mark.parametrize("name", ["grpo", "ppo, whitened", "spo", "aepo"])
def test_dividing_by_the_standard_deviation_biases(tree, name):
    assert not tree[name]["unbiased"]
    # Rewards of 0 and 1 have a standard deviation below 1/2.
    assert tree[name]["scale"] > 1.5


def test_dividing_by_each_groups_standard_deviation_turns_the_gradient(lengths):
    assert not lengths["standard deviation"]["unbiased_direction"]


def test_a_baseline_for_each_prompt_takes_noise_out_of_whitened_rewards(lengths):
    tracked, none = lengths["spo"], lengths["reinforce_whitened"]
    assert tracked["signal_to_noise"] > 1.5 * none["signal_to_noise"]


def test_discounting_biases_against_the_undiscounted_return(tree):
    assert not tree["reinforce, discounted"]["unbiased_direction"]


def test_imitating_oneself_is_no_gradient(tree):
    row = tree["sft"]
    assert row["scale"] == pytest.approx(0.0, abs=4 * row["scale_error"])
    assert not row["unbiased_direction"]


def test_without_demonstrations_everything_is_masked(tree):
    row = tree["sft on demonstrations"]
    assert row["masked_share"] == 1
    assert row["gradient_norm"] == row["effective_sample_size"] == 0
    assert "all decisions are masked" in row["note"]
    assert math.isnan(row["cosine"])


def test_a_flipped_sign_is_found(tree):
    row = tree["flipped"]
    assert not row["unbiased"]
    assert row["cosine"] == pytest.approx(-1.0, abs=0.01)
    assert row["bias"] == pytest.approx(2.0, abs=4 * row["bias_error"])


def test_a_baseline_that_has_seen_the_action_is_found(tree):
    assert not tree["leaking"]["unbiased"]
    assert not tree["leaking"]["unbiased_direction"]


@pytest.mark.parametrize("name", ["rloo", "sequence ratio", "fixed length sum"])
def test_sums_over_rows_are_unbiased_at_any_length(lengths, name):
    assert lengths[name]["unbiased"]


@pytest.mark.parametrize("name", ["decision mean", "sequence mean", "grpo"])
def test_dividing_by_the_length_biases(lengths, name):
    assert not lengths[name]["unbiased"]


def test_dividing_by_each_rows_length_turns_the_gradient(lengths):
    assert not lengths["sequence mean"]["unbiased_direction"]


def test_sequence_ratio_is_unbiased_off_policy(stale):
    row = stale["sequence ratio"]
    assert row["unbiased"]
    assert 0.5 < row["effective_sample_size"] < 1
    assert stale.behaviour_kl > 0.005


def test_clipping_biases_off_policy(stale):
    assert not stale["sequence ratio, clipped"]["unbiased"]
    assert stale["sequence ratio, clipped"]["masked_share"] > 0.1
    assert not stale["dr_grpo"]["unbiased_direction"]


@pytest.mark.parametrize("name", ["decision ratio", "rloo", "impala"])
def test_ignoring_how_the_state_was_reached_biases_off_policy(stale, name):
    assert not stale[name]["unbiased"]


def test_one_decision_needs_no_more_than_its_ratio():
    unclipped = {"clip_rho": math.inf, "clip_c": math.inf}
    report = audit(
        {
            "ratio": dataclasses.replace(
                estimators.ppo(normalise=False), stabiliser=stabilisers.none
            ),
            "clipped ratio": estimators.ppo(clip=0.05, normalise=False),
            "v-trace": estimators.impala(**unclipped),
            "clipped v-trace": estimators.impala(),
        },
        bandit(4, reward_noise=0.5),
        num_batches=NUM_BATCHES,
        staleness=0.4,
    )
    assert report["ratio"]["unbiased"]
    assert report["v-trace"]["unbiased"]
    assert not report["clipped ratio"]["unbiased"]
    assert not report["clipped v-trace"]["unbiased"]


def test_generalised_advantage_is_unbiased_where_critic_or_trace_are_exact():
    problem = random_mdp(3, 2, 4)
    short, full = estimators.a2c(1.0, trace_decay=0.5), estimators.a2c(1.0, trace_decay=1.0)
    both = {"lambda 0.5": short, "lambda 1": full}
    exact = audit(both, problem, num_batches=NUM_BATCHES)
    wrong = audit(both, dataclasses.replace(problem, critic=2.0), num_batches=NUM_BATCHES)
    assert exact["lambda 0.5"]["unbiased"]
    assert exact["lambda 1"]["unbiased"]
    assert wrong["lambda 1"]["unbiased"]
    assert not wrong["lambda 0.5"]["unbiased"]
    assert wrong["lambda 1"]["variance"] > 2 * exact["lambda 1"]["variance"]


def test_variance_and_norm_are_those_of_the_enumerated_bandit():
    problem = bandit([1.0, -2.0, 0.5])
    estimator = estimators.reinforce(discount=1.0)
    row = audit(estimator, problem, batch_size=8, num_batches=20_000)["reinforce"]
    policy = np.asarray(jax.nn.softmax(problem.params[0]), np.float64)
    scores = np.eye(3) - policy
    one = np.array([1.0, -2.0, 0.5])[:, None] * scores
    mean = policy @ one
    trace = (policy @ np.sum(one**2, axis=1) - mean @ mean) / 8
    assert row["variance"] == pytest.approx(trace, rel=0.03)
    assert row["signal_to_noise"] == pytest.approx(mean @ mean / trace, rel=0.05)


def test_importance_weights_have_the_enumerated_effective_sample_size():
    problem = bandit(4)
    estimator = dataclasses.replace(estimators.dr_grpo(), stabiliser=stabilisers.none)
    settings = {"batch_size": 512, "num_batches": 50, "staleness": 0.5}
    report = audit(estimator, problem, **settings)
    current = np.asarray(jax.nn.softmax(problem.params[0]), np.float64)
    share, kl = report["dr_grpo"]["effective_sample_size"], report.behaviour_kl
    # chi-square divergence is 1/share - 1, and at least exp(KL(current || behaviour)) - 1.
    acted = _behaviour(problem, staleness=0.5)
    assert share == pytest.approx(1 / np.sum(current**2 / acted), rel=0.02)
    assert kl == pytest.approx(np.sum(acted * np.log(acted / current)), rel=1e-4)


def _behaviour(problem, staleness):
    """Recovers the policy that acted from the log-probabilities an estimator sees."""
    seen = {}

    def advantage(batch):
        jax.debug.callback(
            lambda action, log_prob: seen.update(
                zip(np.ravel(action).tolist(), np.ravel(log_prob).tolist(), strict=True)
            ),
            batch.action,
            batch.log_prob,
        )
        return batch.reward

    spy = Estimator("spy", advantage)
    audit(spy, problem, batch_size=512, num_batches=2, staleness=staleness)
    return np.exp([seen[arm] for arm in range(problem.params.shape[1])])


def test_estimators_see_the_same_batches_in_any_company():
    problem = token_tree(2, 2)
    alone = audit(estimators.rloo(), problem, num_batches=20)
    together = audit([estimators.grpo(), estimators.rloo()], problem, num_batches=20)
    assert alone["rloo"] == together["rloo"]


def test_chunks_do_not_change_what_an_estimator_is(monkeypatch):
    problem = token_tree(2, 2)
    whole = audit(estimators.rloo(), problem, num_batches=90)
    monkeypatch.setattr(gradient_audit, "DECISIONS_AT_ONCE", 64 * 2 * 30)
    parts = audit(estimators.rloo(), problem, num_batches=90)
    assert parts["rloo"]["variance"] == pytest.approx(whole["rloo"]["variance"], rel=1e-4)


def test_regularisers_are_audited_on_request():
    method = Method.from_estimator(estimators.a2c(discount=1.0, entropy=0.5))
    problem = bandit(3)
    without = audit(method, problem, num_batches=200)
    entropic = audit(method, problem, num_batches=200, regularisers=True)
    assert without["a2c"]["unbiased"]
    assert not entropic["a2c"]["unbiased"]


def test_a_group_of_one_is_told():
    row = audit(estimators.rloo(), bandit(3), group_size=1, num_batches=10)["rloo"]
    assert "group_size=1" in row["note"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"batch_size": 60}, ValueError, "multiple of group_size=8, such as 64"),
        ({"group_size": 0}, ValueError, "group_size is 0"),
        ({"num_batches": 1}, ValueError, "at least 2"),
        ({"staleness": -0.1}, ValueError, "staleness is -0.1"),
        ({"estimators": []}, ValueError, "estimators is empty"),
        ({"estimators": estimators.grpo}, TypeError, r"call it, grpo\(\)"),
        ({"estimators": [estimators.grpo()] * 2}, ValueError, "'grpo' twice"),
        ({"problem": bandit([1.0, 1.0])}, ValueError, "exact gradient is 0"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(call, error, message):
    with pytest.raises(error, match=message):
        audit(**{"estimators": estimators.rloo(), "problem": bandit(3), **call})


def test_an_estimator_that_needs_more_than_the_problem_has_is_refused():
    def advantage(batch):
        return batch.extra("hidden_state")

    declared = Estimator("curious", advantage, needs=("hidden_state",))
    undeclared = Estimator("sly", advantage)
    for estimator in (declared, undeclared):
        with pytest.raises(ValueError, match=f"'{estimator.name}' .*'current_log_prob'"):
            audit(estimator, bandit(3))


def test_normalisation_undoes_the_aggregation_on_full_rows():
    constant = jax.jit(gradient_audit.normalisation, static_argnums=(0, 1, 2))
    for aggregate, factor in (
        (aggregates.row_sum_mean, 1.0),
        (aggregates.decision_mean, 5.0),
        (aggregates.sequence_mean, 5.0),
        (aggregates.padded_length_mean, 5.0),
        (aggregates.fixed_length_mean(10), 10.0),
        (aggregates.fixed_length_sum(10), 2.5),
    ):
        assert constant(with_aggregate(aggregate), 4, 5) == pytest.approx(factor)
    # Every decision of a row carries the gradient of the whole row.
    assert constant(sequence_weighted(), 4, 5) == pytest.approx(1.0)
