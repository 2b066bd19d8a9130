"""The transformer against the published equations in NumPy, and against itself in other forms."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.networks.decoder import transformer
from jaxpg.networks.rotary import RopeScaling
from jaxpg.networks.transformer_config import TransformerConfig, kernel_parts

# The package has a function of this name too.
layers = importlib.import_module("jaxpg.networks.transformer")
LLAMA = TransformerConfig(
    vocabulary_size=11, num_layers=2, width=16, num_heads=4, num_kv_heads=2, mlp_width=24
)
EVERYTHING = TransformerConfig(
    vocabulary_size=300,
    num_layers=2,
    width=12,
    num_heads=4,
    num_kv_heads=1,
    head_width=6,
    mlp_width=20,
    rope_theta=500.0,
    rope_scaling=RopeScaling("llama3", 4.0, original_positions=32),
    norm_epsilon=1e-2,
    tied=False,
    attention_bias=True,
    output_bias=True,
    mlp_bias=True,
    query_key_norm=True,
    value_head=True,
)
DEEP = dataclasses.replace(LLAMA, num_layers=layers.SCANNED_FROM)
MASK = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
TOKENS = np.random.default_rng(5).integers(0, 11, MASK.shape)


def random_params(config):
    """Every parameter drawn, biases and scales too."""
    shapes = jax.eval_shape(transformer(config).init, jax.random.key(0))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda x: draw.normal(0.1, 0.4, x.shape).astype(np.float32), shapes)


def rms_norm(x, scale, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def rotate_half(x):
    half = x.shape[-1] // 2
    return np.concatenate([-x[..., half:], x[..., :half]], axis=-1)


def llama3_frequencies(width, theta, scaling):
    """Frequency by frequency, as the Llama 3.1 release describes it."""
    result = []
    for i in range(width // 2):
        frequency = theta ** (-2 * i / width)
        if scaling is not None:
            wavelength = 2 * np.pi / frequency
            longest = scaling.original_positions / scaling.low_frequency_factor
            shortest = scaling.original_positions / scaling.high_frequency_factor
            if wavelength > longest:
                frequency /= scaling.factor
            elif wavelength > shortest:
                ratio = scaling.original_positions / wavelength
                smooth = (ratio - scaling.low_frequency_factor) / (
                    scaling.high_frequency_factor - scaling.low_frequency_factor
                )
                frequency = (1 - smooth) * frequency / scaling.factor + smooth * frequency
        result.append(frequency)
    return np.array(result)


def llama_logits(config, params, tokens):
    """Logits and last hidden states of one row without padding, in float64, head by head."""
    tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params)["params"]
    stacked, epsilon = tree["layers"], config.norm_epsilon
    heads, groups = config.num_heads, config.num_kv_heads or config.num_heads
    width = config.head_width or config.width // heads
    frequencies = llama3_frequencies(width, config.rope_theta, config.rope_scaling)
    angle = np.arange(len(tokens))[:, None] * np.tile(frequencies, 2)
    cosine, sine = np.cos(angle), np.sin(angle)
    x = tree["embedding"][tokens]
    for number in range(config.num_layers):
        layer = jax.tree.map(lambda leaf: leaf[number], stacked)

        def linear(name, inputs):
            return inputs @ layer[name]["kernel"] + layer[name].get("bias", 0.0)

        every = linear("qkv", rms_norm(x, layer["attention_norm"]["scale"], epsilon))
        every = np.split(every, heads + 2 * groups, axis=1)
        attended = []
        for head in range(heads):
            group = heads + head // (heads // groups)
            query, key, value = every[head], every[group], every[group + groups]
            if config.query_key_norm:
                query = rms_norm(query, layer["query_norm"]["scale"], epsilon)
                key = rms_norm(key, layer["key_norm"]["scale"], epsilon)
            query = query * cosine + rotate_half(query) * sine
            key = key * cosine + rotate_half(key) * sine
            scores = query @ key.T / np.sqrt(width)
            scores[np.triu_indices(len(tokens), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            attended.append(weights / weights.sum(-1, keepdims=True) @ value)
        x = x + linear("output", np.concatenate(attended, axis=1))
        inner = rms_norm(x, layer["mlp_norm"]["scale"], epsilon)
        gate, up = np.split(linear("gate_up", inner), 2, axis=1)
        x = x + linear("down", gate / (1 + np.exp(-gate)) * up)
    x = rms_norm(x, tree["norm"]["scale"], epsilon)
    return x @ (tree["embedding"].T if config.tied else tree["head"]["kernel"]), x


def outputs(config):
    """Logits, hidden states and values; a fresh function, which reads a changed constant again."""
    model = transformer(config)

    def every(params, tokens, mask):
        hidden = model.hidden(params, tokens, mask)
        values = (model.value(params, hidden),) if config.value_head else ()
        return model.logits(params, hidden), hidden, *values

    return jax.jit(every)


def loss_and_gradient(config, tokens=TOKENS, mask=MASK):
    every = outputs(config)

    def loss(params):
        logits = every(params, tokens, mask)[0]
        return jnp.sum(jnp.where(mask[..., None], jnp.sin(logits), 0.0))

    return jax.jit(jax.value_and_grad(loss))


def assert_trees_close(one, other, tolerance):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        error = np.abs(np.asarray(x) - np.asarray(y)).max()
        assert error <= tolerance * max(1.0, np.abs(y).max()), (jax.tree_util.keystr(path), error)


@pytest.mark.parametrize("config", [LLAMA, EVERYTHING], ids=["llama", "everything"])
def test_logits_are_those_of_the_published_equations(config):
    params = random_params(config)
    logits, _, *values = outputs(config)(params, TOKENS, MASK)
    assert logits.dtype == jnp.float32
    for row, real in enumerate(MASK):
        expected, states = llama_logits(config, params, TOKENS[row, real])
        np.testing.assert_allclose(logits[row, real], expected, rtol=1e-4, atol=2e-5)
        if config.value_head:
            head = params["params"]["value"]
            value = states @ head["kernel"][:, 0] + head["bias"][0]
            np.testing.assert_allclose(values[0][row, real], value, atol=2e-5)


def test_parameters_have_the_documented_layout():
    """Kernels are `[inputs, outputs]`, stacked over layers; a tied model has no head."""
    shapes = jax.tree.map(jnp.shape, random_params(EVERYTHING))["params"]
    assert shapes == {
        "embedding": (300, 12),
        "layers": {
            "attention_norm": {"scale": (2, 12)},
            "qkv": {"kernel": (2, 12, 36), "bias": (2, 36)},
            "query_norm": {"scale": (2, 6)},
            "key_norm": {"scale": (2, 6)},
            "output": {"kernel": (2, 24, 12), "bias": (2, 12)},
            "mlp_norm": {"scale": (2, 12)},
            "gate_up": {"kernel": (2, 12, 40), "bias": (2, 40)},
            "down": {"kernel": (2, 20, 12), "bias": (2, 12)},
        },
        "norm": {"scale": (12,)},
        "head": {"kernel": (12, 300)},
        "value": {"kernel": (12, 1), "bias": (1,)},
    }
    shapes = jax.tree.map(jnp.shape, random_params(LLAMA))["params"]
    assert sorted(shapes) == ["embedding", "layers", "norm"]
    assert shapes["layers"] == {
        "attention_norm": {"scale": (2, 16)},
        "qkv": {"kernel": (2, 16, 32)},
        "output": {"kernel": (2, 16, 16)},
        "mlp_norm": {"scale": (2, 16)},
        "gate_up": {"kernel": (2, 16, 48)},
        "down": {"kernel": (2, 24, 16)},
    }


@pytest.mark.parametrize(
    ("width", "num_heads", "head_width", "queries"),
    [(1024, 16, 128, 2048), (2560, 32, 128, 4096), (1024, 16, None, 1024)],
    ids=["qwen3_0.6b", "qwen3_4b", "default"],
)
def test_a_named_head_width_is_not_width_over_heads(width, num_heads, head_width, queries):
    config = TransformerConfig(
        vocabulary_size=2, width=width, num_heads=num_heads, num_kv_heads=8, head_width=head_width
    )
    parts = kernel_parts(config)
    _, columns = parts["qkv"]
    keys = 8 * (head_width or width // num_heads)
    assert columns == (("q", queries), ("k", keys), ("v", keys))
    assert parts["output"] == (queries, (("o", width),))


@pytest.fixture(scope="module")
def deep():
    """Parameters, loss and gradient of the model whose layers are one scan."""
    params = random_params(DEEP)
    return params, *loss_and_gradient(DEEP)(params)


def test_scanned_layers_equal_unrolled_ones_in_values_and_gradients(deep, monkeypatch):
    params = deep[0]
    monkeypatch.setattr(layers, "UNROLLED_ON", ())
    assert "scan" in str(jax.make_jaxpr(outputs(DEEP))(params, TOKENS, MASK))
    value, gradient = loss_and_gradient(DEEP)(params)
    monkeypatch.setattr(layers, "SCANNED_FROM", 99)
    assert "scan" not in str(jax.make_jaxpr(outputs(DEEP))(params, TOKENS, MASK))
    expected, expected_gradient = loss_and_gradient(DEEP)(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_trees_close(gradient, expected_gradient, 1e-5)


def test_layers_computed_again_give_the_same_values_and_gradients(deep):
    params, expected, expected_gradient = deep
    value, gradient = loss_and_gradient(dataclasses.replace(DEEP, remat=True))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_trees_close(gradient, expected_gradient, 1e-5)


def equations(jaxpr):
    """Every equation, also those inside loops and calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


