"""What every token policy promises, whatever it is made of: padding, packing, single steps."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.networks.decoder import transformer
from jaxpg.networks.gru import GRUConfig, gru
from jaxpg.networks.language_model import position_ids, response_states
from jaxpg.networks.token_mlp import TokenMLPConfig, token_mlp
from jaxpg.networks.transformer import SCANNED_FROM
from jaxpg.networks.transformer_config import TransformerConfig

SIZE = 11
MODELS = {
    "transformer": transformer(
        TransformerConfig(
            SIZE, num_layers=2, width=16, num_heads=4, num_kv_heads=2, mlp_width=24, value_head=True
        )
    ),
    "gru": gru(GRUConfig(SIZE, embedding_width=6, width=8, num_layers=2, value_head=True)),
    "token_mlp": token_mlp(TokenMLPConfig(SIZE, 48, hidden=(8, 6), value_head=True)),
}
LENGTH = 5
PADS = (0, 1, 7, 31, 33)
TOKENS = np.random.default_rng(0).integers(0, SIZE, (len(PADS), LENGTH))


def random_params(model):
    """Every parameter drawn, biases and scales too."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda x: draw.normal(0.1, 0.4, x.shape).astype(np.float32), shapes)


class Compiled:
    """One policy, its parameters, and its functions under `jit`, shared by the tests."""

    def __init__(self, model):
        self.model, self.params = model, random_params(model)
        self.outputs = jax.jit(self._outputs)
        self.prefill = jax.jit(self._prefill, static_argnums=2)
        self.step = jax.jit(self._step)

    def _outputs(self, params, inputs, mask, positions=None, segment_ids=None):
        hidden = self.model.hidden(params, inputs, mask, positions, segment_ids)
        return self.model.logits(params, hidden), self.model.value(params, hidden)

    def _prefill(self, inputs, mask, length):
        params = self.model.for_decoding(self.params)
        hidden, cache = self.model.prefill(params, inputs, mask, length)
        return self.model.logits(params, hidden), cache

    def _step(self, cache, token, index):
        params = self.model.for_decoding(self.params)
        embedding = self.model.embed(params, token)
        hidden, cache = self.model.step(params, cache, embedding, index)
        return self.model.logits(params, hidden), cache


@pytest.fixture(scope="module", params=list(MODELS))
def policy(request):
    return Compiled(MODELS[request.param])


@pytest.fixture(scope="module")
def plain(policy):
    """Logits and values of the rows as they are."""
    return policy.outputs(policy.params, TOKENS, np.ones(TOKENS.shape, bool))


def padded(side, filler=0):
    """The rows at the end (or start) of longer ones, each with its own number of pads, and more."""
    width = LENGTH + max(PADS)
    tokens = np.full((len(PADS), width), filler)
    mask = np.zeros((len(PADS), width), bool)
    for row, pads in enumerate(PADS):
        start = pads if side == "left" else max(PADS) - pads
        tokens[row, start : start + LENGTH] = TOKENS[row]
        mask[row, start : start + LENGTH] = True
    return tokens, mask


