"""Executor on a Ray cluster: an existing one by its address, or a local one that is started here (extra `ray`)."""

from __future__ import annotations

import os
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import PicklingError
from typing import Any, TypeVar

from personalllm.backends.executor._ray import connect, first_line, ray_data, started_here, stop_local
from personalllm.backends.executor._units import (
    Failed,
    Outcome,
    Succeeded,
    attempt,
    describe,
    gave_up,
    result_of,
    unreadable,
)
from personalllm.core.errors import ParameterError, RunError, UserError

__all__ = ["RayExecutor"]

T = TypeVar("T")
R = TypeVar("R")

_OURS = "PERSONALLLM_"
_UNITS_AHEAD = 2
_MAX_BLOCKS = 10_000


@dataclass(frozen=True, slots=True)
class RayExecutor:
    """Runs work units on a Ray cluster.

    If this process is connected to a cluster already, that one is used. A worker or a node that dies, and a unit that
    runs out of memory, cost another try of their units, elsewhere if need be. The function is sent once; each worker
    process that takes part unpickles it once, so that model weights it holds are loaded once. The package must be
    installed on every node, in the same version.

    Args:
        address: `auto` or `HOST:PORT` of a running cluster; a local one is started, for as long as this process
            lives, if None.
        num_cpus: CPUs that a unit takes up in Ray's accounts, > 0. With 0.5 twice as many units run as there are CPUs.
        max_retries: How often a unit is tried again after its worker died, >= 0.
        num_gpus: GPUs that a unit takes up, >= 0.

    Raises:
        ParameterError: If a parameter is out of range.
    """

    address: str | None = None
    num_cpus: float = 0.5
    max_retries: int = 3
    num_gpus: float = 0.0

    def __post_init__(self) -> None:
        if not self.num_cpus > 0:
            raise ParameterError("num_cpus", "> 0", self.num_cpus)
        if self.max_retries < 0:
            raise ParameterError("max_retries", ">= 0", self.max_retries)
        if not self.num_gpus >= 0:
            raise ParameterError("num_gpus", ">= 0", self.num_gpus)

    def map(self, function: Callable[[T], R], units: Sequence[T]) -> Iterator[R]:
        """Yield `function(unit)` for each unit, in order.

        Units are Ray tasks. With `num_gpus` they go to actors as in `stream`, since a process must keep the GPU that
        its model is on, and results that come too early wait here. An exception of a unit is raised here when its turn
        comes, with a note that names the unit.

        Raises:
            MissingExtra: If Ray is not installed.
            RunError: If a unit's worker died at every try; names the unit.
            UserError: If the cluster cannot be reached, function or units cannot be pickled, or no node of the cluster
                has the CPUs and GPUs that a unit takes up.
        """
        if self.num_gpus:
            yield from self._sorted(function, units)
            return
        if not units:
            return
        ray = self._connected()
        held = _put(ray, function)
        task = ray.remote(_run_unit).options(
            num_cpus=self.num_cpus,
            max_retries=self.max_retries,
            retry_exceptions=[MemoryError],
            name="personalllm unit",
        )
        references: list[Any] = []
        try:
            for index, unit in enumerate(units):
                last = min(len(units), index + self._window(ray))
                with _sending():
                    references += [task.remote(held, units[i]) for i in range(index + len(references), last)]
                outcome = self._outcome(ray, references[0], index, unit)
                del references[0]
                yield result_of(outcome, index, unit)
        finally:
            for reference in references:
                ray.cancel(reference, force=True)

    def stream(self, function: Callable[[T], R], units: Sequence[T]) -> Iterator[R]:
        """Yield `function(unit)` for each unit, in any order; the units are a Ray Data dataset.

        Actors hold the function, as many as the cluster's CPUs and GPUs allow; their number follows the need.

        Raises:
            As `map`.
        """
        for index, outcome in self._outcomes(function, units):
            yield result_of(outcome, index, units[index])

    def _sorted(self, function: Callable[[T], R], units: Sequence[T]) -> Iterator[R]:
        early: dict[int, Outcome] = {}
        turn = 0
        for index, outcome in self._outcomes(function, units):
            early[index] = outcome
            while turn in early:
                yield result_of(early.pop(turn), turn, units[turn])
                turn += 1

    def _outcomes(self, function: Callable[[T], R], units: Sequence[T]) -> Iterator[tuple[int, Outcome]]:
        """Yield (number, outcome) of each unit as Ray Data gives them."""
        if not units:
            return
        ray = self._connected()
        data = ray_data()
        size = max(1, min(len(units), self._slots(ray)))
        rows = [{"index": i, "unit": _Boxed(unit)} for i, unit in enumerate(units)]
        tally = ray.remote(_Tally).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        with _sending():
            items = data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
        results = items.map_batches(
            _Holder,
            fn_constructor_args=(_put(ray, function), tally, self.max_retries),
            batch_size=1,
            compute=data.ActorPoolStrategy(min_size=1, max_size=size),
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus or None,
        )
        try:
            for row in results.iter_rows():
                yield int(row["index"]), row["outcome"]
        except ray.exceptions.RayError as error:
            raise RunError(f"Ray Data could not do the work: {first_line(error)}.") from error

    def _connected(self) -> Any:
        """Return the module `ray`, connected to a cluster that can run a unit; Ray itself would wait for ever.

        Raises:
            UserError: If no node has what a unit takes up.
        """
        ray = connect(self.address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for kind, needed in (("CPU", self.num_cpus), ("GPU", self.num_gpus)):
            largest = max((node.get(kind, 0.0) for node in nodes), default=0.0)
            if largest < needed:
                amount = f"{needed:g} {kind}{'' if needed == 1 else 's'}"
                raise UserError(
                    f"A work unit takes up {amount}, but the largest node of the Ray cluster has {largest:g}.",
                    f"Give a lower {kind.lower()}s= in --executor, or add such a node to the cluster first.",
                )
        return ray

    def close(self) -> None:
        """Stop the local cluster, if this package has started one; it would else end with this process."""
        stop_local()

    def _window(self, ray: Any) -> int:
        """Return how many units to have under way: a few more than the cluster can run now."""
        return max(8, _UNITS_AHEAD * self._slots(ray))

    def _slots(self, ray: Any) -> int:
        resources = ray.cluster_resources()
        slots = int(resources.get("CPU", 1) / self.num_cpus)
        return min(slots, int(resources.get("GPU", 0) / self.num_gpus)) if self.num_gpus else slots

    def _outcome(self, ray: Any, reference: Any, index: int, unit: Any) -> Outcome:
        tries = self.max_retries + 1
        try:
            outcome: Outcome = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MemoryError):
                raise gave_up(index, unit, tries, "MemoryError") from error
            raise RunError(f"Ray could not run {describe(index, unit)}: {first_line(error.cause)}.") from error
        except ray.exceptions.RaySystemError as error:
            raise unreadable(index, unit, error) from error
        except ray.exceptions.RayError as error:
            raise gave_up(index, unit, tries, first_line(error)) from error
        return outcome


