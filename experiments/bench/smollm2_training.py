"""Gradient steps of SmolLM2-135M: tokens per second against transformers, and with adapters peft.

8 rows of 128 tokens, float32, the mean log-probability of every next token; full fine-tuning, and
low-rank adapters of rank 16 on all linear maps.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

from experiments.bench.measuring import alternate, compare, record
from experiments.bench.smollm2_sampling import peer_with
from jaxpg import networks, pretrained
from jaxpg.networks.lora import LoRA
from jaxpg.networks.vocabulary import log_probs_of

ROWS, LENGTH, STEPS = 8, 128, 3
RATE = 1e-6


def ours(model: pretrained.Pretrained, tokens: jax.Array, lora: LoRA | None):
    """One measurement of ours: tokens per second of some steps in one program, as the runner's."""
    network = networks.transformer(model.config)
    base = jax.tree.map(jnp.asarray, model.params)
    mask = jnp.ones(tokens.shape, bool)
    start = base if lora is None else lora.init(jax.random.key(0), model.config)

    def loss(trained, base):
        params = trained if lora is None else lora.join(base, trained)
        hidden = network.hidden(params, tokens, mask)
        log_prob, _ = log_probs_of(network, params, hidden[:, :-1], tokens[:, 1:])
        return -jnp.mean(log_prob)

    @jax.jit
    def steps(trained, base):
        def one(_, trained):
            gradient = jax.grad(loss)(trained, base)
            return jax.tree.map(lambda x, slope: x - RATE * slope, trained, gradient)

        return jax.lax.fori_loop(0, STEPS, one, trained)

    def measure() -> float:
        began = time.perf_counter()
        jax.block_until_ready(steps(start, base if lora else None))
        return STEPS * tokens.size / (time.perf_counter() - began)

    measure.compile_seconds = STEPS * tokens.size / measure()
    return measure


def against_transformers(lora: LoRA | None, num_pairs: int) -> None:
    """Records `smollm2_training` or `smollm2_training_lora`."""
    model = pretrained.smollm2()
    shape = (ROWS, LENGTH)
    tokens = jax.random.randint(jax.random.key(0), shape, 0, model.config.vocabulary_size)
    peer = peer_with(model, tokens, "lora" if lora else "training")
    measure = ours(model, tokens, lora)
    pairs = alternate(measure, peer.measure, num_pairs)
    peer.close()
    record(
        compare(
            "smollm2_training_lora" if lora else "smollm2_training",
            pairs,
            peer_name="transformers and peft" if lora else "transformers",
            peer_version=peer.version,
            unit="tokens/s",
            target="at least 1.0, aim 1.2",
            compile_seconds=measure.compile_seconds,
            note="compile_seconds holds the first call, too",
        )
    )


def run(num_pairs: int = 5) -> None:
    """Full fine-tuning, and low-rank adapters."""
    against_transformers(None, num_pairs)
    against_transformers(LoRA(rank=16), num_pairs)