def test_positions_count_real_tokens():
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 1, 1]], bool)
    count = jax.jit(position_ids)
    assert count(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 1, 1, 1], [0, 0, 1, 2, 3]]
    segments = np.array([[0, 0, 0, 1, 1], [4, 4, 4, 4, 4], [0, 0, 0, 1, 2]])
    assert count(mask, segments).tolist() == [
        [0, 0, 0, 0, 1],
        [0, 1, 1, 1, 1],
        [0, 0, 1, 0, 0],
    ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_output_of_a_real_token(policy, plain, side):
    tokens, mask = padded(side)
    outputs = policy.outputs(policy.params, tokens, mask)
    for output, expected in zip(outputs, plain, strict=True):
        np.testing.assert_allclose(output[mask], np.concatenate(expected), rtol=1e-5, atol=1e-5)
    others = policy.outputs(policy.params, padded(side, filler=7)[0], mask)
    for output, other in zip(outputs, others, strict=True):
        np.testing.assert_array_equal(output[mask], other[mask])


def test_gradients_are_finite_and_those_of_rows_without_padding_before_them(policy):
    """Also with a row that is nothing but padding."""

    def loss(params, tokens, mask):
        logits, value = policy._outputs(params, tokens, mask)
        each = jnp.sum(jnp.sin(logits), axis=-1) + value
        return jnp.sum(jnp.where(mask, each, 0.0))

    gradient = jax.jit(jax.grad(loss))
    tokens, mask = (np.concatenate([x, np.zeros_like(x[:1])]) for x in padded("left"))
    first = np.argmax(mask, axis=1)[:, None] + np.arange(mask.shape[1])
    ahead = (np.take_along_axis(x, first % mask.shape[1], axis=1) for x in (tokens, mask))
    expected = gradient(policy.params, *ahead)
    for x, y in zip(
        jax.tree.leaves(gradient(policy.params, tokens, mask)),
        jax.tree.leaves(expected),
        strict=True,
    ):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, y, atol=1e-5 * max(1.0, np.abs(y).max()))


@pytest.mark.parametrize("side", ["left", "right"])
def test_single_steps_with_a_cache_equal_a_full_pass_up_to_the_last_slot(policy, side):
    """Whatever the padding of the prompt, and whatever the unused slots hold."""
    prompt = 3
    tokens, mask = padded(side)
    first = mask & (np.cumsum(mask, axis=1) <= prompt)
    expected, _ = policy.outputs(policy.params, TOKENS, np.ones(TOKENS.shape, bool))
    logits, cache = policy.prefill(tokens, first, tokens.shape[1] + LENGTH - prompt)
    real = np.concatenate(np.asarray(expected)[:, :prompt])
    np.testing.assert_allclose(logits[first], real, rtol=1e-5, atol=1e-5)
    for index in range(LENGTH - prompt):
        logits, cache = policy.step(cache, TOKENS[:, prompt + index], index)
        np.testing.assert_allclose(logits, expected[:, prompt + index], rtol=1e-5, atol=1e-5)


def test_a_step_of_scanned_layers_equals_a_full_pass():
    config = TransformerConfig(SIZE, num_layers=SCANNED_FROM, width=8, num_heads=2, mlp_width=8)
    policy = Compiled(transformer(config))
    mask = np.ones(TOKENS.shape, bool)
    expected, _ = policy.prefill(TOKENS, mask, LENGTH + 1)
    _, cache = policy.prefill(TOKENS, mask & (np.arange(LENGTH) < LENGTH - 1), LENGTH + 1)
    logits, _ = policy.step(cache, TOKENS[:, -1], 0)
    np.testing.assert_allclose(logits, expected[:, -1], rtol=1e-5, atol=1e-5)


def test_packed_segments_equal_separate_rows(policy, plain):
    """Rows of 5, 3 and 2 tokens in one row of 12, with padding between and after."""
    packed, mask, segments = np.zeros((1, 12), int), np.zeros((1, 12), bool), np.zeros((1, 12), int)
    places = ((0, 0, 5), (1, 6, 3), (2, 9, 2))
    for row, start, length in places:
        packed[0, start : start + length] = TOKENS[row, :length]
        mask[0, start : start + length] = True
        segments[0, start:] = row
    outputs = policy.outputs(policy.params, packed, mask, None, segments)
    for output, expected in zip(outputs, plain, strict=True):
        for row, start, length in places:
            np.testing.assert_allclose(
                output[0, start : start + length], expected[row, :length], rtol=1e-5, atol=1e-5
            )


COUNTED = np.tile(np.arange(LENGTH), (len(PADS), 1))


def embeddings_of(policy):
    table = policy.params["params"].get("embedding", np.eye(SIZE, dtype=np.float32))
    return table[TOKENS]


