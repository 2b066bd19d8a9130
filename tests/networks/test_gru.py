"""The recurrent policy: Flax's own cell as the reference, where the products stand, heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxpg.networks.gru import GRUConfig, gru

CONFIG = GRUConfig(vocabulary_size=11, embedding_width=6, width=8, num_layers=2, value_head=True)


def random_params(model):
    """Every parameter drawn, biases too."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32) * 0.5, shapes)


@pytest.fixture(scope="module")
def params():
    return random_params(gru(CONFIG))


@pytest.fixture(scope="module")
def starts():
    """What `init` draws for two seeds at once."""
    keys = jax.random.split(jax.random.key(0))
    return jax.jit(jax.vmap(gru(CONFIG).init))(keys)["params"]


def as_flax_cell(layer):
    """The parameters of one layer under the names of `nn.GRUCell`."""
    cell = {}
    inputs = zip("rzn", np.split(layer["inputs"]["kernel"], 3, axis=1), strict=True)
    biases = np.split(layer["inputs"]["bias"], 3)
    carries = np.split(layer["kernel"], 3, axis=1)
    for (gate, kernel), bias, carry in zip(inputs, biases, carries, strict=True):
        cell[f"i{gate}"] = {"kernel": kernel, "bias": bias}
        cell[f"h{gate}"] = {"kernel": carry}
    cell["hn"]["bias"] = layer["bias"]
    return {"params": cell}


def test_hidden_states_are_those_of_flax_cells_applied_token_by_token(params):
    tokens = np.random.default_rng(1).integers(0, 11, (3, 5))
    hidden = jax.jit(gru(CONFIG).hidden)(params, tokens, np.ones((3, 5), bool))
    tree = params["params"]
    cells = [as_flax_cell(tree[f"layers_{number}"]) for number in range(2)]
    step = jax.jit(lambda cell, carry, inputs: nn.GRUCell(8).apply(cell, carry, inputs)[0])
    carries = [np.zeros((3, 8), np.float32)] * 2
    for t in range(5):
        stream = tree["embedding"][tokens[:, t]]
        for number, cell in enumerate(cells):
            stream = carries[number] = step(cell, carries[number], stream)
        np.testing.assert_allclose(hidden[:, t], stream, atol=1e-6)


def test_the_product_with_the_inputs_stands_outside_the_scan(params):
    """Within it one product of a layer is left, with the carry."""
    tokens, mask = np.zeros((2, 5), np.int32), np.ones((2, 5), bool)
    jaxpr = jax.make_jaxpr(gru(CONFIG).hidden)(params, tokens, mask)
    scans = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert len(scans) == 2
    for scan in scans:
        inside = [eqn.primitive.name for eqn in scan.params["jaxpr"].eqns]
        assert inside.count("dot_general") == 1


def test_kernels_of_the_carry_start_orthogonal_also_under_vmap(starts):
    kernels = np.stack([starts["layers_0"]["kernel"], starts["layers_1"]["kernel"]])
    for kernel in np.split(kernels, 3, axis=-1):
        product = kernel @ np.swapaxes(kernel, -1, -2)
        np.testing.assert_allclose(product, np.broadcast_to(np.eye(8), (2, 2, 8, 8)), atol=1e-5)
    assert np.abs(kernels[:, 0] - kernels[:, 1]).max() > 0.1


def test_a_tied_head_is_the_embedding_over_the_root_of_its_width():
    model = gru(GRUConfig(vocabulary_size=300, embedding_width=4, width=4, tied=True))
    params = random_params(model)
    assert "head" not in params["params"]
    embedding = params["params"]["embedding"]
    hidden = np.eye(4, dtype=np.float32)[None]
    np.testing.assert_allclose(model.logits(params, hidden)[0], embedding.T / 2, rtol=1e-6)
    chosen = model.embed(jax.tree.map(jnp.asarray, params), np.array([[7, 299]]))
    np.testing.assert_array_equal(chosen[0], embedding[[7, 299]])


def test_the_value_is_linear_in_the_hidden_state_and_starts_at_zero(params, starts):
    model = gru(CONFIG)
    hidden = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    head = params["params"]["value"]
    expected = hidden @ head["kernel"][:, 0] + head["bias"][0]
    np.testing.assert_allclose(model.value(params, hidden), expected, atol=1e-6)
    assert not starts["value"]["kernel"].any() and not starts["value"]["bias"].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tied": True, "embedding_width": 6, "width": 8}, "tied is True"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"width": 0}, "width is 0"),
    ],
)
def test_a_wrong_size_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        GRUConfig(vocabulary_size=11, **settings)
