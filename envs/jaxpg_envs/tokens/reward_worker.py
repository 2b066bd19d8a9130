"""What a reward's worker process runs: started as a script, it needs the standard library alone.

Importing a package (jax above all) in every worker would cost seconds and gigabytes, so nothing
is imported here that the reward itself does not need.
"""

import contextlib
import importlib
import importlib.util
import math
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

MARK = "JAXPG_REWARD_WORKER"
"""Environment variable that is set in worker processes."""


class Failure(NamedTuple):
    """Why a row has no reward.

    Attributes:
      kind: "error" or "timeout".
      name: of the exception, or "timeout".
      message: one sentence.
      traceback: of the exception; empty where there is none.
    """

    kind: str
    name: str
    message: str
    traceback: str = ""


def outcome(reward: Callable[..., Any], arguments: tuple) -> float | Failure | None:
    """Call a reward for one row, whatever it does.

    Args:
      reward: `(*arguments) -> number or None`.
      arguments: of the row.

    Returns:
      The number, None, or a `Failure` where the reward raised or returned something else.
    """
    try:
        return as_number(reward(*arguments))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a reward does not end the run.
        return failure(error)


def failure(error: BaseException) -> Failure:
    """The `Failure` that an exception makes, its traceback without the frame that called."""
    frames = error.__traceback__ and error.__traceback__.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    return Failure("error", type(error).__name__, str(error), "".join(lines))


def as_number(value: Any) -> float | None:
    """Check what a reward returned.

    Args:
      value: anything.

    Returns:
      A finite float, or None.

    Raises:
      TypeError: not one number.
      ValueError: NaN or infinite.
    """
    if value is None:
        return None
    if isinstance(value, str | bytes) or getattr(value, "shape", ()) != ():
        raise TypeError(f"reward returned {value!r}; it must return one number, or None")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"reward returned {value!r}; it must return one number, or None") from None
    if not math.isfinite(number):
        raise ValueError(f"reward returned {number}; it must return a finite number, or None")
    return number


def serve(connection: Connection) -> None:
    """Receive the reward, say whether it can be loaded, then answer row after row.

    Args:
      connection: to the process that started this one. Its end is this process's end.
    """
    try:
        setting = connection.recv()
        sys.path[:], sys.argv[:] = setting["path"], setting["argv"]
        if setting["main"]:
            _import_main(*setting["main"])
        reward = pickle.loads(setting["reward"])
    except BaseException as error:
        connection.send(tuple(failure(error)))
        return
    connection.send(None)
    while True:
        answer = outcome(_unpickled, (reward, connection.recv_bytes()))
        # Classes of this script have another name in the other process; plain tuples have none.
        connection.send(tuple(answer) if isinstance(answer, Failure) else answer)


def _unpickled(reward: Callable[..., Any], arguments: bytes) -> Any:
    return reward(*pickle.loads(arguments))


def _import_main(kind: str, where: str) -> None:
    """Import the program of the parent, whose functions are pickled under the name `__main__`."""
    if kind == "module":
        module = importlib.import_module(where)
    else:
        spec = importlib.util.spec_from_file_location("__mp_main__", where)
        module = importlib.util.module_from_spec(spec)
        sys.modules["__mp_main__"] = module
        spec.loader.exec_module(module)
    sys.modules["__main__"] = module


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _main(descriptor: str, parent: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A reward that hangs would never see that its connection is closed.
    threading.Thread(target=_die_with, args=(int(parent),), daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(Connection(int(descriptor)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
