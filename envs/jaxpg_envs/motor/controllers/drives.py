"""Which drives a controller exists for: one sentence where it does not."""

from __future__ import annotations

from typing import Any

from jaxpg_envs.motor import motors
from jaxpg_envs.motor.environment import measured_names


def refuse_drive(
    controller: str, params: Any, valid: tuple[type, ...], *, finite: bool | None
) -> None:
    """Refuse a drive that a controller is not for.

    Args:
      controller: name of the constructor.
      params: of the environment; only kinds are looked at, no numbers.
      valid: classes of motors.
      finite: whether the converter has to be finite; None: it may be either.

    Raises:
      ValueError: another motor or converter, or a SCIM whose flux is not observed.
    """
    motor, converter = params.motor, params.converter
    if not isinstance(motor, valid):
        names = ", ".join(each.__name__ for each in valid)
        raise ValueError(
            f"{controller} needs one of the motors {names}, but the motor is {type(motor).__name__}"
        )
    if finite is not None and bool(converter.FINITE) != finite:
        raise ValueError(
            f"{controller} needs a {'finite' if finite else 'continuous'} converter, but the "
            f"converter is {_kind(converter)}: "
            + ("current_pi, field_oriented or deadbeat" if finite else "bang_bang")
            + " could follow its currents"
        )
    if isinstance(motor, motors.SCIM) and "psi_abs" not in measured_names(params):
        raise ValueError(
            f"{controller} needs 'psi_abs' of a SCIM, which is not measured: put a FluxObserver "
            f"into processors"
        )


def _kind(converter: Any) -> str:
    parts = getattr(converter, "parts", None)
    if parts is None:
        return type(converter).__name__
    return f"Multi({', '.join(type(part).__name__ for part in parts)})"
