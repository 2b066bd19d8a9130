"""Critics that are told descriptors: similarity, what is stored, injection."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from jaxpg import algorithms, networks
from jaxpg.algorithms import TwinDelayedConfig
from jaxpg.losses import descriptor_conditioned as losses
from jaxpg.networks.deterministic import with_fixed_inputs
from jaxpg.quality_diversity import archive as archives
from jaxpg.quality_diversity import cells, descriptor_scale, experience
from jaxpg.quality_diversity.descriptor_conditioned import (
    ConditionedConfig,
    conditioned_transitions,
    default_length_scale,
    descriptor_conditioned,
)
from jaxpg.quality_diversity.policy_gradient import transitions
from jaxpg.quality_diversity.scoring import EpisodeSteps, Scores

KEY = jax.random.key(0)
BOX = spaces.Box(-1.0, 1.0, (2,), jnp.float32)
PAIR = spaces.Tuple((spaces.Box(-1.0, 1.0, (3,), jnp.float32), BOX))
POLICIES = networks.deterministic(PAIR.spaces[0], BOX, hidden=())
TOLD = networks.deterministic(PAIR, BOX, hidden=())
SCALE = descriptor_scale.symmetric([0.0, 0.0], [10.0, 20.0])
LOW, HIGH = [0.0, 0.0], [10.0, 20.0]


def random_items(number, passive=False):
    draw = np.random.default_rng(0).normal
    leaf = lambda *shape: jnp.asarray(draw(size=(number, *shape)), jnp.float32)
    descriptor = leaf(2)
    return experience.Experience(
        observation=leaf(3),
        action=jnp.tanh(leaf(2)),
        reward=jnp.abs(leaf()),
        terminated=jnp.arange(number) % 3 == 0,
        truncated=jnp.arange(number) % 3 == 1,
        next_observation=leaf(3),
        descriptor=descriptor,
        asked=descriptor if passive else leaf(2),
    )


def test_similarity_is_one_at_the_descriptor_and_falls_with_the_distance_over_its_scale():
    asked = jnp.array([[0.3, -0.2], [0.0, 0.0], [0.0, 0.0]])
    observed = asked + jnp.array([[0.0, 0.0], [0.3, 0.4], [0.0, -2.0]])
    found = losses.similarity(observed, asked, 0.5)
    np.testing.assert_allclose(found, np.exp([0.0, -1.0, -4.0]), rtol=1e-6)
    np.testing.assert_allclose(losses.similarity(observed, asked, 1e9), 1.0, rtol=1e-6)
    reward = losses.scaled_reward(jnp.array([2.0, 2.0, 2.0]), observed, asked, 1e-9)
    assert reward.tolist() == [2.0, 0.0, 0.0]


def test_scales_of_the_papers():
    sides = ([-30.0, -30.0], [30.0, 30.0])
    for scale in (descriptor_scale.symmetric, descriptor_scale.by_high):
        np.testing.assert_allclose(scale(*sides).scaled(np.array([15.0, -30.0])), [0.5, -1.0])
    unit = ([0.0], [1.0])
    assert descriptor_scale.symmetric(*unit).scaled(np.array([0.25])).tolist() == [-0.5]
    assert descriptor_scale.by_high(*unit).scaled(np.array([0.25])).tolist() == [0.25]
    np.testing.assert_allclose(default_length_scale(*sides), 0.48, rtol=1e-6)
    np.testing.assert_allclose(default_length_scale(*unit), 0.008, rtol=1e-6)
    with pytest.raises(ValueError, match="high is .0.0., but descriptors are scaled by it"):
        descriptor_scale.by_high([-1.0], [0.0])


@pytest.mark.parametrize("length_scale", [0.01, 10.0])
def test_passive_samples_are_plain_td3_for_networks_that_ignore_descriptors(length_scale):
    deaf = dataclasses.replace(
        POLICIES,
        actor=lambda params, seen: POLICIES.actor(params, seen[0]),
        critic=lambda params, seen, action: POLICIES.critic(params, seen[0], action),
    )
    config = TwinDelayedConfig(policy_delay=1, critics_follow=True)
    plain, told = (algorithms.twin_delayed(x, config) for x in (POLICIES, deaf))
    items = random_items(12, passive=True)

    @jax.jit
    def both(length_scale):
        state = plain.init(KEY)
        return (
            plain.update(state, transitions(items), KEY),
            told.update(state, conditioned_transitions(items, length_scale), KEY),
        )

    for a, b in zip(*map(jax.tree.leaves, both(length_scale)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_losses_equal_those_of_qdax():
    peer = pytest.importorskip("qdax.core.neuroevolution.losses.td3_loss")
    config = TwinDelayedConfig(policy_delay=1, critics_follow=True)
    agent, items = algorithms.twin_delayed(TOLD, config), random_items(12)
    _, actor_loss, critic_loss = peer.make_td3_loss_dc_fn(
        POLICIES.actor,
        lambda params, obs, desc: TOLD.actor(params, (obs, desc)),
        lambda params, obs, actions, desc: TOLD.values(params, (obs, desc), actions).T,
        1.0,
        0.99,
        0.5,
        0.2,
    )

    def compare():
        # Written out: their program scales rewards before its loss.
        distance = jnp.linalg.norm(items.descriptor - items.asked, axis=-1)
        theirs = types.SimpleNamespace(
            obs=items.observation,
            next_obs=items.next_observation,
            actions=items.action,
            rewards=jnp.exp(-distance / 0.7) * items.reward,
            dones=items.terminated.astype(jnp.float32),
            truncations=items.truncated.astype(jnp.float32),
            desc_prime=items.asked,
        )
        state = agent.init(KEY).replace(
            target_critics=TOLD.init_critics(jax.random.key(1), 2),
            target_actor=TOLD.init_actor(jax.random.key(2)),
        )
        after, metrics = agent.update(state, conditioned_transitions(items, 0.7), KEY)
        expected = critic_loss(state.critics, state.target_actor, state.target_critics, theirs, KEY)
        return metrics, expected, actor_loss(state.actor, after.critics, theirs)

    metrics, expected, by_actor = jax.jit(compare)()
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["actor_loss"], by_actor, rtol=1e-5)


@pytest.mark.parametrize("hidden", [(), (4, 3)])
def test_an_injected_policy_is_the_conditioned_one_at_its_descriptor(hidden):
    told, plain = (
        networks.deterministic(space, BOX, hidden=hidden) for space in (PAIR, PAIR.spaces[0])
    )

    @jax.jit
    def actions():
        params, told_what = told.init_actor(KEY), jnp.array([0.4, -0.9])
        seen = jax.random.normal(KEY, (20, 3))
        held = with_fixed_inputs(params, told_what)
        both = (seen, jnp.broadcast_to(told_what, (20, 2)))
        return plain.actor(held, seen), told.actor(params, both), held, plain.init_actor(KEY)

    alone, expected, held, genotype = actions()
    np.testing.assert_allclose(alone, expected, atol=1e-5)
    assert np.std(expected) > 0.01
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (held, genotype)]
    assert shapes[0] == shapes[1]


def scores_of(descriptors):
    """Episodes of two steps that tell their row."""
    number = descriptors.shape[0]
    row = jnp.broadcast_to(jnp.arange(number, dtype=jnp.float32)[:, None], (number, 2))
    ends = jnp.zeros((number, 2), bool)
    seen = jnp.broadcast_to(row[..., None], (number, 2, 3))
    steps = EpisodeSteps(seen, jnp.zeros((number, 2, 2)), row, ends, ends, seen, row * 0 + 1)
    return Scores(jnp.zeros(number), descriptors, steps)


def rollouts(key, params, asked):
    """A policy that comes half as far as it was asked to."""
    return scores_of(0.5 * asked)


ELITES = np.array([[1.0, 2.0], [4.0, 18.0], [8.0, 3.0]], np.float32)
CONFIG = ConditionedConfig(
    num_genetic=4,
    num_gradient=4,
    num_injected=4,
    num_active=4,
    intended=True,
    num_critic_steps=1,
    num_policy_steps=1,
    policy_learning_rate=0.0,
    batch_size=4,
    capacity=64,
    active_noise=0.01,
)


def emitter_of(**changes):
    agent = algorithms.twin_delayed(TOLD)
    config = dataclasses.replace(CONFIG, **changes)
    return descriptor_conditioned(agent, POLICIES, rollouts, SCALE, config)


@pytest.fixture(scope="module")
def updated():
    emitter = emitter_of()

    @jax.jit
    def run():
        elites = jax.vmap(POLICIES.init_actor)(jax.random.split(jax.random.key(9), 3))
        archive = archives.empty(
            cells.grid(LOW, HIGH, (3, 3)), jax.tree.map(lambda x: x[0], elites)
        )
        archive, _ = archives.insert(archive, elites, jnp.zeros(3), jnp.asarray(ELITES))
        state = emitter.init(KEY, scores_of(jnp.zeros((4, 2))))
        learned, metrics = emitter.learn(KEY, state, archive)
        offspring = emitter.emit(KEY, learned, archive)
        observed = 5.0 + jnp.arange(24.0).reshape(12, 2) / 10.0
        after = emitter.remember(learned, offspring, scores_of(observed))
        evaluated = emitter.evaluate(KEY, after, archive, 2.0)
        return elites, learned, offspring, observed, after, metrics, evaluated

    return run()


def test_offspring_are_asked_for_the_descriptor_that_was_drawn_with_their_parent(updated):
    elites, state, offspring, _, _, _, _ = updated
    kernel = lambda tree: np.asarray(tree["params"]["head"]["kernel"])
    # Four blocks, each with one by iso+line, one by gradient (here of rate 0), one injected.
    np.testing.assert_array_equal(offspring.intended, np.tile([False, True, True], 4))
    asked = np.asarray(offspring.asked)
    parents = set()
    for child, descriptor in zip(kernel(offspring.genotypes)[1::3], asked[1::3], strict=True):
        parent = [np.array_equal(child, elite) for elite in kernel(elites)].index(True)
        np.testing.assert_array_equal(descriptor, ELITES[parent])
        parents.add(parent)
    assert len(parents) > 1
    for index in (2, 5, 8, 11):
        child = jax.tree.map(lambda x, i=index: x[i], offspring.genotypes)
        expected = with_fixed_inputs(state.shared.actor, SCALE.scaled(asked[index]))
        for a, b in zip(jax.tree.leaves(child), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert asked[index].tolist() in ELITES.tolist()


def test_buffers_hold_what_was_reached_and_what_was_asked_for(updated):
    _, _, offspring, observed, after, _, _ = updated
    rows = after.rows
    # Two steps of one first episode, of one active episode and of three offspring.
    assert rows.size.tolist() == [10] * 4
    asked = jnp.where(offspring.intended[:, None], offspring.asked, observed)
    for block in range(4):
        for row in range(3):
            slots = slice(4 + 2 * row, 6 + 2 * row)
            found = rows.items.descriptor[block, slots], rows.items.asked[block, slots]
            number = 3 * block + row
            np.testing.assert_array_equal(rows.items.reward[block, slots], number)
            for given, expected in zip(found, (observed, asked), strict=True):
                np.testing.assert_allclose(
                    given, np.tile(SCALE.scaled(expected[number]), (2, 1)), atol=1e-6
                )
        # The policy came half as far as it was asked to, near the descriptor of an elite.
        reached, wanted = rows.items.descriptor[block, 2:4], rows.items.asked[block, 2:4]
        back = lambda scaled: SCALE.centre + SCALE.width * np.asarray(scaled)
        np.testing.assert_allclose(back(reached), 0.5 * back(wanted), atol=1e-4)
        distance = np.abs(back(wanted)[0] - ELITES) / (np.array(HIGH) - LOW)
        assert 0.0 < distance.max(axis=1).min() < 0.05
        stored = (rows.items.descriptor[block, :10], rows.items.asked[block, :10])
        similarity = np.asarray(losses.similarity(*stored, 1.0))
        # Passive are the first episode and the one by iso+line.
        passive = np.array([True, True, False, False, True, True] + 4 * [False])
        np.testing.assert_allclose(similarity[passive], 1.0, atol=1e-5)
        assert (similarity[~passive] < 0.99).all()


def test_offspring_by_gradient_are_passive_where_they_are_not_intended():
    for intended in (False, True):
        emitter = emitter_of(num_injected=0, intended=intended)
        made = emitter.emit.__self__.made_for((), jnp.asarray(ELITES))
        assert made.intended.tolist() == [intended] * 3
        assert emitter.operators == {"genetic": 4, "gradient": 4} and emitter.num_rollouts == 4


def test_evaluation_asks_the_policy_for_the_descriptor_of_every_elite(updated):
    _, _, _, _, after, metrics, evaluated = updated
    np.testing.assert_allclose(evaluated["actor_qd_score"], 3 * 2.0, rtol=1e-6)
    expected = np.mean(np.linalg.norm(0.5 * ELITES, axis=1))
    np.testing.assert_allclose(evaluated["actor_descriptor_error"], expected, rtol=1e-5)
    assert after.shared.num_steps == 1 and np.isfinite(list(metrics.values())).all()


def test_what_does_not_fit_is_one_sentence():
    for changes, sentence in (
        ({"length_scale": 0.0}, "length_scale is 0.0, but it has to be positive"),
        ({"num_active": -1}, "num_active is -1, but it has to be at least 0"),
        ({"num_injected": -1}, "num_injected is -1, but it has to be at least 0"),
        ({"num_critic_steps": 0}, "num_critic_steps is 0, but it has to be at least 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            emitter_of(**changes)
    wider = networks.deterministic(PAIR, BOX, hidden=(5,))
    with pytest.raises(ValueError, match="injected offspring need equal layers"):
        descriptor_conditioned(algorithms.twin_delayed(wider), POLICIES, rollouts, SCALE, CONFIG)
    with pytest.raises(ValueError, match="values has 3 entries, but the first layer has 3 inputs"):
        with_fixed_inputs(POLICIES.init_actor(KEY), jnp.zeros(3))
