"""Sampling from real policies: keys, padding, ends, seeds, and the model's own full pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import generation
from jaxpg.generation import Sampling, generate
from jaxpg.networks.decoder import transformer
from jaxpg.networks.gru import GRUConfig, gru
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg.networks.vocabulary import log_probs_of

SIZE, ROWS, PROMPT, NEW = 11, 4, 6, 5
MODELS = {
    "transformer": transformer(
        TransformerConfig(
            SIZE, 1, width=16, num_heads=4, num_kv_heads=2, mlp_width=24, max_positions=PROMPT + NEW
        )
    ),
    "gru": gru(GRUConfig(SIZE, embedding_width=6, width=8, max_positions=PROMPT + NEW)),
}
LENGTHS = np.array([6, 3, 1, 4])
TOKENS = np.random.default_rng(3).integers(0, SIZE, (ROWS, PROMPT))
RIGHT = np.arange(PROMPT) < LENGTHS[:, None]
TEMPERATURE, STOPS = 0.8, (0, 2, 3, 7, 8)


def aligned(tokens, mask):
    """The same prompts with their padding on the left."""
    shift = (np.arange(PROMPT) - (PROMPT - mask.sum(1))[:, None]) % PROMPT
    return tuple(np.take_along_axis(x, shift, axis=1) for x in (tokens, mask))


class Sampler:
    """One policy with parameters of its own, its compiled functions, and a count of traces."""

    def __init__(self, model):
        self.model, self.traces = model, 0
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        numbers = np.random.default_rng(0)
        self.params = jax.tree.map(
            lambda x: numbers.normal(0.1, 0.4, x.shape).astype(np.float32), shapes
        )
        self.sample = jax.jit(self._sample)
        self.stopped = jax.jit(self._stopped)
        self.score = jax.jit(self._score)

    def generate(self, tokens, mask, key, **settings):
        settings = {
            "max_new_tokens": NEW,
            "sampling": Sampling(TEMPERATURE),
            "entropy": True,
            "hidden": True,
        } | settings
        return generate(self.model, self.params, tokens, mask, key, **settings)

    def _sample(self, tokens, mask, key, ids):
        self.traces += 1
        return self.generate(tokens, mask, key, prompt_ids=ids)

    def _stopped(self, key):
        return self.generate(*aligned(TOKENS, RIGHT), key, stop_tokens=STOPS)

    def _score(self, tokens, mask):
        """What a full pass says about the last tokens of left-padded rows."""
        hidden = self.model.hidden(self.params, tokens, mask)[:, PROMPT - 1 : -1]
        tempered, policy = (
            log_probs_of(self.model, self.params, hidden, tokens[:, PROMPT:], temperature)
            for temperature in (TEMPERATURE, 1.0)
        )
        return hidden, self.model.logits(self.params, hidden), tempered, policy


@pytest.fixture(scope="module", params=list(MODELS))
def sampler(request):
    return Sampler(MODELS[request.param])


@pytest.fixture(scope="module")
def sampled(sampler):
    return sampler.sample(*aligned(TOKENS, RIGHT), jax.random.key(1), np.arange(ROWS))


def after_prompts(tokens):
    """Left-padded prompts and responses as rows of one batch."""
    prompts, mask = aligned(TOKENS, RIGHT)
    rows = np.concatenate([prompts, tokens], axis=1)
    return rows, np.concatenate([mask, np.ones(tokens.shape, bool)], axis=1)


def test_log_probabilities_are_those_of_a_full_pass(sampler, sampled):
    """Before any update the ratio of learner to sampler is 1, whatever the lengths."""
    hidden, _, (log_prob, entropy), (policy, _) = sampler.score(*after_prompts(sampled.tokens))
    np.testing.assert_allclose(sampled.hidden, hidden, atol=1e-5)
    np.testing.assert_allclose(sampled.log_prob, log_prob, atol=1e-5)
    np.testing.assert_allclose(sampled.policy_log_prob, policy, atol=1e-5)
    np.testing.assert_allclose(sampled.entropy, entropy, atol=1e-5)
    assert sampled.mask.all() and not sampled.finished.any()


def test_the_side_of_the_padding_and_what_it_holds_change_no_token(sampler, sampled):
    right = sampler.sample(np.where(RIGHT, TOKENS, 7), RIGHT, jax.random.key(1), np.arange(ROWS))
    np.testing.assert_array_equal(right.tokens, sampled.tokens)
    np.testing.assert_allclose(right.log_prob, sampled.log_prob, atol=1e-5)


def test_tokens_belong_to_the_prompt_id_and_not_to_the_row(sampler, sampled):
    prompts, mask = aligned(TOKENS, RIGHT)
    order = np.array([2, 0, 3, 1])
    permuted = sampler.sample(prompts[order], mask[order], jax.random.key(1), order)
    np.testing.assert_array_equal(permuted.tokens, sampled.tokens[order])
    other = sampler.sample(prompts, mask, jax.random.key(1), np.arange(ROWS) + 10)
    assert (other.tokens != sampled.tokens).any(axis=1).all()


def test_another_key_draws_other_tokens_without_compiling_again(sampler, sampled):
    others = [
        sampler.sample(*aligned(TOKENS, RIGHT), jax.random.key(seed), np.arange(ROWS)).tokens
        for seed in (2, 3)
    ]
    assert (others[0] != sampled.tokens).any() and (others[0] != others[1]).any()
    assert sampler.traces == 1


def test_tokens_depend_neither_on_the_split_of_the_batch_nor_on_the_number_of_samples(
    sampler, sampled
):
    """The samples of a prompt stand side by side. The prompts are embeddings this time."""
    prompts, mask = aligned(TOKENS, RIGHT)
    embeddings = sampler.model.embed(sampler.params, prompts)
    several = jax.jit(lambda *x: sampler.generate(*x[:3], prompt_ids=x[3], num_samples=3))
    halves = [
        several(embeddings[rows], mask[rows], jax.random.key(1), np.arange(ROWS)[rows])
        for rows in (slice(2), slice(2, 4))
    ]
    tokens, log_prob = (
        np.concatenate([getattr(half, name) for half in halves]) for name in ("tokens", "log_prob")
    )
    np.testing.assert_array_equal(tokens[::3], sampled.tokens)
    np.testing.assert_allclose(log_prob[::3], sampled.log_prob, atol=1e-5)
    assert all(len(np.unique(group, axis=0)) == 3 for group in tokens.reshape((ROWS, 3, NEW)))
    for sample in (1, 2):
        _, _, (expected, _), _ = sampler.score(*after_prompts(tokens[sample::3]))
        np.testing.assert_allclose(log_prob[sample::3], expected, atol=1e-5)


def test_an_end_leaves_the_tokens_before_it_as_they_were(sampler, sampled):
    """The loop that ends early draws what the loop without a stop token draws."""
    tokens = np.asarray(sampled.tokens)
    ended = sampler.stopped(jax.random.key(1))
    is_stop = np.isin(tokens, STOPS)
    mask = np.cumsum(is_stop, axis=1) - is_stop == 0
    assert not mask[:, -1].all()
    np.testing.assert_array_equal(ended.mask, mask)
    np.testing.assert_array_equal(ended.finished, is_stop.any(axis=1))
    np.testing.assert_array_equal(ended.tokens, tokens * mask)
    for name in ("log_prob", "policy_log_prob", "entropy"):
        got, plain = np.asarray(getattr(ended, name)), np.asarray(getattr(sampled, name))
        np.testing.assert_allclose(got, plain * mask, atol=1e-6)
        assert not got[~mask].any()
    np.testing.assert_allclose(ended.hidden, sampled.hidden * mask[..., None], atol=1e-6)


def test_greedy_tokens_are_the_most_probable_of_a_full_pass(sampler):
    allowed = np.ones((NEW, SIZE), bool)
    allowed[2, :5] = False
    greedy = jax.jit(
        lambda *x: sampler.generate(*x, sampling=Sampling(temperature=0), allowed=allowed)
    )(*aligned(TOKENS, RIGHT), jax.random.key(1))
    _, logits, _, (policy, entropy) = sampler.score(*after_prompts(greedy.tokens))
    best = np.where(allowed, logits, -np.inf).argmax(axis=-1)
    np.testing.assert_array_equal(greedy.tokens, best)
    np.testing.assert_array_equal(greedy.log_prob, 0.0)
    np.testing.assert_allclose(greedy.policy_log_prob, policy, atol=1e-5)
    np.testing.assert_allclose(greedy.entropy, entropy, atol=1e-5)


def test_seeds_under_vmap_are_single_runs_bit_for_bit(sampler):
    """Though they end at different times."""
    keys = jax.random.split(jax.random.key(7), 4)
    together = jax.jit(jax.vmap(sampler._stopped))(keys)
    for seed, key in enumerate(keys):
        for one, alone in zip(
            jax.tree.leaves(together), jax.tree.leaves(sampler.stopped(key)), strict=True
        ):
            np.testing.assert_array_equal(one[seed], alone)
    ends = np.asarray(together.mask).sum(axis=2).max(axis=1)
    assert len(set(ends)) > 1, ends


def selected(sampler, shape):
    """Choices between two arrays of a shape, one such array for each seed, in the program."""

    def sample(key):
        rows = aligned(TOKENS, RIGHT)
        return generate(
            sampler.model, sampler.params, *rows, key, max_new_tokens=NEW, stop_tokens=(1,)
        )

    keys = jax.random.split(jax.random.key(0))
    program = jax.jit(jax.vmap(sample)).lower(keys).as_text()
    kind = f"tensor<{'x'.join(map(str, (len(keys), *shape)))}xf32>"
    return sum("stablehlo.select" in line and kind in line for line in program.splitlines())


def test_seeds_under_vmap_do_not_choose_between_old_and_new_caches(sampler, monkeypatch):
    """They would at every token, if the condition of the loop differed between seeds."""
    cache = jax.eval_shape(
        lambda: sampler.model.prefill(
            sampler.model.for_decoding(sampler.params), *aligned(TOKENS, RIGHT), PROMPT + NEW
        )[1]
    )
    shape = next(x.shape for x in jax.tree.leaves(cache) if x.dtype == jnp.float32)
    assert selected(sampler, shape) == 0
    monkeypatch.setattr(generation, "_any", jnp.any)
    assert selected(sampler, shape) > 0
