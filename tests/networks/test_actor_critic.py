"""Networks: torsos, hidden states, families of actions, observations for actor and critic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from jaxpg import networks
from jaxpg_envs.spaces import MultiDiscrete

BOX = spaces.Box(-1.0, 1.0, (3,), jnp.float32)
DISCRETE = spaces.Discrete(4)


def build(action_space=DISCRETE, observation_space=BOX, **config):
    return networks.actor_critic(observation_space, action_space, hidden=(8,), **config)


def test_separate_torsos_share_no_gradient():
    network = build()
    params = network.init(jax.random.key(0))
    observation = jnp.ones((2, 3))

    def value(params):
        return network.step(params, (), observation, jnp.zeros(2, bool))[2].sum()

    gradient = jax.grad(value)(params)["params"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["policy_torso"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient["critic_torso"]))


def test_a_shared_torso_is_one_torso():
    params = build(shared=True).init(jax.random.key(0))["params"]
    assert sorted(params) == ["logits", "policy_torso", "value"]


def test_hidden_kernels_are_orthogonal_and_the_policy_starts_near_uniform():
    network = build()
    params = network.init(jax.random.key(0))
    kernel = params["params"]["policy_torso"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(kernel @ kernel.T, 2 * np.eye(3), atol=1e-5)
    _, logits, _ = network.step(params, (), jnp.ones((1, 3)), jnp.zeros(1, bool))
    assert np.abs(jax.nn.softmax(logits) - 0.25).max() < 0.01


@pytest.mark.parametrize("shared", [False, True])
def test_a_recurrent_unroll_equals_its_steps_and_resets_at_episode_ends(shared):
    network = build(recurrent=5, shared=shared)
    params = network.init(jax.random.key(0))
    observation = jax.random.normal(jax.random.key(1), (2, 4, 3))
    reset = jnp.array([[True, False, True, False], [False, False, False, False]])
    carry = jax.tree.map(lambda x: x + 0.3, network.initial_carry(2))
    carries, logits, value = network.unroll(params, carry, observation, reset)
    state = carry
    for t in range(4):
        state, step_logits, step_value = network.step(params, state, observation[:, t], reset[:, t])
        np.testing.assert_allclose(logits[:, t], step_logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(value[:, t], step_value, rtol=1e-5, atol=1e-6)
    # After the reset at t = 2 row 0 is a fresh episode, bit for bit.
    fresh, _, _ = network.unroll(
        params, network.initial_carry(2), observation[:, 2:], jnp.zeros((2, 2), bool)
    )
    for after, start in zip(jax.tree.leaves(carries), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_array_equal(after[0, 2], start[0, 0])
        assert np.any(after[1, 2] != start[1, 0])


@pytest.mark.parametrize("name", ["normal", "tanh_normal", "beta"])
@pytest.mark.parametrize("state_dependent", [False, True])
def test_actions_stay_inside_the_box_and_have_its_shape(name, state_dependent):
    box = spaces.Box(jnp.array([-2.0, 0.0]), jnp.array([2.0, 4.0]), (2,), jnp.float32)
    network = build(box, distribution=name, state_dependent_std=state_dependent)
    params = network.init(jax.random.key(0))
    _, parameters, _ = network.step(params, (), jnp.ones((500, 3)), jnp.zeros(500, bool))
    raw = network.distribution.sample(jax.random.key(1), parameters)
    action = network.to_environment(raw)
    assert action.shape == (500, 2)
    assert (action >= box.low).all() and (action <= box.high).all()
    assert np.isfinite(network.distribution.log_prob(parameters, raw)).all()
    assert network.distribution.log_prob(parameters, raw).shape == (500,)


def test_actor_and_critic_may_read_different_entries():
    space = spaces.Dict({"seen": BOX, "hidden": spaces.Discrete(5)})
    network = build(observation_space=space, actor_keys="seen", critic_keys=("seen", "hidden"))
    params = network.init(jax.random.key(0))
    observation = {"seen": jnp.ones((2, 3)), "hidden": jnp.array([0, 1])}
    other = observation | {"hidden": jnp.array([4, 1])}
    _, logits, value = network.step(params, (), observation, jnp.zeros(2, bool))
    _, other_logits, other_value = network.step(params, (), other, jnp.zeros(2, bool))
    np.testing.assert_array_equal(logits, other_logits)
    assert value[0] != other_value[0] and value[1] == other_value[1]


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    network = build(dtype="bfloat16")
    params = network.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    _, logits, value = network.step(params, (), jnp.ones((1, 3)), jnp.zeros(1, bool))
    assert logits.dtype == value.dtype == jnp.float32


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"activation": "tanhh"}, "activation is 'tanhh'.*did you mean 'tanh'"),
        ({"hiden": (3,)}, "'hiden' is no field of NetworkConfig; did you mean 'hidden'"),
        ({"distribution": "normal"}, "the action space is discrete"),
        ({"actor_keys": "seen"}, "has no named entries"),
        ({"shared": True, "critic_keys": "x"}, "a shared torso reads one observation"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(config, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        networks.actor_critic(BOX, DISCRETE, **config)


def test_a_squashed_policy_needs_a_bounded_box():
    box = spaces.Box(-jnp.inf, jnp.inf, (2,), jnp.float32)
    with pytest.raises(ValueError, match="distribution is 'tanh_normal', which fills a bounded"):
        build(box, distribution="tanh_normal")


@pytest.mark.parametrize("recurrent", [0, 4])
def test_a_batch_of_seeds_never_decomposes_matrices_side_by_side(recurrent):
    # Two batches of QR decompositions at once can wait for each other for ever on few cores.
    keys = jax.random.split(jax.random.key(0), 3)
    network = build(recurrent=recurrent)
    ranks = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("geqrf", "qr", "householder_product"):
                ranks.append(equation.invars[0].aval.ndim)
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    if hasattr(inner, "eqns"):
                        visit(inner)
                    elif hasattr(inner, "jaxpr"):
                        visit(inner.jaxpr)

    visit(jax.make_jaxpr(jax.vmap(network.init))(keys).jaxpr)
    assert ranks and set(ranks) == {2}
    alone = network.init(keys[1])
    together = jax.vmap(network.init)(keys)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(a, b[1], atol=1e-6)


def test_actions_of_several_parts_are_refused_with_the_way_out():
    parts = spaces.Dict({"a": spaces.Box(0.0, 1.0, (2,))})
    with pytest.raises(ValueError, match="action_space is Dict, .*MappedActions"):
        networks.actor_critic(spaces.Box(0.0, 1.0, (2,)), parts)


@pytest.mark.parametrize("recurrent", [0, 4])
def test_several_discrete_actions_have_one_head_and_are_actions_of_the_environment(recurrent):
    space = MultiDiscrete((8, 4))
    network = build(space, recurrent=recurrent, distribution=(None, "categorical")[recurrent > 0])
    params = network.init(jax.random.key(0))
    assert params["params"]["logits"]["kernel"].shape[1] == 12
    observation, reset = jnp.ones((50, 2, 3)), jnp.zeros((50, 2), bool)
    carry = network.initial_carry(50)
    _, logits, _ = network.unroll(params, carry, observation, reset)
    raw = network.distribution.sample(jax.random.key(1), logits)
    action = network.to_environment(raw)
    assert action.shape == (50, 2, 2)
    assert action.dtype == jnp.int32
    assert space.contains(action)
    np.testing.assert_allclose(network.distribution.entropy(logits), np.log(32), atol=1e-2)


def test_several_discrete_actions_take_no_distribution_of_a_box():
    with pytest.raises(ValueError, match="distribution is 'beta', but the action space is disc"):
        build(MultiDiscrete((8, 4)), distribution="beta")
