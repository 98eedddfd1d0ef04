"""A process that runs work units one at a time, until its parent ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pickle import PicklingError
from typing import Any

from personalllm.backends.executor._units import Failed, Outcome, Succeeded, attempt, unreadable
from personalllm.core.errors import RunError, UserError

__all__ = ["Worker"]

_GRACE_SECONDS = 2.0
_NOT_SENDABLE = (PicklingError, AttributeError, TypeError)


class Worker:
    """A fresh process (start method `spawn`) that holds one function and runs it on one unit at a time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child,), name="personalllm-worker")
        self._process.start()
        child.close()
        self.index: int | None = None
        """Number of the unit that it has, None if it is idle."""

    def load(self, function: Callable[[Any], Any]) -> None:
        """Send the function.

        Raises:
            UserError: If it cannot be pickled.
            OSError: If the process is dead.
        """
        self._send(function)

    def hand(self, index: int, unit: Any) -> None:
        """Send a unit.

        Raises:
            UserError: If it cannot be pickled.
            OSError: If the process is dead.
        """
        self.index = index
        self._send(unit)

    def _send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except _NOT_SENDABLE as error:
            raise UserError(
                f"The work cannot be sent to another process: {error}.",
                "Use a function that is defined in a module (no lambda, not inside another function) and units that "
                "can be pickled, or the serial executor.",
            ) from error

    def receive(self, units: Sequence[Any]) -> tuple[int, Outcome]:
        """Return the number of its unit and the outcome; it is idle then.

        Raises:
            EOFError: If the process is dead; OSError, if it died while it was answering.
            RunError: If the outcome cannot be unpickled.
        """
        if self.index is None:
            raise RunError("A worker process answered though it had no work unit.")
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, OSError):
            raise
        except Exception as error:  # any class may fail to be unpickled, in its own way
            raise unreadable(self.index, units[self.index], error) from error
        index, self.index = self.index, None
        return index, outcome

    def why_it_died(self) -> str:
        """Return the signal or the exit status of the dead process."""
        self._process.join(_GRACE_SECONDS)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit status {code}"

    def end(self) -> None:
        """End the process: at once if it is idle, else after a short time to clean up."""
        self.connection.close()
        if self.index is not None:
            self._process.terminate()
        self._process.join(_GRACE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _serve(connection: Connection) -> None:
    """Receive the function, then units; answer each with its outcome."""
    signal.signal(signal.SIGINT, _leave_it_to_the_parent)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function = _received(connection)
        while True:
            unit = _received(connection)
            _answer(connection, function, unit)
    except (EOFError, BrokenPipeError):
        return


def _received(connection: Connection) -> Outcome:
    """Return what was sent, or why it cannot be unpickled here."""
    try:
        return Succeeded(connection.recv())
    except EOFError:
        raise
    except Exception as error:  # noqa: BLE001 - any class may fail to be unpickled; the parent raises it
        return Failed(error, traceback.format_exc())


def _answer(connection: Connection, function: Outcome, unit: Outcome) -> None:
    if isinstance(function, Failed) or isinstance(unit, Failed):
        outcome: Outcome = function if isinstance(function, Failed) else unit
    else:
        outcome = attempt(function.value, unit.value)
    try:
        connection.send(outcome)
    except _NOT_SENDABLE as error:
        what = outcome.error if isinstance(outcome, Failed) else outcome.value
        connection.send(Failed(RunError(f"{what!r} cannot be sent back from a worker: {error}."), ""))


def _leave_it_to_the_parent(_number: int, _frame: object) -> None:
    """Ctrl-C reaches every process of a terminal; the parent ends its workers."""


def _end_with_parent() -> None:
    """End this process, whatever it is doing, as soon as the parent is dead."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
