"""Drives as `gymnasium.Env`: the call, argument names and attributes of gym-electric-motor.

A program that makes its environment there changes the import:

    from jaxpg_envs.motor import gymnasium_drives as gem

    env = gem.make("Cont-CC-PMSM-v0")
    (state, reference), info = env.reset(seed=0)
"""

from __future__ import annotations

from typing import Any

import numpy as np

# First, because it names the extra that installs gymnasium.
from jaxpg_envs.gymnasium_bridge import (
    BridgedEnv,
    BridgedVectorEnv,
    gymnasium,
    to_gymnasium_vector,
)
from jaxpg_envs.motor import ids
from jaxpg_envs.motor.environment import ElectricDrive

RENAMED = {
    "ode_solver": "solver",
    "physical_system_wrappers": "processors",
    "reference_generator": "reference",
    "reward_function": "reward",
}
"""Arguments of gym-electric-motor that have another name in `ids.electric_drive`."""

_DRAWN = ("visualization", "callbacks")


class DriveEnv(BridgedEnv):
    """What `make` returns.

    Attributes:
      state_names: of what is shown, in order.
      reference_names: of what is to be followed, in order.
      limits: `[N]` float64, what each shown quantity was divided by, in SI units.
      nominal_state: `[N]` float64, likewise of nominal operation.
      tau: seconds of a step.
    """

    def __init__(self, env: ElectricDrive, params: Any):
        """Compile nothing yet; see `make`."""
        super().__init__(env, params)
        self.state_names = list(env.state_names)
        self.reference_names = list(env.reference_names)
        self.limits = _in_order(env, env.limits(params))
        self.nominal_state = _in_order(env, env.nominal(params))
        self.tau = float(params.tau)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Take one step; see `gymnasium.Env.step`.

        Raises:
          ValueError: an action of another shape, or outside of the action space.
        """
        _refuse_outside(self.action_space, action)
        return super().step(action)


def make(name: str, **options: Any) -> DriveEnv:
    """One of the 54 drives as a `gymnasium.Env`.

    Args:
      name: one of `ids.names()`.
      **options: of `ids.electric_drive`, also by the names of gym-electric-motor. There is no
        dashboard: `visualization` and `callbacks` have to be empty.

    Returns:
      The environment, whose observations are `(state, reference)`.

    Raises:
      ValueError: see `ids.electric_drive`.
      TypeError: an unknown option.

    >>> env = make("Cont-CC-SeriesDc-v0")
    >>> env.state_names, env.limits.tolist()
    (['omega', 'torque', 'i', 'u', 'u_sup'], [400.0, 38.0, 210.0, 60.0, 60.0])
    """
    return DriveEnv(*_drive(name, options))


def make_vector(name: str, num_envs: int, **options: Any) -> BridgedVectorEnv:
    """Many of one drive as a `gymnasium.vector.VectorEnv`, stepped by one program.

    Args:
      name: one of `ids.names()`.
      num_envs: at least 1.
      **options: of `make`, and `autoreset_mode` of `to_gymnasium_vector`.

    Returns:
      The vector environment.
    """
    given = {k: options.pop(k) for k in ("autoreset_mode",) if k in options}
    return to_gymnasium_vector(*_drive(name, options), num_envs=num_envs, **given)


def _drive(name: str, options: dict[str, Any]) -> tuple[ElectricDrive, Any]:
    for argument in _DRAWN:
        if options.pop(argument, ()):
            raise ValueError(
                f"{argument} is given, but nothing is drawn here: leave it out, and plot what "
                f"`step` returns"
            )
    env = ids.electric_drive(name, **{RENAMED.get(k, k): v for k, v in options.items()})
    return env, env.default_params


def _in_order(env: ElectricDrive, values: dict[str, Any]) -> np.ndarray:
    return np.array([float(values[name]) for name in env.state_names])


def _refuse_outside(space: Any, action: Any) -> None:
    given = np.asarray(action)
    if given.shape != space.shape:
        raise ValueError(f"action has shape {given.shape}, but {space} needs {space.shape}")
    if isinstance(space, gymnasium.spaces.Box):
        inside = (given >= space.low) & (given <= space.high)
    else:
        choices = space.n if isinstance(space, gymnasium.spaces.Discrete) else space.nvec
        inside = (given >= 0) & (given < choices)
    if not np.all(inside):
        raise ValueError(f"action is {action!r}, which is not in {space}")
