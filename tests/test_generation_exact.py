"""Sampling from a policy of known logits: exact distributions, ends, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxpg import generation
from jaxpg.generation import Sampling, draw, generate, sampling_logits, stop_table, uniforms
from jaxpg.networks.language_model import LanguageModel


def constant(size, count=None):
    """A policy whose logits are its parameters, whatever it reads; `count` is told of steps."""

    def step(params, cache, embedding, index):
        if count is not None:
            jax.debug.callback(count, index)
        return embedding, cache

    return LanguageModel(
        config=None,
        vocabulary_size=size,
        max_positions=32,
        width=1,
        has_value=False,
        init=lambda key: jnp.zeros(size),
        embed=lambda params, tokens: jnp.zeros((*tokens.shape, 1)),
        hidden=lambda params, inputs, mask, *rest: jnp.zeros((*mask.shape, 1)),
        logits=lambda params, hidden: jnp.broadcast_to(params, (*hidden.shape[:-1], size)),
        value=lambda params, hidden: jnp.zeros(hidden.shape[:-1]),
        for_decoding=lambda params: params,
        prefill=lambda params, inputs, mask, length: (jnp.zeros((*mask.shape, 1)), ()),
        repeat=lambda cache, num: cache,
        step=step,
    )


def exact(logits, sampling, allowed):
    """The distribution that `Sampling` describes, in float64, token by token."""
    p = scipy.special.softmax(np.where(allowed, logits.astype(np.float64), -np.inf))
    p = p ** (1 / sampling.temperature)
    p /= p.sum()
    order = np.argsort(-p)
    if sampling.top_k:
        p[order[sampling.top_k :]] = 0
        p /= p.sum()
    total, kept = 0.0, []
    for token in order:
        if total < sampling.top_p:
            kept.append(token)
            total += p[token]
    p[np.setdiff1d(order, kept)] = 0
    p[p < sampling.min_p * p.max()] = 0
    return p / p.sum()


SMALL, LARGE = 11, 200
RARE = np.linspace(0, np.log(1e-9), LARGE).astype(np.float32)
CASES = {
    "cold": (SMALL, Sampling(0.5), None),
    "plain": (SMALL, Sampling(), None),
    "hot": (SMALL, Sampling(2.0), None),
    "top_k": (SMALL, Sampling(top_k=4), None),
    "top_p": (SMALL, Sampling(1.5, top_p=0.7), None),
    "min_p": (SMALL, Sampling(min_p=0.1), None),
    "allowed": (SMALL, Sampling(0.9), 0.6),
    "two levels": (LARGE, Sampling(), None),
    "everything in two levels": (LARGE, Sampling(1.3, top_k=60, top_p=0.8, min_p=0.04), 0.5),
    "rare among excluded": (LARGE, Sampling(), 0.5),
}


def setting(case):
    """Logits, what is allowed, and the exact distribution of one of the cases."""
    size, sampling, share = CASES[case]
    numbers = np.random.default_rng(len(case))
    logits = numbers.normal(0, 1.5, size).astype(np.float32)
    if case.startswith("rare"):
        logits = numbers.permutation(RARE)
    allowed = np.ones(size, bool) if share is None else numbers.random(size) < share
    return logits, sampling, allowed, exact(logits, sampling, allowed)


def assert_follow(tokens, p):
    """A chi-square test at 0.1%, and no token of probability 0."""
    counts, expected = np.bincount(tokens.ravel(), minlength=p.size), p * tokens.size
    assert not counts[p == 0].any()
    # Rare tokens are counted together: the statistic is not chi-square below about 5.
    often = expected >= 5
    bins = [np.append(x[often], x[~often].sum()) for x in (counts, expected)]
    if bins[1][-1] == 0:
        bins = [x[:-1] for x in bins]
    assert scipy.stats.chisquare(*bins).pvalue > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_exact_distribution(case):
    logits, sampling, allowed, p = setting(case)

    @jax.jit
    def draws(logits, allowed, key):
        kept = sampling_logits(logits[None], sampling, allowed)
        rows = jnp.broadcast_to(kept, (8000, kept.shape[1]))
        return jax.nn.softmax(kept[0]), draw(uniforms(jax.random.split(key, 8000), 1)[0], rows)

    probability, tokens = draws(logits, allowed, jax.random.key(0))
    np.testing.assert_allclose(probability, p, rtol=1e-4)
    assert_follow(np.asarray(tokens), p)


@pytest.mark.parametrize("case", ["hot", "everything in two levels"])
def test_sampled_tokens_are_scored_under_their_distribution_and_under_the_policy(case):
    logits, sampling, allowed, p = setting(case)
    prompts = np.zeros((2, 1), int)
    result = jax.jit(
        lambda params, key: generate(
            constant(logits.size),
            params,
            prompts,
            prompts == 0,
            key,
            max_new_tokens=10,
            num_samples=200,
            sampling=sampling,
            allowed=allowed,
            entropy=True,
        )
    )(logits, jax.random.key(0))
    tokens = np.asarray(result.tokens)
    assert_follow(tokens, p)
    np.testing.assert_allclose(result.log_prob, np.log(p[tokens]), atol=1e-5)
    policy = scipy.special.log_softmax(logits.astype(np.float64))
    np.testing.assert_allclose(result.policy_log_prob, policy[tokens], atol=1e-5)
    tempered = scipy.special.softmax(logits.astype(np.float64) / sampling.temperature)
    np.testing.assert_allclose(result.entropy, scipy.stats.entropy(tempered), atol=1e-5)
    assert result.mask.all() and not result.finished.any()


@pytest.mark.parametrize("size", [128, 1200])
def test_an_index_without_weight_is_never_drawn(size):
    """At and beside every place where the cumulative weights stop rising."""
    numbers = np.random.default_rng(0)
    weights = numbers.exponential(size=(6, size)) * (numbers.random((6, size)) < 0.5)
    weights[:, -3:] = 0
    weights = weights.astype(np.float32)
    edges = (np.cumsum(weights, axis=1) / weights.sum(1, keepdims=True)).astype(np.float32)
    near = [edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(1))]
    invert = jax.jit(jax.vmap(generation._invert, in_axes=(None, 1), out_axes=1))
    for uniform in near:
        chosen = np.asarray(invert(weights, np.minimum(uniform, np.float32(1 - 2**-24))))
        assert (np.take_along_axis(weights, chosen, axis=1) > 0).all()


def test_the_first_token_is_not_drawn_beyond_its_probability():
    """The generator gives 0 for these seeds, where 2^-23 would be the first token's share."""
    logits = np.where(np.arange(300) % 128 == 0, -40.0, 0.0).astype(np.float32)
    keys = jnp.stack([jax.random.key(3353848), jax.random.key(15995900)])

    @jax.jit
    def both(keys):
        uniform = uniforms(keys, 1)[0]
        few = draw(uniform, jnp.broadcast_to(logits[:128], (2, 128)))
        many = draw(uniform, jnp.broadcast_to(logits, (2, 300)))
        raw = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 0), (2,)))(keys)
        return raw, uniform, few, many

    raw, uniform, *tokens = both(keys)
    assert raw[0, 0] == 0 and raw[1, 1] == 0
    assert (uniform > 0).all() and np.allclose(uniform, raw, atol=1e-6)
    assert (logits[np.concatenate(tokens)] == 0).all()


