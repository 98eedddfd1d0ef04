"""Executors on this machine: one after the other, or in several processes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from personalllm.errors import ParameterError, RunError

__all__ = ["ProcessExecutor", "SerialExecutor"]

T = TypeVar("T")
R = TypeVar("R")

_UNITS_AHEAD = 2


@dataclass(frozen=True, slots=True)
class SerialExecutor:
    """Runs work units one after the other in this process.

    >>> list(SerialExecutor().map(abs, [-1, 2, -3]))
    [1, 2, 3]
    """

    def map(self, function: Callable[[T], R], units: Sequence[T]) -> Iterator[R]:
        """Yield `function(unit)` for each unit, in order; a unit runs when its result is asked for."""
        for unit in units:
            yield function(unit)


@dataclass(frozen=True, slots=True)
class ProcessExecutor:
    """Runs work units in fresh processes on this machine (start method `spawn`).

    Function and units must be picklable, and the function importable: not a lambda, not one typed into a prompt.
    A few units at a time are handed out, so a long sequence is not pickled at once.

    Args:
        n_workers: Number of processes, >= 1.

    Raises:
        ParameterError: If `n_workers` is below 1.
    """

    n_workers: int

    def __post_init__(self) -> None:
        if self.n_workers < 1:
            raise ParameterError("n_workers", ">= 1", self.n_workers)

    def map(self, function: Callable[[T], R], units: Sequence[T]) -> Iterator[R]:
        """Yield `function(unit)` for each unit, in order.

        An exception in a unit is raised here when its turn comes; units that have not begun are then dropped.

        Raises:
            RunError: If a worker process dies.
        """
        if not units:
            return
        waiting = iter(units)
        pool = ProcessPoolExecutor(min(self.n_workers, len(units)), mp_context=multiprocessing.get_context("spawn"))
        try:
            under_way: deque[Future[R]] = deque(
                pool.submit(function, unit) for unit in islice(waiting, _UNITS_AHEAD * self.n_workers)
            )
            while under_way:
                result = under_way.popleft().result()
                under_way.extend(pool.submit(function, unit) for unit in islice(waiting, 1))
                yield result
        except BrokenProcessPool as error:
            raise RunError(
                "A worker process died before its unit was done.",
                "It may have run out of memory: use fewer workers. In a script, start the work below "
                "`if __name__ == '__main__':`.",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
