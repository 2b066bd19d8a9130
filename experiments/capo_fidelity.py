"""How well CAPO's shifts predict what a step of the last layer does to a small policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import spearmanr

from experiments.policies import warm_started
from jaxpg import estimators, methods, networks, runner
from jaxpg.algorithms import rlvr
from jaxpg.algorithms.token_seams import HIDDEN, TOP_LOGITS, TOP_TOKENS
from jaxpg.method import Method, Seams
from jaxpg.networks import LanguageModel
from jaxpg.parts.curvature import last_layer, sgd_shifts
from jaxpg.types import Array
from jaxpg_envs import tokens

NUM_ACTIONS, WIDTH = 8, 64
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
TASK = tokens.digit_sum(2, NUM_ACTIONS, 3)


def policy(task: tokens.TokenTask, *, value_head: bool = False) -> LanguageModel:
    """One layer of 64 units on 8 actions.

    Args:
      task: gives vocabulary and lengths.
      value_head: with a critic.

    Returns:
      A `LanguageModel`.
    """
    return networks.token_mlp(
        networks.TokenMLPConfig(
            task.vocabulary_size,
            task.prompt_length + task.response_length,
            hidden=(WIDTH,),
            value_head=value_head,
        )
    )


def of_tokens(
    rates: tuple[float, ...] = RATES, seed: int = 0, *, num_prompts: int = 64, warm: bool = True
) -> dict[str, dict[str, float]]:
    """Every token alone: its shifts, and the exact KL after one step of the head on that token.

    Args:
      rates: of the steps.
      seed: of the rollouts.
      num_prompts: with 8 rollouts each.
      warm: the policy after the task's warm start, which is right half of the time; else one that
        was just drawn.

    Returns:
      By rate: the rank correlations of the policy shift and of its expectation with the KL, and
      the sum of the KL over the sums of both. Tokens without advantage, which do not move, are
      left out.
    """
    rows, head = _rollouts(seed, num_prompts, warm)
    moving = np.flatnonzero(np.ravel((rows["mask"] > 0) & (rows["advantage"] != 0)))
    hidden, logits, tops, action, advantage = (
        np.asarray(x).reshape((-1, *x.shape[2:]))[moving]
        for x in (rows[n] for n in (HIDDEN, TOP_LOGITS, TOP_TOKENS, "action", "advantage"))
    )
    layer = last_layer(*map(jnp.asarray, (hidden, logits, tops, action, advantage)))
    before = _log_softmax(hidden @ head["kernel"] + head["bias"])
    residual = np.eye(NUM_ACTIONS)[action] - np.exp(before)
    gradient = np.einsum("n,nd,nv->ndv", advantage, hidden, residual, dtype=np.float64)
    found = {}
    for rate in rates:
        moved = head["kernel"] + rate * gradient
        after = _log_softmax(np.einsum("nd,ndv->nv", hidden, moved) + head["bias"])
        kl = np.sum(np.exp(before) * (before - after), axis=-1)
        shift = sgd_shifts(layer, rate)
        found[f"{rate:g}"] = {
            "spearman": _rank(shift.policy, kl),
            "spearman_expected": _rank(shift.expected_policy, kl),
            "kl_over_expected": round(float(kl.sum() / np.sum(shift.expected_policy)), 4),
            "kl_over_shift": round(float(kl.sum() / np.sum(shift.policy)), 4),
        }
    return found


def of_batches(num_steps: int = 600, rate: float = 0.1, seed: int = 0) -> float:
    """Whole batches while the head learns: rank correlation of their policy shift with the KL.

    A policy that was just drawn learns with the last layer alone, on batches of 128 rollouts.

    Args:
      num_steps: gradient steps, of one batch each.
      rate: of the steps.
      seed: of the run.

    Returns:
      The correlation over the steps.
    """
    whole = methods.capo(
        tau_h=0, tau_f=0, model="sgd", level="batch", learning_rate=rate, chunk=1024
    )

    def override(seams: Seams) -> Seams:
        changed = whole.override(seams)

        def score(params, rows, state):
            return changed.score(params, rows, state).with_extras(
                before=_every_log_prob(seams.evaluate(params, rows, top=NUM_ACTIONS).extras)
            )

        def after(params, rows, metrics, state):
            state, told = changed.after(params, rows, metrics, state)
            before = rows.extra("before")
            now = _every_log_prob(seams.evaluate(params, rows, top=NUM_ACTIONS).extras)
            kl = jnp.sum(jnp.exp(before) * (before - now), axis=-1)
            return state, told | {"measured_kl": jnp.mean(kl)}

        return changed._replace(score=score, after=after)

    method = dataclasses.replace(whole, override=override)
    head_alone = optax.multi_transform(
        {"head": optax.sgd(rate), "rest": optax.set_to_zero()}, _labels
    )
    agent = rlvr(TASK, policy(TASK), method, optimiser=head_alone, num_prompts=16, group_size=8)
    result = runner.train(
        agent, key=jax.random.key(seed), num_updates=num_steps, chunk_length=num_steps
    )
    return _rank(result.metrics["policy_shift"], result.metrics["measured_kl"])


def fidelity(num_steps: int = 600) -> dict[str, Any]:
    """Both, as plain numbers for a summary.

    Args:
      num_steps: of the whole batches.

    Returns:
      `{"tokens": ..., "batches": ...}`.
    """
    return {
        "tokens": of_tokens(),
        "tokens, policy just drawn": of_tokens(warm=False),
        "batches": of_batches(num_steps),
    }


def _rollouts(
    seed: int, num_prompts: int, warm: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scored rollouts of a policy, and its head."""
    estimator = estimators.grpo(epsilon=1e-4)

    def override(seams: Seams) -> Seams:
        def score(params, rows, state):
            extras = seams.evaluate(params, rows, top=NUM_ACTIONS).extras
            return seams.score(params, rows, state).with_extras(**extras)

        return seams._replace(
            score=score, after=lambda params, rows, metrics, state: (rows, metrics)
        )

    method = Method("rollouts", estimator, override)
    model, params = warm_started(TASK, build=policy) if warm else (policy(TASK), None)
    agent = rlvr(TASK, model, method, params=params, num_prompts=num_prompts, group_size=8)
    begun = agent.init(jax.random.key(seed))
    rows = jax.device_get(jax.jit(agent.update)(begun)[0].method)
    arrays = {**rows.extras, "mask": rows.mask, "action": rows.action}
    return arrays, jax.tree.map(np.float64, begun.params["params"]["head"])


def _labels(params: Any) -> Any:
    """The kernel of the head is what the shifts are about; everything else stays as it is."""

    def label(path: Any, leaf: Array) -> str:
        del leaf
        names = [entry.key for entry in path]
        return "head" if names[-2:] == ["head", "kernel"] else "rest"

    return jax.tree_util.tree_map_with_path(label, params)


def _every_log_prob(extras: Any) -> Array:
    """Log-probabilities in the order of the tokens, from logits in the order of their size."""
    order = jnp.argsort(extras[TOP_TOKENS], axis=-1)
    return jax.nn.log_softmax(jnp.take_along_axis(extras[TOP_LOGITS], order, axis=-1))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _rank(one: Any, other: Any) -> float:
    return round(float(spearmanr(np.asarray(one), np.asarray(other)).statistic), 4)
