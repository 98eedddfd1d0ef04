"""The two tracks: how one unit of work is done, and how the parts add up to utilities."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from personalllm.core.errors import PersonalLLMError, RunError, UserError
from personalllm.core.protocols import ChatModel, RewardEnsemble, RewardSignals, TextEmbedder
from personalllm.core.seeding import derive_seed
from personalllm.core.types import F32, Histories
from personalllm.evaluation.references import Policy
from personalllm.evaluation.resolve import Entry
from personalllm.evaluation.store import Unit
from personalllm.evaluation.task import Task, take_users
from personalllm.methods.base import Method

__all__ = ["Backends", "RankTrack", "Track", "checked", "fitted", "make_units", "own_copy", "running"]


@dataclass(frozen=True, eq=False)
class Backends:
    """What the edge handed over, and the scores of the RMs where the protocol allows them."""

    embedder: TextEmbedder | None = None
    llm: ChatModel | None = None
    rewards: RewardEnsemble | None = None
    signals: RewardSignals | None = None

    def bind(self, method: Method, seed: int = 0) -> Method:
        """Hand them over to a method.

        Raises:
            UserError: If one that it needs is missing.
        """
        allowed: dict[str, Any] = {} if self.signals is None else {"signals": self.signals}
        return method.bind(embedder=self.embedder, llm=self.llm, seed=seed, **allowed)


class Track(Protocol):
    """How a track does its work."""

    @property
    def rows_per_unit(self) -> int:
        """Rows of a unit."""

    @property
    def n_rows(self) -> int:
        """Rows in all."""

    def prepare(self, entry: Entry) -> Any:
        """Fit a method; done once for all its units, and not at all if none is missing."""

    def compute(self, prepared: Any, unit: Unit) -> Any:
        """Do a unit's work and return its Arrow table."""

    def utilities(self, tables: list[Any]) -> F32:
        """Return float32 (n_users, n_queries_per_user) from all units' tables."""

    def counts(self, tables: list[Any]) -> dict[str, int]:
        """Return the counts that go into the result."""

    def stored(self, policy: Policy, unit: Unit) -> Any | None:
        """Return the table of a reference policy's samples, if the track keeps any."""


def make_units(track: Track, key: str, seed: int) -> list[Unit]:
    """Cut a method's work into units.

    Args:
        track: The track.
        key: Key of the method.
        seed: Seed of the protocol.
    """
    starts = range(0, track.n_rows, track.rows_per_unit)
    return [
        Unit(key, index, start, min(track.n_rows, start + track.rows_per_unit), derive_seed(seed, "unit", key, start))
        for index, start in enumerate(starts)
    ]


@contextmanager
def running(label: str, method: str) -> Iterator[None]:
    """Name the method and the method if the method's own code fails.

    Raises:
        RunError: Instead of any exception that is not of this package, which stays as its cause.
    """
    try:
        yield
    except PersonalLLMError:
        raise
    except Exception as error:  # anyone's code runs here, and may raise anything
        raise RunError(
            f"The method {label!r} failed in {method}: {type(error).__name__}: {error}.",
            "Run personalllm.testing.check_method on it.",
        ) from error


def fitted(task: Task, backends: Backends, entry: Entry) -> Method:
    """Return a fresh copy of a method, bound to the backends and fitted on the pool."""
    method = entry.method.clone()
    seed = derive_seed(task.protocol.seed, "algorithm", entry.key)
    backends.bind(method, seed)
    pool = task.pool
    with running(entry.label, "fit"):
        method.fit(pool)
    return method


