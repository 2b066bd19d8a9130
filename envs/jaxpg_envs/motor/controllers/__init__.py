"""Classic controllers of electric drives: baselines for what learns, references for engineers.

    env, params = jaxpg_envs.make("Cont-CC-PMSM-v0", processors=(motor.DqActions(),))
    controller = controllers.field_oriented(params)
    run = controllers.closed_loop(env, params, controller, jax.random.key(0), 10_000)
    run.rewards.mean()

A controller is a record whose gains, and what it believes of the motor, are pytree leaves; it is
built for a drive's parameters by a function that says by which rule, and it may believe others than
the true ones. It is of one drive, and a batch is one vmap:

  initial() -> state: of an episode's start, a pytree.
  act(state, measured, wanted) -> (state, action): dicts of scalars by name in SI units, and what
    the environment takes.
  follows, needs: names of what has to be wanted and measured.

| built by | follows | motors | converter |
| --- | --- | --- | --- |
| `current_pi` | currents | PermExDc, SeriesDc, ShuntDc, ExtExDc | continuous |
| `field_oriented` | currents | PMSM, SynRM, EESM, SCIM | continuous |
| `deadbeat` | currents | all of these but SCIM | continuous |
| `bang_bang` | currents | all of these | finite |
| `torque_control` | torque | all of these | any |
| `speed_cascade` | speed | all of these | any |
"""

from jaxpg_envs.motor.controllers.bang_bang import BangBang, bang_bang
from jaxpg_envs.motor.controllers.cascade import CascadedPI, speed_cascade
from jaxpg_envs.motor.controllers.deadbeat import Deadbeat, deadbeat
from jaxpg_envs.motor.controllers.loop import ClosedLoop, closed_loop, policy
from jaxpg_envs.motor.controllers.proportional_integral import (
    PI,
    CurrentPI,
    current_pi,
    field_oriented,
)
from jaxpg_envs.motor.controllers.torque import TorqueControl, torque_control

__all__ = [
    "PI",
    "BangBang",
    "CascadedPI",
    "ClosedLoop",
    "CurrentPI",
    "Deadbeat",
    "TorqueControl",
    "bang_bang",
    "closed_loop",
    "current_pi",
    "deadbeat",
    "field_oriented",
    "policy",
    "speed_cascade",
    "torque_control",
]
