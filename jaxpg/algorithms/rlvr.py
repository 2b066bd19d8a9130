"""Reinforcement learning of a language model from verifiable rewards, by the method given."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpg import evaluation, parallel
from jaxpg.algorithms import learner
from jaxpg.algorithms.token_seams import Frozen, PromptWorld, TokenSeams
from jaxpg.choices import at_least, replace_fields
from jaxpg.description import describe
from jaxpg.estimator import Estimator
from jaxpg.generation import Sampling, StopTable
from jaxpg.method import Method, Seams, as_method
from jaxpg.networks.language_model import LanguageModel
from jaxpg.networks.lora import LoRA
from jaxpg.types import DEMONSTRATION, Algorithm, Array, Metrics, PyTree

SEEDS_IN_TURN_ON = ("cpu",)
"""Backends that one small transformer keeps busy: vmapped, its seeds leave the cache."""


@dataclasses.dataclass(frozen=True)
class RLVRConfig:
    """How responses are collected and learnt from. The learning rate may be traced.

    A rollout of `num_prompts * group_size` responses is cut into `num_minibatches` gradient steps
    and used `num_epochs` times: with one epoch, k minibatches are k steps on data that is up to
    k - 1 steps old.

    Attributes:
      num_prompts: prompts of one update, over all devices.
      group_size: responses to each prompt.
      num_epochs: passes over the responses.
      num_minibatches: gradient steps in each pass; a minibatch consists of whole responses.
      whole_groups: the responses to a prompt stay in one minibatch, and the prompt goes through
        the model once for all of them. None does so where the number of minibatches divides
        `num_prompts` and the method allows it.
      micro_batches: parts of a minibatch that go through the model one after the other; changes
        memory and time, and no result.
      learning_rate: a number, or an optax schedule in gradient steps.
      anneal_updates: the rate falls linearly to 0 over this many updates; 0 keeps it.
      max_gradient_norm: gradients are scaled down to this global norm.
      target_kl: ends an update early, see `learner.Passes`.
      temperature: of the policy that acts and is optimised, above 0.
      top_k: see `Sampling`; truncation makes `recompute` necessary.
      top_p: see `Sampling`.
      min_p: see `Sampling`.
      recompute: the behaviour's log-probabilities come from a pass of the learner over the batch
        instead of the sampler. None does so where they could differ: truncated sampling, bfloat16.
      logit_chunk: see `vocabulary.log_probs_of`.
      eval_prompts: held-out prompts of an evaluation (at most what the task has).
      eval_samples: responses to each at the temperature of training.
      eval_greedy: also one response without chance.
      success: a response of at least this reward is a success.
    """

    num_prompts: int = 32
    group_size: int = 8
    num_epochs: int = 1
    num_minibatches: int = 1
    whole_groups: bool | None = None
    micro_batches: int = 1
    learning_rate: Any = 1e-3
    anneal_updates: int = 0
    max_gradient_norm: float = 1.0
    target_kl: float | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    recompute: bool | None = None
    logit_chunk: int | None = None
    eval_prompts: int = 256
    eval_samples: int = 1
    eval_greedy: bool = True
    success: float = 1.0


def rlvr(
    task: Any,
    model: LanguageModel,
    method: Method | Estimator,
    *,
    params: PyTree | Callable[[Array], PyTree] | None = None,
    lora: LoRA | None = None,
    adapters: PyTree | None = None,
    reference: PyTree | None = None,
    optimiser: optax.GradientTransformation | None = None,
    stop_table: StopTable | None = None,
    config: RLVRConfig | None = None,
    **overrides: Any,
) -> Algorithm:
    """A language model that answers prompts and learns from the rewards of its answers.

    With an estimator for demonstrations (`estimators.sft()`) it is supervised fine-tuning on the
    task's demonstrations instead.

    Args:
      task: has `prompts(ids)`, `held_out(ids)`, `reward(prompts, tokens, mask, finished)` and
        sizes, as `jaxpg_envs.tokens.TokenTask` documents them; any object with those will do.
      model: the policy.
      method: an `Estimator`, or a `Method` that overrides seams.
      params: of the model at the start; or `(key) -> params`; None takes `model.init`.
      lora: optimise low-rank adapters and leave `params` as they are. None optimises `params`.
      adapters: with `lora`, adapters to go on from; None draws new ones, which change nothing.
      reference: policy of a KL term, in the form of what is optimised; None takes the start.
      optimiser: None takes Adam with the config's rate and gradient clip.
      stop_table: of the task's stop strings, see `generation.stop_table`.
      config: see `RLVRConfig`.
      **overrides: fields of the config.

    Returns:
      An `Algorithm`; its state is a `learner.TrainState`, its policy the optimised parameters.

    Raises:
      ValueError: sizes that do not fit together, a group too small for the method, a critic that
        the model does not have, a vocabulary or a length beyond the model's.
      TypeError: an unknown field.
    """
    method = as_method(method)
    config = replace_fields(config or RLVRConfig(), overrides)
    passes = _checked(task, model, method, config, stop_table)
    sampling = Sampling(config.temperature, config.top_k, config.top_p, config.min_p)
    recompute = config.recompute
    if recompute is None:
        recompute = sampling.truncates or getattr(model.config, "dtype", "float32") != "float32"
    seams_of = TokenSeams(
        task=task,
        model=model,
        adapters=lora,
        estimator=method.estimator,
        sampling=sampling,
        stop_strings=stop_table,
        num_prompts=config.num_prompts,
        group_size=config.group_size,
        together=passes.together,
        micro_batches=config.micro_batches,
        recompute=recompute and method.estimator.source != DEMONSTRATION,
        logit_chunk=config.logit_chunk,
    )
    rate = None
    if optimiser is None:
        rate = learner.learning_rate(config.learning_rate, passes, config.anneal_updates)
        optimiser = optax.chain(
            optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(rate)
        )
    run = _Run(seams_of, method, optimiser, rate, passes, config)
    held = (params if not callable(params) else None, adapters, reference)
    draw = model.init if params is None else params if callable(params) else None
    return Algorithm(
        init=jax.tree_util.Partial(functools.partial(run.init, draw), *held),
        update=run.update,
        evaluate=run.evaluate,
        policy=lambda state: state.params,
        steps_per_update=config.num_prompts * config.group_size * task.response_length,
        world_size=config.num_prompts,
        seeds_in_turn=jax.default_backend() in SEEDS_IN_TURN_ON,
        description={
            "algorithm": "rlvr",
            "task": task.name,
            "task_settings": describe(task.settings),
            "model": describe(model.config),
            "lora": describe(lora),
            "method": method.name,
            "estimator": describe(method.estimator.settings),
            "method_settings": describe(method.settings),
            **describe(config),
        },
    )


def plan(task: Any, num_updates: int, config: RLVRConfig | None = None, **overrides: Any) -> str:
    """What a run will do, in words and numbers.

    Args:
      task: see `rlvr`.
      num_updates: of the run.
      config: see `RLVRConfig`.
      **overrides: fields of the config.

    Returns:
      A few lines.
    """
    config = replace_fields(config or RLVRConfig(), overrides)
    rows = config.num_prompts * config.group_size
    steps = config.num_epochs * config.num_minibatches
    passes = num_updates * config.num_prompts / task.num_prompts
    return "\n".join(
        (
            f"{num_updates} updates, {passes:.3g} passes over {task.num_prompts} prompts",
            f"update: {config.num_prompts} prompts x {config.group_size} responses = {rows} rows "
            f"of at most {task.prompt_length} + {task.response_length} tokens",
            f"update: {config.num_epochs} epochs x {config.num_minibatches} minibatches = {steps} "
            f"gradient steps on {rows // config.num_minibatches} rows, in {config.micro_batches} "
            f"micro-batches",
            f"total: {num_updates * rows} responses, at most "
            f"{num_updates * rows * task.response_length} tokens, {num_updates * steps} gradient "
            f"steps",
        )
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """`init`, `update` and `evaluate` of one algorithm."""

    tokens: TokenSeams
    method: Method
    optimiser: optax.GradientTransformation
    rate: float | Array | optax.Schedule | None
    passes: learner.Passes
    config: RLVRConfig

    def init(self, draw, base, adapters, reference, key: Array) -> learner.TrainState:
        key_params, key_adapters, key_world, key_method, key = jax.random.split(key, 5)
        lora = self.tokens.adapters
        base = _own(base if draw is None else draw(key_params))
        if lora is None:
            # Small steps vanish in bfloat16: what is optimised is kept in float32.
            params, base = _wide(base), ()
        else:
            drawn = lora.init(key_adapters, self.tokens.model.config)
            params = drawn if adapters is None else _wide(_own(adapters))
        needed = "reference_log_prob" in self.method.estimator.required_extras
        reference = _own(params if reference is None else reference) if needed else ()
        frozen = Frozen(base, reference)
        return learner.TrainState(
            params=params,
            optimiser=self.optimiser.init(params),
            method=self.seams(frozen).init(key_method, params),
            world=PromptWorld((), jnp.zeros((), jnp.int32), key_world),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
            frozen=frozen,
        )

    def seams(self, frozen: Frozen) -> Seams:
        tokens = self.tokens
        return self.method.seams(
            functools.partial(tokens.collect, frozen),
            functools.partial(tokens.prepare, frozen),
            functools.partial(tokens.evaluate, frozen),
            num_prompts=tokens.task.num_prompts,
            prompts_per_update=tokens.num_prompts,
            group_size=tokens.group_size,
            learning_rate=learner.as_schedule(self.rate),
            steps_per_update=self.passes.num_steps,
        )

    def update(self, state: learner.TrainState) -> tuple[learner.TrainState, Metrics]:
        _check_share(self.config, self.passes.together)
        return learner.one_update(self.seams(state.frozen), self.optimiser, self.passes, state)

    def evaluate(self, state: learner.TrainState, key: Array) -> Metrics:
        """Success on held-out prompts, drawn and greedy."""
        config, tokens, task = self.config, self.tokens, self.tokens.task
        pool = task.num_held_out or task.num_prompts
        ids = np.arange(min(config.eval_prompts, pool), dtype=np.int32)
        prompts = task.held_out(jnp.asarray(ids))
        params = tokens.whole(state.params, state.frozen)
        samples = config.eval_samples
        drawn, value, valid = self._judged(params, prompts, key, tokens.sampling, samples)
        success = (valid & (value >= config.success)).astype(jnp.float32)
        real = drawn.mask.astype(jnp.float32)
        metrics = {
            "eval_success": jnp.mean(success),
            "eval_reward": jnp.sum(jnp.where(valid, value, 0.0)) / jnp.maximum(valid.sum(), 1),
            "eval_length": jnp.mean(jnp.sum(real, axis=1)),
            "eval_truncated_share": 1.0 - jnp.mean(drawn.finished.astype(jnp.float32)),
            "eval_entropy": jnp.sum(drawn.entropy * real) / jnp.maximum(jnp.sum(real), 1.0),
        }
        correct = jnp.sum(success.reshape((-1, samples)), axis=1)
        for k in sorted({2**i for i in range(1, 20) if 2**i <= samples} | {samples} - {1}):
            passed = evaluation.pass_at_k_from_counts(jnp.full(correct.shape, samples), correct, k)
            metrics[f"eval_pass_at_{k}"] = jnp.mean(passed)
        if config.eval_greedy:
            _, value, valid = self._judged(params, prompts, key, Sampling(temperature=0.0), 1)
            greedy = valid & (value >= config.success)
            metrics["eval_greedy_success"] = jnp.mean(greedy.astype(jnp.float32))
        return metrics

    def _judged(self, params, prompts, key, sampling, samples):
        responses = self.tokens.respond(
            params, prompts, key, sampling=sampling, num_samples=samples, entropy=True
        )
        each = jax.tree.map(lambda x: jnp.repeat(x, samples, axis=0), prompts)
        value, valid, _ = self.tokens.task.reward(
            each, responses.tokens, responses.mask, responses.finished
        )
        return responses, value, valid


def _wide(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def _own(tree: PyTree) -> PyTree:
    """A copy: the state is donated to every update, and the caller keeps what was passed in."""
    return jax.tree.map(jnp.copy, tree)


def _check_share(config: RLVRConfig, together: int) -> None:
    """Refuses devices whose share would lose rows in the split into minibatches."""
    num_shards = parallel.num_shards()
    rows = config.num_prompts * config.group_size // num_shards
    if rows % (config.num_minibatches * config.micro_batches):
        raise ValueError(
            f"num_minibatches={config.num_minibatches} with micro_batches={config.micro_batches} "
            f"does not divide the {rows} responses of each of {num_shards} devices into equal parts"
        )
    if rows // together % config.num_minibatches:
        raise ValueError(
            f"num_minibatches={config.num_minibatches} does not divide the {rows // together} "
            f"groups of each of {num_shards} devices: pass whole_groups=False"
        )


def _together(method: Method, config: RLVRConfig) -> int:
    """Rows that stay side by side in every minibatch."""
    divides = config.num_prompts % config.num_minibatches == 0
    if config.whole_groups and not (divides and method.keeps_groups):
        why = (
            f"num_minibatches={config.num_minibatches} does not divide "
            f"num_prompts={config.num_prompts}"
            if not divides
            else f"method {method.name!r} does not keep groups together (Method.keeps_groups)"
        )
        raise ValueError(f"whole_groups is True, but {why}")
    if config.whole_groups is False or not (divides and method.keeps_groups):
        return 1
    return config.group_size


def _checked(task, model, method, config, stop_table) -> learner.Passes:
    for name in (
        "num_prompts",
        "group_size",
        "num_epochs",
        "num_minibatches",
        "micro_batches",
        "eval_prompts",
        "eval_samples",
    ):
        at_least(name, getattr(config, name), 1)
    estimator = method.estimator
    if config.group_size < estimator.smallest_group:
        raise ValueError(
            f"group_size is {config.group_size}, but method {method.name!r} compares the responses "
            f"to one prompt and needs at least {estimator.smallest_group} of them"
        )
    if estimator.needs_critic and not model.has_value:
        raise ValueError(
            f"method {method.name!r} needs values, but the model has no critic: build it with "
            f"value_head=True"
        )
    if task.vocabulary_size > model.vocabulary_size:
        raise ValueError(
            f"task {task.name!r} has {task.vocabulary_size} tokens, but the model's vocabulary has "
            f"{model.vocabulary_size}"
        )
    if task.prompt_length + task.response_length > model.max_positions:
        raise ValueError(
            f"task {task.name!r} has rows of {task.prompt_length} + {task.response_length} tokens, "
            f"but the model has {model.max_positions} positions"
        )
    if config.temperature <= 0:
        raise ValueError(
            f"temperature is {config.temperature}, but a policy that learns has to be drawn from: "
            f"give a temperature above 0"
        )
    if task.stop_strings and stop_table is None:
        raise ValueError(
            f"task {task.name!r} stops at {list(task.stop_strings)!r}, but stop_table is None: "
            f"build one with generation.stop_table(tokenizer.token_bytes, task.stop_strings)"
        )
    if estimator.source == DEMONSTRATION and task.demonstrations is None:
        raise ValueError(
            f"method {method.name!r} learns from demonstrations, but task {task.name!r} has none"
        )
    rows = config.num_prompts * config.group_size
    source = f"num_prompts={config.num_prompts} with group_size={config.group_size}"
    learner.check_divisible(rows, config.num_minibatches, (source, "num_minibatches"), "responses")
    each = rows // config.num_minibatches
    if each % config.micro_batches:
        raise ValueError(
            f"micro_batches is {config.micro_batches}, which does not divide the {each} responses "
            f"of a minibatch"
        )
    together = _together(method, config)
    return learner.Passes(
        config.num_epochs,
        config.num_minibatches,
        whole_rows=True,
        together=together,
        drops_rows=method.drops_rows,
        target_kl=config.target_kl,
    )
