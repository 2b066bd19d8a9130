"""One runner for every `Algorithm`: chunks of updates inside jit, everything else between them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import parallel, programs
from jaxpg.checkpoint import CheckpointError, Checkpoints
from jaxpg.choices import at_least, replace_fields
from jaxpg.report import CsvLog, History, ProgressReport, TensorBoardLog
from jaxpg.types import Algorithm, Array, PyTree

EVALUATION_SEED = 20_011
"""Evaluations draw from this seed and the update's number: the same starts for every seed."""


class NonFiniteError(FloatingPointError):
    """A metric became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How a run is carried out. Nothing here changes its numbers.

    Attributes:
      num_seeds: runs in one program, a leading axis (vmapped, unless `Algorithm.seeds_in_turn`);
        None for a single run without it.
      num_devices: devices that share each run's environments (gradients are averaged).
      chunk_length: updates in one call of the compiled program; None takes 1/50 of the run.
      out: folder for `metrics.csv`, `evaluations.csv`, `run.json` and `checkpoints`; None
        writes nothing.
      resume: go on from the last checkpoint in `out`.
      checkpoint_every: updates between checkpoints, rounded up to whole chunks; None takes 1/10
        of the run, 0 keeps only the last.
      keep: checkpoints that stay.
      evaluate_every: updates between evaluations; 0 evaluates only at the end, None never.
      log_every: updates between logged rows.
      progress: show progress.
      label: what progress calls the run.
      tensorboard: also write TensorBoard events to `out` (needs the extra `[tensorboard]`).
      callback: called after each chunk with `(update number, metrics)`; the metrics are those of
        every update of the chunk, arrays `[updates]` or `[updates, seeds]`.
    """

    num_seeds: int | None = None
    num_devices: int = 1
    chunk_length: int | None = None
    out: str | pathlib.Path | None = None
    resume: bool = False
    checkpoint_every: int | None = None
    keep: int = 3
    evaluate_every: int | None = None
    log_every: int = 1
    progress: bool = False
    label: str = "training"
    tensorboard: bool = False
    callback: Callable[[int, dict[str, np.ndarray]], None] | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
      state: the algorithm's last state, with a leading axis of seeds if there was one.
      updates: `[N]` int, the logged updates, counted from 1.
      metrics: `[N]` or `[N, seeds]` by name.
      evaluated: `[M]` int, after which updates the agent was evaluated.
      evaluations: `[M]` or `[M, seeds]` by name.
      num_updates: done in total.
      complete: False if a signal stopped the run.
      wall_time: seconds of this call, compilation included.
      compile_time: seconds until the first chunk was compiled.
      steps_per_second: environment steps or tokens of all seeds, compilation apart.
      policy: what is worth keeping, see `Algorithm.policy`; None if the algorithm has none.
    """

    state: PyTree
    updates: np.ndarray
    metrics: dict[str, np.ndarray]
    evaluated: np.ndarray
    evaluations: dict[str, np.ndarray]
    num_updates: int
    complete: bool
    wall_time: float
    compile_time: float
    steps_per_second: float
    policy: PyTree


def train(
    algorithm: Algorithm,
    *,
    key: Array,
    num_updates: int,
    config: RunConfig | None = None,
    **overrides: Any,
) -> Result:
    """Runs an algorithm.

    The same key, seeds and devices give the same bits, whatever the chunk length, across a
    checkpoint and resume, and across a kill at any moment.

    Args:
      algorithm: any.
      key: a jax key: seed i gets `fold_in(key, i)`; or an array of keys `[num_seeds]`, one for
        each run.
      num_updates: in total, those before a resume included.
      config: see `RunConfig`.
      **overrides: fields of the config.

    Returns:
      A `Result`.

    Raises:
      NonFiniteError: naming the update, the metric and the seed; the last good checkpoint stays.
      CheckpointError: `out` holds another run's results, or its checkpoint is no good.
      ValueError, TypeError: bad arguments, before anything is compiled.
    """
    config = replace_fields(config or RunConfig(), overrides)
    keys, num_seeds = _keys(key, config.num_seeds)
    _check(algorithm, num_updates, config)
    run = _Run(algorithm, keys, num_seeds, num_updates, config)
    with run.stopping_on_signals():
        try:
            return run.go()
        finally:
            run.close()


class _Run:
    """The host side of a run."""

    def __init__(self, algorithm, keys, num_seeds, num_updates, config: RunConfig):
        self.began = time.perf_counter()
        self.algorithm, self.config = algorithm, config
        self.keys, self.num_seeds, self.num_updates = keys, num_seeds, num_updates
        self.chunk_length = config.chunk_length or max(1, num_updates // 50)
        every = config.checkpoint_every
        self.checkpoint_every = max(1, num_updates // 10) if every is None else every
        self.stop_signal: str | None = None
        self.description = dict(algorithm.description) | {
            "num_seeds": num_seeds,
            "key": np.asarray(jax.random.key_data(keys)).tolist(),
        }
        self.out = None if config.out is None else pathlib.Path(config.out)
        self.writes = self.out is not None and parallel.is_primary()
        self.checkpoints = self.tensorboard = None
        if self.out is not None:
            self._open()
        self.updates, self.evaluations = (
            History(
                num_seeds,
                algorithm.steps_per_update,
                CsvLog(self.out / name) if self.writes else None,
                self.tensorboard,
            )
            for name in ("metrics.csv", "evaluations.csv")
        )
        self.progress: ProgressReport | None = None

    def _open(self) -> None:
        config, out = self.config, self.out
        self.checkpoints = Checkpoints(out / "checkpoints", config.keep)
        holds = [n for n in ("metrics.csv", "run.json", "checkpoints") if (out / n).exists()]
        # Only the process that writes looks: the others may find what it has just written.
        if holds and not config.resume and self.writes:
            raise CheckpointError(
                f"out={str(out)!r} already holds a run ({', '.join(holds)}): pass resume=True to "
                f"go on with it, or name another folder"
            )
        if config.tensorboard and self.writes:
            self.tensorboard = TensorBoardLog(out / "tensorboard")
        if self.writes:
            try:
                out.mkdir(parents=True, exist_ok=True)
                if not (out / "run.json").exists():
                    text = json.dumps(self.description, indent=1, default=str)
                    (out / "run.json").write_text(text)
            except OSError as error:
                raise CheckpointError(
                    f"out={str(out)!r} cannot be written to ({error.strerror})"
                ) from error

    def close(self) -> None:
        if self.progress is not None:
            self.progress.close()
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.checkpoints is not None:
            self.checkpoints.close()

    @contextlib.contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM ends the run after its chunk, the second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {}

        def stop(number: int, frame: Any) -> None:
            if self.stop_signal is not None:
                signal.signal(number, previous[number])
                raise KeyboardInterrupt
            self.stop_signal = signal.Signals(number).name

        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def go(self) -> Result:
        config, seeds = self.config, self.num_seeds
        done, state = self._first_state()
        self.progress = ProgressReport(
            self.num_updates, done, config.label, config.progress and parallel.is_primary()
        )
        chunk, evaluate = self._compiled()
        state = parallel.split(state, config.num_devices, seeds)
        compile_time = run_time = 0.0
        first = done
        saved = done
        while done < self.num_updates and self.stop_signal is None:
            length = self._next_length(done)
            began = time.perf_counter()
            state, metrics = chunk(state, length)
            metrics = self._fetch(metrics, length)
            took = time.perf_counter() - began
            if done == first:
                compile_time = took
            else:
                run_time += took
            done += length
            self._log(done, metrics, took)
            if self._due(config.evaluate_every, done):
                self._evaluate(evaluate, state, done)
            if self.checkpoints is not None and self.checkpoint_every:
                if done - saved >= self.checkpoint_every:
                    self._save(done, state)
                    saved = done
        if self.checkpoints is not None and saved != done:
            self._save(done, state)
        if self.checkpoints is not None:
            self.checkpoints.wait()
        state = parallel.merge(state, config.num_devices, seeds)
        measured = done - first - (self._lengths[0] if done > first else 0)
        policy = self.algorithm.policy
        return Result(
            state=state,
            updates=self.updates.numbers,
            metrics=self.updates.columns,
            evaluated=self.evaluations.numbers,
            evaluations=self.evaluations.columns,
            num_updates=done,
            complete=done >= self.num_updates,
            wall_time=time.perf_counter() - self.began,
            compile_time=compile_time,
            steps_per_second=self._steps(measured) / run_time if run_time else 0.0,
            policy=None if policy is None else (jax.vmap(policy) if seeds else policy)(state),
        )

    def _first_state(self) -> tuple[int, PyTree]:
        self._lengths: list[int] = []
        init = programs.initialisation(self.algorithm, seeded=self.num_seeds is not None)
        steps = self.checkpoints.steps() if self.checkpoints is not None else []
        if not (self.config.resume and steps):
            if self.config.resume and self.writes:
                self._require_same_run()
                self.updates.resume(0)
                self.evaluations.resume(0)
            return 0, init(self.keys)
        like = jax.eval_shape(init, self.keys)
        done, state = self.checkpoints.restore(like, self.description)
        self.updates.resume(done)
        self.evaluations.resume(done)
        return done, state

    def _require_same_run(self) -> None:
        here = json.loads(json.dumps(self.description, default=str))
        try:
            there = json.loads((self.out / "run.json").read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.out / 'run.json'} cannot be read: {error}") from error
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise CheckpointError(
                    f"out={str(self.out)!r} belongs to another configuration: {name} is "
                    f"{there.get(name)!r} there and {here.get(name)!r} here"
                )

    def _compiled(self) -> tuple[Callable, Callable | None]:
        algorithm, seeds = self.algorithm, None
        if self.num_seeds is not None:
            in_turn = algorithm.seeds_in_turn or self.num_seeds == 1
            seeds = programs.IN_TURN if in_turn else programs.TOGETHER
        chunk = programs.chunk(algorithm, self.chunk_length, seeds, self.config.num_devices)
        if algorithm.evaluate is None or self.config.evaluate_every is None:
            return chunk, None
        return chunk, programs.evaluation(algorithm, seeds)

    def _next_length(self, done: int) -> int:
        """Up to the chunk's end, but not past the next evaluation."""
        length = min(self.chunk_length, self.num_updates - done)
        every = self.config.evaluate_every
        if every:
            length = min(length, every - done % every)
        self._lengths.append(length)
        return length

    def _due(self, every: int | None, done: int) -> bool:
        if every is None:
            return False
        return done >= self.num_updates or (every > 0 and done % every == 0)

    def _fetch(self, metrics: PyTree, length: int) -> dict[str, np.ndarray]:
        """Host copies `[updates]` or `[updates, seeds]`; waits for the chunk."""
        if self.config.num_devices > 1:
            metrics = jax.tree.map(lambda x: x[0], metrics)
        fetched = jax.device_get(metrics)
        if self.num_seeds is not None:
            fetched = {name: np.swapaxes(values, 0, 1) for name, values in fetched.items()}
        return {name: np.array(values[:length]) for name, values in fetched.items()}

    def _log(self, done: int, metrics: dict[str, np.ndarray], took: float) -> None:
        length = self._lengths[-1]
        updates = np.arange(done - length + 1, done + 1)
        bad = self._first_bad(metrics)
        last = length if bad is None else bad[0] + 1
        logged = [
            index
            for index in range(last)
            if updates[index] % self.config.log_every == 0 or updates[index] == self.num_updates
        ]
        self.updates.append(updates[logged], {k: v[logged] for k, v in metrics.items()})
        if bad is not None:
            self._raise_non_finite(int(updates[bad[0]]), *bad[1:])
        if self.config.callback is not None:
            self.config.callback(done, metrics)
        means = {name: _mean(values) for name, values in metrics.items()}
        self.progress.update(done, self._steps(length) / took, means)

    def _first_bad(self, metrics: dict[str, np.ndarray]) -> tuple[int, str, int | None] | None:
        found = None
        for name, values in metrics.items():
            if name.startswith("episode_"):
                continue
            bad = np.argwhere(~np.isfinite(values))
            if len(bad) and (found is None or bad[0][0] < found[0]):
                seed = int(bad[0][1]) if self.num_seeds is not None else None
                found = (int(bad[0][0]), name, seed)
        return found

    def _raise_non_finite(self, update: int, name: str, seed: int | None) -> None:
        where = "" if seed is None else f" of seed {seed}"
        kept = "no checkpoint was asked for"
        if self.checkpoints is not None:
            self.checkpoints.wait()
            steps = self.checkpoints.steps()
            kept = (
                f"the last good checkpoint is {self.checkpoints.folder / str(steps[-1])}"
                if (steps)
                else "no checkpoint was written yet"
            )
        raise NonFiniteError(
            f"metric {name!r}{where} is not finite at update {update} of {self.num_updates}; {kept}"
        )

    def _evaluate(self, evaluate: Callable | None, state: PyTree, done: int) -> None:
        if evaluate is None:
            return
        merged = parallel.merge(state, self.config.num_devices, self.num_seeds)
        key = jax.random.fold_in(jax.random.key(EVALUATION_SEED), done)
        metrics = {name: np.array(v) for name, v in evaluate(merged, key).items()}
        self.evaluations.append([done], {name: value[None] for name, value in metrics.items()})
        self.progress.update(done, 0.0, {name: _mean(v) for name, v in metrics.items()})

    def _save(self, done: int, state: PyTree) -> None:
        merged = parallel.merge(state, self.config.num_devices, self.num_seeds)
        if self.writes:
            self.checkpoints.save(done, merged, self.description)

    def _steps(self, updates: int) -> float:
        return float(updates * self.algorithm.steps_per_update * (self.num_seeds or 1))


