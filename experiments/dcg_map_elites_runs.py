"""Populations on a task with descriptors, and MAP-Elites on the planar arm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg_envs
from experiments.method_runs import Context, Curve, MethodRun
from jaxpg import algorithms
from jaxpg import quality_diversity as qd
from jaxpg.choices import at_least
from jaxpg.quality_diversity import descriptor_scale, scoring
from jaxpg.quality_diversity.distilled import DistilledPolicy
from jaxpg.quality_diversity.genetic import genetic
from jaxpg.types import Algorithm
from jaxpg_envs.locomotion import arm as planar_arm

ASKED = 8
"""Descriptors that the one policy of the picture is asked for, on a circle."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of all methods.

    Attributes:
      env: name of the task.
      grid: cells along each side of the box; 0 takes 1024 cells of a tessellation.
      offspring: of an iteration; as many policies begin.
      iterations: of every method.
      critic_steps: gradient steps of the critics in an iteration.
      policy_steps: gradient steps of each offspring by gradient.
      hidden: width of the two layers of a policy.
      critic_hidden: width of the two layers of a critic.
      length_scale: of the similarity, in units of half a side of the box.
      arm_iterations: on the arm, of 128 offspring each.
    """

    env: str = "locomotion/point-omni"
    grid: int = 16
    offspring: int = 64
    iterations: int = 40
    critic_steps: int = 150
    policy_steps: int = 30
    hidden: int = 32
    critic_hidden: int = 64
    length_scale: float = 0.1
    arm_iterations: int = 400

    def __post_init__(self):
        """Refuses sizes of which nothing comes."""
        for name in ("offspring", "iterations", "critic_steps", "policy_steps", "arm_iterations"):
            at_least(name, getattr(self, name), 1)
        if self.offspring % 4:
            raise ValueError(f"offspring is {self.offspring}, but it has to be a multiple of 4")


def algorithm(kind: str, config: Config) -> Algorithm:
    """One of the four methods, with equal evaluations.

    Args:
      kind: `"genetic"`, `"pga"`, `"dcg"` or `"dcrl"`.
      config: sizes.

    Returns:
      An `Algorithm`.
    """
    env, params = jaxpg_envs.make(config.env)
    number = config.offspring
    shared: dict[str, Any] = {"num_initial": number, "hidden": (config.hidden,) * 2}
    if config.grid:
        low, high = env.descriptor_bounds(params)
        shared["cells"] = qd.grid(low, high, (config.grid,) * 2)
    learned = shared | {
        "num_critic_steps": config.critic_steps,
        "num_policy_steps": config.policy_steps,
        "critic_hidden": (config.critic_hidden,) * 2,
    }
    told = learned | {
        "actor_hidden": (config.hidden,) * 2,
        "length_scale": config.length_scale,
        "scale": descriptor_scale.symmetric,
    }
    half, quarter = number // 2, number // 4
    if kind == "genetic":
        return algorithms.genetic_map_elites(env, params, num_genetic=number, **shared)
    if kind == "pga":
        return algorithms.pga_map_elites(
            env, params, num_genetic=half, num_gradient=half, **learned
        )
    if kind == "dcg":
        return algorithms.dcg_map_elites(
            env, params, num_genetic=half, num_gradient=half, num_active=number, **told
        )
    return algorithms.dcrl_map_elites(
        env, params, num_genetic=half, num_gradient=quarter, num_injected=quarter, **told
    )


def population(kind: str, value: str = "qd_score", *, pictured: bool = False):
    """A method of the experiment.

    Args:
      kind: see `algorithm`.
      value: `"qd_score"` of the archive; `"share"` of it that the one policy reaches; `"error"`, 1
        less the mean error of the policy's descriptors in halves of a side of the box.
      pictured: keep what the one policy does when it is asked.

    Returns:
      `(config, seeds, context) -> MethodRun`.
    """

    def method(config: Config, seeds: list[int], context: Context) -> MethodRun:
        agent = algorithm(kind, config)
        asks = value != "qd_score"
        result = context.train(
            agent, seeds, config.iterations, evaluate_every=config.iterations if asks else None
        )
        metrics = result.metrics
        final = np.asarray(metrics["qd_score"])[-1]
        if asks:
            looked = result.evaluations
            env, params = jaxpg_envs.make(config.env)
            low, high = scoring.descriptor_bounds(env, params)
            half = float(np.mean(np.asarray(high) - np.asarray(low))) / 2
            values = {
                "share": looked["actor_qd_score"][-1] / final,
                "error": 1.0 - looked["actor_descriptor_error"][-1] / half,
            }[value]
            return MethodRun(np.asarray(values))
        spent = np.asarray(metrics["evaluations"])[:, 0]
        curves = {
            name: Curve(spent, np.asarray(metrics[key]))
            for name, key in (("QD score", "qd_score"), ("coverage, %", "coverage"))
        }
        first = jax.tree.map(lambda leaf: leaf[0], result.policy)
        numbers: dict[str, Any] = {
            "coverage": round(float(np.mean(np.asarray(metrics["coverage"])[-1])), 1),
            "evaluations": int(spent[-1]),
            "rollouts": int(np.max(np.asarray(metrics["rollouts"])[-1])),
        }
        numbers |= elites(first.archive, config.grid)
        if pictured:
            numbers["asked"] = asked(config, first.actor)
        return MethodRun(final, curves, numbers)

    return method


def elites(archive: qd.Archive, side: int) -> dict[str, Any]:
    """What a picture of an archive needs.

    Args:
      archive: of one seed.
      side: cells along each side of a grid, 0 for a tessellation.

    Returns:
      `box`, its lower and upper corner; `map [side, side]` of fitness, None where there is no
      elite; or for a tessellation `elites`, rows of centroid and fitness.
    """
    cells = archive.cells
    box = {"box": [np.asarray(end, float).tolist() for end in (cells.low, cells.high)]}
    fitness = np.asarray(archive.fitness, float).round(2)
    there = np.isfinite(fitness)
    if side:
        rows = np.where(there, fitness, None).reshape(side, side)
        return box | {"map": rows.tolist()}
    centroids = np.asarray(cells.centroids, float).round(3)
    return box | {"elites": np.column_stack([centroids, fitness])[there].tolist()}


def check(config: Config) -> None:
    """Refuses tasks that no map shows.

    Args:
      config: of a run.

    Raises:
      ValueError: an unknown task, or descriptors that are not two.
    """
    env, params = jaxpg_envs.make(config.env)
    number = len(scoring.descriptor_bounds(env, params)[0])
    if number != 2:
        raise ValueError(
            f"env is {config.env!r}, whose descriptors have {number} entries, but archives are "
            f"drawn in a plane: choose a task with 2, such as locomotion/ant-omni"
        )


def asked(config: Config, policy: DistilledPolicy) -> dict[str, Any]:
    """Paths of the one policy when it is asked for descriptors on a circle.

    Args:
      config: names the task.
      policy: that is told descriptors.

    Returns:
      `targets [ASKED, 2]` and `paths [ASKED, T, 2]`, in units of the box.
    """
    env, params = jaxpg_envs.make(config.env)
    low, high = (jnp.asarray(end, float) for end in env.descriptor_bounds(params))
    angles = 2 * jnp.pi * jnp.arange(ASKED) / ASKED
    circle = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    targets = (low + high) / 2 + 0.7 * (high - low) / 2 * circle
    num_steps = int(params.max_steps_in_episode)

    @jax.jit
    def path(target: jax.Array) -> jax.Array:
        def step(carry, key):
            observation, state = carry
            action = policy(observation, target)
            observation, state, *_ = env.step_env(key, state, action, params)
            return (observation, state), env.descriptor_of(observation, params)

        keys = jax.random.split(jax.random.key(0), num_steps)
        return jax.lax.scan(step, env.reset_env(jax.random.key(1), params), keys)[1]

    paths = np.asarray(jax.vmap(path)(targets), float)
    return {
        "targets": np.asarray(targets, float).round(3).tolist(),
        "paths": paths.round(3).tolist(),
    }


def arm(config: Config, seeds: list[int], context: Context) -> MethodRun:
    """MAP-Elites on the planar arm with eight joints."""
    agent = algorithms.map_elites(
        planar_arm.score_arm,
        qd.grid([0.0, 0.0], [1.0, 1.0], (32, 32)),
        genetic(128, low=0.0, high=1.0),
        _uniform(128, 8),
        offset=1.0,
        name="arm",
    )
    result = context.train(agent, seeds, config.arm_iterations, evaluate_every=None)
    metrics = result.metrics
    coverage = float(np.mean(np.asarray(metrics["coverage"])[-1]))
    return MethodRun(np.asarray(metrics["qd_score"])[-1], numbers={"coverage": round(coverage, 1)})


def _uniform(number: int, size: int) -> Callable[[jax.Array], jax.Array]:
    return lambda key: jax.random.uniform(key, (number, size))
