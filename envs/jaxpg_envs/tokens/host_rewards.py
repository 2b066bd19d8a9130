"""Rewards that are plain Python: rows in, numbers out, and what happens to rows that fail."""

import collections
import dataclasses
import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpg_envs.tokens.arguments import whole_number
from jaxpg_envs.tokens.reward_worker import Failure, as_number, failure, outcome
from jaxpg_envs.tokens.worker_pool import WorkerPool

SLOW = 60.0
"""Seconds after which a reward without workers is said to be slow."""

SCORED, ERROR, TIMEOUT, MISSING = range(4)
"""What became of a row: a reward, an exception, too slow, or None returned on purpose."""

Row = tuple[Any, str, Mapping[str, Any]]
"""Prompt, response and metadata."""


class Scores(NamedTuple):
    """Rewards of B rows.

    Attributes:
      value: `[B]` float32; 0 where not valid.
      valid: `[B]` bool, False where a row has no reward.
      status: `[B]` int32, SCORED, ERROR, TIMEOUT or MISSING.
    """

    value: np.ndarray
    valid: np.ndarray
    status: np.ndarray


class RewardError(RuntimeError):
    """No row of a batch could be evaluated; the message holds the first traceback."""


@dataclasses.dataclass(frozen=True)
class WholeBatch:
    """A reward that wants all rows of a batch at once: a model, or a remote service.

    It runs in this process, and its exception fails every row of the batch.

    Attributes:
      function: `(prompts, responses, metadata) -> rewards`, lists of equal length; a reward is a
        number, or None where there is none.
    """

    function: Callable[[list, list, list], Sequence[float | None]]


