"""The network of a learned rule: a replay in NumPy, what reaches what, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxpg import networks
from jaxpg.networks.lpg import LearnedRule, learned_rule

RULE = learned_rule(num_targets=3, embedding=4, hidden=5)
WORKERS, STEPS, TARGETS = 2, 6, 3
APPLY = jax.jit(RULE.apply)


def simplex(draw, *shape):
    return draw.dirichlet(np.ones(TARGETS), shape).astype(np.float32)


def inputs(seed=0, *agents, done_rate=0.3):
    """Rollouts `(rewards, dones, probabilities, targets, next_targets)`."""
    draw = np.random.default_rng(seed)
    shape = (*agents, WORKERS, STEPS)
    rewards = draw.normal(size=shape).astype(np.float32)
    dones = (draw.random(shape) < done_rate).astype(np.float32)
    probabilities = draw.random(shape).astype(np.float32)
    return rewards, dones, probabilities, simplex(draw, *shape), simplex(draw, *shape)


@pytest.fixture(scope="module")
def params():
    """Every parameter drawn, biases too."""
    draw = np.random.default_rng(1)
    shapes = jax.eval_shape(RULE.init, jax.random.key(0))
    return jax.tree.map(lambda x: (0.7 * draw.normal(size=x.shape)).astype(np.float32), shapes)


def native(params, rewards, dones, probabilities, targets, next_targets):
    """The forward pass of the card in float64, worker by worker and step by step."""
    layers = jax.tree.map(lambda x: np.asarray(x, np.float64), params)["params"]

    def dense(name, x):
        return x @ layers[name]["kernel"] + layers[name]["bias"]

    def embed(y):
        return dense("embedding_head", np.maximum(dense("embedding_layer", y), 0.0))[0]

    def sigmoid(x):
        return 1.0 / (1.0 + np.exp(-x))

    gru = layers["recurrent"]
    w_ir, w_iz, w_in = np.split(gru["inputs"]["kernel"], 3, axis=1)
    b_ir, b_iz, b_in = np.split(gru["inputs"]["bias"], 3)
    w_hr, w_hz, w_hn = np.split(gru["kernel"], 3, axis=1)
    policy_update, target_update = np.zeros(rewards.shape), np.zeros(targets.shape)
    for n in range(rewards.shape[0]):
        h = np.zeros(w_hr.shape[0])
        for t in reversed(range(rewards.shape[1])):
            d = float(dones[n, t])
            following = (1.0 - d) * embed(next_targets[n, t])
            x = np.array([rewards[n, t], d, probabilities[n, t], embed(targets[n, t]), following])
            h = (1.0 - d) * h
            r = sigmoid(x @ w_ir + b_ir + h @ w_hr)
            z = sigmoid(x @ w_iz + b_iz + h @ w_hz)
            new = np.tanh(x @ w_in + b_in + r * (h @ w_hn + gru["bias"]))
            h = (1.0 - z) * new + z * h
            policy_update[n, t] = dense("policy_head", np.maximum(h, 0.0))[0]
            logits = np.exp(dense("target_head", np.maximum(h, 0.0)))
            target_update[n, t] = logits / logits.sum()
    return policy_update, target_update


def test_the_forward_pass_is_the_one_of_the_card(params):
    rollout = inputs()
    assert 0 < rollout[1].sum() < rollout[1].size
    for found, expected in zip(APPLY(params, *rollout), native(params, *rollout), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.dtype == jnp.float32


def test_what_it_says_of_a_target_is_on_the_simplex(params):
    policy_update, target_update = APPLY(params, *inputs())
    np.testing.assert_allclose(np.sum(target_update, axis=-1), 1.0, atol=1e-6)
    assert np.min(target_update) > 0.0
    assert np.min(policy_update) < np.max(policy_update)


def reach(params, rollout, changed):
    """`[T, T]` bool: whether something else in the inputs `changed` at row t moves column t'."""
    other = inputs(7)

    @jax.jit
    @jax.vmap
    def run(step):
        here = np.arange(STEPS) == step
        mixed = [
            jnp.where(here[:, None] if x.ndim == 3 else here, y, x) if at in changed else x
            for at, (x, y) in enumerate(zip(rollout, other, strict=True))
        ]
        return RULE.apply(params, *mixed)

    updates, targets = run(np.arange(-1, STEPS))
    outputs = np.concatenate([updates[..., None], targets], axis=-1)
    # The first row is of a rollout in which nothing was changed.
    return np.max(np.abs(outputs[1:] - outputs[0]), axis=(1, 3)) > 1e-6


REWARD, DONE, PROBABILITY, TARGET, NEXT_TARGET = range(5)


@pytest.mark.parametrize("changed", [[REWARD], [PROBABILITY], [TARGET], [NEXT_TARGET]])
def test_a_step_reaches_itself_and_all_before_it_and_none_after_it(params, changed):
    rollout = inputs(done_rate=0.0)
    np.testing.assert_array_equal(reach(params, rollout, changed), np.tri(STEPS, dtype=bool))


def test_nothing_after_the_end_of_an_episode_reaches_it_or_what_came_before(params):
    rollout = list(inputs())
    rollout[DONE] = np.tile(np.float32([0, 0, 1, 0, 1, 0]), (WORKERS, 1))
    episode = np.array([0, 0, 0, 1, 1, 2])
    same = np.tri(STEPS, dtype=bool) & (episode[:, None] == episode)
    found = reach(params, rollout, [REWARD, PROBABILITY, TARGET])
    np.testing.assert_array_equal(found, same)
    # What is predicted after the last step belongs to another episode already.
    found = reach(params, rollout, [NEXT_TARGET])
    np.testing.assert_array_equal(found, same & (rollout[DONE][0] == 0)[:, None])


