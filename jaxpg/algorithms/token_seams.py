"""The default seams of a language model: sampling on prompts, and the model as an evaluation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg import curricula, parallel
from jaxpg.estimator import Estimator
from jaxpg.generation import Sampling, StopTable, generate
from jaxpg.networks.language_model import LanguageModel, response_states
from jaxpg.networks.lora import LoRA
from jaxpg.networks.vocabulary import log_probs_of
from jaxpg.types import (
    DEMONSTRATION,
    OWN_ROLLOUT,
    Array,
    Evaluation,
    Metrics,
    PyTree,
    Trajectory,
    last_decision,
    trajectory,
)

PROMPT_EXTRAS = ("prompt", "prompt_mask", "prompt_ids", "finished")
"""Extras of every row: `[B, P]` int32, `[B, P]` bool, `[B]` int32, `[B]` bool."""

HIDDEN, TOP_LOGITS, TOP_TOKENS = "hidden", "top_logits", "top_tokens"
"""Extras of an evaluation with `top`: `[B, T, D]`, `[B, T, K]` and `[B, T, K]`."""


@struct.dataclass
class PromptWorld:
    """The place in the order of prompts.

    Attributes:
      rows: nothing; a device finds its prompts by its index.
      position: int32, prompts taken so far, over all devices.
      key: of the order.
    """

    rows: tuple
    position: Array
    key: Array


@struct.dataclass
class Frozen:
    """What a run reads and never changes.

    Attributes:
      base: the model's parameters under the adapters; `()` without adapters.
      reference: like the optimised parameters, of the policy that a KL term keeps near; `()`
        where none is needed.
    """

    base: PyTree
    reference: PyTree


@dataclasses.dataclass(frozen=True)
class TokenSeams:
    """Collects, prepares and evaluates with one model on one task.

    Attributes:
      task: prompts and rewards, see `rlvr`.
      model: the policy.
      adapters: None, or what the optimised parameters are.
      estimator: of the method.
      sampling: how responses are drawn.
      stop_strings: automaton of the task's stop strings, or None.
      num_prompts: in one update, over all devices.
      group_size: responses to each.
      micro_batches: parts in which rows go through the model, one after the other.
      recompute: take the behaviour's log-probabilities from the learner.
      logit_chunk: see `vocabulary.log_probs_of`.
      together: rows that stay side by side in every batch and share their prompt.
    """

    task: Any
    model: LanguageModel
    adapters: LoRA | None
    estimator: Estimator
    sampling: Sampling
    stop_strings: StopTable | None
    num_prompts: int
    group_size: int
    micro_batches: int
    recompute: bool
    logit_chunk: int | None
    together: int = 1

    @property
    def allowed(self) -> Array | None:
        """`[R, V]` bool, the task's allowed tokens; V is the model's, which may have spare ones."""
        if self.task.allowed is None:
            return None
        spare = self.model.vocabulary_size - self.task.vocabulary_size
        return jnp.pad(jnp.asarray(self.task.allowed, bool), ((0, 0), (0, spare)))

    def whole(self, params: PyTree, frozen: Frozen) -> PyTree:
        """The model's parameters, from what is optimised and what is frozen."""
        return params if self.adapters is None else self.adapters.join(frozen.base, params)

    def respond(
        self,
        params: PyTree,
        prompts: Any,
        key: Array,
        *,
        sampling: Sampling,
        num_samples: int,
        ids: Array | None = None,
        entropy: bool = False,
    ):
        """Samples responses to prompts with the model's whole parameters."""
        return generate(
            self.model,
            params,
            prompts.tokens,
            prompts.mask,
            key,
            max_new_tokens=self.task.response_length,
            sampling=sampling,
            num_samples=num_samples,
            prompt_ids=prompts.ids if ids is None else ids,
            stop_tokens=self.task.stop_tokens,
            stop_strings=self.stop_strings,
            allowed=self.allowed,
            entropy=entropy,
        )

    def collect(
        self,
        frozen: Frozen,
        key: Array,
        params: PyTree,
        world: PromptWorld,
        state: PyTree,
        *,
        ids: Array | None = None,
        num_samples: int | None = None,
        temperature: float | Array | None = None,
        source: int | None = None,
    ) -> tuple[Trajectory, PromptWorld, Metrics]:
        """Responses of the policy, or demonstrations, to the prompts whose turn it is.

        The rows hold the log-probabilities and entropies of the distribution that they were drawn
        from; on demonstrations both are 0.

        Args:
          frozen: bound by the algorithm.
          key: of the draws.
          params: what is optimised.
          world: the place in the order of prompts.
          state: of the method, unused.
          ids: `[N]` int32, prompts over all devices that an override asks for, N a multiple of the
            number of devices; None takes the next `num_prompts` in order, and only then is the
            world read.
          num_samples: responses to each prompt; None takes the group size.
          temperature: above 0, may be traced; None takes that of training.
          source: `OWN_ROLLOUT` or `DEMONSTRATION`; None takes the estimator's.

        Returns:
          `(trajectory, world, metrics)`; the rows of a prompt stand side by side.

        Raises:
          ValueError: N is no multiple of the number of devices, or the task has no demonstrations.
        """
        del state
        num_samples = self.group_size if num_samples is None else num_samples
        if ids is None:
            ids, world = self._next_ids(world)
        prompts, drawn = self._own_prompts(ids)
        if (self.estimator.source if source is None else source) == DEMONSTRATION:
            if self.task.demonstrations is None:
                raise ValueError(
                    f"the method learns from demonstrations, but task {self.task.name!r} has none"
                )
            return self._demonstrated(key, prompts, drawn, num_samples), world, {}
        sampling = self.sampling
        if temperature is not None:
            sampling = dataclasses.replace(sampling, temperature=temperature)
        responses = self.respond(
            self.whole(params, frozen),
            prompts,
            key,
            sampling=sampling,
            num_samples=num_samples,
            ids=drawn,
            entropy=True,
        )
        each = jax.tree.map(lambda x: jnp.repeat(x, num_samples, axis=0), prompts)
        value, valid, task_metrics = self.task.reward(
            each, responses.tokens, responses.mask, responses.finished
        )
        rows = self._rows(
            each,
            responses.tokens,
            responses.mask & valid[:, None],
            responses.finished,
            responses.log_prob,
            responses.entropy,
            jnp.where(valid, value, 0.0),
            num_samples,
            OWN_ROLLOUT,
        )
        metrics = parallel.mean(
            _collected(responses, value, valid, rows.group_ids, drawn.shape[0]) | dict(task_metrics)
        )
        return rows, world, metrics

    def _next_ids(self, world: PromptWorld) -> tuple[Array, PromptWorld]:
        places = world.position + jnp.arange(self.num_prompts, dtype=jnp.int32)
        ids = curricula.shuffled(world.key, places, self.task.num_prompts)
        return ids, world.replace(position=world.position + self.num_prompts)

    def _own_prompts(self, ids: Array) -> tuple[Any, Array]:
        """This device's share of the prompts, and the numbers that their draws go by."""
        if ids.shape[0] % parallel.num_shards():
            raise ValueError(
                f"ids holds {ids.shape[0]} prompts, which {parallel.num_shards()} devices do not "
                f"divide"
            )
        # A prompt that comes twice in one update gets other draws the second time.
        drawn = ids + self.task.num_prompts * curricula.occurrence(ids)
        ids, drawn = parallel.own_share((ids, drawn))
        return self.task.prompts(ids), drawn

    def prepare(self, frozen: Frozen, params: PyTree, rows: Trajectory) -> Trajectory:
        """Adds what the estimator needs: values, reference and current log-probabilities."""
        needs = self.estimator.required_extras
        if "value" in needs or "current_log_prob" in needs or self.recompute:
            evaluation = self.evaluate(frozen, params, rows)
            if self.recompute:
                rows = rows.replace(log_prob=jax.lax.stop_gradient(evaluation.log_prob))
            if "current_log_prob" in needs:
                rows = rows.with_extras(current_log_prob=evaluation.log_prob)
            if "value" in needs:
                # A response ends at its last token, by a stop token or by the length limit.
                after = jnp.zeros_like(evaluation.value[:, :1])
                following = jnp.concatenate([evaluation.value[:, 1:], after], axis=1)
                rows = rows.with_extras(value=evaluation.value, next_value=following)
        if "reference_log_prob" in needs:
            reference = self.evaluate(frozen, frozen.reference, rows)
            rows = rows.with_extras(reference_log_prob=reference.log_prob)
        return rows

    def evaluate(
        self,
        frozen: Frozen,
        params: PyTree,
        rows: Trajectory,
        *,
        temperature: float | Array | None = None,
        top: int | None = None,
    ) -> Evaluation:
        """Runs the model over prompts and responses; in micro-batches where there are several.

        The loss sees the whole minibatch either way, so that micro-batches change memory and
        time, and no result.

        Args:
          frozen: bound by the algorithm.
          params: what is optimised.
          rows: `[B, T]`; where the number of micro-batches does not divide B, fewer are taken.
          temperature: above 0, may be traced; None takes that of training.
          top: K; also give the last hidden state, divided by the temperature, that each token was
            predicted from, and the K largest logits at it (all, where K is larger), as the extras
            `HIDDEN`, `TOP_LOGITS` and `TOP_TOKENS`.

        Returns:
          An `Evaluation`.
        """
        whole = self.whole(params, frozen)
        temperature = self.sampling.temperature if temperature is None else temperature
        inputs = (rows.extra("prompt"), rows.extra("prompt_mask"), rows.action, rows.mask > 0)
        num_parts = math.gcd(rows.num_rows, self.micro_batches)
        if num_parts == 1:
            return self._evaluation(whole, temperature, top, inputs)
        parts = jax.tree.map(lambda x: x.reshape((num_parts, -1, *x.shape[1:])), inputs)
        one = jax.checkpoint(lambda part: self._evaluation(whole, temperature, top, part))
        results = jax.lax.map(one, parts)
        return jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), results)

    def _evaluation(self, params, temperature, top, inputs: tuple[Array, ...]) -> Evaluation:
        prompts, prompt_mask, tokens, mask = inputs
        # Micro-batches may be smaller than a group.
        shared = self.together if tokens.shape[0] % self.together == 0 else 1
        states = response_states(
            self.model, params, prompts[::shared], prompt_mask[::shared], tokens, mask
        )
        log_prob, entropy = log_probs_of(
            self.model,
            params,
            states,
            tokens,
            temperature,
            allowed=self.allowed,
            chunk=self.logit_chunk,
        )
        value = self.model.value(params, states) if self.model.has_value else None
        extras = {}
        if top is not None:
            logits = self.model.logits(params, states) / temperature
            if self.allowed is not None:
                logits = jnp.where(self.allowed, logits, -jnp.inf)
            largest, tokens = jax.lax.top_k(logits, min(top, logits.shape[-1]))
            extras = {HIDDEN: states / temperature, TOP_LOGITS: largest, TOP_TOKENS: tokens}
        return Evaluation(log_prob=log_prob, entropy=entropy, value=value, extras=extras)

    def _demonstrated(self, key, prompts, drawn, num_samples) -> Trajectory:
        each = jax.tree.map(lambda x: jnp.repeat(x, num_samples, axis=0), prompts)
        numbers = jnp.repeat(drawn, num_samples) * num_samples
        numbers += jnp.tile(jnp.arange(num_samples), prompts.ids.shape[0])
        # One call for each row, so that a demonstration depends on its own key alone.
        one = jax.tree.map(lambda x: x[:, None], each)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
        tokens, mask = jax.tree.map(
            lambda x: x[:, 0], jax.vmap(self.task.demonstrations)(keys, one)
        )
        finished = jnp.ones(numbers.shape, bool)
        zeros = jnp.zeros(tokens.shape)
        return self._rows(
            each, tokens, mask, finished, zeros, zeros, zeros[:, 0], num_samples, DEMONSTRATION
        )

    def _rows(
        self, prompts, tokens, mask, finished, log_prob, entropy, value, num_samples, source
    ) -> Trajectory:
        groups = jnp.arange(tokens.shape[0], dtype=jnp.int32) // num_samples
        rows = trajectory(
            jnp.where(mask, log_prob, 0.0),
            value,
            action=tokens,
            mask=mask,
            group_ids=groups,
            source=jnp.full(tokens.shape[:1], source, jnp.int32),
        )
        extras = (prompts.tokens, prompts.mask.astype(bool), prompts.ids, finished)
        return rows.replace(
            terminated=last_decision(rows.mask),
            extras=dict(zip(PROMPT_EXTRAS, extras, strict=True))
            | {"entropy": jnp.where(mask, entropy, 0.0)},
        )


def _collected(responses, value, valid, group_ids, num_groups) -> Metrics:
    """Means over this device's share, the shares being equal; over all, where they are not."""
    real = valid.astype(jnp.float32)
    safe = jnp.where(valid, value, 0.0)
    high = jax.ops.segment_max(jnp.where(valid, value, -jnp.inf), group_ids, num_groups)
    low = jax.ops.segment_min(jnp.where(valid, value, jnp.inf), group_ids, num_groups)
    tokens = responses.mask.astype(jnp.float32)
    return {
        "reward": _ratio(safe, real),
        "mixed_group_share": jnp.mean((high > low).astype(jnp.float32)),
        "response_length": jnp.mean(jnp.sum(tokens, axis=1)),
        "truncated_share": jnp.mean(1.0 - responses.finished.astype(jnp.float32)),
        "invalid_share": 1.0 - jnp.mean(real),
        "sampling_entropy": _ratio(responses.entropy * tokens, tokens),
    }


def _ratio(part: Array, of: Array) -> Array:
    part, of = parallel.total((jnp.sum(part), jnp.sum(of)))
    return part / jnp.maximum(of, 1.0)
