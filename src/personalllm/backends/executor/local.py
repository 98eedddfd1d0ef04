"""Executors on this machine: one after the other, or in several processes."""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from multiprocessing.connection import wait
from typing import Any, TypeVar

from personalllm.backends.executor._units import Outcome, gave_up, note_unit, result_of
from personalllm.backends.executor._worker import Worker
from personalllm.core.errors import ParameterError, RunError

__all__ = ["ProcessExecutor", "SerialExecutor"]

T = TypeVar("T")
R = TypeVar("R")

_UNITS_AHEAD = 4
_MAIN_GUARD = "In a script, start the work below `if __name__ == '__main__':`."


@dataclass(frozen=True, slots=True)
class SerialExecutor:
    """Runs work units one after the other in this process.

    >>> list(SerialExecutor().map(abs, [-1, 2, -3]))
    [1, 2, 3]
    """

    def map(self, function: Callable[[T], R], units: Sequence[T]) -> Iterator[R]:
        """Yield `function(unit)` for each unit, in order; a unit runs when its result is read.

        An exception of a unit carries a note with the unit's number and name.
        """
        for index, unit in enumerate(units):
            try:
                result = function(unit)
            except Exception as error:
                note_unit(error, index, unit)
                raise
            yield result


@dataclass(frozen=True, slots=True)
class ProcessExecutor:
    """Runs work units in fresh processes on this machine (start method `spawn`).

    Function and units must be picklable, and the function importable: not a lambda, not one typed into a prompt. The
    function is sent once to each worker and stays there, so that model weights it holds are loaded once. A worker has
    one unit at a time. If it dies (killed, out of memory), another takes its slot and its unit is tried again; other
    units are not disturbed. Workers end when the results are read or no longer requested, and when this process dies.

    Args:
        n_workers: Number of processes, >= 1.
        max_retries: How often a unit is tried again after its worker died, >= 0.

    Raises:
        ParameterError: If a parameter is out of range.
    """

    n_workers: int
    max_retries: int = 3

    def __post_init__(self) -> None:
        if self.n_workers < 1:
            raise ParameterError("n_workers", ">= 1", self.n_workers)
        if self.max_retries < 0:
            raise ParameterError("max_retries", ">= 0", self.max_retries)

    def map(self, function: Callable[[T], R], units: Sequence[T]) -> Iterator[R]:
        """Yield `function(unit)` for each unit, in order.

        An exception of a unit is raised here when its turn comes, with a note that names the unit; units that have
        not begun are then dropped.

        Raises:
            RunError: If a unit's worker died at every try; names the unit.
            UserError: If function or units cannot be pickled.
        """
        if not units:
            return
        crew = _Crew(function, units, min(self.n_workers, len(units)), self.max_retries)
        atexit.register(crew.end)
        try:
            crew.start()
            for index, unit in enumerate(units):
                yield result_of(crew.outcome(index), index, unit)
        finally:
            crew.end()
            atexit.unregister(crew.end)


class _Crew:
    """The workers of one `map`, the units they have, and the outcomes that wait for their turn."""

    def __init__(self, function: Callable[[Any], Any], units: Sequence[Any], n_workers: int, max_retries: int) -> None:
        self._function = function
        self._units = units
        self._n_workers = n_workers
        self._max_retries = max_retries
        self._workers: list[Worker] = []
        self._fresh = 0
        self._again: list[int] = []
        self._deaths: Counter[int] = Counter()
        self._false_starts = 0
        self._outcomes: dict[int, Outcome] = {}

    def start(self) -> None:
        for _ in range(self._n_workers):
            self._workers.append(Worker())
        for slot in range(self._n_workers):
            self._load(slot)

    def outcome(self, index: int) -> Outcome:
        """Keep the workers busy until a unit is done; return its outcome."""
        while index not in self._outcomes:
            self._hand_out(index)
            busy = [worker.connection for worker in self._workers if worker.index is not None]
            ready = wait(busy) if busy else []  # without a busy worker nothing would ever be ready
            for slot in [slot for slot, worker in enumerate(self._workers) if worker.connection in ready]:
                self._collect(slot)
        outcome = self._outcomes.pop(index)
        self._hand_out(index + 1)
        return outcome

    def end(self) -> None:
        """End all workers."""
        while self._workers:
            self._workers.pop().end()

    def _hand_out(self, requested: int) -> None:
        """Send units to idle workers, at most a few for each worker ahead of the requested one."""
        last = min(len(self._units), requested + _UNITS_AHEAD * self._n_workers)
        for slot, worker in enumerate(self._workers):
            if worker.index is not None:
                continue
            if self._again:
                self._hand(slot, heappop(self._again))
            elif self._fresh < last:
                self._fresh += 1
                self._hand(slot, self._fresh - 1)

    def _hand(self, slot: int, index: int) -> None:
        try:
            self._workers[slot].hand(index, self._units[index])
        except OSError:
            self._replace(slot)

    def _collect(self, slot: int) -> None:
        try:
            index, outcome = self._workers[slot].receive(self._units)
        except (EOFError, OSError):
            self._replace(slot)
        else:
            self._outcomes[index] = outcome

    def _load(self, slot: int) -> None:
        try:
            self._workers[slot].load(self._function)
        except OSError:
            self._replace(slot)

    def _replace(self, slot: int) -> None:
        """Put a new worker in the slot of a dead one; its unit is tried again, within bounds."""
        dead = self._workers[slot]
        why, index = dead.why_it_died(), dead.index
        if index is None:
            self._false_starts += 1
            if self._false_starts > self._max_retries:
                raise RunError(f"{self._false_starts} worker processes died as they started: {why}.", _MAIN_GUARD)
        else:
            self._deaths[index] += 1
            if self._deaths[index] > self._max_retries:
                raise gave_up(index, self._units[index], self._deaths[index], why, _MAIN_GUARD)
            heappush(self._again, index)
        dead.end()
        self._workers[slot] = Worker()
        self._load(slot)
