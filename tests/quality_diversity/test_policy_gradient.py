"""Experience, the critic's rule and offspring that climb it, against loops and closed forms."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnax.environments import spaces

from jaxpg import algorithms, networks, parallel, replay
from jaxpg.algorithms import TwinDelayedConfig
from jaxpg.networks.mlp import lecun_uniform
from jaxpg.quality_diversity import archive as archives
from jaxpg.quality_diversity import cells, experience
from jaxpg.quality_diversity.gradient_variation import climb
from jaxpg.quality_diversity.policy_gradient import (
    PolicyGradientConfig,
    policy_gradient,
    transitions,
)
from jaxpg.quality_diversity.scoring import EpisodeSteps, Scores

KEY = jax.random.key(0)
BOX = spaces.Box(-1.0, 1.0, (2,), jnp.float32)
NETWORKS = networks.deterministic(BOX, BOX, hidden=(), initialisers=lecun_uniform)


def numbered(mask, **changes):
    """Episodes whose steps are numbered row by row, in all that is stored."""
    mask = np.asarray(mask, np.float32)
    number = np.arange(mask.size, dtype=np.float32).reshape(mask.shape)
    pair = np.stack([number, -number], axis=-1)
    ends = np.zeros(mask.shape, bool)
    steps = EpisodeSteps(
        observation=pair,
        action=pair / 100.0,
        reward=number,
        terminated=ends,
        truncated=ends,
        next_observation=pair + 0.5,
        mask=mask,
    )
    fitness, descriptors = np.zeros(len(mask), np.float32), np.zeros((len(mask), 2), np.float32)
    return Scores(fitness, descriptors, steps)._replace(**changes)


store = jax.jit(experience.store)


def held(buffers):
    return [
        sorted(int(x) for x in rewards[:size])
        for rewards, size in zip(buffers.items.reward, buffers.size, strict=True)
    ]


def test_only_real_steps_are_remembered_the_oldest_ones_go():
    scores = numbered([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]])
    buffers = store(experience.empty_blocks(scores, 2, 12), scores)
    assert held(buffers) == [[0, 1, 2, 3], [6, 7, 9]]
    items = jax.tree.map(lambda x: np.asarray(x[0, :4]), buffers.items)
    np.testing.assert_array_equal(items.observation[:, 1], -items.reward)
    np.testing.assert_array_equal(items.next_observation[:, 0], items.reward + 0.5)
    assert items.descriptor == () and buffers.position.tolist() == [4, 3]
    again = store(buffers, numbered([[0, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]]))
    # Six slots each: four and four steps, three and three.
    assert held(again) == [[1, 2, 2, 3, 3, 4], [6, 6, 7, 7, 8, 9]]
    assert again.position.tolist() == [2, 0]


def test_an_episode_that_is_not_finite_is_forgotten_as_a_whole():
    scores = numbered([[1, 1, 0]] * 8)
    steps = scores.steps
    reward, seen = steps.reward.copy(), steps.observation.copy()
    reward[1, 0], reward[2, 2] = np.nan, np.nan  # the second behind the end
    seen[3, 1, 1] = np.inf
    fitness, descriptors = scores.fitness.copy(), scores.descriptors.copy()
    fitness[4], descriptors[5, 1] = -np.inf, np.nan
    steps = steps._replace(reward=reward, observation=seen)
    buffers = store(experience.empty_blocks(scores, 1, 24), Scores(fitness, descriptors, steps))
    assert held(buffers) == [[0, 1, 6, 7, 18, 19, 21, 22]]


def test_minibatches_come_from_all_blocks_and_are_whole_on_every_device():
    scores = numbered(np.ones((4, 3)))
    buffers = store(experience.empty_blocks(scores, 4, 12), scores)
    draw = lambda buffers: experience.observations(KEY, buffers, 5, 3)
    whole = np.asarray(jax.jit(draw)(buffers))
    assert whole.shape == (5, 12, 2)
    # Item i of a minibatch is of block i // 3, whose steps are numbered from three times that.
    np.testing.assert_array_equal(whole[..., 0] // 3, np.tile(np.arange(12) // 3, (5, 1)))
    assert len(np.unique(whole[..., 0])) == 12 and len(np.unique(whole[:, :3, 0], axis=0)) > 1
    cut = jax.tree.map(lambda x: x.reshape((4, 1, *x.shape[1:])), buffers)
    for device in jax.pmap(draw, axis_name=parallel.AXIS)(cut):
        np.testing.assert_array_equal(device, whole)


def test_critic_loss_on_numbers_made_by_hand():
    """Done gives y = r; truncated contributes 0 but counts in the mean; twins are summed."""
    constant = networks.DeterministicNetworks(
        init_actor=lambda key: jnp.zeros(()),
        actor=lambda params, observation: jnp.zeros((observation.shape[0], 2)) + params,
        init_critic=lambda key: jnp.zeros(()),
        critic=lambda params, observation, action: params + 0.0 * action[:, 0],
        to_environment=lambda action: action,
        num_actions=2,
    )
    agent = algorithms.twin_delayed(constant, TwinDelayedConfig(policy_delay=9))
    items = experience.Experience(
        observation=jnp.zeros((3, 2)),
        action=jnp.zeros((3, 2)),
        reward=jnp.array([2.0, 50.0, 1.0]),
        terminated=jnp.array([True, False, False]),
        truncated=jnp.array([False, True, False]),
        next_observation=jnp.zeros((3, 2)),
        descriptor=(),
        asked=(),
    )

    def loss():
        state = agent.init(KEY).replace(
            critics=jnp.array([1.0, 3.0]), target_critics=jnp.array([10.0, 9.0])
        )
        return agent.update(state, transitions(items), KEY)[1]["critic_loss"]

    y = [2.0, 1.0 + 0.99 * 9.0]
    expected = sum((c - t) ** 2 for c in (1.0, 3.0) for t in y) / 3
    np.testing.assert_allclose(jax.jit(loss)(), expected, rtol=1e-6)


def random_items(number):
    draw = np.random.default_rng(0).normal
    leaf = lambda *shape: jnp.asarray(draw(size=(number, *shape)), jnp.float32)
    return experience.Experience(
        observation=leaf(2),
        action=jnp.tanh(leaf(2)),
        reward=leaf(),
        terminated=jnp.arange(number) % 3 == 0,
        truncated=jnp.arange(number) % 3 == 1,
        next_observation=leaf(2),
        descriptor=(),
        asked=(),
    )


def test_losses_equal_those_of_qdax():
    peer = pytest.importorskip("qdax.core.neuroevolution.losses.td3_loss")
    config = TwinDelayedConfig(policy_delay=1, critics_follow=True, tau=0.1)
    agent, items, key = algorithms.twin_delayed(NETWORKS, config), random_items(12), KEY

    def critic(params, obs, actions):
        return NETWORKS.values(params, obs, actions).T

    policy_loss, critic_loss = peer.make_td3_loss_fn(NETWORKS.actor, critic, 1.0, 0.99, 0.5, 0.2)
    theirs = types.SimpleNamespace(
        obs=items.observation,
        next_obs=items.next_observation,
        actions=items.action,
        rewards=items.reward,
        dones=items.terminated.astype(jnp.float32),
        truncations=items.truncated.astype(jnp.float32),
    )

    def compare():
        state = agent.init(KEY).replace(
            target_critics=NETWORKS.init_critics(jax.random.key(1), 2),
            target_actor=NETWORKS.init_actor(jax.random.key(2)),
        )
        after, metrics = agent.update(state, transitions(items), key)
        expected = critic_loss(state.critics, state.target_actor, state.target_critics, theirs, key)
        by_actor = policy_loss(state.actor, after.critics, theirs)
        followed = optax.incremental_update(after.critics, state.target_critics, 0.1)
        return metrics, expected, by_actor, after.target_critics, followed

    metrics, expected, by_actor, targets, followed = jax.jit(compare)()
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["actor_loss"], by_actor, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(targets), jax.tree.leaves(followed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_targets_of_critics_follow_at_every_step_where_that_is_asked_for():
    def moved(critics_follow):
        config = TwinDelayedConfig(policy_delay=2, critics_follow=critics_follow)
        agent = algorithms.twin_delayed(NETWORKS, config)
        states = [agent.init(KEY)]
        for _ in range(2):
            states.append(agent.update(states[-1], transitions(random_items(6)), KEY)[0])
        leaf = lambda tree: jax.tree.leaves(tree)[1]
        return [
            jnp.any(leaf(getattr(a, name)) != leaf(getattr(b, name)))
            for a, b in itertools.pairwise(states)
            for name in ("target_critics", "target_actor")
        ]

    assert [bool(x) for x in jax.jit(lambda: moved(True))()] == [True, False, True, True]
    assert [bool(x) for x in jax.jit(lambda: moved(False))()] == [False, False, True, True]


def test_a_step_along_a_linear_critic_is_its_slope_by_finite_differences():
    slope, seen = jnp.array([1.0, -2.0]), random_items(6).observation

    def value(policy, observation, asked):
        return NETWORKS.actor(policy, observation) @ (asked * slope)

    policy = jax.tree.map(lambda x: x[None], NETWORKS.init_actor(KEY))
    step = lambda: climb(policy, jnp.array([3.0]), seen[None], value, optax.sgd(1.0))
    after = jax.jit(step)()
    mean = jax.jit(lambda kernel, bias: jnp.mean(jnp.tanh(seen @ kernel + bias) @ (3.0 * slope)))
    before, after = policy["params"]["head"], after["params"]["head"]
    for index in np.ndindex(2, 2):
        change = np.zeros((2, 2), np.float32)
        change[index] = 1e-2
        kernel, bias = before["kernel"][0], before["bias"][0]
        rise = (mean(kernel + change, bias) - mean(kernel - change, bias)) / 2e-2
        moved = after["kernel"][0][index] - kernel[index]
        np.testing.assert_allclose(moved, rise, rtol=2e-3, atol=1e-4)


def test_every_parent_has_an_optimiser_of_its_own_that_starts_afresh():
    optimiser, seen = optax.adam(0.1), random_items(12).observation.reshape(3, 4, 2)

    def value(policy, observation, asked):
        return jnp.sum(NETWORKS.actor(policy, observation), axis=1) - asked

    def alone(policy):
        memory = optimiser.init(policy)
        for observation in seen:
            slope = jax.grad(lambda p, o=observation: -jnp.mean(value(p, o, 0.0)))(policy)
            changes, memory = optimiser.update(slope, memory)
            policy = optax.apply_updates(policy, changes)
        return policy

    def both():
        policies = jax.vmap(NETWORKS.init_actor)(jax.random.split(KEY, 3))
        together = climb(policies, jnp.arange(3.0), seen, value, optimiser)
        return together, [alone(jax.tree.map(lambda x: x[i], policies)) for i in range(3)]

    together, one_by_one = jax.jit(both)()
    for index, policy in enumerate(one_by_one):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(policy), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-4, atol=1e-5)


def test_half_climb_and_the_agents_policy_takes_the_first_place_of_them():
    agent = algorithms.twin_delayed(NETWORKS)
    config = PolicyGradientConfig(
        num_genetic=8,
        num_gradient=4,
        sigma_iso=0.0,
        sigma_line=0.0,
        num_policy_steps=2,
        policy_learning_rate=0.0,
        batch_size=4,
        capacity=12,
    )
    emitter = policy_gradient(agent, config)
    assert emitter.num_blocks == 4 and emitter.batch_size == 12
    scores = numbered(np.ones((4, 3)))

    def emit(key):
        elites = jax.vmap(NETWORKS.init_actor)(jax.random.split(jax.random.key(9), 2))
        archive = archives.empty(
            cells.grid([0.0], [1.0], (2,)), jax.tree.map(lambda x: x[0], elites)
        )
        archive, _ = archives.insert(archive, elites, jnp.zeros(2), jnp.array([[0.2], [0.8]]))
        state = emitter.init(key, scores)
        state = state.replace(rows=parallel.own_share(state.rows))
        return emitter.emit(key, state, archive), elites, emitter.policy(state)

    shares, elites, actor = jax.pmap(lambda _: emit(KEY), axis_name=parallel.AXIS)(jnp.arange(2))
    kernel = lambda tree: np.asarray(tree["params"]["head"]["kernel"])
    offspring = kernel(shares.genotypes).reshape(12, 2, 2)
    is_actor = [np.array_equal(x, kernel(actor)[0]) for x in offspring]
    # Each of the four blocks is two of iso+line and one that climbed, at a rate of 0.
    assert np.flatnonzero(is_actor).tolist() == [2]
    for child in np.delete(offspring, 2, axis=0):
        assert any(np.array_equal(child, elite) for elite in kernel(elites)[0])


def test_sizes_and_scores_that_do_not_fit_are_one_sentence():
    agent = algorithms.twin_delayed(NETWORKS)
    for name in ("num_critic_steps", "num_policy_steps", "batch_size", "capacity"):
        with pytest.raises(ValueError, match=f"{name} is 0, but it has to be at least 1"):
            policy_gradient(agent, PolicyGradientConfig(**{name: 0}))
    with pytest.raises(ValueError, match="num_gradient is -1, but it has to be at least 0"):
        policy_gradient(agent, PolicyGradientConfig(num_gradient=-1))
    with pytest.raises(ValueError, match="returns no steps, but a critic learns from them"):
        experience.empty_blocks(Scores(jnp.zeros(2), jnp.zeros((2, 1)), ()), 1, 10)
    scores = numbered(np.ones((4, 3)))
    with pytest.raises(ValueError, match="batch has 12 items, but the buffer holds 10"):
        experience.store(experience.empty_blocks(scores, 1, 10), scores)
    assert replay.Transition(1, 2, 3, 4, 5).weight is None
