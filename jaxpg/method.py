"""The five seams of one update, and a published method as an override of one or two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxpg.estimator import Estimator
from jaxpg.types import Array, Evaluation, Metrics, PyTree, Trajectory


class Seams(NamedTuple):
    """Five pure functions and `init`, and what an override may ask.

    `state` is the method's own pytree, `()` where it has none. The trajectory and the world are
    this device's share of the batch; statistics over the batch go through `jaxpg.parallel`.

    Attributes:
      init: `(key, params) -> state`.
      collect: `(key, params, world, state) -> (trajectory, world, metrics)`: who acts, on what,
        how often. That of language models takes more, see `TokenSeams.collect`: which prompts,
        how many responses, at which temperature, or demonstrations.
      score: `(params, trajectory, state) -> trajectory`: what is needed once for a batch, without
        gradient: values, log-probabilities, entropies, advantages.
      select: `(trajectory, state) -> trajectory`: which rows and decisions enter the update, with
        static shapes: a mask of zeros drops a row, the extra `selected` single decisions.
      loss: `(params, minibatch, state) -> (loss, metrics)`: the only place with a gradient.
      after: `(params, trajectory, metrics, state) -> (state, metrics)`: what the method remembers,
        given the parameters after the update and the update's metrics.
      evaluate: `(params, trajectory) -> Evaluation`, the service that runs the networks; that of
        language models takes more, see `TokenSeams.evaluate`.
      num_prompts: prompts that may be asked for by number; 0 where there are none.
      prompts_per_update: that the default `collect` takes, over all devices.
      group_size: rows of each of them.
      learning_rate: `(gradient steps taken) -> rate` of the optimiser; None where it is not known,
        because the caller brought the optimiser.
      steps_per_update: gradient steps of an update that does not end early.
    """

    init: Callable[[Array, PyTree], PyTree]
    collect: Callable[[Array, PyTree, PyTree, PyTree], tuple[Trajectory, PyTree, Metrics]]
    score: Callable[[PyTree, Trajectory, PyTree], Trajectory]
    select: Callable[[Trajectory, PyTree], Trajectory]
    loss: Callable[[PyTree, Trajectory, PyTree], tuple[Array, Metrics]]
    after: Callable[[PyTree, Trajectory, Metrics, PyTree], tuple[PyTree, Metrics]]
    evaluate: Callable[..., Evaluation]
    num_prompts: int = 0
    prompts_per_update: int = 0
    group_size: int = 1
    learning_rate: Callable[[Array], Array] | None = None
    steps_per_update: int = 1


@dataclasses.dataclass(frozen=True)
class Method:
    """An estimator and what it changes in the update around it.

    Attributes:
      name: what tables and metrics call it.
      estimator: gives the default `score` and `loss`.
      override: `(seams) -> seams`, replaces what the method changes with `seams._replace(...)`
        and may call the defaults that it replaces.
      settings: plain values, see `description.recorded`.
      keeps_groups: what `collect` and `select` return holds whole groups, the rows of each side by
        side. A prompt then goes through the model once for all its responses.
      drops_rows: `select` drops rows, so many that it pays to cut each minibatch to those left.
    """

    name: str
    estimator: Estimator
    override: Callable[[Seams], Seams] = lambda seams: seams
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    keeps_groups: bool = False
    drops_rows: bool = False

    @staticmethod
    def from_estimator(estimator: Estimator) -> Method:
        """The method that changes nothing but the loss.

        Args:
          estimator: any.

        Returns:
          A `Method` of the estimator's name.
        """
        return Method(estimator.name, estimator, keeps_groups=True)

    def seams(
        self,
        collect: Callable[[Array, PyTree, PyTree, PyTree], tuple[Trajectory, PyTree, Metrics]],
        prepare: Callable[[PyTree, Trajectory], Trajectory],
        evaluate: Callable[..., Evaluation],
        **services: Any,
    ) -> Seams:
        """The five seams, from what differs between environments and language models.

        Args:
          collect: default of the `collect` seam.
          prepare: `(params, trajectory) -> trajectory`, adds the extras that the estimator needs
            before it computes advantages.
          evaluate: the networks.
          **services: the fields of `Seams` behind `evaluate`, by name.

        Returns:
          The seams with this method's overrides in place.
        """
        estimator = self.estimator
        return self.override(
            Seams(
                init=lambda key, params: (),
                collect=collect,
                score=lambda params, trajectory, state: estimator.score(
                    prepare(params, trajectory)
                ),
                select=lambda trajectory, state: trajectory,
                loss=lambda params, batch, state: estimator.loss(evaluate(params, batch), batch),
                after=lambda params, trajectory, metrics, state: (state, {}),
                evaluate=evaluate,
                **services,
            )
        )


def as_method(method: Method | Estimator) -> Method:
    """Accepts an `Estimator` wherever a `Method` is.

    Args:
      method: either.

    Returns:
      A `Method`.

    Raises:
      TypeError: it is neither.
    """
    if isinstance(method, Estimator):
        return Method.from_estimator(method)
    if isinstance(method, Method):
        return method
    raise TypeError(
        f"method is {method!r}, but an Estimator (jaxpg.estimators.ppo()) or a Method "
        f"(jaxpg.methods.ppo_adaptive_penalty()) is needed"
    )
