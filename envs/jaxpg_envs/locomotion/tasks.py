"""The tasks with descriptors by name.

Omni tasks describe an episode by where the torso ends, in steps without reward for going forward;
uni tasks by the share of steps in which each foot touches the ground. `hexapod-omni` is left out:
its robot is a model of brax 1, whose format and engine today's brax no longer has, and no MuJoCo
model of it comes with brax.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxpg_envs import brax_adapter
from jaxpg_envs.choices import refusal
from jaxpg_envs.locomotion import descriptors, trap
from jaxpg_envs.locomotion.point_omni import PointOmni

PREFIX = "locomotion/"
"""What the names begin with in the registry."""


class Task(NamedTuple):
    """A task over a robot of brax.

    Attributes:
      robot: a key of `brax_adapter.CLASSES`.
      reward_shift: added to the reward of each step.
      horizon: T.
      forward_metric: brax's metric that is taken out of the reward; None leaves all in.
      feet: geometries whose contacts describe an episode; without any the torso's position does.
      half_width: of the box of positions.
      prepare: brax's environment -> the one that is used.
    """

    robot: str
    reward_shift: float
    horizon: int = 1000
    forward_metric: str | None = None
    feet: tuple[str, ...] = ()
    half_width: float = 30.0
    prepare: Callable[[Any], Any] = lambda brax_env: brax_env


_ANT_FEET = ("left_foot_geom", "right_foot_geom", "third_foot_geom", "fourth_foot_geom")

TASKS: dict[str, Task] = {
    "ant-omni": Task("ant", 3.03, 250, "reward_forward"),
    "ant-uni": Task("ant", 3.24, feet=_ANT_FEET),
    "anttrap-omni": Task("ant", 3.03, 250, "reward_forward", prepare=trap.walled),
    "halfcheetah-uni": Task("halfcheetah", 0.6, feet=("ffoot", "bfoot")),
    "hopper-uni": Task("hopper", 0.0, feet=("foot_geom",)),
    "humanoid-omni": Task("humanoid", -3.3, 250, "reward_linvel"),
    "walker2d-uni": Task("walker2d", 0.0, feet=("foot_geom", "foot_left_geom")),
}
"""Tasks over brax. Shifts are those of DCG-MAP-Elites, with QDax's for the ant that walks ahead
and none for the hopper, which has neither there. They were chosen on brax 1; today's ant pays no
cost of contacts, and today's humanoid less for control, so that its reward stays above 1.4."""


def names() -> list[str]:
    """Names of the tasks, as the registry knows them.

    >>> names()[:2], len(names())
    (['locomotion/ant-omni', 'locomotion/ant-uni'], 8)
    """
    return sorted(factories())


def factories() -> dict[str, Callable[..., Any]]:
    """A constructor for each name, for the registry. Does not import brax."""
    of_brax = {f"{PREFIX}{task}": functools.partial(described_robot, task) for task in TASKS}
    return {f"{PREFIX}point-omni": PointOmni, **of_brax}


def described_robot(
    task: str, *, backend: str = "spring", start: str = "fixed"
) -> descriptors.DescribedBrax:
    """Build one of the tasks over brax.

    Args:
      task: a key of `TASKS`.
      backend: brax's physics, one of `brax_adapter.BACKENDS`; "spring" is the fastest.
      start: "fixed" begins every episode at rest in the robot's initial pose, without noise;
        "drawn" with brax's noise, anew in each episode.

    Returns:
      The environment; its parameters hold the box, the shift of the reward and T.

    Raises:
      ImportError: brax is not installed.
      ValueError: an argument is none of the accepted ones.
    """
    if task not in TASKS:
        raise ValueError(refusal("task", task, TASKS))
    if start not in descriptors.STARTS:
        raise ValueError(refusal("start", start, descriptors.STARTS))
    spec = TASKS[task]
    noise = {"reset_noise_scale": 0.0} if start == "fixed" else {}
    robot = brax_adapter.constructor(spec.robot)(backend=backend, **noise)
    with brax_adapter.without_notices():
        brax_env = spec.prepare(robot.brax_env)
    if spec.feet:
        descriptor = descriptors.foot_contacts(brax_env.sys, spec.feet)
        low, high = jnp.zeros(descriptor.size), jnp.ones(descriptor.size)
    else:
        descriptor = descriptors.torso_position()
        high = jnp.full(descriptor.size, spec.half_width)
        low = -high
    params = descriptors.DescribedParams(
        max_steps_in_episode=spec.horizon, low=low, high=high, reward_shift=spec.reward_shift
    )
    return descriptors.DescribedBrax(
        brax_env,
        descriptor,
        params,
        forward_metric=spec.forward_metric,
        start=start,
        name=f"{PREFIX}{task}",
    )