def test_embeddings_equal_their_tokens_and_given_positions_the_counted_ones(policy, plain):
    embeddings = embeddings_of(policy)
    assert embeddings.shape == (*TOKENS.shape, policy.model.width)
    outputs = policy.outputs(policy.params, embeddings, np.ones(TOKENS.shape, bool), COUNTED)
    for output, expected in zip(outputs, plain, strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


def test_a_shift_of_all_positions_changes_nothing(policy, plain):
    """Distances do, for the transformer; the carry knows no positions."""
    if isinstance(policy.model.config, TokenMLPConfig):
        pytest.skip("every place has weights of its own")
    embeddings = embeddings_of(policy)
    mask = np.ones(TOKENS.shape, bool)
    shifted, _ = policy.outputs(policy.params, embeddings, mask, COUNTED + 40)
    np.testing.assert_allclose(shifted, plain[0], rtol=1e-4, atol=1e-4)
    apart, _ = policy.outputs(policy.params, embeddings, mask, COUNTED * 3)
    reads_positions = isinstance(policy.model.config, TransformerConfig)
    assert (np.abs(apart - plain[0]).max() > 1e-2) == reads_positions


def test_no_token_sees_a_later_one(policy, plain):
    changed = TOKENS.copy()
    changed[:, 3:] = (changed[:, 3:] + 1) % SIZE
    logits, _ = policy.outputs(policy.params, changed, np.ones(TOKENS.shape, bool))
    np.testing.assert_array_equal(logits[:, :3], plain[0][:, :3])
    assert np.abs(logits[:, 3:] - plain[0][:, 3:]).max() > 1e-3


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("kind", ["plain", "everything", "scanned"])
def test_a_prompt_passed_once_gives_its_responses_the_states_and_gradients_of_whole_rows(
    kind, length, monkeypatch
):
    config = TransformerConfig(SIZE, num_layers=2, width=16, num_kv_heads=2, mlp_width=24)
    if kind == "everything":
        config = dataclasses.replace(
            config,
            num_kv_heads=1,
            head_width=6,
            attention_bias=True,
            output_bias=True,
            mlp_bias=True,
            query_key_norm=True,
            tied=False,
            remat=True,
        )
    if kind == "scanned":
        config = dataclasses.replace(config, num_layers=SCANNED_FROM)
        # The package has a function of this module's name.
        module = importlib.import_module("jaxpg.networks.transformer")
        monkeypatch.setattr(module, "UNROLLED_ON", ())
    model = transformer(config)
    draw = np.random.default_rng(1)
    prompt_mask = np.array([[0, 0, 1], [1, 1, 1], [1, 1, 0]], bool)
    prompts, tokens = draw.integers(0, SIZE, (3, 3)), draw.integers(0, SIZE, (6, length))
    mask = np.arange(length) < np.array([4, 1, 0, 2, 3, 4])[:, None]
    weights = draw.normal(size=(6, length, 16)) * mask[..., None]

    def total(model, params):
        states = response_states(model, params, prompts, prompt_mask, tokens, mask)
        return jnp.sum(weights * states**2)

    params = random_params(model)
    once, whole = (
        jax.jit(jax.value_and_grad(lambda params, model=one: total(model, params)))(params)
        for one in (model, dataclasses.replace(model, shared_states=None))
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), once, whole)


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_of_a_response_stand_for_its_tokens(name):
    model, params = MODELS[name], random_params(MODELS[name])
    mask, prompts = np.ones((4, 3), bool), TOKENS[:2, :3]
    tokens = TOKENS[:4, 2:]

    def states(prompts, tokens):
        return response_states(model, params, prompts, mask[:2], tokens, mask)

    found = states(model.embed(params, prompts), model.embed(params, tokens))
    np.testing.assert_allclose(found, states(prompts, tokens), atol=1e-5)
