"""What a drive shall follow: reference values that are shown to the agent and rewarded.

generator = Wiener(names=("omega",), sigma_range=(1e-3, 1e-2))
state, values = generator.initial(key, margins, tau)  # shown at the reset
state, values = generator.next(key, state, margins, tau)  # shown after each step
"""

from jaxpg_envs.motor.references.checks import check_reference
from jaxpg_envs.motor.references.combined import Multiple, Switched, SwitchedState
from jaxpg_envs.motor.references.constant import Constant, Zero
from jaxpg_envs.motor.references.generator import ReferenceGenerator
from jaxpg_envs.motor.references.process import Laplace, ProcessState, Wiener
from jaxpg_envs.motor.references.waves import (
    Sawtooth,
    Sinusoidal,
    Step,
    Triangular,
    WaveState,
)

__all__ = [
    "Constant",
    "Laplace",
    "Multiple",
    "ProcessState",
    "ReferenceGenerator",
    "Sawtooth",
    "Sinusoidal",
    "Step",
    "Switched",
    "SwitchedState",
    "Triangular",
    "WaveState",
    "Wiener",
    "Zero",
    "check_reference",
]
