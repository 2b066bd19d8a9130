"""Dormand and Prince's method of order 5(4), with steps of the size that its error allows.

The first step's size and the control of the later ones are those of DOPRI5, which
`scipy.integrate.ode` runs, so that both take the same steps up to rounding.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Derivative = Callable[[Array, Any], Any]

_TIMES = (0.2, 0.3, 0.8, 8.0 / 9.0, 1.0, 1.0)
_STAGES = (
    (1.0 / 5.0,),
    (3.0 / 40.0, 9.0 / 40.0),
    (44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0),
    (19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0),
    (9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0),
    (35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0),
)
_ERROR = (
    71.0 / 57600.0,
    0.0,
    -71.0 / 16695.0,
    71.0 / 1920.0,
    -17253.0 / 339200.0,
    22.0 / 525.0,
    -1.0 / 40.0,
)
# Control of the step size: the exponents on this error and on the last accepted one, safety,
# and how much a step may shrink or grow.
_ON_ERROR, _ON_LAST, _SAFETY, _SHRINK, _GROW = 0.17, 0.04, 0.9, 0.2, 10.0


class _Progress(NamedTuple):
    """A solution on its way; `slope` is the derivative at `states`."""

    states: Any
    slope: Any
    done: Array
    length: Array
    last_error: Array
    rejected: Array
    attempts: Array


@functools.cache
def dopri5(rtol: float = 1e-6, atol: float = 1e-12, max_steps: int = 500) -> Callable[..., Any]:
    """Dormand and Prince's adaptive method; its defaults are those of `scipy.integrate.ode`.

    It has no gradient, because its loop has no fixed number of turns: asking for one raises a
    `NotImplementedError` that says so. Under a vmap every member waits for the slowest one.

    In single precision the tolerances are below what rounding allows. They are raised to at least
    100 relative and 1 absolute rounding unit of the states' type; in double precision that changes
    nothing.

    Args:
      rtol: static, error of a step relative to each state, positive.
      atol: static, error of a step that is allowed at 0, not negative.
      max_steps: static, tries for an interval, rejected ones included.

    Returns:
      A solver, see `solvers`. States are NaN where `max_steps` did not reach the interval's end.

    Raises:
      ValueError: tolerances or a number of steps outside these ranges.

    Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, sections II.4 and
    II.5.
    """
    if not (isinstance(rtol, int | float) and 0.0 < rtol < 1.0):
        raise ValueError(f"rtol is {rtol!r}, but a number in (0, 1) is needed")
    if not (isinstance(atol, int | float) and 0.0 <= atol < float("inf")):
        raise ValueError(f"atol is {atol!r}, but a finite number of at least 0 is needed")
    try:
        count = operator.index(max_steps)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"max_steps is {max_steps!r}, but a whole number of at least 1 is needed")

    def solve(derivative: Derivative, states: Any, time: Array, duration: Array) -> Any:
        slope = derivative(time, states)
        kind = jnp.result_type(float, *jax.tree.leaves((states, slope)))
        states, slope = jax.tree.map(lambda x: jnp.asarray(x, kind), (states, slope))
        duration = jnp.asarray(duration, kind)
        rounding = float(jnp.finfo(kind).eps)
        tolerances = max(rtol, 100.0 * rounding), max(atol, rounding)

        def more(now: _Progress) -> Array:
            return (now.done < duration) & (now.attempts < count)

        def step(now: _Progress) -> _Progress:
            return _step(derivative, tolerances, time, duration, now)

        first = _first_length(derivative, tolerances, states, slope, time, duration)
        zero = jnp.zeros((), kind)
        start = _Progress(
            states, slope, zero, first, zero + 1e-4, zero > 0.0, jnp.zeros((), jnp.int32)
        )
        end = jax.lax.while_loop(more, step, start)
        found = jax.tree.map(
            lambda x: jnp.where(end.done >= duration, x, jnp.asarray(jnp.nan, kind)), end.states
        )
        return _without_gradient(found)

    return solve


def _step(
    derivative: Derivative,
    tolerances: tuple[float, float],
    time: Array,
    duration: Array,
    now: _Progress,
) -> _Progress:
    """One try: the states move if its error is within the tolerances, the length changes anyway."""
    last = now.done + 1.01 * now.length >= duration
    length = jnp.where(last, duration - now.done, now.length)
    slopes = [now.slope]
    for at, weights in zip(_TIMES, _STAGES, strict=True):
        states = _moved(now.states, slopes, weights, length)
        slopes.append(derivative(time + now.done + at * length, states))
    error = _weighted(slopes, _ERROR, length)
    scale = _scale(tolerances, now.states, states)
    # A derivative that is no number asks for a shorter step like any error that is too large.
    size = jnp.nan_to_num(_norm(error, scale), nan=jnp.inf, posinf=1e10)
    size = jnp.minimum(size, 1e10)
    accepted = size <= 1.0
    shrunk = _power(size, _ON_ERROR)
    divisor = jnp.clip(
        shrunk / _power(now.last_error, _ON_LAST) / _SAFETY, 1.0 / _GROW, 1.0 / _SHRINK
    )
    grown = length / divisor
    # Straight after a rejection a step does not grow.
    after = jnp.where(now.rejected, jnp.minimum(grown, length), grown)
    smaller = length / jnp.minimum(1.0 / _SHRINK, shrunk / _SAFETY)

    def choose(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda x, y: jnp.where(accepted, x, y), new, old)

    # Set, not summed, at the end: a sum could stay below it by rounding, and never arrive.
    ahead = jnp.where(last, duration, now.done + length)
    return _Progress(
        states=choose(states, now.states),
        slope=choose(slopes[-1], now.slope),
        done=choose(ahead, now.done),
        length=choose(after, smaller),
        last_error=choose(jnp.maximum(size, 1e-4), now.last_error),
        rejected=~accepted,
        attempts=now.attempts + 1,
    )


def _first_length(
    derivative: Derivative,
    tolerances: tuple[float, float],
    states: Any,
    slope: Any,
    time: Array,
    duration: Array,
) -> Array:
    """A first step's length, from the sizes of the first and the second derivative."""
    count = len(jax.tree.leaves(states)) ** 0.5
    scale = _scale(tolerances, states, states)
    first = count * _norm(slope, scale)
    size = count * _norm(states, scale)
    small = (first <= 1e-5) | (size <= 1e-5)
    guess = jnp.where(small, 1e-6, 0.01 * size / jnp.where(small, 1.0, first))
    guess = jnp.minimum(guess, duration)
    # An interval of length 0 asks for no step at all; it must not divide by 0 either.
    guess = jnp.where(guess > 0.0, guess, 1e-6)
    ahead = derivative(time + guess, _moved(states, [slope], (1.0,), guess))
    bend = jax.tree.map(jnp.subtract, ahead, slope)
    steepest = jnp.maximum(count * _norm(bend, scale) / guess, first)
    flat = ~(steepest > 1e-15)
    by_order = _power(0.01 / jnp.where(flat, 1.0, steepest), 0.2)
    length = jnp.where(flat, jnp.maximum(1e-6, 1e-3 * guess), by_order)
    return jnp.minimum(jnp.minimum(100.0 * guess, length), duration)


