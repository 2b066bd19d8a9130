"""Sampling from SmolLM2-135M: tokens per second against transformers' `generate`.

16 prompts of 32 tokens, 64 new tokens each, float32, from the whole distribution; no row ends
early.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp

from experiments.bench.measuring import alternate, compare, record
from experiments.bench.peers import Peer
from jaxpg import networks, pretrained
from jaxpg.generation import generate

ROWS, PROMPT, NEW = 16, 32, 64


def peer_with(model: pretrained.Pretrained, tokens: jax.Array, *arguments: str) -> Peer:
    """Starts transformers with the same weights and tokens.

    Args:
      model: to save for it.
      tokens: `[B, T]` int.
      *arguments: of `peer_transformers.py`, after the folder.

    Returns:
      The peer, which has read the folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        pretrained.save(folder, model)
        (pathlib.Path(folder) / "tokens.json").write_text(json.dumps(tokens.tolist()))
        return Peer("transformers", folder, *arguments)


def ours(model: pretrained.Pretrained, prompts: jax.Array):
    """One measurement of ours: tokens per second."""
    network = networks.transformer(model.config)
    params = jax.tree.map(jnp.asarray, model.params)
    mask = jnp.ones(prompts.shape, bool)
    seeds = itertools.count()

    @jax.jit
    def sample(params, key):
        return generate(network, params, prompts, mask, key, max_new_tokens=NEW).tokens

    def measure() -> float:
        began = time.perf_counter()
        jax.block_until_ready(sample(params, jax.random.key(next(seeds))))
        return ROWS * NEW / (time.perf_counter() - began)

    measure.compile_seconds = ROWS * NEW / measure()
    return measure


def run(num_pairs: int = 5) -> None:
    """Records `smollm2_sampling`."""
    model = pretrained.smollm2()
    shape = (ROWS, PROMPT)
    prompts = jax.random.randint(jax.random.key(0), shape, 0, model.config.vocabulary_size)
    peer = peer_with(model, prompts, "sampling", str(NEW))
    measure = ours(model, prompts)
    pairs = alternate(measure, peer.measure, num_pairs)
    peer.close()
    record(
        compare(
            "smollm2_sampling",
            pairs,
            peer_name="transformers",
            peer_version=peer.version,
            unit="new tokens/s",
            target="at least 1.4, aim 2",
            compile_seconds=measure.compile_seconds,
            note="compile_seconds holds the first call, too",
        )
    )