_loaded: dict[str, Callable[[Any], Any]] = {}


def _run_unit(held: _Held, unit: Any) -> Outcome:
    """Run a unit in a Ray worker, with the function that this process keeps from one unit to the next."""
    if held.key not in _loaded:
        _loaded.clear()
        loaded = held.load()
        if isinstance(loaded, Failed):
            return loaded
        _loaded[held.key] = loaded.value
    return attempt(_loaded[held.key], unit)


@dataclass(frozen=True, slots=True)
class _Held:
    """A function in Ray's object store, and what its modules and files are found by."""

    reference: Any
    key: str
    path: tuple[str, ...]
    environment: dict[str, str] | None

    def load(self) -> Outcome:
        """Return the function, or why this worker cannot unpickle it."""
        import ray

        sys.path += [entry for entry in self.path if entry not in sys.path]
        if self.environment is not None:
            for name in [name for name in os.environ if name.startswith(_OURS)]:
                del os.environ[name]
            os.environ.update(self.environment)
        try:
            return Succeeded(ray.get(self.reference))
        except ray.exceptions.RaySystemError as error:
            message = f"A Ray worker cannot load the work: {first_line(error)}."
            remedy = "Install the same packages, in the same versions, on every node of the cluster."
            return Failed(RunError(message, remedy), "")


@dataclass(frozen=True, slots=True)
class _Boxed:
    """Keeps Ray Data from turning a unit into an array."""

    unit: Any


class _Tally:
    """An actor that counts the tries of each unit: Ray Data restarts dead actors without an end."""

    def __init__(self) -> None:
        self._tries: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        """Record the start of an attempt; return its number, from 1."""
        self._tries[index] += 1
        return self._tries[index]

    def end(self, index: int) -> None:
        """Forget a unit that is done: if its block is run again, that is no fault of the unit."""
        del self._tries[index]


class _Holder:
    """An actor of Ray Data that holds the function."""

    def __init__(self, held: _Held, tally: Any, max_retries: int) -> None:
        self._loaded = held.load()
        self._tally = tally
        self._max_retries = max_retries

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        outcomes = [self._outcome(int(i), box.unit) for i, box in zip(batch["index"], batch["unit"], strict=True)]
        return {"index": batch["index"], "outcome": outcomes}

    def _outcome(self, index: int, unit: Any) -> Outcome:
        import ray

        if isinstance(self._loaded, Failed):
            return self._loaded
        tries = ray.get(self._tally.begin.remote(index))
        if tries > self._max_retries + 1:
            return Failed(gave_up(index, unit, self._max_retries + 1, "see the logs of Ray"), "")
        try:
            outcome = attempt(self._loaded.value, unit)
        except MemoryError:
            os._exit(1)
        ray.get(self._tally.end.remote(index))
        return outcome


def _put(ray: Any, function: Callable[[Any], Any]) -> _Held:
    with _sending():
        reference = ray.put(function)
    settings = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    return _Held(reference, uuid.uuid4().hex, tuple(filter(None, sys.path)), settings if started_here() else None)


@contextmanager
def _sending() -> Iterator[None]:
    """Return the error of a function or a unit that cannot be pickled."""
    try:
        yield
    except (TypeError, AttributeError, PicklingError) as error:
        raise UserError(
            f"The work cannot be sent to other processes: {first_line(error)}.",
            "Use a function and units that can be pickled, or the serial executor.",
        ) from error
