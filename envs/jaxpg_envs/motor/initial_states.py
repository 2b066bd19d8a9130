"""Speed, currents and angles of a drive when an episode begins.

A piece has `draw(key, params) -> (load states, motor states)`, each a tuple of scalars in SI units
in the order of the pieces' `STATES`. `params` is that of the environment: its load, motor,
converter and nominal values are read.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.special import ndtr, ndtri

from jaxpg_envs.choices import refusal
from jaxpg_envs.motor import transforms
from jaxpg_envs.motor.references.words import draw_words, uniform

Array = jax.Array
Values = dict[str, Any]
Bounds = dict[str, tuple[Any, Any]]

_FLUXES = ("psi_ralpha", "psi_rbeta")
# Nominal values are those of measured quantities; these states are measured in other coordinates.
_MEASURED_AS = {"i_salpha": "i_sd", "i_sbeta": "i_sq"}


@struct.dataclass
class InitialStates:
    """The same states at every reset.

    Attributes:
      values: SI units, by name; the load begins as it says itself, and what else is not named at 0.
    """

    values: Values = struct.field(default_factory=dict)

    def draw(self, key: Array, params: Any) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """States of the load and of the motor.

        Args:
          key: a PRNG key.
          params: of the environment.

        Returns:
          Two tuples of scalars.
        """
        del key
        return _ordered(params, self.values)


class _Random(InitialStates):
    """States between bounds, of which a subclass gives the distribution."""

    def draw(self, key: Array, params: Any) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """States of the load and of the motor, drawn anew at each reset.

        Args:
          key: a PRNG key.
          params: of the environment.

        Returns:
          Two tuples of scalars.
        """
        names = state_names(params) if self.names is None else self.names
        words = dict(zip(names, draw_words(key, len(names)), strict=True))
        values, limits = dict(self.values), bounds(params)
        for name in (name for name in names if name not in _FLUXES):
            values[name] = self._between(name, limits[name], words[name])
        fluxes = [name for name in names if name in _FLUXES]
        if fluxes:
            load, motor = _ordered(params, values)
            # Another number of the same word: the direction of the field within its bounds.
            angle = 2.0 * jnp.pi * uniform(words[fluxes[0]], 1) - jnp.pi
            largest = largest_flux(params, load[0], motor[:2], angle)
            for name in fluxes:
                bound = largest[_FLUXES.index(name)]
                values[name] = self._between(name, (-bound, bound), words[name])
        return _ordered(params, values)

    def _between(self, name: str, bound: tuple[Any, Any], word: Array) -> Array:
        low, high = _narrowed(bound, self.interval.get(name))
        return self.sample(word, low, high)


@struct.dataclass
class Uniform(_Random):
    """Uniform between the nominal values of both signs, or of one where the drive has only one.

    Attributes:
      values: of states that are not drawn, see `InitialStates`.
      names: static, of the states that are drawn; None: all of load and motor.
      interval: narrower bounds of some states, by name, pairs in SI units.

    Source: gym-electric-motor 3.0.3.
    """

    values: Values = struct.field(default_factory=dict)
    names: tuple[str, ...] | None = struct.field(pytree_node=False, default=None)
    interval: Bounds = struct.field(default_factory=dict)

    def sample(self, word: Array, low: Array, high: Array) -> Array:
        """One state out of 32 random bits."""
        return (high - low) * uniform(word, 0) + low


@struct.dataclass
class TruncatedNormal(_Random):
    """Normal and cut at the same bounds as `Uniform`.

    Attributes:
      values: of states that are not drawn, see `InitialStates`.
      names: static, of the states that are drawn; None: all of load and motor.
      interval: narrower bounds of some states, by name, pairs in SI units.
      mean: before the cut, SI units, one number for all states; None or 0: the middle of the bounds
        (a mean of 0 counts as none in gym-electric-motor too).
      std: before the cut, SI units, above 0.

    Source: gym-electric-motor 3.0.3.
    """

    values: Values = struct.field(default_factory=dict)
    names: tuple[str, ...] | None = struct.field(pytree_node=False, default=None)
    interval: Bounds = struct.field(default_factory=dict)
    mean: Any = None
    std: Any = 1.0

    def sample(self, word: Array, low: Array, high: Array) -> Array:
        """One state out of 32 random bits."""
        middle = (high - low) / 2 + low
        mean = middle if self.mean is None else jnp.where(self.mean == 0, middle, self.mean)
        return truncated_normal(uniform(word, 0), mean, self.std, low, high)


def truncated_normal(unit: Array, mean: Array, std: Array, low: Array, high: Array) -> Array:
    """Normal number given that it lies between two bounds.

    Args:
      unit: scalar float in [0, 1), a uniform number.
      mean: before the cut.
      std: before the cut, above 0.
      low: lower bound.
      high: upper bound.

    Returns:
      Scalar float in [low, high].

    >>> float(truncated_normal(0.5, 1.0, 2.0, -1.0, 3.0))
    1.0
    """
    below, above = (low - mean) / std, (high - mean) / std
    # Both bounds on the left, where the tail's probabilities are small and exact.
    flips = below + above > 0
    below, above = jnp.where(flips, -above, below), jnp.where(flips, -below, above)
    least, most = ndtr(below), ndtr(above)
    share = least + unit * (most - least)
    # A share of 0 has no number; it is the bound.
    some = share > 0
    number = jnp.where(some, ndtri(jnp.where(some, share, 0.5)), below)
    return jnp.clip(mean + std * jnp.where(flips, -number, number), low, high)


def state_names(params: Any) -> tuple[str, ...]:
    """Names of all states that can be given: of the load, then of the motor."""
    return (*params.load.STATES, *params.motor.STATES)


def bounds(params: Any) -> Bounds:
    """Bounds of the states at a reset, by name, in SI units.

    Args:
      params: of the environment.

    Returns:
      `(low, high)`: minus the nominal value, or 0 where the drive has no negative values, to the
      nominal value. Fluxes of an induction motor are not among them, see `largest_flux`.
    """
    lowest = params.motor.lowest(params.converter)
    found = {}
    for name in state_names(params):
        if name not in _FLUXES:
            nominal = params.nominal[_MEASURED_AS.get(name, name)]
            found[name] = (nominal * lowest.get(name, -1.0), nominal)
    return found


def largest_flux(
    params: Any, omega: Array, currents: tuple[Array, Array], field_angle: Array
) -> tuple[Array, Array]:
    """Largest rotor flux of an induction motor at a reset, in two directions.

    At standstill it is that of the nominal current. At a speed it is what the nominal voltage can
    hold, which is nothing where the speed is positive.

    Args:
      params: of the environment.
      omega: scalar, rad/s.
      currents: stator currents (alpha, beta) in A.
      field_angle: scalar, rad, the direction of the flux.

    Returns:
      Of alpha and beta, in Vs, at least 0.

    Source: gym-electric-motor 3.0.3, which however takes the currents of the reset before this one.
    """
    motor, nominal = params.motor, params.nominal
    l_s, l_r = motor.l_m + motor.l_sigs, motor.l_m + motor.l_sigr
    coupling = motor.l_m / l_r
    i_d, i_q = transforms.alpha_beta_to_dq(currents, field_angle)
    voltage = nominal["u_sq"] + coupling * nominal.get("u_rq", 0.0)
    voltage = voltage + (motor.r_s + motor.r_r * coupling**2) * i_q
    speed = motor.p * omega
    voltage = voltage + speed * (l_s - coupling * motor.l_m) * i_d
    stands = omega == 0
    flux = -voltage / (jnp.where(stands, 1.0, speed) * coupling)
    turning = 0.9 * jnp.clip(flux, 0.0, jnp.abs(motor.l_m * i_d))
    flux = jnp.where(stands, motor.l_m * nominal["i_sd"], turning)
    return jnp.abs(flux * jnp.cos(field_angle)), jnp.abs(flux * jnp.sin(field_angle))


def check_initial_states(initial: InitialStates, params: Any) -> None:
    """Check initial states of one drive or of a batch, on the host.

    Args:
      initial: what begins an episode.
      params: of the environment.

    Raises:
      ValueError: a state that the drive lacks, a value outside of nominal operation, an interval
        that is reversed or outside of it, or a spread that is not above 0.
    """
    states, limits = state_names(params), bounds(params)
    interval = getattr(initial, "interval", {})
    for argument, given in (
        ("values", initial.values),
        ("names", getattr(initial, "names", None) or ()),
        ("interval", interval),
    ):
        if argument == "names" and isinstance(given, str):
            raise ValueError(f"names is {given!r}, but a tuple of state names is needed")
        for name in given:
            if name not in states:
                raise ValueError(refusal(argument, name, states))
    for name, value in initial.values.items():
        if name in limits:
            low, high = (np.asarray(bound, float) for bound in limits[name])
            # Values may be rounded to float32.
            room = 1e-6 * np.abs(high)
            value = np.asarray(value)
            if not np.all((low - room <= value) & (value <= high + room)):
                raise ValueError(
                    f"values[{name!r}] is {value}, but nominal operation is from {low:g} to "
                    f"{high:g}"
                )
    for name, pair in interval.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"interval[{name!r}] is {pair!r}, but a pair (low, high) is needed")
        low, high = _narrowed(limits.get(name, (-np.inf, np.inf)), pair)
        if not np.all(np.asarray(low) <= np.asarray(high)):
            raise ValueError(
                f"interval[{name!r}] is {pair!r}, but then no value is left inside of nominal "
                f"operation"
            )
    std = getattr(initial, "std", 1.0)
    if not np.all(np.asarray(std) > 0):
        raise ValueError(f"std is {std!r}, but it has to be above 0")


def _narrowed(bound: tuple[Any, Any], interval: tuple[Any, Any] | None) -> tuple[Array, Array]:
    if interval is None:
        return bound
    return jnp.maximum(bound[0], interval[0]), jnp.minimum(bound[1], interval[1])


def _ordered(params: Any, values: Values) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    load = dict(zip(params.load.STATES, params.load.initial(), strict=True)) | values
    motor = dict.fromkeys(params.motor.STATES, 0.0) | values
    return (
        tuple(jnp.asarray(load[name], float) for name in params.load.STATES),
        tuple(jnp.asarray(motor[name], float) for name in params.motor.STATES),
    )
