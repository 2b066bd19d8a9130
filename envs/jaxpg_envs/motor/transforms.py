"""Three-phase quantities in fixed and rotating coordinates, amplitude invariant, on scalars.

A three-phase quantity is a tuple (a, b, c), its space vector (alpha, beta), the same vector seen
from axes that are turned by an angle (d, q). Tuples of scalars and no arrays: under a vmap all of
it is elementwise. A unit vector (cos, sin) stands for an angle where the angle itself is not
needed, because that spares sines and arc tangents.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

Array = jax.Array
Pair = tuple[Array, Array]
Triple = tuple[Array, Array, Array]

_HALF_ROOT_3 = 0.5 * math.sqrt(3.0)


def abc_to_alpha_beta(abc: Triple) -> Pair:
    """Space vector of three phases; what all three share is lost.

    >>> abc_to_alpha_beta((1.0, 1.0, 1.0))
    (0.0, 0.0)
    """
    a, b, c = abc
    return 2.0 / 3.0 * (a - 0.5 * (b + c)), 2.0 / 3.0 * _HALF_ROOT_3 * (b - c)


def alpha_beta_to_abc(alpha_beta: Pair) -> Triple:
    """Three phases, of sum 0, of a space vector."""
    alpha, beta = alpha_beta
    along, across = -0.5 * alpha, _HALF_ROOT_3 * beta
    return alpha, along + across, along - across


def unit(angle: Array) -> Pair:
    """`(cos, sin)` of an angle in rad."""
    return jnp.cos(angle), jnp.sin(angle)


def unit_along(vector: Pair) -> Pair:
    """`(cos, sin)` of a vector's angle, (1, 0) for the zero vector.

    The gradient at the zero vector is 0, as no direction is next to it more than another.
    """
    x, y = vector
    square = x * x + y * y
    nothing = square == 0.0
    # Also the branch that is not taken is differentiated, so that it must not divide by 0.
    inverse = jax.lax.rsqrt(jnp.where(nothing, 1.0, square))
    cos, sin = jnp.where(nothing, 1.0, x * inverse), jnp.where(nothing, 0.0, y * inverse)
    return cos, sin


def angle_of(vector: Pair) -> Array:
    """Angle of a vector in `[-pi, pi]`, 0 and without gradient for the zero vector."""
    x, y = vector
    nothing = (x == 0.0) & (y == 0.0)
    return jnp.where(nothing, 0.0, jnp.arctan2(y, jnp.where(nothing, 1.0, x)))


def turn(vector: Pair, direction: Pair) -> Pair:
    """The vector turned forward by the angle of a unit vector."""
    x, y = vector
    cos, sin = direction
    return cos * x - sin * y, sin * x + cos * y


def turn_back(vector: Pair, direction: Pair) -> Pair:
    """The vector turned backward by the angle of a unit vector."""
    cos, sin = direction
    return turn(vector, (cos, -sin))


def dq_to_alpha_beta(dq: Pair, angle: Array) -> Pair:
    """Vector in fixed coordinates, of what is seen from axes that are turned by `angle`."""
    return turn(dq, unit(angle))


def alpha_beta_to_dq(alpha_beta: Pair, angle: Array) -> Pair:
    """Vector seen from axes that are turned by `angle`, in rad."""
    return turn_back(alpha_beta, unit(angle))


def dq_to_abc(dq: Pair, angle: Array) -> Triple:
    """Three phases of what is seen from axes that are turned by `angle`, in rad."""
    return alpha_beta_to_abc(dq_to_alpha_beta(dq, angle))


def abc_to_dq(abc: Triple, angle: Array) -> Pair:
    """Three phases seen from axes that are turned by `angle`, in rad."""
    return alpha_beta_to_dq(abc_to_alpha_beta(abc), angle)


def wrap(angle: Array) -> Array:
    """The same angle in `(-pi, pi]`, in rad; its gradient is 1.

    >>> wrap(jnp.array([-math.pi, 4.0]))
    Array([ 3.1415927, -2.2831855], dtype=float32)
    """
    return angle - 2.0 * math.pi * jnp.ceil((angle - math.pi) / (2.0 * math.pi))
