"""Problems are what they say: their gradients, values and samples agree with each other."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.diagnostics import bandit, finite, random_mdp, tabular_mdp, token_tree


def draw(problem, num_rows, group_size=1, seed=0):
    sample = jax.jit(problem.sample, static_argnums=(2, 3))
    batch = sample(jax.random.key(seed), problem.params, num_rows, group_size)
    return jax.tree.map(np.asarray, batch)


def corridor():
    """Three states; the last one ends the episode, so that lengths vary."""
    transition = np.zeros((3, 2, 3))
    transition[0, 0] = [0.5, 0.5, 0.0]
    transition[0, 1] = [0.0, 0.7, 0.3]
    transition[1, 0] = [1.0, 0.0, 0.0]
    transition[1, 1] = [0.0, 0.2, 0.8]
    transition[2] = [0.0, 0.0, 1.0]
    return types.SimpleNamespace(
        transition=transition,
        reward=np.array([[0.1, -0.4], [1.0, 2.0], [100.0, 100.0]]),
        initial=np.array([0.6, 0.4, 0.0]),
        terminal=np.array([False, False, True]),
        max_steps_in_episode=4,
    )


PROBLEMS = {
    "bandit": lambda: bandit(5, reward_noise=0.3),
    "token tree": lambda: token_tree(3, 3),
    "token tree with eos and prompts": lambda: token_tree(3, 3, eos=0, num_prompts=2),
    "stationary": lambda: random_mdp(3, 2, 4),
    "time-dependent": lambda: random_mdp(3, 2, 3, time_dependent=True),
    "episodes that end": lambda: tabular_mdp(corridor()),
    "episodes that end, time-dependent": lambda: tabular_mdp(corridor(), time_dependent=True),
}


@pytest.mark.parametrize("build", PROBLEMS.values(), ids=PROBLEMS)
def test_sum_over_trajectories_is_the_gradient_of_the_expected_return(build):
    with jax.enable_x64(True):
        problem = build()
        summed = jax.jit(problem.exact_gradient)(problem.params)
        differentiated = jax.jit(jax.grad(problem.expected_return))(problem.params)
        np.testing.assert_allclose(summed, differentiated, atol=1e-8)
        assert jnp.linalg.norm(summed) > 1e-3


def test_exact_gradient_is_the_finite_difference_of_the_expected_return():
    with jax.enable_x64(True):
        problem = tabular_mdp(corridor())
        step, expected_return = 1e-5, jax.jit(problem.expected_return)
        differences = np.zeros(problem.params.shape)
        for entry in np.ndindex(*problem.params.shape):
            higher, lower = (
                expected_return(problem.params.at[entry].add(sign * step)) for sign in (1, -1)
            )
            differences[entry] = (higher - lower) / (2 * step)
        np.testing.assert_allclose(problem.exact_gradient(problem.params), differences, atol=1e-8)


def test_too_many_trajectories_are_not_enumerated(monkeypatch):
    with jax.enable_x64(True):
        problem = random_mdp(3, 2, 4)
        enumerated = jax.jit(problem.exact_gradient)(problem.params)
        monkeypatch.setattr(finite, "LARGEST_ENUMERATION", 1000)
        otherwise = jax.jit(lambda params: problem.exact_gradient(params))(problem.params)
        np.testing.assert_allclose(otherwise, enumerated, atol=1e-8)


def test_number_of_trajectories_of_a_tree_with_eos():
    # eos at once, after one of two tokens, after two, or no eos: 1 + 2 + 4 * 3.
    assert token_tree(3, 3, eos=0).num_trajectories == 15
    assert token_tree(3, 3, eos=0, num_prompts=4).num_trajectories == 60


@pytest.mark.parametrize("build", PROBLEMS.values(), ids=PROBLEMS)
def test_samples_have_the_exact_return_and_the_exact_values(build):
    problem = build()
    batch = draw(problem, 20_000, seed=1)
    returns = batch.reward.sum(axis=1)
    error = returns.std() / np.sqrt(len(returns))
    assert abs(returns.mean() - problem.expected_return(problem.params)) < 4 * error
    # A value is right when what follows is right in the mean, whatever the decision's time.
    surprise = batch.reward + batch.extra("next_value") - batch.extra("value")
    for time in range(problem.horizon):
        at = surprise[batch.mask[:, time] > 0, time]
        assert abs(at.mean()) <= 4 * at.std() / np.sqrt(len(at)) + 1e-6


def test_rows_end_once_and_are_padded_afterwards():
    problem = tabular_mdp(corridor())
    batch = draw(problem, 500)
    assert (batch.terminated.sum(axis=1) == 1).all()
    assert (batch.terminated.argmax(axis=1) == batch.mask.sum(axis=1) - 1).all()
    assert (batch.reward[batch.mask == 0] == 0).all()
    assert 1 < batch.mask.sum(axis=1).mean() < 4
    # Nothing is decided in the terminal state.
    assert not ((batch.observation == 2) & (batch.mask > 0)).any()


def test_rows_of_a_group_share_the_prompt():
    problem = token_tree(2, 3, num_prompts=3)
    batch = draw(problem, 60, group_size=5)
    prompts = batch.observation[:, 0].reshape(12, 5)
    assert (prompts == prompts[:, :1]).all()
    assert set(np.unique(prompts)) == {0, 1, 2}
    assert (batch.group_ids == np.repeat(np.arange(12), 5)).all()


def test_reward_function_sees_the_finished_text():
    texts = []
    token_tree(2, 2, eos=1, reward=lambda prompt, tokens: texts.append(tokens) or 0.0)
    assert sorted(texts) == [(0, 0), (0, 1), (1,)]


def test_evaluation_agrees_with_the_policy_that_sampled():
    problem = random_mdp(3, 3, 4)
    batch = draw(problem, 8)
    evaluation = problem.evaluate(problem.params, batch)
    policy = jax.nn.softmax(problem.params)[batch.observation]
    np.testing.assert_allclose(evaluation.log_prob, batch.log_prob, rtol=1e-6)
    np.testing.assert_allclose(evaluation.entropy, -(policy * jnp.log(policy)).sum(-1), rtol=1e-5)


def test_critic_may_be_zero_or_wrong_by_a_fixed_amount():
    exact = random_mdp(3, 2, 4)
    zero, wrong = (dataclasses.replace(exact, critic=critic) for critic in ("zero", 0.5))
    batches = [draw(p, 500) for p in (exact, zero, wrong)]
    assert (batches[1].extra("value") == 0).all()
    error = batches[2].extra("value") - batches[0].extra("value")
    assert len(np.unique(np.round(error, 4))) == 4 * 3
    assert (batches[2].extra("next_value")[:, -1] == 0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: token_tree(1, 3), "vocabulary is 1"),
        (lambda: token_tree(3, 3, eos=3), "the tokens are 0 to 2"),
        (lambda: bandit([1.0]), "K at least 2"),
        (lambda: bandit(3, critic="perfect"), "'exact', 'zero' or a number"),
        (lambda: random_mdp(horizon=0), "at least 1 decision"),
        (lambda: tabular_mdp(corridor().transition), "horizon is None"),
        (lambda: tabular_mdp(corridor().transition, horizon=2), "reward is missing"),
        (lambda: tabular_mdp(np.ones((2, 2, 3)), horizon=2), "must be"),
        (lambda: tabular_mdp(0.5 * corridor().transition, *_rest(), horizon=2), "sum to 1"),
    ],
)
def test_bad_problems_are_refused_in_a_sentence(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_an_environment_is_told_from_its_parameters():
    env = types.SimpleNamespace(default_params=corridor())
    with pytest.raises(TypeError, match="pass its default_params"):
        tabular_mdp(env)


def _rest():
    process = corridor()
    return process.reward, process.initial, process.terminal
