"""The order in which the items of a pool come: shuffled passes, and draws by weight."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxpg.choices import at_least
from jaxpg.types import Array

ROUNDS = 6


def shuffled(key: Array, positions: Array, size: int) -> Array:
    """Items of a pool in random order, every item once before any comes again.

    The order is a keyed bijection that is evaluated where it is asked for: no permutation of the
    pool is stored or drawn, so a pool of millions costs no more than one of ten.

    Args:
      key: of the order; every pass over the pool has an order of its own.
      positions: `[N]` int32, at least 0, places in the endless sequence of passes.
      size: items of the pool, static, below 2^30.

    Returns:
      `[N]` int32 in `[0, size)`; `size` consecutive positions that begin at a multiple of `size`
      give every item once.

    Source: a balanced Feistel network with cycle walking, Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains".

    >>> sorted(shuffled(jax.random.key(0), jnp.arange(5, 10), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    at_least("size", size, 1)
    if size >= 2**30:
        raise ValueError(f"size is {size}, but it has to be below 2^30")
    half = max(1, -(-(size - 1).bit_length() // 2))
    low = jnp.uint32(2**half - 1)

    def one(position: Array) -> Array:
        pass_key = jax.random.fold_in(key, position // size)
        round_keys = jax.random.bits(pass_key, (ROUNDS,), jnp.uint32)

        def scramble(item: Array) -> Array:
            left, right = item >> half, item & low
            for round_key in round_keys:
                left, right = right, left ^ (_mixed(right ^ round_key) & low)
            return (left << half) | right

        # The network permutes a power of 4 of items; those beyond the pool are walked through.
        first = scramble((position % size).astype(jnp.uint32))
        item = jax.lax.while_loop(lambda item: item >= size, scramble, first)
        return item.astype(jnp.int32)

    return jax.vmap(one)(jnp.asarray(positions, jnp.int32))


def prioritised(key: Array, weights: Array, num: int) -> Array:
    """Draws items of a pool one after the other, each in proportion to its weight among the rest.

    Args:
      key: of the draw.
      weights: `[N]` float, at least 0. Items of weight 0 come only when no others are
        left, in the pool's order.
      num: items to draw, static.

    Returns:
      `[num]` int32, in the order of the draws: without replacement, so every item at most once;
      only if `num` exceeds the pool, with replacement.

    Source: the Gumbel top-k trick, Kool et al. 2019, "Stochastic beams and where to find them".

    >>> sorted(prioritised(jax.random.key(0), jnp.array([0., 1., 2.]), 2).tolist())
    [1, 2]
    """
    chex.assert_rank(weights, 1)
    at_least("num", num, 1)
    log_weights = jnp.log(weights)
    if num > weights.shape[0]:
        return jax.random.categorical(key, log_weights, shape=(num,)).astype(jnp.int32)
    noisy = log_weights + jax.random.gumbel(key, weights.shape)
    return jax.lax.top_k(noisy, num)[1].astype(jnp.int32)


def occurrence(items: Array) -> Array:
    """How often each item stood in the array before.

    Args:
      items: `[N]` int.

    Returns:
      `[N]` int32.

    >>> occurrence(jnp.array([4, 7, 4, 4])).tolist()
    [0, 0, 1, 2]
    """
    index = jnp.arange(items.shape[0])
    earlier = index[None, :] < index[:, None]
    return jnp.sum(earlier & (items[None, :] == items[:, None]), axis=1, dtype=jnp.int32)


def _mixed(bits: Array) -> Array:
    """A 32-bit integer hash (the finaliser of MurmurHash3)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