def own_copy(pool: Histories, backends: Backends, method: Method, label: str, seed: int) -> Method:
    """Return a deep copy of a fitted method, so that no unit of work sees what another one left behind.

    The backends, the corpus and the columns of the pool cannot change, so they are shared.

    Args:
        pool: What it was fitted on.
        backends: Handed over to the copy again.
        method: Fitted.
        label: Its name in messages.
        seed: Of the unit.

    Raises:
        RunError: If what it learned cannot be copied.
    """
    parts = [getattr(part, field.name) for part in (pool, pool.corpus) for field in dataclasses.fields(part)]
    shared = (backends.embedder, backends.llm, backends.signals, pool, *parts)
    with running(label, "a deep copy of what fit learned"):
        copied = copy.deepcopy(method, {id(value): value for value in shared})
    return backends.bind(copied, seed)


@dataclass(frozen=True, eq=False)
class _Fitted:
    label: str
    method: Method
    histories: Histories


@dataclass(frozen=True, eq=False)
class RankTrack:
    """Choose among the stored responses; a unit is a shard of users."""

    task: Task
    backends: Backends

    @property
    def rows_per_unit(self) -> int:
        """Users of a shard."""
        return self.task.protocol.users_per_shard

    @property
    def n_rows(self) -> int:
        """Users."""
        return self.task.n_users

    def prepare(self, entry: Entry) -> _Fitted:
        """Fit on the pool and draw the target users' histories."""
        method = fitted(self.task, self.backends, entry)
        histories = self.task.histories(method.history, self.backends.embedder)
        return _Fitted(entry.label, method, histories)

    def compute(self, prepared: _Fitted, unit: Unit) -> Any:
        """Let the method choose for a shard of users; ties go to the lowest column of the corpus."""
        import pyarrow as pa

        method = own_copy(self.task.pool, self.backends, prepared.method, prepared.label, unit.seed)
        queries = self.task.queries(unit.start, unit.stop)
        histories = take_users(prepared.histories, unit.start, unit.stop)
        with running(prepared.label, "adapt"):
            method.adapt(histories)
        with running(prepared.label, "utilities"):
            ranked = method.utilities(queries)
        preference = checked(prepared.label, ranked, (len(queries), queries.corpus.n_responses))
        column = preference.argmax(axis=1).astype(np.uint8)
        response = self.task.view.to_responses(queries.prompt, column)
        values = self.task.utilities(unit.start, unit.stop).reshape(len(queries), -1)
        utility = np.take_along_axis(values, response[:, None].astype(np.intp), axis=1)[:, 0]
        columns = {
            "user": queries.user + np.int32(unit.start),
            "prompt": queries.prompt,
            "response": response,
            "utility": utility,
        }
        return pa.table(columns)

    def utilities(self, tables: list[Any]) -> F32:
        """Return float32 (n_users, n_queries_per_user)."""
        values = np.concatenate([table["utility"].to_numpy() for table in tables])
        return values.astype(np.float32, copy=False).reshape(self.task.prompts.shape)

    def counts(self, tables: list[Any]) -> dict[str, int]:
        """Nothing to count."""
        return {}

    def stored(self, policy: Policy, unit: Unit) -> None:
        """The rank track keeps no samples of the reference policies."""
        return


def checked(label: str, preference: Any, shape: tuple[int, int]) -> F32:
    """Return the preferences that a method returned if they keep the contract.

    Raises:
        UserError: If type, shape or values are wrong; names the method.
    """
    remedy = "utilities() must return a preference for each candidate: float32 (n_queries, n_responses) without NaN."
    if not isinstance(preference, np.ndarray):
        raise UserError(f"The method {label!r} returned a {type(preference).__name__}, not an array.", remedy)
    if preference.dtype != np.float32:
        raise UserError(
            f"The method {label!r} returned {preference.dtype}, expected float32.",
            "Add .astype(numpy.float32) at the end of utilities().",
        )
    if preference.shape != shape:
        raise UserError(f"The method {label!r} returned shape {preference.shape}, expected {shape}.", remedy)
    bad = np.isnan(preference)
    if bad.any():
        query, column = (int(i) for i in np.argwhere(bad)[0])
        raise UserError(
            f"The method {label!r} returned NaN for {int(bad.sum())} of {bad.size} candidates "
            f"(first: query {query}, column {column}).",
            remedy,
        )
    return preference
