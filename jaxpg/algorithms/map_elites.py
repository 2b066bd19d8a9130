"""MAP-Elites: an archive that fills with elites.

`map_elites` composes what scores, what proposes and where elites are kept; `neuroevolution` holds
its compositions for policies in environments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg import parallel
from jaxpg.choices import at_least
from jaxpg.description import describe
from jaxpg.quality_diversity import archive as archives
from jaxpg.quality_diversity.archive import Archive
from jaxpg.quality_diversity.cells import Cells
from jaxpg.quality_diversity.distilled import DistilledPolicy
from jaxpg.quality_diversity.emitter import Emitter, EmitterState
from jaxpg.quality_diversity.scoring import Scoring
from jaxpg.types import Algorithm, Array, Metrics, PyTree


@struct.dataclass
class MapElitesState:
    """Everything that a run consists of.

    Attributes:
      archive: of elites.
      world: what the emitter remembers; its buffers are split over devices.
      key: of the updates to come.
      num_updates: int32, done so far.
      num_evaluations: int32, solutions that were scored for the archive, the first ones included.
    """

    archive: Archive
    world: EmitterState
    key: Array
    num_updates: Array
    num_evaluations: Array


@struct.dataclass
class Elites:
    """What is worth keeping of a run.

    Attributes:
      archive: of elites.
      actor: the policy that learned beside: a `DistilledPolicy` that is told descriptors, the
        parameters of a plain policy, or None.
    """

    archive: Archive
    actor: DistilledPolicy | PyTree


def map_elites(
    scoring: Scoring,
    cells: Cells,
    emitter: Emitter,
    initial: Callable[[Array], PyTree],
    *,
    offset: float = 0.0,
    steps_per_evaluation: int = 1,
    name: str = "map_elites",
    settings: Mapping[str, Any] | None = None,
    actor: Callable[[PyTree], PyTree] = lambda params: params,
) -> Algorithm:
    """Fills an archive: learn, propose, score, insert.

    Args:
      scoring: a scoring function, see `quality_diversity.scoring`.
      cells: of the archive.
      emitter: proposes and learns.
      initial: `(key) -> genotypes [N0, ...]`, the first solutions.
      offset: added to the fitness of every elite in the QD score.
      steps_per_evaluation: environment steps of one evaluation, for the counts of the runner.
      name: of the algorithm.
      settings: plain values that tell it from others, beside those of emitter and cells.
      actor: what the emitter's policy becomes in `Elites`.

    Returns:
      An `Algorithm`; its state is a `MapElitesState`, its policy `Elites`. Metrics: `qd_score`,
      `coverage` (percent), `max_fitness`, `evaluations` and `rollouts` (so far; the latter also
      counts episodes beside those of offspring), `added_<operator>` (offspring of this update that
      entered) and those of the emitter. Its evaluation scores every elite once more: `eval_` and
      the archive's metrics of an archive of what came out, and the emitter's evaluation.

    Raises:
      ValueError: first solutions that do not divide into the emitter's blocks.

    Source: Mouret and Clune 2015, "Illuminating search spaces by mapping elites"
    (arXiv 1504.04909).
    """
    run = _Run(scoring, cells, emitter, initial, offset, actor)
    first = jax.eval_shape(initial, jax.random.key(0))
    run.check(jax.tree.leaves(first)[0].shape[0])
    episodes = emitter.batch_size + emitter.num_rollouts
    return Algorithm(
        init=run.init,
        update=run.update,
        evaluate=run.evaluate,
        policy=run.policy,
        steps_per_update=episodes * steps_per_evaluation,
        world_size=emitter.num_blocks,
        description={
            "algorithm": name,
            **dict(emitter.settings),
            "cells": describe(cells),
            "num_initial": jax.tree.leaves(first)[0].shape[0],
            "offset": offset,
            **(settings or {}),
        },
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """The functions of one configuration."""

    scoring: Scoring
    cells: Cells
    emitter: Emitter
    initial: Callable[[Array], PyTree]
    offset: float
    actor: Callable[[PyTree], PyTree]

    def check(self, num_initial: int) -> None:
        at_least("the number of first solutions", num_initial, 1)
        blocks = self.emitter.num_blocks
        if self.emitter.has_rows and num_initial % blocks:
            raise ValueError(
                f"there are {num_initial} first solutions, which do not divide into the {blocks} "
                f"blocks of the emitter: their number has to be a multiple of {blocks}"
            )

    def init(self, key: Array) -> MapElitesState:
        key_initial, key_score, key_emitter, key = jax.random.split(key, 4)
        genotypes = self.initial(key_initial)
        scores = self.scoring(key_score, genotypes, None)
        example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), genotypes)
        archive = archives.empty(self.cells, example)
        archive, _ = archives.insert(archive, genotypes, scores.fitness, scores.descriptors)
        return MapElitesState(
            archive=archive,
            world=self.emitter.init(key_emitter, scores),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
            num_evaluations=jnp.full((), scores.fitness.shape[0], jnp.int32),
        )

    def update(self, state: MapElitesState) -> tuple[MapElitesState, Metrics]:
        emitter = self.emitter
        key, key_learn, key_emit, key_score = jax.random.split(state.key, 4)
        world, learned = emitter.learn(key_learn, state.world, state.archive)
        offspring = emitter.emit(key_emit, world, state.archive)
        scores = self.scoring(key_score, offspring.genotypes, offspring.asked)
        # Every device inserts all offspring, so that the archives stay equal.
        whole = parallel.gather((offspring.genotypes, scores.fitness, scores.descriptors))
        archive, added = archives.insert(state.archive, *whole)
        state = MapElitesState(
            archive=archive,
            world=emitter.remember(world, offspring, scores),
            key=key,
            num_updates=state.num_updates + 1,
            num_evaluations=state.num_evaluations + emitter.batch_size,
        )
        beside = emitter.num_rollouts * state.num_updates
        return state, {
            **archives.metrics(archive, self.offset),
            "evaluations": state.num_evaluations,
            "rollouts": state.num_evaluations + beside,
            **emitter.added_by_operator(added),
            **learned,
        }

    def policy(self, state: MapElitesState) -> Elites:
        learned = self.emitter.policy
        return Elites(state.archive, None if learned is None else self.actor(learned(state.world)))

    def evaluate(self, state: MapElitesState, key: Array) -> Metrics:
        key_elites, key_emitter = jax.random.split(key)
        archive = state.archive
        scores = self.scoring(key_elites, archive.genotypes, archive.descriptors)
        fitness = jnp.where(archives.occupied(archive), scores.fitness, -jnp.inf)
        example = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), archive.genotypes
        )
        again, _ = archives.insert(
            archives.empty(archive.cells, example), archive.genotypes, fitness, scores.descriptors
        )
        metrics = {
            f"eval_{name}": value for name, value in archives.metrics(again, self.offset).items()
        }
        if self.emitter.evaluate is not None:
            metrics |= self.emitter.evaluate(key_emitter, state.world, archive, self.offset)
        return metrics
