"""The nine motors, records of parameters with a differential equation; see `motor.Motor`.

pmsm = motors.PMSM(r_s=0.02)
pmsm.derivative((i_sd, i_sq, epsilon), omega, (u_sd, u_sq))
"""

from jaxpg_envs.motor.motors.dc import ExtExDc, PermExDc, SeriesDc, ShuntDc
from jaxpg_envs.motor.motors.induction import DFIM, SCIM
from jaxpg_envs.motor.motors.motor import Motor, check_motor
from jaxpg_envs.motor.motors.synchronous import EESM, PMSM, SynRM

__all__ = [
    "DFIM",
    "EESM",
    "PMSM",
    "SCIM",
    "ExtExDc",
    "Motor",
    "PermExDc",
    "SeriesDc",
    "ShuntDc",
    "SynRM",
    "check_motor",
]