def test_a_flag_of_done_reaches_no_later_step(params):
    rollout = list(inputs(done_rate=0.0))
    ended = list(rollout)
    ended[DONE] = rollout[DONE].copy()
    ended[DONE][:, 3] = 1.0
    before, after = APPLY(params, *rollout)[0], APPLY(params, *ended)[0]
    moved = np.any(np.abs(before - after) > 1e-6, axis=0)
    np.testing.assert_array_equal(moved, [True] * 4 + [False] * 2)


def test_a_rollout_of_ends_is_as_many_rollouts_of_one_step(params):
    rollout = list(inputs(3))
    rollout[DONE] = np.ones_like(rollout[DONE])
    single = [x.reshape((WORKERS * STEPS, 1, *x.shape[2:])) for x in rollout]
    for whole, parts in zip(APPLY(params, *rollout), APPLY(params, *single), strict=True):
        np.testing.assert_allclose(whole, np.reshape(parts, whole.shape), atol=1e-6)


def test_it_maps_over_agents_and_over_rules(params):
    rollouts = inputs(4, 3)
    found = jax.jit(jax.vmap(RULE.apply, in_axes=(None, *[0] * 5)))(params, *rollouts)
    rules = jax.tree.map(lambda x: np.stack([x, x, -x]), params)
    several = jax.jit(jax.vmap(RULE.apply))(rules, *rollouts)
    for agent in range(3):
        alone = APPLY(params, *(x[agent] for x in rollouts))
        for whole, part, mapped in zip(found, alone, several, strict=True):
            np.testing.assert_allclose(whole[agent], part, atol=1e-6)
            if agent < 2:
                np.testing.assert_allclose(mapped[agent], part, atol=1e-6)
    assert np.max(np.abs(several[0][2] - found[0][2])) > 0.1


def test_the_gradient_by_its_parameters_is_that_of_central_differences(params):
    rollout = inputs()
    draw = np.random.default_rng(5)
    weights = draw.normal(size=(WORKERS, STEPS)), draw.normal(size=(WORKERS, STEPS, TARGETS))
    direction = jax.tree.map(lambda x: draw.normal(size=x.shape), params)

    def loss(outputs):
        return sum((w * x).sum() for w, x in zip(weights, outputs, strict=True))

    def along(size):
        moved = jax.tree.map(lambda x, d: x.astype(np.float64) + size * d, params, direction)
        return loss(native(moved, *rollout))

    slopes = jax.jit(jax.grad(lambda params: loss(RULE.apply(params, *rollout))))(params)
    for name, slope in traverse_util.flatten_dict(slopes, sep="/").items():
        assert np.max(np.abs(slope)) > 1e-3, name
    found = sum(
        np.sum(slope * d)
        for slope, d in zip(jax.tree.leaves(slopes), jax.tree.leaves(direction), strict=True)
    )
    np.testing.assert_allclose(found, (along(1e-5) - along(-1e-5)) / 2e-5, rtol=1e-4)


def test_what_it_reads_is_a_constant_to_the_gradient(params):
    rewards, dones, *rest = inputs()

    def loss(rewards, *rest):
        policy_update, target_update = RULE.apply(params, rewards, dones, *rest)
        return jnp.sum(policy_update) + jnp.sum(target_update[..., 0])

    for slope in jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(rewards, *rest):
        assert not np.any(slope)


def test_its_published_size_and_how_it_starts():
    rule = networks.learned_rule()
    assert isinstance(rule, LearnedRule)
    assert (rule.num_targets, rule.embedding, rule.hidden) == (8, 16, 256)
    shapes = jax.eval_shape(rule.init, jax.random.key(0))
    embedding, heads = (8 * 16 + 16) + (16 + 1), (256 + 1) + (256 * 8 + 8)
    gru = 3 * (5 * 256 + 256) + 3 * 256 * 256 + 256
    assert sum(x.size for x in jax.tree.leaves(shapes)) == embedding + gru + heads
    first, second = jax.jit(jax.vmap(RULE.init))(jax.random.split(jax.random.key(0)))["params"][
        "recurrent"
    ]["kernel"]
    assert np.max(np.abs(first - second)) > 0.1
    np.testing.assert_allclose(first[:, :5] @ first[:, :5].T, np.eye(5), atol=1e-5)


def test_done_may_be_bool_and_what_follows_an_end_may_be_anything(params):
    rollout = list(inputs(6))
    expected = APPLY(params, *rollout)
    ends = rollout[DONE] > 0
    rollout[DONE] = ends
    rollout[NEXT_TARGET] = np.where(ends[..., None], np.nan, rollout[NEXT_TARGET])
    for a, b in zip(APPLY(params, *rollout), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_target_of_one_category_is_certain():
    rule = learned_rule(num_targets=1, embedding=1, hidden=1)
    params = jax.jit(rule.init)(jax.random.key(0))
    step, target = np.zeros((1, 1), np.float32), np.ones((1, 1, 1), np.float32)
    policy_update, target_update = jax.jit(rule.apply)(params, step, step, step, target, target)
    assert np.isfinite(policy_update).all() and target_update.tolist() == [[[1.0]]]


@pytest.mark.parametrize("name", ["num_targets", "embedding", "hidden"])
def test_a_size_below_one_is_named(name):
    with pytest.raises(ValueError, match=f"{name} is 0, but it has to be at least 1"):
        learned_rule(**{name: 0})


@pytest.mark.parametrize("wrong", [DONE, PROBABILITY, TARGET, NEXT_TARGET])
def test_shapes_that_do_not_fit_are_refused(params, wrong):
    rollout = list(inputs())
    rollout[wrong] = rollout[wrong][..., :-1]
    with pytest.raises(AssertionError):
        RULE.apply(params, *rollout)