def _keys(key: Array, num_seeds: int | None) -> tuple[Array, int | None]:
    if not jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"key has dtype {jnp.asarray(key).dtype}, but a typed key is needed: "
            f"jax.random.key(seed)"
        )
    if key.ndim == 1:
        if num_seeds not in (None, key.shape[0]):
            raise ValueError(f"num_seeds is {num_seeds}, but key holds {key.shape[0]} keys")
        return key, key.shape[0]
    if num_seeds is None:
        return key, None
    at_least("num_seeds", num_seeds, 1)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_seeds)), num_seeds


def _check(algorithm: Algorithm, num_updates: int, config: RunConfig) -> None:
    at_least("num_updates", num_updates, 1)
    at_least("keep", config.keep, 1)
    at_least("log_every", config.log_every, 1)
    for name in ("chunk_length", "checkpoint_every", "evaluate_every"):
        if getattr(config, name) is not None:
            at_least(name, getattr(config, name), 1 if name == "chunk_length" else 0)
    parallel.check_devices(config.num_devices, algorithm.world_size)
    if config.resume and config.out is None:
        raise ValueError("resume is True, but out is None: name the folder of the run to resume")
    if config.tensorboard and config.out is None:
        raise ValueError("tensorboard is True, but out is None: name a folder for the events")
    if config.evaluate_every is not None and algorithm.evaluate is None:
        raise ValueError(
            f"evaluate_every is {config.evaluate_every}, but the algorithm has no evaluate function"
        )


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")
