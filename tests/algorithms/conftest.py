"""A tiny language task with ragged prompts, a stop token that is also the padding, and policies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.method import Method
from jaxpg.networks.decoder import transformer
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg_envs.tokens.task import Prompts, Reward, TokenTask

# Prompts 1 and 3 are the same text with different answers; prompt 2 holds the padding's 0.
TOKENS = np.array([[1, 2, 3], [0, 0, 4], [0, 0, 2], [0, 0, 4], [3, 3, 1], [0, 2, 1]])
LENGTHS = np.array([3, 1, 2, 1, 3, 2])
ANSWERS = np.array([1, 1, 2, 3, 4, 2])


def ragged_prompts(ids):
    tokens, lengths, answers = (jnp.asarray(x, jnp.int32)[ids] for x in (TOKENS, LENGTHS, ANSWERS))
    return Prompts(tokens, jnp.arange(3) >= 3 - lengths[:, None], ids, {"answer": answers})


def count_answers(prompts, tokens, mask, finished):
    """The reward is how often the answer was written."""
    hits = jnp.sum((tokens == prompts.data["answer"][:, None]) & mask, axis=1)
    return Reward(hits.astype(jnp.float32), jnp.ones_like(finished), {})


@pytest.fixture(scope="session")
def ragged_task():
    """Builder of the task; up to four tokens of five, 0 stops."""

    def build(**fields):
        fields = {"reward": count_answers, "num_prompts": len(TOKENS)} | fields
        return TokenTask(
            name="ragged",
            vocabulary_size=5,
            prompt_length=3,
            response_length=4,
            stop_tokens=(0,),
            prompts=ragged_prompts,
            settings={"ragged": 1},
            **fields,
        )

    return build


@pytest.fixture(scope="session")
def tiny_policy():
    """Builder of `(model, params)` with parameters far from uniform."""

    def build(vocabulary_size=5, max_positions=7, seed=0, **fields):
        config = TransformerConfig(
            vocabulary_size,
            1,
            width=16,
            num_heads=2,
            mlp_width=24,
            max_positions=max_positions,
            **fields,
        )
        model = transformer(config)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        numbers = np.random.default_rng(seed)
        draw = lambda leaf: jnp.asarray(numbers.normal(0.1, 0.3, leaf.shape), jnp.float32)
        return model, jax.tree.map(draw, shapes)

    return build


@pytest.fixture(scope="session")
def spying():
    """Makes a method remember, as its state, the trajectory that it learned from."""

    def build(estimator):
        def override(seams):
            return seams._replace(after=lambda params, rows, metrics, state: (rows, {}))

        return Method("spy", estimator, override)

    return build


@pytest.fixture(scope="session")
def measuring():
    """Makes a method report the largest |log ratio| that its loss saw."""

    def build(estimator):
        def override(seams):
            def loss(params, rows, state):
                value, metrics = seams.loss(params, rows, state)
                distance = jnp.abs(seams.evaluate(params, rows).log_prob - rows.log_prob)
                largest = jnp.max(jnp.where(rows.mask > 0, distance, 0.0))
                return value, metrics | {"largest_log_ratio": jax.lax.stop_gradient(largest)}

            return seams._replace(loss=loss)

        return Method("measured", estimator, override, keeps_groups=True)

    return build
