"""Explicit solvers of ordinary differential equations over one short interval.

A solver is `solve(derivative, states, time, duration) -> states`, where `derivative(time, states)`
gives d states / dt and states are any pytree of scalars. A duration may be traced, and 0. The same
settings give the same solver object, so that whatever is jitted on it compiles once.

Euler's and the Runge-Kutta method take a fixed number of equal steps and are differentiable both
ways; `dopri5` chooses its steps.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax

from jaxpg_envs.motor.dormand_prince import dopri5

__all__ = ["dopri5", "euler", "rk4"]

Array = jax.Array
Derivative = Callable[[Array, Any], Any]
Solver = Callable[[Derivative, Any, Array, Array], Any]

# So many steps are written out one after the other; more are a loop, which compiles faster.
_UNROLLED = 8


@functools.cache
def euler(num_steps: int = 1) -> Solver:
    """Euler's explicit method, of first order.

    Args:
      num_steps: static, equal steps for an interval.

    Returns:
      A solver.

    Raises:
      ValueError: no step, or no whole number of them.

    GEM's method of more than one step hands later times to the derivative, those of the interval
    after this one. That shows where the derivative reads the time, with a load whose speed is a
    profile; here the times are those of the steps.

    >>> float(euler(2)(lambda time, x: -x, 1.0, 0.0, 1.0))
    0.25
    """
    return _fixed(_euler_step, num_steps)


@functools.cache
def rk4(num_steps: int = 1) -> Solver:
    """The classic Runge-Kutta method, of fourth order.

    Args:
      num_steps: static, equal steps for an interval.

    Returns:
      A solver.

    Raises:
      ValueError: no step, or no whole number of them.

    >>> float(rk4(1)(lambda time, x: -x, 1.0, 0.0, 1.0))
    0.375
    """
    return _fixed(_rk4_step, num_steps)


def _fixed(step: Callable[..., Any], num_steps: int) -> Solver:
    try:
        count = operator.index(num_steps)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"num_steps is {num_steps!r}, but a whole number of at least 1 is needed")

    def solve(derivative: Derivative, states: Any, time: Array, duration: Array) -> Any:
        if count == 1:
            return step(derivative, states, time, duration)
        length = duration / count

        def one(k: Array, states: Any) -> Any:
            return step(derivative, states, time + k * length, length)

        if count > _UNROLLED:
            return jax.lax.fori_loop(0, count, one, _of_one_type(one, states))
        for k in range(count):
            states = one(k, states)
        return states

    return solve


def _of_one_type(step: Callable[..., Any], states: Any) -> Any:
    """States as a step returns them: Python numbers and weak types become arrays."""
    kinds = jax.eval_shape(lambda states: step(0, states), states)
    return jax.tree.map(lambda x, kind: jax.numpy.asarray(x, kind.dtype), states, kinds)


def _along(states: Any, slope: Any, length: Array) -> Any:
    return jax.tree.map(lambda x, dx: x + length * dx, states, slope)


def _euler_step(derivative: Derivative, states: Any, time: Array, length: Array) -> Any:
    return _along(states, derivative(time, states), length)


def _rk4_step(derivative: Derivative, states: Any, time: Array, length: Array) -> Any:
    half = 0.5 * length
    k1 = derivative(time, states)
    k2 = derivative(time + half, _along(states, k1, half))
    k3 = derivative(time + half, _along(states, k2, half))
    k4 = derivative(time + length, _along(states, k3, length))
    sixth = length / 6.0
    return jax.tree.map(
        lambda x, a, b, c, d: x + sixth * (a + 2.0 * (b + c) + d), states, k1, k2, k3, k4
    )