def test_flat_logits_give_every_sample_of_a_group_its_own_row():
    """1000 tokens, 4 of them in each of 8 samples."""
    result = jax.jit(
        lambda key: generate(
            constant(1000),
            np.zeros(1000, np.float32),
            np.zeros((1, 1), int),
            np.ones((1, 1), bool),
            key,
            max_new_tokens=4,
            num_samples=8,
        )
    )(jax.random.key(0))
    assert len(np.unique(result.tokens, axis=0)) == 8
    assert len(np.unique(result.tokens)) > 24


def forced(tokens, size, stop_strings=None, stop_tokens=()):
    """Runs `generate` with exactly one allowed token at each place."""
    tokens = np.asarray(tokens)
    prompts = np.zeros((len(tokens), 1), int)
    return jax.jit(
        lambda table: generate(
            constant(size),
            np.zeros(size, np.float32),
            prompts,
            prompts == 0,
            jax.random.key(0),
            max_new_tokens=tokens.shape[1],
            allowed=tokens[..., None] == np.arange(size),
            stop_strings=table,
            stop_tokens=stop_tokens,
        )
    )(stop_strings)


def test_the_mask_ends_with_the_first_of_several_stop_tokens_which_stays():
    """A response that stops at the limit is finished, one that the limit cuts is not."""
    result = forced(
        [[3, 2, 2, 2], [3, 6, 0, 0], [3, 4, 3, 4], [4, 4, 4, 6], [2, 1, 1, 1], [0, 0, 0, 6]],
        8,
        stop_tokens=(2, 6),
    )
    assert result.mask.sum(axis=1).tolist() == [2, 2, 4, 4, 1, 4]
    assert result.finished.tolist() == [True, True, False, True, True, True]
    assert result.tokens.tolist() == [
        [3, 2, 0, 0],
        [3, 6, 0, 0],
        [3, 4, 3, 4],
        [4, 4, 4, 6],
        [2, 0, 0, 0],
        [0, 0, 0, 6],
    ]
    np.testing.assert_allclose(result.policy_log_prob, -np.log(8) * result.mask, rtol=1e-5)


