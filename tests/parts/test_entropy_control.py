"""The controller, the mixed batch and the pull towards a tempered self, against enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.parts import entropy_control as control


def test_up_to_the_target_and_at_it_the_policy_is_flattened():
    # 0 is what is known before the first update.
    entropies = jnp.array([0.0, 0.49, 0.5, 0.51, 3.0])
    found = control.temperature(entropies, 0.5, 1.3, 0.7)
    np.testing.assert_allclose(found, [1.3, 1.3, 1.3, 0.7, 0.7])


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 30])
@pytest.mark.parametrize(("entropy", "divisor"), [(0.0, 1), (0.5, 1), (0.500001, 2), (2.0, 2)])
def test_above_the_target_half_of_the_rows_enter(kept, entropy, divisor):
    found = jax.jit(control.num_tempered, static_argnums=(1, 3))(jnp.array(kept), 8, entropy, 0.5)
    assert found == min(kept, 8) // divisor and found.dtype == jnp.int32


def mixed_by_hand(keep, num_rows, number):
    tempered = [num_rows + row for row, kept in enumerate(keep) if kept][:number][:num_rows]
    return tempered + list(range(len(tempered), num_rows))


@pytest.mark.parametrize(("num_rows", "num_second"), [(12, 6), (6, 6), (3, 9)])
def test_kept_rows_take_the_first_places_and_the_batch_keeps_its_size(num_rows, num_second):
    numbers = np.random.default_rng(num_rows)
    mixed = jax.jit(control.mixed_rows, static_argnums=1)
    for share in (0.0, 0.3, 0.5, 1.0):
        keep = numbers.random(num_second) < share
        for number in (0, 1, 2, num_second, num_second + 5):
            index = mixed(jnp.asarray(keep), num_rows, number)
            np.testing.assert_array_equal(index, mixed_by_hand(keep, num_rows, number))


def sequences(first, second):
    """Every sequence of two tokens: its probability and the log-probabilities of its tokens."""
    tokens = [(a, b) for a in range(len(first)) for b in range(len(first))]
    log_prob = np.log([(first[a], second[a][b]) for a, b in tokens])
    return np.exp(log_prob.sum(axis=1)), log_prob


def repeated(log_prob, times):
    return jnp.asarray(np.repeat(log_prob, np.round(times).astype(int), axis=0), jnp.float32)


def test_the_estimate_is_unbiased_for_own_rows_and_too_large_for_flatter_ones():
    first, second = np.array([0.1, 0.9]), np.array([[0.1, 0.9], [0.5, 0.5]])
    probability, log_prob = sequences(first, second)
    entropy = lambda p: -(p * np.log(p)).sum(axis=-1)
    exact = (entropy(first) + first @ entropy(second)) / 2
    # Rows in exactly the frequency in which they are drawn: the mean is the expectation.
    own = repeated(log_prob, 200 * probability)
    assert control.sampled_entropy(own, jnp.ones(own.shape)) == pytest.approx(exact, abs=1e-6)
    # At temperature 2 the odds of 1 to 9 are 1 to 3.
    flatter, _ = sequences(np.array([0.25, 0.75]), np.array([[0.25, 0.75], [0.5, 0.5]]))
    hot = repeated(log_prob, 32 * flatter)
    assert control.sampled_entropy(hot, jnp.ones(hot.shape)) > exact + 0.05


def test_padding_says_nothing_about_the_entropy():
    log_prob = jnp.array([[-1.0, -3.0], [-2.0, jnp.nan], [jnp.inf, -200.0]])
    mask = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert control.sampled_entropy(log_prob, mask) == 2.0
    assert control.sampled_entropy(log_prob, jnp.zeros_like(mask)) == 0.0


@pytest.mark.parametrize("entropy", [0.2, 0.45, 0.5, 0.55, 0.9])
@pytest.mark.parametrize("share", [0.125, 0.5, 1.0])
def test_the_weight_grows_with_the_distance_and_with_rare_success(entropy, share):
    x = min(abs(0.5 - entropy), 0.1) / share
    found = control.distribution_weight(entropy, 0.5, jnp.array(share))
    assert found == pytest.approx(x / (1 + x), abs=1e-6)


@pytest.mark.parametrize("entropy", [0.2, 0.5])
def test_without_a_correct_row_nothing_is_pulled(entropy):
    assert control.distribution_weight(entropy, 0.5, jnp.array(0.0)) == 0.0


@pytest.mark.parametrize("temperature", [0.8, 1.0, 1.2, 3.0])
def test_the_pull_is_reinforce_on_correct_samples_of_the_tempered_policy(temperature):
    """By enumeration of one decision; at temperature 1 the gradient is pi (R - E R)."""
    numbers = np.random.default_rng(3)
    logits, right = numbers.normal(0.0, 1.5, 6), np.array([1, 0, 1, 1, 0, 0])
    softmax = lambda z: np.exp(z) / np.exp(z).sum()
    policy, tempered = softmax(logits), softmax(logits / temperature)
    advantage = control.distribution_centric(
        jnp.zeros((6, 1)),
        jnp.asarray(right, bool),
        *(jnp.log(jnp.asarray(p, jnp.float32))[:, None] for p in (policy, tempered)),
        1.0,
    )
    objective = lambda z: jnp.asarray(policy) @ (advantage[:, 0] * jax.nn.log_softmax(z))
    found = jax.grad(objective)(jnp.asarray(logits, jnp.float32))
    expected = tempered * right - (tempered @ right) * policy
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if temperature == 1.0:
        np.testing.assert_allclose(found, policy * (right - policy @ right), atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_pull_shares_with_the_advantage(weight):
    numbers = np.random.default_rng(1)
    advantage, now, there = numbers.normal(size=(3, 4, 2)).astype(np.float32)
    right = np.array([True, False, True, False])
    expected = (1 - weight) * advantage
    expected[right] += weight * np.exp(there - now)[right]
    found = control.distribution_centric(*map(jnp.asarray, (advantage, right, now, there)), weight)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((0.0, 1.2, 0.8), "target_entropy is 0.0, but it has to be above 0"),
        ((0.5, 1.2, -0.8), "low is -0.8, but it has to be above 0"),
        ((0.5, 0.8, 1.2), "high is 0.8, but it has to be at least low=1.2"),
        ((float("nan"), 1.2, 0.8), "target_entropy is nan"),
    ],
)
def test_settings_that_steer_nothing_are_one_sentence(settings, said):
    with pytest.raises(ValueError, match=said):
        control.check_target(*settings)
