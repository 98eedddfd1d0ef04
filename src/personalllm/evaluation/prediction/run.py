"""The predict track: how well is a user's next comparison predicted after k of them?"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.protocols import Executor, TextEmbedder
from personalllm.core.storage import digest
from personalllm.core.types import F32, JSON
from personalllm.data import Benchmark
from personalllm.evaluation.manifest import write_manifest, write_order
from personalllm.evaluation.prediction.metrics import Cell
from personalllm.evaluation.prediction.reading import assemble_prediction, learner_record, write_cost
from personalllm.evaluation.prediction.references import Predictors
from personalllm.evaluation.prediction.results import PredictResults
from personalllm.evaluation.prediction.task import Kind, PredictionTask
from personalllm.evaluation.prediction.work import Done, FittedLearner, Part, Work, samples_table
from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.references import PREDICTORS
from personalllm.evaluation.resolve import Entry, resolve, slug
from personalllm.evaluation.store import DiskStore, Store, Unit
from personalllm.evaluation.tracks import Backends, fitted
from personalllm.evaluation.watched import Watched, unwatched
from personalllm.methods.base import Method

__all__ = ["predict"]


def predict(
    methods: Sequence[Method | str],
    protocol: Protocol,
    benchmark: Benchmark,
    *,
    embedder: TextEmbedder | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> PredictResults:
    """Evaluate learners of preferences, beside nulls and oracles, and resume what an earlier call began.

    A learner is fitted once on the pool. For each number of shots a copy of it adapts to the first comparisons of the
    target users and ranks the responses of the prompts of their test pairs. Everything that is complete in the run
    directory `out/<protocol fingerprint>` is read back; the numbers are the same, bit for bit, whether a run was
    interrupted or not.

    Args:
        methods: Objects, registered names, names with parameters, `module:Class`, or `all`; see `resolve`.
        protocol: From `Protocol.for_benchmark(..., track="predict")`.
        benchmark: The benchmark that it was made for.
        embedder: For the learners that need one, and for the oracle `best-linear`.
        out: Folder of runs; None keeps the run in memory.
        progress: Called after each step; rows are test pairs.
        executor: Who does the work units (what it is handed must be picklable); None: this process.

    Returns:
        The learners in the order given, then nulls and oracles.

    Raises:
        UserError: If the protocol is of another track, a backend is missing, or a learner breaks its contract.
        RunError: If a learner's own code fails; names it and the method.
    """
    if protocol.prediction is None:
        raise UserError(
            f"The protocol is of the {protocol.track} track.",
            'Make one with Protocol.for_benchmark(..., track="predict"), or use evaluate().',
        )
    entries, _ = resolve(methods, "predict", signals=protocol.prediction.reward_signals)
    bound = protocol.bind(embedder=embedder.identity if embedder else None)
    task = PredictionTask(bound, benchmark)
    backends = Backends(embedder, signals=task.signals)
    for entry in entries:
        _check_entry(entry, backends)
    store = Store(bound.fingerprint) if out is None else DiskStore(Path(out) / bound.fingerprint, bound.fingerprint)
    manifest = write_manifest(store, bound, benchmark, task.describe(), backends)
    run = _Run(store, progress or unwatched, Work(task, backends), executor)
    write_order(store, [entry.key for entry in entries])
    keys = [run.learner(entry) for entry in entries]
    predictors = Predictors(task, embedder)
    keys += [run.predictor(predictors, name) for name in predictors.names]
    write_order(store, keys)
    return assemble_prediction(store, manifest, keys, costs=run.costs if out is None else None)


def _check_entry(entry: Entry, backends: Backends) -> None:
    """Raise before the work begins if a learner lacks a backend or wants a history of another kind."""
    if entry.method.history != "random":
        raise UserError(
            f"{entry.label!r} gets the prompts nearest to each query; the predict track has nested histories.",
            "Leave it out.",
        )
    backends.bind(entry.method.clone())


@dataclass(frozen=True, eq=False)
class _Run(Watched):
    work: Work
    executor: Executor | None

    @cached_property
    def costs(self) -> dict[str, tuple[float, float]]:
        """Of each learner that was run now: seconds of `fit`, and of `adapt` for each user at the most shots."""
        return {}

    def learner(self, entry: Entry) -> str:
        """Do what is missing of a learner; return its key."""
        label, steps = entry.label, self.work.steps(entry.key)
        total = sum(part.n_pairs for parts in steps for part in parts)
        if self.complete(entry.key, label):
            self.progress(ProgressEvent(label, "start", total, total))
            self.progress(ProgressEvent(label, "finish", total, total))
            return entry.key
        tables = {part: self.read(part.unit, label) for parts in steps for part in parts}
        missing = [parts for parts in steps if any(tables[part] is None for part in parts)]
        done = total - sum(part.n_pairs for parts in missing for part in parts)
        self.progress(ProgressEvent(label, "start", done, total))
        began = time.perf_counter()
        for parts, made in zip(missing, self._computed(entry, missing, (done, total)), strict=True):
            for part, table in zip(parts, made.tables, strict=True):
                tables[part] = table
                self.store.write_part(part.unit, table)
            now = time.perf_counter()
            self.store.add_seconds(entry.key, now - began)
            began = now
            done += sum(part.n_pairs for part in parts)
            self.progress(ProgressEvent(label, "step", done, total))
        method = entry.method
        title = method.title or method.id
        summary: JSON = {"label": label, "title": title, "spec": entry.spec(), "kind": "learner"}
        summary |= {"paper": method.paper, "log_odds": method.log_odds}
        self._finish(entry.key, summary, self._joined(tables))
        self.progress(ProgressEvent(label, "finish", total, total))
        return entry.key

    def _computed(self, entry: Entry, missing: list[tuple[Part, ...]], rows: tuple[int, int]) -> Iterator[Done]:
        """Yield what came of the steps that are missing, as they are done, and note what fitting and adapting cost."""
        if not missing:
            return
        self.progress(ProgressEvent(entry.label, "prepare", *rows))
        began = time.perf_counter()
        method = fitted(self.work.task.task, self.work.backends, entry)
        seconds = time.perf_counter() - began
        work = partial(self.work.compute, FittedLearner(entry.label, method))
        adapting, users = 0.0, 0
        most = max(part[0].cell.shots for part in missing)
        for parts, made in zip(missing, self._mapped(work, missing), strict=True):
            if parts[0].cell.shots == most:
                adapting, users = adapting + made.seconds, users + made.n_users
            yield made
        self.costs[entry.key] = (seconds, adapting / users if users else math.nan)
        write_cost(self.store, entry.key, *self.costs[entry.key])

    def _mapped(self, work: Any, missing: list[tuple[Part, ...]]) -> Iterator[Done]:
        return map(work, missing) if self.executor is None else self.executor.map(work, missing)

    def _joined(self, tables: Mapping[Part, Any]) -> dict[Cell, Any]:
        """Return the table of each cell, its shards one after the other."""
        import pyarrow as pa

        order = {cell: place for place, cell in enumerate(self.work.task.cells)}
        parts = sorted(tables, key=lambda part: (order[part.cell], part.unit.start))
        return {
            cell: pa.concat_tables([tables[part] for part in shards])
            for cell, shards in groupby(parts, key=lambda part: part.cell)
        }

    def predictor(self, predictors: Predictors, name: str) -> str:
        """Note a null or an oracle; return its key. It is the same for every number of shots."""
        spec = predictors.spec(name)
        key = f"{slug(name)}-{digest({'predictor': spec}, 12)}"
        if self.complete(key, name):
            return key
        cells: dict[Cell, Any] = {}
        for group in self.work.task.groups.values():
            for prompts, tests in group.tests.items():
                judged = predictors.judge(name, group, tests)
                table = samples_table(self.work.task, group, tests, judged.preference, judged.margin)
                unit = Unit(key, len(cells), 0, group.n_users, 0)
                self.store.write_part(unit, table)
                cells[Cell(group.kind, prompts, "true", group.shots[0])] = table
        summary = {"label": name, "title": PREDICTORS[name], "spec": spec, "kind": predictors.kind(name)}
        self._finish(key, summary | {"paper": "", "log_odds": True}, cells, at_every_shots=True)
        return key

    def _finish(self, key: str, summary: JSON, cells: Mapping[Cell, Any], *, at_every_shots: bool = False) -> None:
        task = self.work.task
        sums = {cell: self.work.sums(cell, table, log_odds=summary["log_odds"]) for cell, table in cells.items()}
        record, columns = learner_record(
            sums, task.benchmark.reward_models, draws=task.protocol.bootstrap_draws, seed=task.protocol.seed
        )
        if at_every_shots:
            record, columns = _repeated(record, columns, {kind: group.shots for kind, group in task.groups.items()})
        self.store.write_done(key, summary | record | {"track": "predict"}, columns)


def _repeated(
    record: JSON, columns: dict[str, F32], shots: Mapping[Kind, Sequence[int]]
) -> tuple[JSON, dict[str, F32]]:
    """Return a record in which every cell stands once for each number of shots, with the same numbers."""
    told: list[JSON] = []
    rows: list[Any] = []
    start = 0
    for cell in record["cells"]:
        stop = start + cell["n_users"]
        for k in shots[cell["users"]]:
            told.append(cell | {"shots": k})
            rows.append(np.arange(start, stop))
        start = stop
    order = np.concatenate(rows)
    return record | {"cells": told}, {name: column[order] for name, column in columns.items()}