def test_the_loop_stops_when_every_row_has():
    steps = []
    model = constant(4, lambda index: steps.append(int(index)))
    prompts = np.zeros((2, 1), int)
    # Tokens 0, 0, 0, 1: the first is the prefill's.
    jax.jit(
        lambda key: generate(
            model,
            np.zeros(4, np.float32),
            prompts,
            prompts == 0,
            key,
            max_new_tokens=20,
            allowed=np.arange(20)[:, None] // 3 == np.arange(4),
            stop_tokens=(1,),
        )
    )(jax.random.key(0))
    jax.effects_barrier()
    assert steps == [0, 1, 2]


PIECES = [b"", b"x", b"a", b"b", b"xa", b"by", b"ab", b"aa", b"xaaby", b"\xc3", b"\xa9", b"ba\xc3"]


def first_end(row, stop_strings):
    """The token whose text completes a stop string, by searching the text so far."""
    text = b""
    for index, token in enumerate(row):
        text += PIECES[token]
        if any(text.find(stop.encode()) >= 0 for stop in stop_strings):
            return index
    return None


@pytest.mark.parametrize(
    "stop_strings",
    [("ab",), ("aab",), ("aaba", "ab", "xx"), ("é",), ("abab", "ba"), ("x",), ("byxa", "aé")],
    ids="|".join,
)
def test_stop_strings_are_found_where_a_search_of_the_text_finds_them(stop_strings):
    """Cut over tokens, inside one, overlapping with themselves and with each other."""
    table = np.asarray(stop_table(PIECES, stop_strings).transition)
    rows = np.random.default_rng(0).integers(0, len(PIECES), (1000, 12))
    ends = 0
    for row in rows:
        state, found = 0, None
        for index, token in enumerate(row):
            state = table[state, token]
            if found is None and state == len(table) - 1:
                found = index
        assert found == first_end(row, stop_strings)
        ends += found is not None
    assert ends > 20


def test_a_stop_string_ends_the_response_with_the_token_that_completes_it():
    """`ab` in `xa`, `by`: two whole tokens, finished."""
    rows = np.random.default_rng(1).integers(0, len(PIECES), (100, 6))
    rows[0] = [4, 5, 1, 1, 1, 1]
    rows[1] = [1, 2, 2, 2, 2, 3]
    rows[2] = [1, 2, 2, 2, 2, 2]
    result = forced(rows, len(PIECES), stop_strings=stop_table(PIECES, ["ab", "é"]))
    assert result.mask.sum(axis=1)[:3].tolist() == [2, 6, 6]
    assert result.finished[:3].tolist() == [True, True, False]
    ends = [first_end(row, ["ab", "é"]) for row in rows]
    assert result.finished.tolist() == [end is not None for end in ends]
    lengths = [6 if end is None else end + 1 for end in ends]
    assert result.mask.sum(axis=1).tolist() == lengths
    np.testing.assert_array_equal(result.tokens, rows * np.asarray(result.mask))


def test_allowed_tokens_may_differ_between_prompts_and_places():
    """All of them are drawn, for every sample of the prompt, and no others."""
    allowed = np.random.default_rng(0).random((3, 4, 6)) < 0.4
    allowed[..., 2] = True
    prompts = np.zeros((3, 1), int)
    result = jax.jit(
        lambda key: generate(
            constant(6),
            np.zeros(6, np.float32),
            prompts,
            prompts == 0,
            key,
            max_new_tokens=4,
            num_samples=50,
            allowed=allowed,
        )
    )(jax.random.key(0))
    drawn = np.zeros((3, 4, 6), bool)
    drawn[np.arange(150)[:, None] // 50, np.arange(4), result.tokens] = True
    np.testing.assert_array_equal(drawn, allowed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 32}, "max_new_tokens is 32, which with a prompt of 1 tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"stop_tokens": (1, 4)}, "stop_tokens holds 4, but the vocabulary has 4 tokens"),
        ({"stop_tokens": (-1,)}, "stop_tokens holds -1"),
        ({"allowed": np.ones((2, 4), bool)}, r"allowed has shape \(2, 4\)"),
    ],
)
def test_what_cannot_be_sampled_is_refused(settings, message):
    settings = {"max_new_tokens": 3} | settings
    prompts, mask = np.zeros((1, 1), int), np.ones((1, 1), bool)
    with pytest.raises(ValueError, match=message):
        generate(constant(4), np.zeros(4), prompts, mask, jax.random.key(0), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": 1.0}, "min_p is 1.0"),
    ],
)
def test_a_setting_out_of_range_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize("stop_strings", [(), ("a", "")])
def test_empty_stop_strings_are_refused(stop_strings):
    with pytest.raises(ValueError, match="stop_strings is"):
        stop_table(PIECES, stop_strings)
