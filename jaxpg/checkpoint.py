"""Checkpoints: atomic, checked, the last few kept. Files from disk are not trusted.

A checkpoint holds the leaves of a state as plain arrays (Orbax), and beside them a description of
the run and a digest of every leaf. On restore the structure comes from the caller's own state;
the file only fills in numbers, after its shapes, dtypes and digests were compared.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxpg.types import PyTree

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or does not belong to the run."""


class Checkpoints:
    """The checkpoints of one run, written by a thread of their own.

    Saving copies the state to host memory before it returns, so the arrays may be donated at
    once; a failed write is raised by the next call.
    """

    def __init__(self, folder: str | pathlib.Path, keep: int = 3):
        """Opens (and, at the first save, creates) a folder of checkpoints.

        Args:
          folder: of this run's checkpoints alone.
          keep: how many of the latest stay.
        """
        self.folder = pathlib.Path(folder).absolute()
        self.keep = keep
        self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future | None = None
        self._manager: ocp.CheckpointManager | None = None

    def steps(self) -> list[int]:
        """Update numbers of the complete checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())

    def save(self, step: int, state: PyTree, description: Mapping[str, Any]) -> None:
        """Starts to write a checkpoint.

        Args:
          step: number of updates done.
          state: any pytree of arrays; typed keys are allowed.
          description: plain values that identify the configuration.

        Raises:
          CheckpointError: the previous one could not be written.
        """
        self.wait()
        leaves = [_to_host(leaf) for leaf in jax.tree.leaves(state)]
        metadata = {
            "format": FORMAT,
            "step": step,
            "description": json.loads(json.dumps(dict(description), default=str)),
            "leaves": [_signature(leaf) for leaf in leaves],
            "digests": [_digest(leaf) for leaf in leaves],
        }
        self._pending = self._writer.submit(self._write, step, leaves, metadata)

    def wait(self) -> None:
        """Waits until the last `save` is on disk.

        Raises:
          CheckpointError: it could not be written; earlier checkpoints are untouched.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Exception as error:
            steps = self.steps()
            good = (
                f"the last good one is {self.folder / str(steps[-1])}" if steps else "none exists"
            )
            raise CheckpointError(
                f"a checkpoint could not be written to {self.folder} ({_reason(error)}); {good}"
            ) from error

    def restore(
        self, like: PyTree, description: Mapping[str, Any], step: int | None = None
    ) -> tuple[int, PyTree]:
        """Reads a checkpoint.

        Args:
          like: a state (or its `jax.eval_shape`) with the structure, shapes and dtypes to expect.
          description: of this run; every entry has to equal the stored one.
          step: which one; None takes the latest.

        Returns:
          `(step, state)`, the state's leaves being arrays on the default device.

        Raises:
          CheckpointError: there is none, it is damaged, or it belongs to another configuration;
            the sentence names the last one that is whole.
        """
        self.wait()
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint {step}"
            raise CheckpointError(f"{self.folder} holds {wanted}; it holds {steps or 'none'}")
        step = steps[-1] if step is None else step
        try:
            return step, self._read(step, like, description)
        except _Damaged as damage:
            good = self._last_good(like, description, [s for s in steps if s < step])
            hint = (
                f"the last good one is {self.folder / str(good)}: delete {self.folder / str(step)} "
                f"to resume from it"
                if good is not None
                else "and no earlier one is whole: start again in another folder"
            )
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} is damaged ({damage}); {hint}"
            ) from damage

    def close(self) -> None:
        """Waits for the writer and ends it."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            if self._manager is not None:
                self._manager.close()

    def _write(self, step: int, leaves: list[np.ndarray], metadata: dict[str, Any]) -> None:
        with _quiet():
            if self._manager is None:
                self._manager = _manager(self.folder, self.keep)
            stored = {f"{i:05d}": leaf for i, leaf in enumerate(leaves) if leaf.size}
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(stored), metadata=ocp.args.JsonSave(metadata)
                ),
                force=True,
            )

    def _read(self, step: int, like: PyTree, description: Mapping[str, Any]) -> PyTree:
        metadata = self._metadata(step)
        stored = metadata["description"]
        expected = json.loads(json.dumps(dict(description), default=str))
        for name in sorted(stored.keys() | expected.keys()):
            if stored.get(name) != expected.get(name):
                raise CheckpointError(
                    f"checkpoint {self.folder / str(step)} belongs to another configuration: "
                    f"{name} is {stored.get(name)!r} there and {expected.get(name)!r} here; "
                    f"use the same configuration, or another folder"
                )
        wanted = [_signature(_abstract(leaf)) for leaf in jax.tree.leaves(like)]
        if metadata["leaves"] != wanted:
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} holds {len(metadata['leaves'])} arrays of "
                f"other shapes than the {len(wanted)} of this state: it was written by another "
                f"configuration or version"
            )
        arrays = self._arrays(step, like)
        for index, (array, digest) in enumerate(zip(arrays, metadata["digests"], strict=True)):
            if _signature(array) != wanted[index] or _digest(array) != digest:
                raise _Damaged(f"array {index} differs from its digest")
        leaves, structure = jax.tree.flatten(like)
        return jax.tree.unflatten(
            structure, [_to_device(array, leaf) for array, leaf in zip(arrays, leaves, strict=True)]
        )

    def _metadata(self, step: int) -> dict[str, Any]:
        try:
            path = self.folder / str(step) / "metadata" / "metadata"
            metadata = json.loads(path.read_text())
            whole = metadata["format"] == FORMAT and isinstance(metadata["description"], dict)
            if whole and len(metadata["leaves"]) == len(metadata["digests"]):
                return metadata
            raise _Damaged("its metadata is of another format")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _Damaged(f"its metadata cannot be read: {_reason(error)}") from error

    def _arrays(self, step: int, like: PyTree) -> list[np.ndarray]:
        # Orbax allocates what the caller's own state asks for, whatever the file claims.
        abstract = [_abstract(leaf) for leaf in jax.tree.leaves(like)]
        target = {f"{i:05d}": np.zeros(a.shape, a.dtype) for i, a in enumerate(abstract) if a.size}
        try:
            with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                stored = reader.restore(
                    self.folder / str(step) / "state", args=ocp.args.StandardRestore(target)
                )
        except Exception as error:
            raise _Damaged(f"its arrays cannot be read: {_reason(error)}") from error
        empty = {f"{i:05d}": np.zeros(a.shape, a.dtype) for i, a in enumerate(abstract)}
        return [np.asarray(stored.get(name, empty[name])) for name in empty]

    def _last_good(
        self, like: PyTree, description: Mapping[str, Any], steps: list[int]
    ) -> int | None:
        for step in reversed(steps):
            with contextlib.suppress(_Damaged, CheckpointError):
                self._read(step, like, description)
                return step
        return None


class _Damaged(Exception):
    """What is wrong with a file, for the sentence that names it."""


def _manager(folder: pathlib.Path, keep: int) -> ocp.CheckpointManager:
    processes = {}
    if jax.process_count() > 1:
        # The state is merged on every host; one of them writes.
        primary = jax.process_index()
        processes["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=primary, active_processes={primary}, barrier_sync_key_prefix="jaxpg"
        )
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=False, **processes
    )
    folder.mkdir(parents=True, exist_ok=True)
    if processes:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=False, enable_async_checkpointing=False, **processes
        )
    return ocp.CheckpointManager(folder, options=options, item_names=("state", "metadata"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Orbax logs every save and restore; the errors arrive as exceptions anyway.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: Any) -> np.ndarray:
    leaf = jnp.asarray(leaf)
    # A copy: on a CPU device the array's own memory may be donated to the next update.
    return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf, copy=True)


def _to_device(array: np.ndarray, like: Any) -> jax.Array:
    if _is_key(like):
        kinds = ("threefry2x32", "rbg", "unsafe_rbg")
        impl = next(kind for kind in kinds if jax.random.key(0, impl=kind).dtype == like.dtype)
        return jax.random.wrap_key_data(jnp.asarray(array), impl=impl)
    # `copy`, or the device may alias host memory that the runner then donates.
    return jnp.array(array, copy=True)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    if _is_key(leaf):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _signature(array: Any) -> str:
    return f"{np.dtype(array.dtype).name}{list(array.shape)}"


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


def _reason(error: BaseException) -> str:
    """The first line of the innermost error, short."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
