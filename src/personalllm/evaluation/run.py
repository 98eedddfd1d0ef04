"""Run methods under a protocol; read runs back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from personalllm.core.errors import UserError
from personalllm.core.protocols import ChatModel, Executor, RewardEnsemble, TextEmbedder
from personalllm.core.storage import digest
from personalllm.core.types import F32, JSON
from personalllm.data import Benchmark
from personalllm.evaluation.generate import GenerateTrack
from personalllm.evaluation.manifest import write_manifest, write_order
from personalllm.evaluation.metrics import draw_metrics, estimate, per_user_means
from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.reading import assemble
from personalllm.evaluation.references import Policy, StoredPolicies
from personalllm.evaluation.resolve import Entry, check_references, resolve, slug
from personalllm.evaluation.results import Results
from personalllm.evaluation.store import DiskStore, Store, Unit, to_json
from personalllm.evaluation.task import Task
from personalllm.evaluation.tracks import Backends, RankTrack, Track, make_units
from personalllm.evaluation.watched import Watched, unwatched
from personalllm.methods.base import Method

__all__ = ["evaluate"]


def evaluate(
    methods: Sequence[Method | str],
    protocol: Protocol,
    benchmark: Benchmark,
    *,
    embedder: TextEmbedder | None = None,
    llm: ChatModel | None = None,
    rewards: RewardEnsemble | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Results:
    """Evaluate methods under a protocol, beside the reference policies, and resume what an earlier call began.

    Everything that is complete in the run directory `out/<protocol fingerprint>` is read back, a part that is cut off
    or altered is made again; the numbers are the same, bit for bit, whether a run was interrupted or not.

    Args:
        methods: Objects, registered names, names with parameters (`icl[n_shots=3]`), `module:Class`, or `all`.
        protocol: From `Protocol.for_benchmark`; the identities of the backends that can change a number are filled in
            here.
        benchmark: The benchmark that the protocol was made for.
        embedder: For the methods that need one.
        llm: For the generate track, and the methods that need one.
        rewards: For the generate track; its RMs must be the benchmark's.
        out: Folder of runs; None keeps the run in memory.
        progress: Called after each step.
        executor: Who does the rank track's shards of users (what it is handed must be picklable); None: this process.

    Returns:
        The methods in the order given, then the reference policies.

    Raises:
        UserError: If a backend is missing, a method is not of the track or breaks its contract, or `model:NAME`
            is not the protocol's reference response model.
        RunError: If a method's own code fails; names the method and the method.
        AxisMismatch: If the reward ensemble's RMs are not the benchmark's.
        DataError: If the benchmark has no split or no reference response that the protocol needs.
    """
    if protocol.track == "predict":
        raise UserError("evaluate() is not for the predict track.", "Use personalllm.evaluation.predict().")
    entries, references = resolve(methods, protocol.track)
    check_references(references, protocol.reference_response_model)
    writes = protocol.track == "generate" or any("llm" in entry.method.needs for entry in entries)
    bound = protocol.bind(
        embedder=embedder.identity if embedder else None,
        llm=llm.identity if llm and writes else None,
        rewards=rewards.identity if rewards and protocol.track == "generate" else None,
    )
    task = Task(bound, benchmark)
    backends = Backends(embedder, llm, rewards)
    _check_needs(entries, task, backends)
    policies = StoredPolicies.of(task)
    track: Track = GenerateTrack(task, backends, policies) if bound.track == "generate" else RankTrack(task, backends)
    store = Store(bound.fingerprint) if out is None else DiskStore(Path(out) / bound.fingerprint, bound.fingerprint)
    manifest = write_manifest(store, bound, benchmark, task.describe(), backends)
    run = _Run(store, progress or unwatched, task, track, policies, executor if bound.track == "rank" else None)
    write_order(store, [entry.key for entry in entries])
    keys = [run.method(entry) for entry in entries] + [run.reference(policy) for policy in policies]
    write_order(store, keys)
    return assemble(store, manifest, keys)


def _check_needs(entries: Sequence[Entry], task: Task, backends: Backends) -> None:
    """Raise before the work begins if a method lacks a backend."""
    for entry in entries:
        backends.bind(entry.method.clone())
        task.check_history(entry.method.history, backends.embedder)


@dataclass(frozen=True, eq=False)
class _Run(Watched):
    task: Task
    track: Track
    policies: StoredPolicies
    executor: Executor | None

    def method(self, entry: Entry) -> str:
        """Do what is missing of a method; return its key."""
        total, label = self.track.n_rows, entry.label
        if self.complete(entry.key, label):
            self.progress(ProgressEvent(label, "start", total, total))
            self.progress(ProgressEvent(label, "finish", total, total))
            return entry.key
        units = make_units(self.track, entry.key, self.task.protocol.seed)
        tables = [self.read(unit, label) for unit in units]
        done = sum(unit.stop - unit.start for unit, table in zip(units, tables, strict=True) if table is not None)
        self.progress(ProgressEvent(label, "start", done, total))
        began = time.perf_counter()
        missing = [unit for unit, table in zip(units, tables, strict=True) if table is None]
        for unit, table in zip(missing, self._computed(entry, missing, done), strict=True):
            tables[unit.index] = table
            self.store.write_part(unit, table)
            now = time.perf_counter()
            self.store.add_seconds(entry.key, now - began)
            began = now
            done += unit.stop - unit.start
            self.progress(ProgressEvent(label, "step", done, total))
        title = entry.method.title or entry.method.id
        summary = {"label": label, "title": title, "spec": entry.spec(), "kind": "method"}
        summary |= {"paper": entry.method.paper, "counts": self.track.counts(tables)}
        self._finish(entry.key, summary, self.track.utilities(tables))
        self.progress(ProgressEvent(label, "finish", total, total))
        return entry.key

    def _computed(self, entry: Entry, units: list[Unit], done: int) -> Iterator[Any]:
        """Yield the tables of the units that are missing, as they are computed."""
        if not units:
            return
        self.progress(ProgressEvent(entry.label, "prepare", done, self.track.n_rows))
        work = partial(self.track.compute, self.track.prepare(entry))
        yield from map(work, units) if self.executor is None else self.executor.map(work, units)

    def reference(self, policy: Policy) -> str:
        """Note a reference policy; return its key."""
        spec: JSON = {"id": policy.id, "params": {}}
        key = f"{slug(policy.id)}-{digest({'reference': spec}, 12)}"
        if self.complete(key, policy.id):
            return key
        for unit in make_units(self.track, key, self.task.protocol.seed):
            table = self.track.stored(policy, unit)
            if table is not None:
                self.store.write_part(unit, table)
        summary = {"label": policy.id, "title": policy.title, "spec": spec, "kind": "reference"}
        self._finish(key, summary | {"paper": "", "counts": {}}, policy.utility)
        return key

    def _finish(self, key: str, summary: JSON, utility: F32) -> None:
        per_user = per_user_means(
            utility,
            best=self.policies["oracle"].utility,
            population_best=self.policies["population-best"].utility,
            reference=self.policies.reference.utility,
        )
        protocol = self.task.protocol
        draws = draw_metrics(per_user, draws=protocol.bootstrap_draws, seed=protocol.seed)
        metrics = {
            name: {"value": to_json(e.value), "low": to_json(e.low), "high": to_json(e.high)}
            for name, e in estimate(per_user, draws).items()
        }
        sizes = {"n_users": utility.shape[0], "n_queries": int(utility.size), "track": protocol.track}
        self.store.write_done(key, summary | sizes | {"metrics": metrics}, per_user)