class HostReward:
    """A Python reward for batches of rows, with a rule for each way to fail.

    - A row that raises, that takes longer than `time_limit` or whose reward is no finite number
      gets `default`, and is counted.
    - A row for which the reward returns None has no reward, whatever `default` is.
    - The first failure of each kind is shown as a warning, with its row.
    - When every row of a batch raises, the run stops with the first traceback.

    >>> host = HostReward(lambda prompt, response, metadata: 1 / len(response), default=0.0)
    >>> with warnings.catch_warnings(action="ignore"):
    ...     host([("", "ab", {}), ("", "", {})])
    Scores(value=array([0.5, 0. ], dtype=float32), valid=array([ True,  True]), \
status=array([0, 1], dtype=int32))
    """

    def __init__(
        self,
        reward: Callable[..., float | None] | WholeBatch,
        *,
        num_workers: int = 0,
        time_limit: float = 10.0,
        default: float | None = None,
    ):
        """Choose where the reward runs.

        Args:
          reward: `(prompt, response, metadata) -> number or None`, or a `WholeBatch`.
          num_workers: worker processes. 0 evaluates in this process, one row after the other and
            without a time limit; a reward that computes with jax, or that can hang, needs workers.
          time_limit: seconds that a worker may take for one row, above 0.
          default: reward of a row that fails; None gives it none, so that it leaves the update.

        Raises:
          TypeError: `reward` cannot be called, or a number is none.
          ValueError: an argument out of range, workers for a `WholeBatch`, or a reward that worker
            processes cannot import, such as a lambda.
        """
        whole_number("num_workers", num_workers, 0)
        if not isinstance(reward, WholeBatch) and not callable(reward):
            raise TypeError(
                f"reward={reward!r} must be a function (prompt, response, metadata) -> number, "
                f"or a WholeBatch"
            )
        if not time_limit > 0:
            raise ValueError(f"time_limit={time_limit} must be above 0, in seconds")
        if isinstance(reward, WholeBatch) and num_workers:
            raise ValueError(f"num_workers={num_workers} must be 0 for a WholeBatch")
        self._reward = reward
        if default is not None and not math.isfinite(default):
            raise ValueError(f"default={default} must be a finite number, or None")
        self._default = default
        self._pool = WorkerPool(reward, num_workers, time_limit) if num_workers else None
        self._lock = threading.Lock()
        self._shown: set[str] = set()

    def __call__(self, rows: Sequence[Row]) -> Scores:
        """Evaluate a batch.

        Args:
          rows: B tuples of prompt, response and metadata.

        Returns:
          Their rewards, in order.

        Raises:
          RewardError: every row raised.
          ValueError: a `WholeBatch` returned another number of rewards.
          RuntimeError, TypeError: see `WorkerPool.evaluate`.
        """
        if self._pool is not None:
            results = self._pool.evaluate(rows)
        else:
            with self._lock:  # Rewards need not be thread-safe; several devices may ask at once.
                results = self._in_this_process(rows)
        failures = [(i, r) for i, r in enumerate(results) if isinstance(r, Failure)]
        if failures and all(r.kind == "error" for _, r in failures) and len(failures) == len(rows):
            row, first = failures[0]
            raise RewardError(
                f"all {len(rows)} rewards of a batch raised; the first, of {_shown(rows[row])}:\n"
                f"{first.traceback or first.message}"
            )
        self._show(rows, failures, results)
        return self._settled(results)

    def close(self) -> None:
        """End the worker processes; a later call starts new ones."""
        if self._pool is not None:
            self._pool.close()

    def _in_this_process(self, rows: Sequence[Row]) -> list[float | Failure | None]:
        slow = threading.Timer(SLOW, warnings.warn, (_SLOW_SENTENCE, RuntimeWarning))
        slow.daemon = True
        slow.start()
        try:
            if isinstance(self._reward, WholeBatch):
                return _of_whole_batch(self._reward.function, rows)
            return [outcome(self._reward, row) for row in rows]
        finally:
            slow.cancel()

    def _show(self, rows: Sequence[Row], failures: list, results: list) -> None:
        found = [(f.name, f"{f.name}: {f.message}", row) for row, f in failures]
        found += [
            ("None", "the reward returned None", row)
            for row, result in enumerate(results)
            if result is None
        ]
        numbers = collections.Counter(kind for kind, _, _ in found)
        for kind, message, row in found:
            if kind not in self._shown:
                self._shown.add(kind)
                warnings.warn(
                    f"{numbers[kind]} of {len(rows)} rows of a batch have no reward of their own "
                    f"({message}; first in {_shown(rows[row])}); later ones are only counted",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _settled(self, results: list[float | Failure | None]) -> Scores:
        status = np.array([_status(result) for result in results], np.int32)
        failed = (status == ERROR) | (status == TIMEOUT)
        valid = (status == SCORED) | (failed & (self._default is not None))
        given = [self._default if bad else r for bad, r in zip(failed, results, strict=True)]
        value = np.array([0.0 if r is None else r for r in given], np.float32)
        return Scores(value, valid, status)


_SLOW_SENTENCE = (
    f"a reward has been running for {SLOW:g} s without worker processes; if it computes with jax "
    f"inside of a jax program, or can hang, it needs num_workers of at least 1"
)


def _of_whole_batch(function: Callable, rows: Sequence[Row]) -> list[float | Failure | None]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    try:
        returned = function(*columns)
    except Exception as error:
        return [failure(error)] * len(rows)
    number = len(returned) if hasattr(returned, "__len__") else repr(returned)
    if number != len(rows):
        raise ValueError(f"the reward returned {number} values for {len(rows)} responses")
    return [outcome(as_number, (value,)) for value in returned]


def _status(result: float | Failure | None) -> int:
    if result is None:
        return MISSING
    if not isinstance(result, Failure):
        return SCORED
    return TIMEOUT if result.kind == "timeout" else ERROR


def _shown(row: Row) -> str:
    """A row for people to read, long texts cut."""
    prompt, response, _ = row
    cut = [
        text if len(text) <= 200 else text[:200] + "..." for text in map(str, (prompt, response))
    ]
    return f"prompt {cut[0]!r}, response {cut[1]!r}"