BFLOAT16 = dataclasses.replace(LLAMA, dtype="bfloat16")


def test_bfloat16_computes_close_to_float32_and_keeps_float32_parameters():
    params = random_params(LLAMA)
    assert_trees_close(params, random_params(BFLOAT16), 0.0)
    logits, hidden = outputs(BFLOAT16)(params, TOKENS, MASK)
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    for row, real in enumerate(MASK):
        expected, _ = llama_logits(LLAMA, params, TOKENS[row, real])
        error = np.abs(logits[row, real] - expected).max()
        assert error < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("form", ["rows", "steps"])
def test_softmax_and_norms_are_float32_whatever_the_model_computes_in(form):
    model, params = transformer(BFLOAT16), random_params(BFLOAT16)
    if form == "rows":
        jaxpr = jax.make_jaxpr(model.hidden)(params, TOKENS, MASK)
    else:

        def steps(params, embedding):
            _, cache = model.prefill(params, TOKENS, MASK, 8)
            return model.step(model.for_decoding(params), cache, embedding, 0)

        jaxpr = jax.make_jaxpr(steps)(params, jax.ShapeDtypeStruct((3, 16), jnp.bfloat16))
    found = list(equations(jaxpr.jaxpr))
    exact = [eqn for eqn in found if eqn.primitive.name in ("exp", "rsqrt", "cos", "sin")]
    assert {eqn.primitive.name for eqn in exact} == {"exp", "rsqrt", "cos", "sin"}
    assert all(eqn.outvars[0].aval.dtype == jnp.float32 for eqn in exact)
    products = [eqn for eqn in found if eqn.primitive.name == "dot_general"]
    assert all(eqn.invars[1].aval.dtype == jnp.bfloat16 for eqn in products)


def test_maps_start_at_unit_gain_and_what_the_residual_stream_adds_at_the_root_of_its_terms():
    config = dataclasses.replace(LLAMA, num_layers=4, width=32, mlp_width=64)
    drawn = jax.jit(transformer(config).init)(jax.random.key(0))["params"]["layers"]
    for name, gain in (("qkv", 1), ("gate_up", 1), ("output", 8**-0.5), ("down", 8**-0.5)):
        kernel = np.asarray(drawn[name]["kernel"])
        np.testing.assert_allclose(kernel.std() * kernel.shape[1] ** 0.5, gain, rtol=0.1)
    np.testing.assert_array_equal(drawn["mlp_norm"]["scale"], 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 3, "width": 16}, "num_heads is 3, which does not divide width=16"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads is 3, which does not divide"),
        ({"head_width": 7}, "head_width is 7"),
        ({"dtype": "bfloat"}, "dtype is 'bfloat'.*did you mean 'bfloat16'"),
        ({"num_layers": 0}, "num_layers is 0"),
    ],
)
def test_a_wrong_shape_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(vocabulary_size=11, **settings)
