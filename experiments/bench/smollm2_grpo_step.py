"""One whole GRPO step of SmolLM2-135M: seconds against TRL's GRPOTrainer.

4 prompts of 32 tokens x 4 samples of 48 tokens, then one gradient step of Adam, float32; full
fine-tuning, and low-rank adapters of rank 16 on all linear maps. The reward is the share of even
tokens, which costs nothing; no response ends early.
"""

from __future__ import annotations

import json
import pathlib
import re
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.measuring import alternate, compare, record
from experiments.bench.peers import Peer
from jaxpg import estimators, networks, pretrained
from jaxpg.algorithms import rlvr
from jaxpg.networks.lora import LoRA
from jaxpg_envs.tokens import Prompts, Reward, TokenTask

PROMPTS, SAMPLES, LENGTH, NEW = 4, 4, 32, 48


def texts(tokenizer: pretrained.Tokenizer) -> list[str]:
    """Prompts of `LENGTH` tokens each: words that are one token.

    Args:
      tokenizer: of the model.

    Returns:
      `PROMPTS` texts.
    """
    words = [x.decode() for x in tokenizer.token_bytes if re.fullmatch(rb" [a-z]{3,}", x)]
    words = [word for word in words[:2000] if len(tokenizer.encode(word)) == 1]
    order = np.random.default_rng(0).permutation(len(words))[: PROMPTS * LENGTH]
    chosen = np.array(words)[order].reshape((PROMPTS, LENGTH))
    return ["".join(row) for row in chosen]


def even_tokens(prompts: np.ndarray, vocabulary_size: int) -> TokenTask:
    """Answers to a few prompts, rewarded by the share of even tokens.

    Args:
      prompts: `[PROMPTS, LENGTH]` int.
      vocabulary_size: of the model.

    Returns:
      The task.
    """

    def asked(ids):
        tokens = jnp.asarray(prompts, jnp.int32)[ids]
        return Prompts(tokens=tokens, mask=jnp.ones(tokens.shape, bool), ids=ids, data=())

    def reward(prompts, tokens, mask, finished):
        even = jnp.sum(mask & (tokens % 2 == 0), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)
        return Reward(even.astype(jnp.float32), jnp.ones(even.shape, bool), {})

    return TokenTask(
        name="even_tokens",
        vocabulary_size=vocabulary_size,
        prompt_length=LENGTH,
        response_length=NEW,
        num_prompts=len(prompts),
        prompts=asked,
        reward=reward,
    )


def ours(model: pretrained.Pretrained, prompts: np.ndarray, lora: LoRA | None):
    """One measurement of ours: seconds of one update, after which the state goes on."""
    agent = rlvr(
        even_tokens(prompts, model.config.vocabulary_size),
        networks.transformer(model.config),
        estimators.grpo(),
        params=model.params,
        lora=lora,
        num_prompts=PROMPTS,
        group_size=SAMPLES,
        learning_rate=1e-6,
    )
    update = jax.jit(agent.update, donate_argnums=0)
    held = [jax.jit(agent.init)(jax.random.key(0))]

    def measure() -> float:
        began = time.perf_counter()
        state, metrics = update(held.pop())
        held.append(state)
        float(metrics["reward"])
        jax.block_until_ready(state)
        return time.perf_counter() - began

    measure.compile_seconds = measure()
    return measure


def against_trl(lora: LoRA | None, num_pairs: int) -> None:
    """Records `smollm2_grpo_step` or `smollm2_grpo_step_lora`."""
    model = pretrained.smollm2()
    asked = texts(model.tokenizer)
    prompts = np.array([model.tokenizer.encode(text) for text in asked])
    with tempfile.TemporaryDirectory() as folder:
        pretrained.save(folder, model)
        (pathlib.Path(folder) / "prompts.json").write_text(json.dumps(asked))
        peer = Peer("trl", folder, "lora" if lora else "full", str(SAMPLES), str(NEW))
    measure = ours(model, prompts, lora)
    pairs = alternate(measure, peer.measure, num_pairs)
    peer.close()
    record(
        compare(
            "smollm2_grpo_step_lora" if lora else "smollm2_grpo_step",
            pairs,
            peer_name="TRL and peft" if lora else "TRL",
            peer_version=peer.version,
            unit="seconds of one step",
            target="at least 1.8" if lora else "at least 1.4",
            lower_is_better=True,
            compile_seconds=measure.compile_seconds,
            note="compile_seconds holds the first step, too",
        )
    )


def run(num_pairs: int = 3) -> None:
    """Full fine-tuning, and low-rank adapters."""
    against_trl(None, num_pairs)
    against_trl(LoRA(rank=16), num_pairs)
