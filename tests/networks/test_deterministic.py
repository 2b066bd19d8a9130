"""Deterministic policies and critics: bounds, shapes, observations, initial weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from jaxpg import networks

BOX = spaces.Box(-1.0, 1.0, (3,), jnp.float32)
ASYMMETRIC = spaces.Box(jnp.array([[0.0, -3.0]]), jnp.array([[4.0, -1.0]]), (1, 2), jnp.float32)


def build(observation_space=BOX, action_space=ASYMMETRIC, **config):
    return networks.deterministic(observation_space, action_space, hidden=(8, 8), **config)


def test_actions_are_scaled_once_into_an_asymmetric_box():
    network = build()
    assert network.num_actions == 2
    to = network.to_environment
    # Limits [0, 4] and 0.5 of the tanh give 3; a bias that is added twice would give 5.
    np.testing.assert_allclose(to(jnp.array([0.5, 0.0])), [[3.0, -2.0]])
    np.testing.assert_array_equal(to(jnp.array([-1.0, -1.0])), ASYMMETRIC.low)
    np.testing.assert_array_equal(to(jnp.array([1.0, 1.0])), ASYMMETRIC.high)
    unit = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(np.float32)
    action = np.asarray(jax.jit(to)(unit))
    assert action.shape == (1000, 1, 2)
    assert (action >= ASYMMETRIC.low).all() and (action <= ASYMMETRIC.high).all()


def test_the_policy_never_leaves_the_unit_box_even_when_it_saturates():
    network = build()

    def act(key):
        params = jax.tree.map(lambda x: 50.0 * x, network.init_actor(key))
        return network.actor(params, jax.random.normal(key, (500, 3)))

    action = jax.jit(act)(jax.random.key(0))
    assert action.shape == (500, 2) and np.abs(action).max() == 1.0


def test_critics_are_independent_and_the_first_one_is_the_first():
    network = build()

    def evaluate(key):
        critics = network.init_critics(key, 2)
        observation, action = jnp.ones((5, 3)), jnp.full((5, 2), 0.3)
        moved = network.values(critics, observation, action + 0.1)
        first = network.first_value(critics, observation, action)
        return network.values(critics, observation, action), moved, first

    values, moved, first = jax.jit(evaluate)(jax.random.key(0))
    assert values.shape == (2, 5) and np.any(values[0] != values[1])
    np.testing.assert_allclose(first, values[0], rtol=1e-5)
    assert np.all(moved != values)


def test_the_policy_is_its_formula():
    network = build()
    params = jax.jit(network.init_actor)(jax.random.key(0))
    observation = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    hidden = np.asarray(observation)
    torso, head = params["params"]["torso"], params["params"]["head"]
    for name in ("Dense_0", "Dense_1"):
        hidden = np.maximum(hidden @ torso[name]["kernel"] + torso[name]["bias"], 0.0)
    expected = np.tanh(hidden @ head["kernel"] + head["bias"])
    np.testing.assert_allclose(jax.jit(network.actor)(params, observation), expected, rtol=1e-5)
    # torch's default: uniform within 1 / sqrt(inputs), the bias too.
    assert np.abs(head["kernel"]).max() <= 8**-0.5 and np.any(head["bias"] != 0)


def test_dict_and_tuple_observations_and_entries_of_their_own():
    space = spaces.Dict({"seen": BOX, "hidden": spaces.Discrete(5)})
    network = build(space, actor_keys="seen")

    @jax.jit
    def both(hidden):
        params = network.init_actor(jax.random.key(0))
        critics = network.init_critics(jax.random.key(1), 2)
        observation = {"seen": jnp.ones((2, 3)), "hidden": hidden}
        action = network.actor(params, observation)
        return action, network.values(critics, observation, action)

    (action, values), (other_action, others) = both(jnp.array([0, 1])), both(jnp.array([4, 1]))
    np.testing.assert_array_equal(action, other_action)
    assert np.all(values[:, 0] != others[:, 0])
    np.testing.assert_array_equal(values[:, 1], others[:, 1])
    pair = build(spaces.Tuple((BOX, spaces.Discrete(5))))
    action = jax.jit(
        lambda: pair.actor(
            pair.init_actor(jax.random.key(0)), (jnp.ones((2, 3)), jnp.array([0, 1]))
        )
    )()
    assert action.shape == (2, 2)


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (spaces.Discrete(3), "action_space is Discrete, but a deterministic policy needs a box"),
        (spaces.Dict({"a": BOX}), "action_space is Dict, but a deterministic policy needs a box"),
        (spaces.Box(-jnp.inf, jnp.inf, (1,), jnp.float32), "a box with finite bounds"),
    ],
)
def test_other_actions_are_refused_in_one_sentence(space, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(action_space=space)


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="activation is 'rely'.*did you mean 'relu'"):
        build(activation="rely")