def _moved(states: Any, slopes: list[Any], weights: tuple[float, ...], length: Array) -> Any:
    return jax.tree.map(jnp.add, states, _weighted(slopes, weights, length))


def _weighted(slopes: list[Any], weights: tuple[float, ...], length: Array) -> Any:
    return jax.tree.map(
        lambda *ks: length * sum(w * k for w, k in zip(weights, ks, strict=True) if w), *slopes
    )


def _scale(tolerances: tuple[float, float], before: Any, after: Any) -> Any:
    rtol, atol = tolerances
    return jax.tree.map(
        lambda x, y: atol + rtol * jnp.maximum(jnp.abs(x), jnp.abs(y)), before, after
    )


def _norm(values: Any, scale: Any) -> Array:
    """Root of the mean square of scaled values, without overflow in single precision."""
    ratios = [jnp.abs(x / s) for x, s in zip(*map(jax.tree.leaves, (values, scale)), strict=True)]
    largest = functools.reduce(jnp.maximum, ratios)
    unit = jnp.where(largest > 0.0, largest, 1.0)
    return largest * jnp.sqrt(sum((r / unit) ** 2 for r in ratios) / len(ratios))


def _power(base: Array, exponent: float) -> Array:
    """`base ** exponent` for a base of at least 0."""
    return jnp.exp(exponent * jnp.log(base))


@jax.custom_jvp
def _without_gradient(states: Any) -> Any:
    return states


@_without_gradient.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
    raise NotImplementedError(
        "dopri5 has no gradient, because the number of its steps is not fixed: give rk4(num_steps) "
        "or euler(num_steps) where gradients are needed"
    )
