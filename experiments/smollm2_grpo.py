"""GRPO of SmolLM2-135M-Instruct on arithmetic problems of reasoning-gym.

python -m experiments.smollm2_grpo --budget=cpu

The model sees a few solved lines and the start of one more ("4 + 7 ="); its answer is what it
writes up to the end of the line. Any model of the family in a folder trains the same way:
`--config.model=<folder>`.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import harness
from experiments.method_runs import Context, Curve, MethodRun
from experiments.rules import PairedRule
from jaxpg import estimators, intervals, networks, pretrained
from jaxpg.algorithms import rlvr
from jaxpg.choices import at_least, one_of
from jaxpg.generation import Sampling, StopTable, generate, stop_table
from jaxpg.networks import LanguageModel
from jaxpg.networks.lora import LoRA
from jaxpg.types import Algorithm, Array, PyTree
from jaxpg_envs import tokens

TWO_TERMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
FAMILIES: Mapping[str, tuple[dict[str, Any], int, int]] = {
    "chain_sum": (TWO_TERMS, 132, 60),
    "products": (TWO_TERMS, 66, 30),
}
"""Settings, problems to train on, problems held out: all that differ, but a few."""
SHOWN = 8
GREEDY = Sampling(temperature=0.0)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, on what, for how long.

    Attributes:
      model: "smollm2", a folder in Hugging Face's layout, or "tiny" for a random policy of two
        layers with SmolLM2's tokenizer.
      family: of problems, one of `FAMILIES`.
      num_shots: solved lines in front of every problem, always the same ones.
      problem_seed: which problems are solved, trained on and held out.
      response_length: tokens; an answer takes at most 4.
      num_prompts: of an update.
      group_size: responses to each.
      num_updates: of each seed.
      num_minibatches: gradient steps of an update.
      learning_rate: of Adam.
      lora_rank: of adapters on all linear maps; 0 trains the whole model.
      dtype: of the computation.
      evaluations: during training.
      eval_samples: responses to each held-out problem, before and after training.
    """

    model: str = "smollm2"
    family: str = "chain_sum"
    num_shots: int = 3
    problem_seed: int = 0
    response_length: int = 6
    num_prompts: int = 16
    group_size: int = 8
    num_updates: int = 10
    num_minibatches: int = 1
    learning_rate: float = 2e-4
    lora_rank: int = 16
    dtype: str = "float32"
    evaluations: int = 2
    eval_samples: int = 8

    def __post_init__(self):
        """Refuses sizes of which nothing comes."""
        one_of("family", self.family, FAMILIES)
        for name in ("num_updates", "evaluations", "eval_samples", "response_length"):
            at_least(name, getattr(self, name), 1)
        at_least("lora_rank", self.lora_rank, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """The model and the task of a config.

    Attributes:
      network: the policy.
      params: before training.
      tokenizer: of the model.
      task: problems in text.
      stops: automaton of the task's stop strings.
      lora: None for all parameters.
    """

    network: LanguageModel
    params: PyTree
    tokenizer: pretrained.Tokenizer
    task: tokens.TokenTask
    stops: StopTable
    lora: LoRA | None

    def whole(self, trained: PyTree) -> PyTree:
        """The model's parameters from those that were trained."""
        return trained if self.lora is None else self.lora.join(self.params, trained)


@functools.lru_cache(maxsize=1)
def setup(config: Config) -> Setup:
    """Reads the model and draws the problems.

    Args:
      config: of the experiment.

    Returns:
      A `Setup`.
    """
    folder = config.model not in ("smollm2", "tiny")
    model = pretrained.load(config.model) if folder else pretrained.smollm2()
    shape, params = dataclasses.replace(model.config, dtype=config.dtype), model.params
    if config.model == "tiny":
        shape = networks.TransformerConfig(shape.vocabulary_size, dtype=config.dtype)
        params = networks.transformer(shape).init(jax.random.key(0))
    settings, num_train, num_held_out = FAMILIES[config.family]
    task = tokens.reasoning_gym(
        model.tokenizer,
        config.family,
        size=num_train,
        num_held_out=num_held_out,
        num_shots=config.num_shots,
        seed=config.problem_seed,
        format_prompt=tokens.compact,
        response_length=config.response_length,
        num_workers=0,
        **settings,
    )
    return Setup(
        networks.transformer(shape),
        jax.tree.map(jnp.asarray, params),
        model.tokenizer,
        task,
        stop_table(model.tokenizer.token_bytes, task.stop_strings),
        LoRA(config.lora_rank) if config.lora_rank else None,
    )


def algorithm(config: Config) -> Algorithm:
    """GRPO of the config's model on the config's problems."""
    chosen = setup(config)
    return rlvr(
        chosen.task,
        chosen.network,
        estimators.grpo(),
        params=chosen.params,
        lora=chosen.lora,
        stop_table=chosen.stops,
        num_prompts=config.num_prompts,
        group_size=config.group_size,
        num_minibatches=config.num_minibatches,
        learning_rate=config.learning_rate,
        eval_samples=min(4, config.eval_samples),
    )


@functools.lru_cache(maxsize=4)
def answering(config: Config, sampling: Sampling, num_samples: int) -> Callable:
    """A program that answers the held-out problems.

    Args:
      config: of the experiment.
      sampling: how.
      num_samples: to each.

    Returns:
      `(params, key) -> (tokens [problems, samples, R], mask, rewards [problems, samples])`.
    """
    chosen = setup(config)
    prompts = chosen.task.held_out(jnp.arange(chosen.task.num_held_out))
    each = jax.tree.map(lambda x: jnp.repeat(x, num_samples, axis=0), prompts)

    @jax.jit
    def answer(params: PyTree, key: Array):
        found = generate(
            chosen.network,
            params,
            prompts.tokens,
            prompts.mask,
            key,
            max_new_tokens=config.response_length,
            sampling=sampling,
            num_samples=num_samples,
            stop_tokens=chosen.task.stop_tokens,
            stop_strings=chosen.stops,
        )
        value = chosen.task.reward(each, found.tokens, found.mask, found.finished).value
        every = (found.tokens, found.mask, value)
        return jax.tree.map(lambda x: x.reshape((-1, num_samples, *x.shape[1:])), every)

    return answer


def examined(config: Config, params: PyTree, seed: int) -> dict[str, Any]:
    """How a model answers the held-out problems.

    Args:
      config: of the experiment.
      params: whole ones.
      seed: of the draws.

    Returns:
      `success` `[problems]`, the share of right answers at temperature 1; `greedy` `[problems]`
      0 or 1; `texts`, an answer of each kind to each of the first problems.
    """
    key = jax.random.key(seed)
    drawn = answering(config, Sampling(), config.eval_samples)(params, key)
    greedy = answering(config, GREEDY, 1)(params, key)
    chosen = setup(config)

    def texts(found) -> list[str]:
        ids, mask = np.asarray(found[0][:SHOWN, 0]), np.asarray(found[1][:SHOWN, 0])
        return [chosen.tokenizer.decode(row[real]) for row, real in zip(ids, mask, strict=True)]

    return {
        "success": np.mean(np.asarray(drawn[2]) >= 1.0, axis=1),
        "greedy": np.asarray(greedy[2])[:, 0] >= 1.0,
        "texts": (texts(drawn), texts(greedy)),
    }


@functools.lru_cache(maxsize=16)
def before(config: Config, seed: int) -> dict[str, Any]:
    """The model before training."""
    return examined(config, setup(config).params, seed)


def grpo(config: Config, seeds: list[int], context: Context) -> MethodRun:
    """Trains every seed, one after the other: a model of this size fills the machine."""
    chosen, agent = setup(config), algorithm(config)
    every = max(1, config.num_updates // config.evaluations)
    after, curves = [], []
    for seed in seeds:
        result = context.train(
            agent,
            [seed],
            config.num_updates,
            part=f"seed-{seed}",
            evaluate_every=every,
            checkpoint_every=every,
            keep=1,
        )
        trained = jax.tree.map(lambda x: x[0], result.policy)
        after.append(examined(config, chosen.whole(trained), seed))
        curves.append(
            [result.evaluations[name][:, 0] for name in ("eval_success", "eval_greedy_success")]
        )
        if chosen.lora is not None:
            folder = context.out / f"seed-{seed}" / "adapters"
            if not folder.exists():
                pretrained.save_adapters(folder, chosen.lora, trained, chosen.network.config)
    base = [before(config, seed) for seed in seeds]
    success, greedy = (
        np.stack([[found[name] for found in kind] for kind in (base, after)]).astype(float)
        for name in ("success", "greedy")
    )
    numbers = {
        "greedy_before": greedy[0].mean(axis=1),
        "greedy_after": greedy[1].mean(axis=1),
        # Over problems, each the mean of all seeds: what another draw of problems might give.
        "gain_over_problems": _interval(success[1] - success[0]),
        "greedy_gain_over_problems": _interval(greedy[1] - greedy[0]),
        "prompt": chosen.tokenizer.decode(_first_prompt(chosen)),
        "responses": _responses(chosen, base[0]["texts"], after[0]["texts"]),
    }
    _show(numbers)
    x = result.evaluated
    drawn, most_probable = np.moveaxis(np.array(curves), 0, -1)
    return MethodRun(
        success[1].mean(axis=1),
        {METRIC: Curve(x, drawn), "greedy success on held-out problems": Curve(x, most_probable)},
        numbers,
    )


def base_model(config: Config, seeds: list[int], context: Context) -> MethodRun:
    """The model before training, on the same problems with the same draws."""
    del context
    found = [before(config, seed) for seed in seeds]
    success, greedy = ([one[name].mean() for one in found] for name in ("success", "greedy"))
    ends = [0, config.num_updates]
    curves = {
        METRIC: Curve(ends, [success, success]),
        "greedy success on held-out problems": Curve(ends, [greedy, greedy]),
    }
    return MethodRun(success, curves)


def _interval(gains: np.ndarray) -> dict[str, float]:
    return intervals.bootstrap(gains.mean(axis=0))._asdict()


def _first_prompt(chosen: Setup) -> np.ndarray:
    prompts = chosen.task.held_out(jnp.arange(1))
    return np.asarray(prompts.tokens[0])[np.asarray(prompts.mask[0])]


def _responses(chosen: Setup, base: tuple, trained: tuple) -> list[dict[str, str]]:
    prompts = chosen.task.held_out(jnp.arange(min(SHOWN, chosen.task.num_held_out)))
    last = [
        chosen.tokenizer.decode(np.asarray(ids)[np.asarray(real)]).splitlines()[-1]
        for ids, real in zip(prompts.tokens, prompts.mask, strict=True)
    ]
    names = ("before", "before, greedy", "after", "after, greedy")
    return [
        {"problem": problem} | dict(zip(names, answers, strict=True))
        for problem, *answers in zip(last, *base, *trained, strict=True)
    ]


def _show(numbers: Mapping[str, Any]) -> None:
    table = Table(title="The first held-out problems")
    for name in numbers["responses"][0]:
        table.add_column(name)
    for row in numbers["responses"]:
        table.add_row(*(repr(text)[1:-1].replace("[", r"\[") for text in row.values()))
    Console(file=sys.stderr, width=None if sys.stderr.isatty() else 100).print(table)


METRIC = "success on held-out problems at temperature 1"

EXPERIMENT = harness.Experiment(
    system="smollm2_grpo",
    title="SmolLM2-135M learns arithmetic by GRPO",
    claim=(
        "Reinforcement learning from verifiable rewards raises the success of a small pretrained "
        "model on problems that it was not trained on."
    ),
    metric=METRIC,
    rule=PairedRule("GRPO", ("base model",), minimum_effect=0.05),
    methods={"GRPO": grpo, "base model": base_model},
    budgets={
        "smoke": Config(
            model="tiny",
            num_prompts=2,
            group_size=4,
            num_updates=2,
            evaluations=1,
            eval_samples=2,
            lora_rank=4,
        ),
        "cpu": Config(),
        "gpu": Config(
            num_prompts=64,
            group_size=16,
            num_updates=200,
            num_minibatches=2,
            learning_rate=1e-5,
            lora_rank=0,
            dtype="bfloat16",
            evaluations=10,
        ),
    },
    num_seeds={"smoke": 2, "cpu": 5, "gpu": 5},
    x_label="updates",
    check=algorithm,
    notes=(
        "Problems of two terms of one digit each, in reasoning-gym's family chain_sum: 132 to "
        "train on, 60 held out, 3 solved lines in front of every problem; no two are the same.",
        "A gain at temperature 1 may be sharpening: greedy success is reported beside it.",
        "The interval of the rule is over seeds; gain_over_problems is over problems.",
    ),
)

if __name__ == "__main__":
    sys.exit(harness.main(EXPERIMENT))
