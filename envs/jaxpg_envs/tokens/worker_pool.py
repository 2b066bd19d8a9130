"""Worker processes for a reward, each given one row at a time and killed when it takes too long."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any

from jaxpg_envs.tokens import reward_worker
from jaxpg_envs.tokens.reward_worker import Failure

START_LIMIT = 300.0
"""Seconds that a worker may take to import the reward."""


@dataclasses.dataclass(eq=False)
class _Worker:
    """One process, what it is doing, and until when."""

    process: subprocess.Popen
    connection: connection.Connection
    deadline: float
    starting: bool = True
    row: int | None = None

    @property
    def idle(self) -> bool:
        return not self.starting and self.row is None


class WorkerPool:
    """Processes that evaluate a reward.

    They are programs of their own, not forks, since a process that runs XLA's threads must not be
    forked; none is started before the first call. Each sees the CPU as jax's only device. They end
    with this process, however it ends.
    """

    def __init__(self, reward: Callable[..., Any], num_workers: int, time_limit: float):
        """Check the reward.

        Args:
          reward: `(*arguments) -> number or None`.
          num_workers: processes, at least 1.
          time_limit: seconds for one row, above 0; its worker is then killed and replaced.

        Raises:
          ValueError: a reward that other processes cannot import.
        """
        self._setting = _setting(reward)
        self._num_workers = num_workers
        self._time_limit = time_limit
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _stop_all, self._workers)

    def evaluate(self, rows: Sequence[tuple]) -> list[float | Failure | None]:
        """Evaluate the reward for each row.

        Calls from several threads take turns.

        Args:
          rows: arguments of the reward for each.

        Returns:
          For each row a finite float, None, or why there is neither.

        Raises:
          RuntimeError: no worker can be started.
          TypeError: arguments that cannot be pickled.
        """
        packed = [_packed(row) for row in rows]
        with self._lock:
            try:
                return self._evaluate(packed)
            except BaseException:
                # What the workers are doing is not known: the next call starts new ones.
                _stop_all(self._workers)
                raise

    def close(self) -> None:
        """End the processes; a later call starts new ones."""
        with self._lock:
            _stop_all(self._workers)

    def _evaluate(self, packed: list[bytes]) -> list[float | Failure | None]:
        results: list[Any] = [None] * len(packed)
        waiting = collections.deque(range(len(packed)))
        unanswered = len(packed)
        while unanswered:
            self._fill(min(self._num_workers, unanswered))
            for worker in self._workers:
                if worker.idle and waiting:
                    self._hand_out(worker, waiting.popleft(), packed)
            for row, result in self._next_results():
                results[row] = result
                unanswered -= 1
        return results

    def _fill(self, wanted: int) -> None:
        for worker in list(self._workers):
            if worker.idle and worker.process.poll() is not None:
                self._remove(worker)  # It has died with nothing to do: no row is to blame.
        while len(self._workers) < wanted:
            self._workers.append(_start(self._setting))

    def _hand_out(self, worker: _Worker, row: int, packed: list[bytes]) -> None:
        worker.row, worker.deadline = row, time.monotonic() + self._time_limit
        # If it has died, its connection is found closed when the answer is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send_bytes(packed[row])

    def _next_results(self) -> list[tuple[int, Any]]:
        """Wait for an answer or the end of a time limit; rows and what became of them."""
        busy = {worker.connection: worker for worker in self._workers if not worker.idle}
        first = min(worker.deadline for worker in busy.values())
        ready = connection.wait(list(busy), max(0.0, first - time.monotonic()))
        results = []
        for one in ready:
            row, result = self._receive(busy.pop(one))
            if row is not None:
                results.append((row, result))
        now = time.monotonic()
        for worker in busy.values():
            if worker.deadline <= now:
                results.append((worker.row, self._overdue(worker)))
        return results

    def _receive(self, worker: _Worker) -> tuple[int | None, Any]:
        try:
            answer = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            return worker.row, self._died(worker)
        if worker.starting:
            if answer is not None:
                raise RuntimeError(
                    f"a worker process could not load the reward; its traceback is\n"
                    f"{Failure(*answer).traceback}"
                )
            worker.starting = False
            return None, None
        row, worker.row = worker.row, None
        return row, Failure(*answer) if isinstance(answer, tuple) else answer

    def _died(self, worker: _Worker) -> Failure:
        self._remove(worker)
        code = worker.process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if worker.starting:
            raise RuntimeError(f"a worker process ended with {how} while it loaded the reward")
        message = f"the worker process ended with {how} while it evaluated the reward"
        return Failure("error", "worker ended", message)

    def _overdue(self, worker: _Worker) -> Failure:
        self._remove(worker)
        if worker.starting:
            raise RuntimeError(f"a worker process could not load the reward in {START_LIMIT:g} s")
        message = f"the reward took longer than time_limit={self._time_limit:g} s"
        return Failure("timeout", "timeout", message)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        _stop(worker)


def _start(setting: bytes) -> _Worker:
    if reward_worker.MARK in os.environ:
        raise RuntimeError(
            "a worker process of a reward was about to start workers of its own: the program "
            "evaluates the reward when it is imported; put what it runs under "
            "`if __name__ == '__main__':`, or the reward into a module of its own"
        )
    ours, theirs = connection.Pipe()
    script = pathlib.Path(reward_worker.__file__)
    command = [sys.executable, "-P", str(script), str(theirs.fileno()), str(os.getpid())]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env={**os.environ, "JAX_PLATFORMS": "cpu", reward_worker.MARK: "1"},
        # With a session of its own, whatever the reward starts can be killed together with it.
        start_new_session=True,
    )
    theirs.close()
    worker = _Worker(process, ours, time.monotonic() + START_LIMIT)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        ours.send_bytes(setting)
    return worker


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):  # It has ended by itself.
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()


def _stop_all(workers: list[_Worker]) -> None:
    while workers:
        _stop(workers.pop())


def _packed(row: tuple) -> bytes:
    try:
        return pickle.dumps(row)
    except Exception as error:
        raise TypeError(
            f"the prompt or metadata of a row cannot be pickled for a worker process ({error}); "
            f"use plain values there, or num_workers=0"
        ) from error


def _setting(reward: Callable[..., Any]) -> bytes:
    if os.name != "posix":
        raise ValueError("num_workers must be 0 on this system: worker processes need POSIX")
    advice = "define it with `def` at the top level of a module, or use num_workers=0"
    try:
        pickled = pickle.dumps(reward)
    except Exception as error:
        raise ValueError(
            f"reward={reward!r} cannot be pickled for worker processes ({error}): {advice}"
        ) from None
    main = None
    if b"__main__" in pickled:
        main = _main_program()
        if main is None:
            raise ValueError(
                f"reward={reward!r} was defined in an interactive session, where worker processes "
                f"cannot import it from: {advice}"
            )
    setting = {"path": sys.path, "argv": sys.argv, "main": main, "reward": pickled}
    return pickle.dumps(setting)


def _main_program() -> tuple[str, str] | None:
    """How another process imports the running program; None where it cannot."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return "module", spec.name
    path = getattr(main, "__file__", None)
    return ("file", os.path.abspath(path)) if path and os.path.exists(path) else None
