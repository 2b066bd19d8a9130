"""Random numbers of one step, all from the words of a single call of the generator.

One 32-bit word serves a normal number, which a process wants at every step, and by mixing its bits
also the uniform numbers with which a sub-episode begins, which are read once in a thousand steps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def draw_words(key: Array, num: int) -> tuple[Array, ...]:
    """Independent random words, as a tuple of scalars.

    Args:
      key: a PRNG key.
      num: static, at least 0.

    Returns:
      `num` scalars uint32.
    """
    if num == 0:
        return ()
    if num == 1:
        return (jax.random.bits(key, (), jnp.uint32),)
    return tuple(jax.random.bits(key, (num,), jnp.uint32))


def uniform(word: Array, index: int) -> Array:
    """Uniform number in [0, 1), another one for each index, of 24 bits.

    The word is a counter's value: index steps of a Weyl sequence further, its bits are mixed.

    Args:
      word: scalar uint32.
      index: static, at least 0.

    Returns:
      Scalar float.

    Source: the mixing is MurmurHash3's 32-bit finaliser (Appleby 2011), the sequence that of
    SplitMix (Steele, Lea and Flood 2014).
    """
    mixed = word + jnp.uint32((0x9E3779B9 * (index + 1)) % 2**32)
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    mixed = mixed ^ (mixed >> 16)
    # Below 2**24 the signed conversion, which processors have, is exact.
    return (mixed >> 8).astype(jnp.int32).astype(float) * 2.0**-24


def centred(word: Array) -> Array:
    """Uniform number in the open interval (-1, 1), of 23 bits, symmetric about 0 and never 0.

    Args:
      word: scalar uint32.

    Returns:
      Scalar float.
    """
    odd = ((word >> 8) | 1).astype(jnp.int32) - 2**23
    return odd.astype(float) * 2.0**-23


def normal(word: Array) -> Array:
    """Standard normal number, at most 5.3 in size.

    Args:
      word: scalar uint32.

    Returns:
      Scalar float.
    """
    return 2.0**0.5 * jax.lax.erf_inv(centred(word))


def laplace(word: Array) -> Array:
    """Laplace number of location 0 and scale 1, at most 16 in size.

    Args:
      word: scalar uint32.

    Returns:
      Scalar float.
    """
    number = centred(word)
    return -jnp.sign(number) * jnp.log1p(-jnp.abs(number))
