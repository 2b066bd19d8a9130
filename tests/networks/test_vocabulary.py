"""Log-probabilities of chosen tokens: SciPy and plain JAX as references, in chunks and at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxpg.networks import vocabulary
from jaxpg.networks.gru import GRUConfig, gru
from jaxpg.networks.vocabulary import log_probs_of, token_statistics

ROWS, LENGTH, SIZE, WIDTH = 3, 8, 13, 6
MODEL = gru(GRUConfig(SIZE, embedding_width=WIDTH, width=WIDTH, tied=True))
DRAW = np.random.default_rng(0)
PARAMS = jax.tree.map(
    lambda x: DRAW.normal(size=x.shape).astype(np.float32),
    jax.eval_shape(MODEL.init, jax.random.key(0)),
)
HIDDEN = DRAW.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32) * 2
TOKENS = DRAW.integers(0, SIZE, (ROWS, LENGTH))
ALLOWED = DRAW.random((LENGTH, SIZE)) < 0.6
ALLOWED |= (np.arange(SIZE) == TOKENS[..., None]).any(0)
WEIGHTS = DRAW.normal(size=(2, ROWS, LENGTH)).astype(np.float32)

statistics = jax.jit(token_statistics)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_log_prob_and_entropy_are_those_of_the_tempered_softmax(temperature):
    draw = np.random.default_rng(1)
    logits, tokens = draw.normal(0, 10, (4, 5, 7)).astype(np.float32), draw.integers(0, 7, (4, 5))
    log_prob, entropy = statistics(logits, tokens, temperature)
    expected = scipy.special.log_softmax(logits.astype(np.float64) / temperature, axis=-1)
    chosen = np.take_along_axis(expected, tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(log_prob, chosen, atol=1e-5)
    np.testing.assert_allclose(entropy, scipy.stats.entropy(np.exp(expected), axis=-1), atol=1e-5)


def test_a_temperature_divides_logits_and_not_log_probabilities():
    log_prob, _ = statistics(np.log(np.array([1, 3], np.float32)), np.array(1), 0.5)
    np.testing.assert_allclose(log_prob, -0.105361, atol=1e-6)


def test_probabilities_of_two_tokens_are_not_those_of_all():
    """Shares .4, .3, .2, .1: of the first two, token 0 has 4 / 7."""
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    full, _ = statistics(logits, np.array(0))
    first_two, entropy = statistics(np.where(np.arange(4) < 2, logits, -np.inf), np.array(0))
    np.testing.assert_allclose([full, first_two], [-0.916291, -0.559616], atol=1e-6)
    np.testing.assert_allclose(entropy, scipy.stats.entropy([4 / 7, 3 / 7]), atol=1e-6)


def test_a_distribution_that_knows_the_next_token_scores_it_and_not_its_neighbours():
    ids = np.array([3, 1, 4, 1, 5, 9])
    logits = 20.0 * np.eye(10, dtype=np.float32)[ids[1:]]
    right, _ = statistics(logits, ids[1:])
    shifted, _ = statistics(logits, ids[:-1])
    # 1 + 9 e^-20 is 1 in float32.
    np.testing.assert_allclose(right, -1.9e-8, atol=2e-8)
    np.testing.assert_allclose(shifted, -20.0, atol=1e-5)


def test_excluded_tokens_give_finite_gradients():
    logits = np.array([[1.0, -np.inf, 0.5, -np.inf], [-np.inf, -np.inf, 3.0, -np.inf]], np.float32)

    def both(logits):
        log_prob, entropy = token_statistics(logits, np.array([0, 2]))
        return jnp.sum(log_prob) + jnp.sum(entropy)

    gradient = jax.jit(jax.grad(both))(logits)
    p = 1 / (1 + np.exp(-0.5))
    slope = (1 - p) + p * (1 - p) * np.log((1 - p) / p)
    expected = [[slope, 0, -slope, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def loss_of(scores, temperature=0.7):
    def loss(params, hidden):
        log_prob, entropy = scores(params, hidden, temperature)
        return jnp.sum(WEIGHTS[0] * log_prob + WEIGHTS[1] * entropy), (log_prob, entropy)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


def in_chunks(chunk, allowed=None):
    def scores(params, hidden, temperature):
        return log_probs_of(
            MODEL, params, hidden, TOKENS, temperature, allowed=allowed, chunk=chunk
        )

    return scores


def plainly(allowed):
    """Values and gradients from JAX's own functions on all logits."""

    def scores(params, hidden, temperature):
        logits = MODEL.logits(params, hidden) / temperature
        if allowed is not None:
            logits = jnp.where(allowed, logits, -1e30)
        every = jax.nn.log_softmax(logits, axis=-1)
        chosen = jnp.take_along_axis(every, TOKENS[..., None], axis=-1)[..., 0]
        return chosen, -jnp.sum(jnp.exp(every) * every, axis=-1)

    return jax.jit(loss_of(scores))(PARAMS, HIDDEN)


@pytest.mark.parametrize(
    ("allowed", "chunks"),
    [(None, (0, 3, 4)), (ALLOWED, (3,))],
    ids=["all", "allowed"],
)
def test_chunks_change_neither_values_nor_gradients(allowed, chunks):
    """Chunks that divide the time and that do not."""
    expected = plainly(allowed)
    for chunk in chunks:
        results = jax.jit(loss_of(in_chunks(chunk, allowed)))(PARAMS, HIDDEN)
        for x, y in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def largest_logits(chunk):
    """Most logits of any array in the program of value and gradient."""
    program = jax.make_jaxpr(loss_of(in_chunks(chunk)))(PARAMS, HIDDEN)
    found, todo = 0, [program.jaxpr]
    while todo:
        jaxpr = todo.pop()
        for eqn in jaxpr.eqns:
            shapes = [getattr(x.aval, "shape", ()) for x in eqn.outvars]
            found = max([found, *(int(np.prod(s)) for s in shapes if len(s) > 2 and s[-1] == SIZE)])
            for inner in jax.tree.leaves(
                list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
            ):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    todo.append(inner)
    return found


def test_chunks_bound_the_logits_that_exist_at_one_time():
    assert largest_logits(0) == largest_logits(LENGTH + 1) == ROWS * LENGTH * SIZE
    assert largest_logits(3) == ROWS * 3 * SIZE


@pytest.mark.parametrize(
    ("kept", "positions"), [(ROWS * LENGTH * SIZE, LENGTH), (ROWS * 4 * SIZE + 5, 4), (1, 1)]
)
def test_without_a_chunk_as_many_logits_are_kept_as_are_meant_to_be(kept, positions, monkeypatch):
    monkeypatch.setattr(vocabulary, "KEPT_LOGITS", kept)
    assert largest_logits(None) == ROWS * positions * SIZE
