"""Low-rank adapters: what they change, what is trained, and that the sampler sees them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpg.generation import generate
from jaxpg.networks.decoder import transformer
from jaxpg.networks.lora import TARGETS, LoRA
from jaxpg.networks.transformer import SCANNED_FROM
from jaxpg.networks.transformer_config import TransformerConfig

CONFIG = TransformerConfig(
    11, num_layers=2, width=16, num_heads=4, num_kv_heads=2, mlp_width=24, attention_bias=True
)
MODEL = transformer(CONFIG)
ADAPTERS = LoRA(rank=3, alpha=12.0)
TOKENS = np.random.default_rng(1).integers(0, 11, (2, 6))
MASK = np.ones(TOKENS.shape, bool)


def drawn(shapes, seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: draw.normal(0, 0.4, x.shape).astype(np.float32), shapes)


def shapes_of(function, *arguments):
    return jax.eval_shape(lambda key: function(key, *arguments), jax.random.key(0))


BASE = drawn(shapes_of(MODEL.init))


def trained(adapters, config=CONFIG, seed=2):
    """Adapters as after some training: neither factor is 0."""
    return drawn(shapes_of(adapters.init, config), seed)


@jax.jit
def merge(adapters):
    return ADAPTERS.merge(BASE, adapters, CONFIG)


def loss(params):
    logits = MODEL.logits(params, MODEL.hidden(params, TOKENS, MASK))
    return jnp.sum(jnp.sin(logits)), logits


@pytest.fixture(scope="module")
def scored():
    """Loss and logits of parameters of either form."""
    return jax.jit(loss)


@pytest.fixture(scope="module")
def start():
    """Adapters as `init` draws them."""
    return jax.jit(lambda key: ADAPTERS.init(key, CONFIG))(jax.random.key(0))


def test_adapters_start_as_the_identity_and_draw_their_first_factor(scored, start):
    _, before = scored(BASE)
    _, joined = scored(ADAPTERS.join(BASE, start))
    np.testing.assert_array_equal(joined, before)
    for parts in start["layers"].values():
        for factors in parts.values():
            assert not factors["b"].any()
            inputs = factors["a"].shape[1]
            # Uniform of variance 1 / (3 inputs).
            assert np.abs(factors["a"]).max() <= 1 / np.sqrt(inputs)
            np.testing.assert_allclose(factors["a"].std() * (3 * inputs) ** 0.5, 1.0, atol=0.3)
            assert np.abs(factors["a"][0] - factors["a"][1]).max() > 0.05


def test_every_target_has_the_documented_shapes():
    shapes = jax.tree.map(lambda x: x.shape, shapes_of(ADAPTERS.init, CONFIG))["layers"]
    columns = {
        "qkv": {"q": (16, 16), "k": (16, 8), "v": (16, 8)},
        "output": {"o": (16, 16)},
        "gate_up": {"gate": (16, 24), "up": (16, 24)},
        "down": {"down": (24, 16)},
    }
    assert shapes == {
        kernel: {
            part: {"a": (2, inputs, 3), "b": (2, 3, outputs)}
            for part, (inputs, outputs) in parts.items()
        }
        for kernel, parts in columns.items()
    }
    assert sorted(part for parts in shapes.values() for part in parts) == sorted(TARGETS)


def test_merging_adds_the_scaled_product_to_the_columns_of_the_target():
    adapters = trained(ADAPTERS)
    merged = merge(adapters)["params"]
    for kernel, starts in {
        "qkv": {"q": 0, "k": 16, "v": 24},
        "output": {"o": 0},
        "gate_up": {"gate": 0, "up": 24},
        "down": {"down": 0},
    }.items():
        expected = BASE["params"]["layers"][kernel]["kernel"].copy()
        for part, start in starts.items():
            factors = adapters["layers"][kernel][part]
            change = 12.0 / 3 * np.einsum("lir,lro->lio", factors["a"], factors["b"])
            expected[:, :, start : start + change.shape[2]] += change
        np.testing.assert_allclose(merged["layers"][kernel]["kernel"], expected, atol=1e-5)
    np.testing.assert_array_equal(merged["embedding"], BASE["params"]["embedding"])
    restored = jax.jit(lambda x: ADAPTERS.unmerge({"params": merged}, x, CONFIG))(adapters)
    assert jax.tree.structure(restored) == jax.tree.structure(BASE)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), restored, BASE)


def test_joined_adapters_compute_and_differentiate_like_merged_ones():
    """Here in layers that are one scan."""
    config = TransformerConfig(11, num_layers=SCANNED_FROM, width=8, num_heads=2, mlp_width=8)
    model, adapters = transformer(config), trained(ADAPTERS, config)
    base = drawn(shapes_of(model.init))

    def gradient(put):
        def loss(adapters):
            hidden = model.hidden(put(adapters), TOKENS, MASK)
            return jnp.sum(jnp.sin(hidden)), hidden

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(adapters)

    joined = gradient(lambda x: ADAPTERS.join(base, x))
    merged = gradient(lambda x: ADAPTERS.merge(base, x, config))
    for x, y in zip(jax.tree.leaves(joined), jax.tree.leaves(merged), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * max(1.0, np.abs(y).max()))


@pytest.mark.parametrize("targets", [("q", "v", "up"), ("k", "o", "down")])
def test_a_subset_of_targets_leaves_the_others_alone(targets, scored):
    some = LoRA(rank=2, alpha=2.0, targets=targets)
    adapters = trained(some)
    assert sorted(p for parts in adapters["layers"].values() for p in parts) == sorted(targets)
    _, joined = scored(some.join(BASE, adapters))
    merged = jax.jit(lambda x: some.merge(BASE, x, CONFIG))(adapters)
    _, expected = scored(merged)
    np.testing.assert_allclose(joined, expected, atol=1e-5)
    changed = np.abs(
        merged["params"]["layers"]["qkv"]["kernel"] - BASE["params"]["layers"]["qkv"]["kernel"]
    ).max(axis=(0, 1))
    for part, columns in {"q": slice(16), "k": slice(16, 24), "v": slice(24, 32)}.items():
        assert (changed[columns] > 0).all() if part in targets else not changed[columns].any()


def test_a_step_moves_every_adapter_and_nothing_else(start):
    """The optimiser holds adapters alone; from B = 0 the first step moves B, the second A."""
    adapters = start
    base = jax.tree.map(np.copy, BASE)
    optimiser = optax.sgd(1e-2, momentum=0.9)
    state = optimiser.init(adapters)
    assert (
        len(jax.tree.leaves(state[0].trace)) == len(jax.tree.leaves(adapters)) == 2 * len(TARGETS)
    )

    @jax.jit
    def step(adapters, state):
        gradient = jax.grad(lambda x: loss(ADAPTERS.join(base, x))[0])(adapters)
        change, state = optimiser.update(gradient, state)
        return optax.apply_updates(adapters, change), state

    moved, state = step(adapters, state)
    moved, _ = step(moved, state)
    for before, after in zip(jax.tree.leaves(adapters), jax.tree.leaves(moved), strict=True):
        assert np.abs(before - after).max() > 1e-4
    jax.tree.map(np.testing.assert_array_equal, base, BASE)


def test_no_gradient_of_a_kernel_is_ever_formed():
    """No product has a kernel's shape, while the gradient of the base needs all four."""

    def kernel_shaped(gradient, argument):
        jaxpr = jax.make_jaxpr(gradient)(argument)
        kernels = {
            shape
            for name in ("qkv", "output", "gate_up", "down")
            for shape in (BASE["params"]["layers"][name]["kernel"].shape[1:],)
        }
        kernels |= {shape[::-1] for shape in kernels}
        shapes = [
            eqn.outvars[0].aval.shape for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"
        ]
        return sum(shape in kernels for shape in shapes)

    adapters = trained(ADAPTERS)
    assert kernel_shaped(jax.grad(lambda x: loss(ADAPTERS.join(BASE, x))[0]), adapters) == 0
    assert kernel_shaped(jax.grad(lambda x: loss(x)[0]), BASE) == 4 * CONFIG.num_layers


def test_the_sampler_uses_the_adapters():
    """Its log-probabilities are those of the merged parameters, and not those of the base."""
    adapters = trained(ADAPTERS)

    @jax.jit
    def sample(params):
        key = jax.random.key(0)
        return generate(MODEL, params, TOKENS, MASK, key, max_new_tokens=3)

    @jax.jit
    def score(params, rows):
        hidden = MODEL.hidden(params, rows, np.ones(rows.shape, bool))
        every = jax.nn.log_softmax(MODEL.logits(params, hidden[:, 5:-1]))
        return jnp.take_along_axis(every, rows[:, 6:, None], axis=2)[..., 0]

    sampled = sample(ADAPTERS.join(BASE, adapters))
    rows = np.concatenate([TOKENS, sampled.tokens], axis=1)
    with_adapters = score(merge(adapters), rows)
    np.testing.assert_allclose(sampled.log_prob, with_adapters, atol=1e-4)
    assert np.abs(with_adapters - score(BASE, rows)).max() > 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ("q", "dwn")}, "targets is 'dwn'.*did you mean 'down'"),
        ({"targets": ()}, "number of targets is 0"),
        ({"rank": 0}, "rank is 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**settings)
