"""From a Python reward to one that jits, scans, vmaps and runs on several devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg_envs.tokens.host_rewards import ERROR, MISSING, TIMEOUT, HostReward, Row, Scores
from jaxpg_envs.tokens.task import Prompts, Reward, check_response

# The CPU client copies an argument of a callback at once if it is below 100 KiB, and a larger one
# on one of its threads. When callbacks of several CPU devices occupy all, they wait for ever.
_SAFE_BYTES = 2**16
_ANY_BYTES = 2**40

Describe = Callable[[Any, list[int], bool], Row]
"""`(data of one prompt, token ids of the response, finished) -> (prompt, response, metadata)`."""


def host_reward(
    host: HostReward, describe: Describe
) -> Callable[[Prompts, jax.Array, jax.Array, jax.Array], Reward]:
    """The reward of a `TokenTask` from a Python one.

    It is a pure callback: an equal call may be skipped or made again, as with any function of its
    arguments. It may stand in `jax.jit`, loops and branches, and in `jax.pmap`, where each device
    calls for its own rows; under `jax.vmap` all copies make one call. Arguments reach Python as
    NumPy arrays. The reward itself must not compute with jax unless it runs in worker processes:
    inside of a program that waits for it, jax can wait for that program.

    Args:
      host: the Python reward.
      describe: what the reward is told about a response. `data` is one row of `Prompts.data`, its
        leaves NumPy arrays; the ids end with the stop token if there is one.

    Returns:
      `(prompts, tokens [B, R], mask [B, R], finished [B]) -> Reward`, with the metrics
      `reward_errors`, `reward_timeouts` and `reward_missing`: rows of the batch that raised (or
      gave no finite number), that took too long, and for which None was returned. An exception of
      `host` or `describe` ends the program, as a `jax.errors.JaxRuntimeError` with its traceback;
      if that happens on one of several devices only, after the others waited for it for a minute.

    Source: `jax.pure_callback`; the limit on the size of arguments is of `PjRtCpuClient`.
    """

    @jax.custom_batching.custom_vmap
    def score(data: Any, tokens: jax.Array, lengths: jax.Array, finished: jax.Array) -> Scores:
        arguments = (data, tokens, lengths, finished)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
        size = lengths.shape
        result = Scores(
            jax.ShapeDtypeStruct(size, jnp.float32),
            jax.ShapeDtypeStruct(size, jnp.bool_),
            jax.ShapeDtypeStruct(size, jnp.int32),
        )
        limit = _SAFE_BYTES if jax.default_backend() == "cpu" else _ANY_BYTES
        call = functools.partial(_call, host, describe, shapes, limit)
        return jax.pure_callback(call, result, *_pieces(arguments, limit))

    @score.def_vmap
    def _score_all(axis_size, in_batched, *arguments):
        def merged(leaf, batched):
            if not batched:
                leaf = jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
            return leaf.reshape(-1, *leaf.shape[2:])

        scores = score(*jax.tree.map(merged, arguments, tuple(in_batched)))
        split = jax.tree.map(lambda leaf: leaf.reshape(axis_size, -1), scores)
        return split, jax.tree.map(lambda _: True, split)

    def reward(prompts: Prompts, tokens: jax.Array, mask: jax.Array, finished: jax.Array):
        check_response(jnp.shape(tokens)[-1], prompts, tokens, mask, finished)
        lengths = jnp.sum(jnp.asarray(mask, bool), axis=-1, dtype=jnp.int32)
        arguments = (prompts.data, tokens, lengths, jnp.asarray(finished, bool))
        scores = score(*jax.lax.stop_gradient(jax.tree.map(jnp.asarray, arguments)))
        kinds = {"reward_errors": ERROR, "reward_timeouts": TIMEOUT, "reward_missing": MISSING}
        metrics = {
            name: jnp.sum(scores.status == kind, dtype=jnp.float32) for name, kind in kinds.items()
        }
        return Reward(scores.value, scores.valid, metrics)

    return reward


def _pieces(tree: Any, limit: int) -> list[jax.Array]:
    """The leaves of a tree, flat, cut into arrays of at most `limit` bytes."""
    pieces = []
    for leaf in jax.tree.leaves(tree):
        size = limit // leaf.dtype.itemsize
        flat = leaf.reshape(-1)
        pieces += [flat[start : start + size] for start in range(0, flat.size, size)]
    return pieces


def _call(host: HostReward, describe: Describe, shapes: Any, limit: int, *pieces: Any) -> Scores:
    arrays = _joined(shapes, limit, [np.asarray(piece) for piece in pieces])
    data, tokens, lengths, finished = arrays
    rows = []
    for index, length in enumerate(lengths):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], data)
        ids = tokens[index, :length].tolist()
        rows.append(describe(one, ids, bool(finished[index])))
    return host(rows)


def _joined(shapes: Any, limit: int, pieces: Sequence[np.ndarray]) -> Any:
    """Undo `_pieces`."""
    leaves, remaining = [], list(pieces)
    structure = jax.tree.structure(shapes)
    for shape in jax.tree.leaves(shapes):
        number = -(-shape.size // (limit // shape.dtype.itemsize))
        taken, remaining = remaining[:number], remaining[number:]
        leaves.append(np.concatenate(taken).reshape(shape.shape))
    return jax.tree.unflatten(structure, leaves)
