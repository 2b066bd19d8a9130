"""Power electronic converters: from an action to motor voltages, in units of the supply voltage.

    leg = converter("Finite-B6C", interlocking_time=1e-6)
    rotor_and_stator = multi(ContB6(), ContB6())

Every converter is a pytree whose leaves are `tau`, the period in seconds that its duty cycles are
averages over, and `interlocking_time`, the seconds in which both transistors of a leg are off after
a change; and it has these methods and attributes, of one drive, on scalars:

  NUM_SIGNALS: currents that it carries, and voltages that it puts out.
  FINITE: an action is a choice of switches, else a vector of duty cycles.
  interlocks: static, whether a step may be split.
  action_space(): in gymnax's form.
  initial_switches(): of the legs that remember what they did, all 0. The environment carries them,
    and keeps them over a reset.
  initial_voltages(): after a reset, before the first action.
  switch(switches, action) -> (switches, split): what the legs do in this step, and whether the step
    is split at its start + interlocking_time.
  supply_current(switches, action, currents) -> scalar, with the switches that the last `convert`
    had, which in a step's first part are those of the step before.
  convert(switches, action, currents) -> voltages.
  currents_range(), voltages_range(): (low, high) of each signal, by sign and in units of the
    largest.

Source: gym-electric-motor 3.0.3.
"""

from jaxpg_envs.motor.converters.checks import check_action, check_converter
from jaxpg_envs.motor.converters.choice import CONVERTERS, converter, follow_tau
from jaxpg_envs.motor.converters.continuous import (
    Cont1QC,
    Cont2QC,
    Cont4QC,
    ContB6,
)
from jaxpg_envs.motor.converters.finite import (
    Finite1QC,
    Finite2QC,
    Finite4QC,
    FiniteB6,
)
from jaxpg_envs.motor.converters.multi import Multi, multi

__all__ = [
    "CONVERTERS",
    "Cont1QC",
    "Cont2QC",
    "Cont4QC",
    "ContB6",
    "Finite1QC",
    "Finite2QC",
    "Finite4QC",
    "FiniteB6",
    "Multi",
    "check_action",
    "check_converter",
    "converter",
    "follow_tau",
    "multi",
]
