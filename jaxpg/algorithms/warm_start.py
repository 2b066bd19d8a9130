"""Supervised training through a task's warm start: the policy that reinforcement begins with."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxpg import runner
from jaxpg.algorithms.rlvr import rlvr
from jaxpg.estimators import sft
from jaxpg.networks.language_model import LanguageModel
from jaxpg.types import Array, PyTree


def warm_start(
    task: Any,
    model: LanguageModel,
    key: Array,
    *,
    params: PyTree | None = None,
    progress: bool = False,
) -> PyTree:
    """Runs the phases of supervised training that the task describes.

    Args:
      task: has `warm_start`, phases with `name`, `demonstrations`, `num_updates`, `batch_size`
        and `learning_rate`, see `jaxpg_envs.tokens.task.WarmStart`; a dataclass.
      model: the policy.
      key: of the parameters, the prompts and the demonstrations.
      params: to go on from; None draws them.
      progress: show progress.

    Returns:
      Parameters of the model.

    Raises:
      ValueError: the task describes no warm start.
    """
    if not task.warm_start:
        raise ValueError(f"task {task.name!r} describes no warm start: its warm_start is empty")
    for number, phase in enumerate(task.warm_start):
        algorithm = rlvr(
            dataclasses.replace(task, demonstrations=phase.demonstrations),
            model,
            sft(),
            params=params,
            num_prompts=phase.batch_size,
            group_size=1,
            learning_rate=phase.learning_rate,
        )
        result = runner.train(
            algorithm,
            key=jax.random.fold_in(key, number),
            num_updates=phase.num_updates,
            progress=progress,
            label=f"warm start, {phase.name}",
        )
        params = result.state.params
    return params
