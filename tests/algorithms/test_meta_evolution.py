"""Evolution of a rule: the estimate, the pairs, whole lives, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg import runner
from jaxpg.algorithms import inner_agents
from jaxpg.algorithms.meta_evolution import (
    MetaEvolutionConfig,
    _Run,
    meta_evolution,
    pair_ranks,
    paired_estimate,
)
from jaxpg.networks.lpg import LearnedRule, learned_rule
from jaxpg.types import Algorithm
from jaxpg_envs import gridworld

KEY = jax.random.key(0)
ENV = gridworld.GridWorld(max_size=3, max_objects=1)
TINY = gridworld.LevelDistribution(
    sizes=(3, 3), objects=(1, 1), steps=(4, 6), lifetimes=(2, 4), num_walls=1
)
RULE = learned_rule(num_targets=3, embedding=4, hidden=5)
SIZES = {
    "num_pairs": 4,
    "pairs_at_once": 2,
    "num_workers": 3,
    "num_steps": 4,
    "score_episodes": 2,
}


def draw(key):
    return gridworld.sample(key, TINY, ENV.max_size, ENV.max_objects)


# By one number: what was rewarded becomes likelier where it is negative.
BY_HAND = LearnedRule(
    init=lambda key: jnp.zeros(()),
    apply=lambda params, rewards, dones, probabilities, targets, after: (
        params * jnp.sign(rewards),
        targets,
    ),
    num_targets=3,
    embedding=0,
    hidden=0,
)


def built(rule=RULE, kind=_Run, **overrides):
    config = MetaEvolutionConfig(**SIZES | overrides)
    return kind(inner_agents(ENV, config), draw, rule, None, config, optax.adam(1e-2))


@pytest.fixture(scope="module")
def algorithm():
    held_out = jax.vmap(draw)(jax.random.split(jax.random.key(9), 2))
    return meta_evolution(ENV, draw, rule=RULE, held_out=held_out, **SIZES)


@pytest.fixture(scope="module")
def lives():
    """Levels of four pairs, and their fitness by the rule of one number: `(noise, lifetimes)`."""
    run = built(BY_HAND, score_episodes=32, sigma=1.0)
    levels, _, _, keys = jax.jit(run.drawn)(jax.random.split(jax.random.key(1), 4), jnp.zeros(()))
    fitness = jax.jit(run.fitness)
    return levels, lambda noise, lifetimes: fitness(
        keys, jnp.zeros(()), jnp.asarray(noise), levels, jnp.asarray(lifetimes)
    )


CURVATURE = jnp.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.7]])
PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])}


def quadratic(params):
    x = jnp.concatenate([params["a"], params["b"][0]])
    return 3.0 + x @ jnp.array([1.0, 0.0, -2.0]) - x @ CURVATURE @ x


many = jax.jit(jax.vmap(quadratic))


def pairs(flat, sigma):
    """Fitness on both sides of the parameters, and the noise as a tree."""
    noise = {"a": flat[:, :2], "b": flat[:, 2:, None]}
    side = lambda sign: many(jax.tree.map(lambda x, n: x + sign * sigma * n, PARAMS, noise))
    return side(1), side(-1), noise


def test_the_estimate_is_the_gradient_of_a_quadratic_in_expectation():
    exact = jax.grad(quadratic)(PARAMS)
    # Noise whose second moment is the identity in the sample, too, leaves no error.
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    flat = jnp.asarray(basis * np.sqrt(3), jnp.float32)
    for sigma in (0.5, 1.0):
        estimate = paired_estimate(*pairs(flat, sigma), sigma)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), estimate, exact)

    flat = jax.random.normal(KEY, (20_000, 3))
    plus, minus, noise = pairs(flat, 0.3)
    estimate = paired_estimate(plus, minus, noise, 0.3)
    for name in PARAMS:
        weights = np.reshape((plus - minus) / 0.6, (-1,) + (1,) * PARAMS[name].ndim)
        error = np.std(weights * noise[name], axis=0) / np.sqrt(len(flat))
        assert (np.abs(estimate[name] - exact[name]) < 4 * error).all()


def test_ranks_keep_the_direction_of_a_slope():
    slope = jnp.array([0.6, 0.0, -0.8])
    noise = jax.random.normal(KEY, (20_000, 3))
    ranks = pair_ranks(noise @ slope, -noise @ slope)
    # E[sign(z) z] is sqrt(2 / pi).
    expected = slope * np.sqrt(2 / np.pi) / (2 * 0.1)
    np.testing.assert_allclose(paired_estimate(*ranks, noise, 0.1), expected, atol=0.15)


def test_the_better_of_a_pair_gets_all_and_nan_loses():
    nan, low = np.nan, -np.inf
    plus, minus = pair_ranks(
        jnp.array([2.0, 1.0, 1.0, nan, 1.0, nan, low, nan]),
        jnp.array([1.0, 2.0, 1.0, -5.0, nan, nan, low, low]),
    )
    np.testing.assert_array_equal(plus, [1, 0, 0.5, 0, 1, 0.5, 0.5, 0])
    np.testing.assert_array_equal(plus + minus, 1)


def test_a_pair_shares_level_and_keys(lives):
    _, fitness = lives
    plus, minus = fitness(jnp.zeros(4), [30] * 4)
    np.testing.assert_array_equal(plus, minus)
    assert len(set(plus.tolist())) > 1
    # The sides are told apart by the sign of the noise and by nothing else.
    noise = jnp.array([1.0, -0.5, 2.0, 1.0])
    plus, minus = fitness(noise, [30] * 4)
    assert (plus != minus).any()
    np.testing.assert_array_equal(fitness(-noise, [30] * 4), (minus, plus))


def test_each_agent_lives_its_whole_life_by_its_own_rule(lives):
    levels, fitness = lives
    uniform, _ = fitness(jnp.zeros(4), [30] * 4)
    # The first never lives, and the second is taught nothing.
    plus, minus = fitness([-1.0, 0.0, -1.0, 1.0], [0, 30, 30, 30])
    np.testing.assert_array_equal(plus[:2], uniform[:2])
    np.testing.assert_array_equal(minus[:2], uniform[:2])
    assert (levels.object_rewards[2:] > 0).all()
    assert plus[2] > minus[2] and plus[3] < minus[3]
    longer, _ = fitness([-1.0, 0.0, -1.0, 1.0], [0, 30, 30, 60])
    np.testing.assert_array_equal(longer[:3], plus[:3])


def test_an_agent_that_is_not_finite_is_lost(lives):
    _, fitness = lives
    for side in fitness([1.0, np.nan, 1.0, np.nan], [30, 30, 30, 0]):
        assert np.isnan(side).tolist() == [False, True, False, False]


class _Quadratic(_Run):
    """Nobody lives: the fitness is known, but for luck that a pair does not share."""

    def fitness(self, keys, rule, noise, levels, lifetimes):
        luck = 0.01 * jax.vmap(jax.random.normal)(keys) * lifetimes
        side = lambda sign: jax.vmap(quadratic)(
            jax.tree.map(lambda x, n: x + sign * self.config.sigma * n, rule, noise)
        )
        return side(1) + luck, side(-1)


TREE = BY_HAND._replace(init=lambda key: PARAMS)


def test_updates_climb_to_the_top():
    run = built(TREE, _Quadratic, num_pairs=16, pairs_at_once=8)

    def many(state):
        return jax.lax.scan(lambda state, _: run.update(state), state, length=400)

    state, metrics = jax.jit(many)(run.init(KEY))
    top = np.linalg.solve(2 * CURVATURE, np.array([1.0, 0.0, -2.0]))
    found = jnp.concatenate([state.rule["a"], state.rule["b"][0]])
    np.testing.assert_allclose(found, top, atol=0.15)
    assert state.num_updates == 400
    # The first step of Adam is the learning rate in every direction.
    np.testing.assert_allclose(metrics["update_norm"][0], 1e-2 * np.sqrt(3), rtol=1e-3)
    np.testing.assert_array_equal(metrics["decided_share"], 1.0)
    np.testing.assert_array_equal(metrics["lost_share"], 0.0)


def test_devices_and_parts_change_nothing():
    def trained(num_devices, pairs_at_once):
        run = built(TREE, _Quadratic, pairs_at_once=pairs_at_once)
        algorithm = Algorithm(run.init, run.update, world_size=4)
        return runner.train(
            algorithm, key=KEY, num_updates=3, chunk_length=3, num_devices=num_devices
        )

    whole, spread = trained(1, 2), trained(4, 4)
    for name in whole.metrics:
        np.testing.assert_allclose(
            spread.metrics[name], whole.metrics[name], rtol=1e-4, err_msg=name
        )
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, spread.state.rule, whole.state.rule)


def test_an_update_is_finite_and_reproducible(algorithm):
    run = functools.partial(runner.train, algorithm, key=KEY, chunk_length=1)
    whole, again = run(num_updates=2), run(num_updates=2)
    names = {"episode_return", "decided_share", "lost_share", "update_norm"}
    assert set(whole.metrics) >= names
    assert all(np.isfinite(whole.metrics[name]).all() for name in names)
    assert (whole.metrics["lost_share"] == 0).all() and (whole.metrics["update_norm"] > 0).all()
    jax.tree.map(np.testing.assert_array_equal, again.state.rule, whole.state.rule)
    assert algorithm.policy(whole.state) is whole.state.rule
    found = jax.eval_shape(algorithm.evaluate, whole.state, KEY)
    assert set(found) == {"eval_return"} and found["eval_return"].shape == ()
    # Two agents of four pairs, three workers, four steps, lives of 2 to 4 updates.
    assert 2 < algorithm.steps_per_update / (2 * 4 * 3 * 4) < 4


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"num_pairs": 0}, "num_pairs is 0, but it has to be at least 1"),
        ({"pairs_at_once": 0}, "pairs_at_once is 0"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"score_episodes": 0}, "score_episodes is 0"),
        ({"sigma": 0.0}, "sigma is 0.0, but it has to be positive"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        meta_evolution(ENV, draw, rule=RULE, **SIZES | overrides)


def test_pairs_at_once_divide_those_of_a_device():
    with pytest.raises(ValueError, match="pairs_at_once is 3, but it has to divide the 4 pairs"):
        jax.eval_shape(built(pairs_at_once=3).estimate, KEY, jax.eval_shape(RULE.init, KEY))


def test_devices_share_pairs_equally(algorithm):
    with pytest.raises(ValueError, match="num_devices is 3, which does not divide the 4"):
        runner.train(algorithm, key=KEY, num_updates=1, num_devices=3)
