"""The small policies that experiments on synthetic token tasks begin with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax

from jaxpg import networks
from jaxpg.algorithms import warm_start
from jaxpg.networks import LanguageModel
from jaxpg.types import PyTree
from jaxpg_envs.tokens import TokenTask

BASE_SEED = 12_345
"""Of the warm start: methods and seeds of one experiment begin with one policy."""


def small_transformer(task: TokenTask, *, value_head: bool = False) -> LanguageModel:
    """Two layers of width 64 for a task.

    Args:
      task: gives vocabulary and lengths.
      value_head: with a critic.

    Returns:
      A `LanguageModel`.
    """
    return networks.transformer(
        networks.TransformerConfig(
            vocabulary_size=task.vocabulary_size,
            max_positions=task.prompt_length + task.response_length,
            value_head=value_head,
        )
    )


def small_mlp(task: TokenTask, *, value_head: bool = False) -> LanguageModel:
    """A perceptron of 128 and 64 units for a task.

    Args:
      task: gives vocabulary and lengths.
      value_head: with a critic.

    Returns:
      A `LanguageModel`.
    """
    return networks.token_mlp(
        networks.TokenMLPConfig(
            vocabulary_size=task.vocabulary_size,
            max_positions=task.prompt_length + task.response_length,
            value_head=value_head,
        )
    )


def shortly_warmed(task: TokenTask, num_updates: int) -> TokenTask:
    """The task with a shorter warm start.

    Args:
      task: with a `warm_start`.
      num_updates: of each phase, at most.

    Returns:
      Another task.
    """
    phases = tuple(
        dataclasses.replace(phase, num_updates=min(phase.num_updates, num_updates))
        for phase in task.warm_start
    )
    return dataclasses.replace(task, warm_start=phases)


@functools.lru_cache(maxsize=8)
def warm_started(
    task: TokenTask,
    *,
    build: Callable[..., LanguageModel] = small_transformer,
    value_head: bool = False,
) -> tuple[LanguageModel, PyTree]:
    """The policy after the task's supervised warm start, trained once in a process.

    Args:
      task: with a `warm_start`.
      build: the policy, `small_transformer` or `small_mlp`.
      value_head: add a critic, which is not trained yet; the policy is the same.

    Returns:
      `(model, params)`.
    """
    if value_head:
        _, params = warm_started(task, build=build)
        model = build(task, value_head=True)
        drawn = model.init(jax.random.key(BASE_SEED))["params"]
        return model, {"params": {**drawn, **params["params"]}}
    model = build(task)
    return model, warm_start(task, model, jax.random.key(BASE_SEED))
