"""Electric drives: supply, converter, motor, load, and a reference to follow.

    env, params = jaxpg_envs.make("Cont-CC-PMSM-v0")
    env, params = jaxpg_envs.make("Finite-SC-SCIM-v0", motor={"r_s": 3.1}, tau=2e-5)

The 54 ids, their numbers and their quirks are those of gym-electric-motor 3.0.3. Every piece is a
record of numbers with pure functions: `params.replace(motor=...)` changes one, `jax.vmap` over
parameters simulates many different drives, and gradients flow through all of them.

Source: gym-electric-motor, Traue et al. 2019, arXiv 1910.09434.
"""

from jaxpg_envs.motor import (
    constraints,
    controllers,
    converters,
    drive,
    ids,
    initial_states,
    loads,
    motors,
    noise,
    references,
    rewards,
    solvers,
    supplies,
    transforms,
)
from jaxpg_envs.motor.checks import check_drive
from jaxpg_envs.motor.environment import DriveParams, DriveState, ElectricDrive
from jaxpg_envs.motor.processors import CosSin, CurrentSum, DeadTime, DqActions, FluxObserver

__all__ = [
    "CosSin",
    "CurrentSum",
    "DeadTime",
    "DqActions",
    "DriveParams",
    "DriveState",
    "ElectricDrive",
    "FluxObserver",
    "check_drive",
    "constraints",
    "controllers",
    "converters",
    "drive",
    "ids",
    "initial_states",
    "loads",
    "motors",
    "noise",
    "references",
    "rewards",
    "solvers",
    "supplies",
    "transforms",
]
