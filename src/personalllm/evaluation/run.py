"""Evaluate methods: one runner for every track, on simulated users and on people."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from personalllm.core.backends import backend
from personalllm.core.errors import UserError
from personalllm.core.protocols import ChatModel, Executor, RewardEnsemble, TextEmbedder
from personalllm.core.storage import digest
from personalllm.core.types import JSON
from personalllm.data import Benchmark
from personalllm.evaluation.contract import (
    Anchor,
    Backends,
    Baseline,
    Condition,
    NamedMethod,
    Outcome,
    Sums,
    Table,
    Track,
    Unit,
)
from personalllm.evaluation.estimates import estimate
from personalllm.evaluation.manifest import write_found, write_manifest, write_order
from personalllm.evaluation.parts import load_track
from personalllm.evaluation.presets import as_protocol
from personalllm.evaluation.progress import Progress, ProgressEvent, silent, warned
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.reading import assemble
from personalllm.evaluation.resolve import resolve, slug, without_source
from personalllm.evaluation.results import Results
from personalllm.evaluation.sources.rated import people_of
from personalllm.evaluation.sources.simulated import Simulated
from personalllm.evaluation.store import DiskStore, MethodRecord, Store
from personalllm.methods.base import Method

__all__ = ["bound_backends", "evaluate", "make_track", "open_track"]

_NEEDS = {"llm": "a chat model", "rewards": "a reward ensemble"}


def evaluate(
    methods: Sequence[Method | str] | Method | str,
    data: Any,
    track: str | None = None,
    protocol: Protocol | str | Mapping[str, Any] | None = None,
    *,
    embedder: TextEmbedder | str | None = None,
    llm: ChatModel | str | None = None,
    rewards: RewardEnsemble | str | None = None,
    executor: Executor | str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Results:
    """Evaluate methods beside baselines and oracles, and resume what an earlier call began.

    Everything that is complete in the run directory `out/<protocol fingerprint>` is read back, a part that is cut off
    or altered is computed again; the numbers are the same, bit for bit, whether a run was interrupted or not.

    Args:
        methods: One or a list of objects, registered names (`icl[n_shots=3]` with parameters), `module:Class`, `all`.
        data: A benchmark, whose users are simulated, or the preferences or ratings of people.
        track: `rank`, `generate`, `predict` or a plug-in's; None: that of the protocol, else `rank`, for people
            `predict`.
        protocol: From `Protocol.for_data`; or the name of a preset; or settings, e.g. `{"n_users": 100,
            "history.pairs": 20}`; None: the defaults. Identities of backends that change numbers are filled in here.
        embedder: For the methods that need one; a name or an object, like the next three.
        llm: For the generate track, and the methods that need one.
        rewards: For the generate track; its RMs must be the benchmark's.
        executor: Who does the units of work (what it is handed must be picklable); None: this process.
        out: Folder of runs; None keeps the run in memory.
        progress: Called after each step.

    Returns:
        The methods in the order given, then the baselines, then the oracles of the track.

    Raises:
        UserError: If no method is given, the data are neither, a backend or named baseline is missing, or a method is
            not of the track.
        RunError: If a method's own code fails; names the method and the step.
        AxisMismatch: If the reward ensemble's RMs are not the benchmark's.
        DataError: If the data lack a split or a reference response that the protocol needs.
    """
    backends = bound_backends(embedder, llm, rewards)
    workers = backend("executor", executor)
    chosen = as_protocol(protocol, data, track)
    entries, names = _resolved([methods] if isinstance(methods, str | Method) else methods, chosen, out)
    instance = make_track(chosen, data, backends, writes=any("llm" in entry.method.needs for entry in entries))
    for entry in entries:
        instance.check(entry)
    baselines, anchors = instance.baselines(), instance.anchors()
    _check_names(names, instance, [*baselines, *anchors])
    fingerprint = instance.protocol.fingerprint
    store = Store(fingerprint) if out is None else DiskStore(Path(out) / fingerprint, fingerprint)
    manifest = write_manifest(store, instance)
    run = _Run(store, instance, progress or silent, _workers(workers, instance, progress))
    write_order(store, [entry.key for entry in entries])
    ends = run.anchors(anchors, manifest)
    keys = [run.method(entry) for entry in entries] + [run.baseline(baseline) for baseline in baselines] + ends
    write_order(store, keys)
    return assemble(store, manifest, keys)


def bound_backends(embedder: Any = None, llm: Any = None, rewards: Any = None) -> Backends:
    """Return backends that were given by name or as objects.

    Raises:
        UserError: If a name is unknown or an object is no such backend.
    """
    return Backends(backend("embedder", embedder), backend("chat model", llm), backend("reward ensemble", rewards))


def make_track(protocol: Protocol, data: Any, backends: Backends, *, writes: bool = False) -> Track:
    """Return the track of a protocol on data, with the backends bound to both.

    Args:
        protocol: Not yet bound.
        data: A benchmark or the preferences of people.
        backends: As given to `evaluate`.
        writes: Whether a method needs the chat model.

    Raises:
        UserError: If a backend that the track needs is missing.
    """
    kind, llm, rewards = load_track(protocol.track), backends.llm, backends.rewards
    for need in sorted(kind.needs):
        if getattr(backends, need) is None:
            raise UserError(
                f"The {kind.id} track needs {_NEEDS[need]}.",
                f"Pass {need}=... to evaluate(), or use the command line, which does it for you.",
            )
    bound = protocol.bind(
        embedder=backends.embedder.identity if backends.embedder else None,
        llm=llm.identity if llm and (writes or "llm" in kind.needs) else None,
        rewards=rewards.identity if rewards and "rewards" in kind.needs else None,
    )
    return open_track(bound, data, backends)


def open_track(protocol: Protocol, data: Any, backends: Backends) -> Track:
    """Return the track of a protocol as it is; what needs a backend that is not given fails later."""
    source = Simulated(protocol, data) if isinstance(data, Benchmark) else people_of(data, protocol)
    instance: Track = load_track(protocol.track).of(protocol, source, backends)
    return instance


def _resolved(
    methods: Sequence[Method | str], protocol: Protocol, out: str | Path | None
) -> tuple[tuple[NamedMethod, ...], tuple[str, ...]]:
    """Return methods and names of baselines; warn of a class that a run folder cannot tell from its former self."""
    if not len(methods):
        raise UserError("No method is given.", "Name one or more, e.g. 'random', or all that can run here: 'all'.")
    entries, names = resolve(methods, load_track(protocol.track), signals=protocol.signals)
    if out is not None and (typed := without_source(entries)):
        warnings.warn(
            f"The source of {', '.join(typed)} cannot be read: it was typed into a session. After a change of it "
            f"{out} still gives the results of the former one: define it in a file, or choose another folder.",
            stacklevel=3,
        )
    return entries, names


def _check_names(names: Sequence[str], track: Track, baselines: Sequence[Baseline]) -> None:
    """Raise unless every baseline that was named is one that the run computes."""
    computed = [baseline.id for baseline in baselines]
    for name in names:
        if name not in computed and name not in track.names:
            model = name.removeprefix("model:")
            raise UserError(
                f"{name!r} is not a baseline of this run, which has {', '.join(computed)}.",
                f"Pass --reference-model {model} (in Python: reference_response_model={model!r}).",
            )


def _workers(executor: Executor | None, track: Track, progress: Progress | None) -> Executor | None:
    """Return the executor if the track lets one do its units; report if not, and what the data cannot give."""
    if shortfall := track.shortfall():
        (progress or warned)(ProgressEvent("", "note", message=shortfall))
    if executor is None or track.elsewhere:
        return executor
    message = f"The {track.id} track does all its work in this process; the executor is not used."
    (progress or silent)(ProgressEvent("", "note", message=message))
    return None


@dataclass(frozen=True, eq=False)
class _Run:
    store: Store
    track: Track
    progress: Progress
    executor: Executor | None
    ends: dict[str, Mapping[Condition, Sums]] = field(default_factory=dict)

    def method(self, entry: NamedMethod) -> str:
        """Do what is missing of a method; return its key."""
        method = entry.method
        about: JSON = {
            "label": entry.label,
            "title": method.title or method.id,
            "kind": "method",
            "paper": method.paper,
        }
        about |= {"spec": entry.spec, "log_odds": method.log_odds}
        units = self.track.units(entry.key)
        tables = self._complete(entry.key, about, units, partial(self._computed, entry))
        self._record(entry.key, about, units, tables)
        return entry.key

    def baseline(self, baseline: Baseline) -> str:
        """Do what is missing of a baseline or an oracle; return its key."""
        key, about = _baseline_key(baseline), _about(baseline) | {"spec": baseline.spec(), "log_odds": True}
        units = self.track.baseline_units(key)
        tables = self._complete(key, about, units, lambda units, _: map(baseline.work, units))
        self._record(key, about, units, tables)
        return key

    def anchors(self, anchors: Sequence[Anchor], manifest: JSON) -> list[str]:
        """Do what is missing of the ends of the personalisation share, and note what they are; return their keys.

        All are computed before the first is recorded, since metrics read both.
        """
        parts, found = [], {}
        for anchor in anchors:
            key, about = _baseline_key(anchor), _about(anchor)
            units = anchor.units(key)
            tables = self._complete(key, about, units, partial(self._worked, anchor))
            if tables is None:
                record = self.store.read_method(key)
                assert record is not None  # noqa: S101 - complete, or there would be tables
                about, self.ends[anchor.id] = record.about, record.sums
            else:
                about |= {"spec": anchor.found(), "log_odds": anchor.log_odds}
                self.ends[anchor.id] = dict(self._sums(about, units, tables))
            found[anchor.id] = about["spec"]
            parts.append((key, about, units, tables))
        for part in parts:
            self._record(*part)
        write_found(self.store, manifest, found)
        return [key for key, *_ in parts]

    def _worked(self, anchor: Anchor, units: Sequence[Unit], _weights: tuple[int, int]) -> Iterator[Outcome]:
        """Yield the outcomes of an anchor's units."""
        anchor.prepare()
        return map(anchor.work, units) if self.executor is None else iter(self.executor.map(anchor.work, units))

    def _complete(self, key: str, about: JSON, units: Sequence[Unit], compute: Any) -> dict[int, Table] | None:
        """Compute the units that are missing; return the samples by unit, None if the record is there already.

        Args:
            key: Of the method or baseline.
            about: What the record says of it.
            units: All of its units.
            compute: From missing units, and the weights done and in all, to their outcomes in order.
        """
        label, total = about["label"], sum(unit.weight for unit in units)
        # of baselines, which are not asked for, only damage is reported
        progress = self.progress if about["kind"] == "method" else silent
        complete = self._read(label, partial(self.store.read_method, key)) is not None
        # a record does not vouch for the samples it was made from: a damaged one is computed again
        if complete and all(map(self.store.has_unit, units)):
            progress(ProgressEvent(label, "start", total, total))
            progress(ProgressEvent(label, "finish", total, total))
            return None
        tables = {unit.index: self._read(label, partial(self.store.read_unit, unit)) for unit in units}
        missing = [unit for unit in units if tables[unit.index] is None]
        done = total - sum(unit.weight for unit in missing)
        progress(ProgressEvent(label, "start", done, total))
        began = time.perf_counter()
        for unit, outcome in zip(missing, compute(missing, (done, total)) if missing else (), strict=True):
            tables[unit.index] = outcome.samples
            self.store.write_unit(unit, outcome.samples)
            now = time.perf_counter()
            self.store.add_seconds(key, {"total": now - began, **outcome.seconds})
            began = now
            done += unit.weight
            progress(ProgressEvent(label, "step", done, total))
        progress(ProgressEvent(label, "finish", total, total))
        return tables

    def _computed(self, entry: NamedMethod, units: Sequence[Unit], weights: tuple[int, int]) -> Iterator[Outcome]:
        """Yield the outcomes of the units that are missing, as they are computed."""
        self.progress(ProgressEvent(entry.label, "prepare", *weights))
        began = time.perf_counter()
        work = partial(self.track.work, self.track.prepare(entry))
        fit = {"fit": time.perf_counter() - began}
        outcomes = map(work, units) if self.executor is None else self.executor.map(work, units)
        for outcome in outcomes:
            # the preparation counts once, with the first unit
            yield replace(outcome, seconds={**fit, **outcome.seconds})
            fit = {}

    def _read(self, label: str, read: Any) -> Any:
        """Return what the store has; report files that were damaged."""
        before = len(self.store.damaged)
        value = read()
        for path in self.store.damaged[before:]:
            message = f"{path} is cut off, altered or not of this run; it is computed again."
            self.progress(ProgressEvent(label, "damaged", message=message))
        return value

    def _record(self, key: str, about: JSON, units: Sequence[Unit], tables: Mapping[int, Table] | None) -> None:
        """Add up the samples of each condition, estimate the metrics and write the record; nothing without samples."""
        import pyarrow as pa

        if tables is None:
            return
        sums, estimates, protocol = {}, {}, self.track.protocol
        for condition, plain in self._sums(about, units, tables):
            sums[condition] = self._between_ends(condition, plain)
            estimates[condition] = estimate(
                *(sums[condition], self.track.metrics),
                over=protocol.intervals,
                draws=protocol.bootstrap_draws,
                seed=protocol.seed,
            )
        counts = self.track.counts(pa.concat_tables([tables[unit.index] for unit in units]))
        self.store.write_method(key, MethodRecord({**about, "counts": counts}, sums, estimates))

    def _between_ends(self, condition: Condition, sums: Sums) -> Sums:
        """Return sums with the columns of the anchors that metrics read; a counterfactual has those of the truth.

        After no preference there is nothing to share: the best guess for everybody is no ceiling of personalisation.
        """
        if not condition.shots:
            return sums
        columns, prompts, cells = dict(sums.columns), dict(sums.prompts), dict(sums.cells)
        read = {name for metric in self.track.metrics for name in metric.columns}
        for end, of in self.ends.items():
            true, prefix = replace(condition, history="true"), f"{end.replace('-', '_')}_"
            own = of.get(condition) or of.get(true)
            if own is None or own.pairing != sums.pairing:
                continue
            for name in sorted(read):
                column = name.removeprefix(prefix)
                if column != name and column in own.columns:
                    columns[name] = own.columns[column]
                    prompts |= {f"all:{name}": own.prompts[key] for key in (f"all:{column}",) if key in own.prompts}
                    cells |= {f"all:{name}": own.cells[key] for key in (f"all:{column}",) if key in own.cells}
        return replace(sums, columns=columns, prompts=prompts, cells=cells)

    def _sums(
        self, about: JSON, units: Sequence[Unit], tables: Mapping[int, Table]
    ) -> Iterator[tuple[Condition, Sums]]:
        """Yield each condition that has samples, and what they add up to."""
        import pyarrow as pa

        for index, condition in enumerate(self.track.conditions):
            of = [tables[unit.index] for unit in units if index in unit.conditions]
            if not of:
                continue
            samples = pa.concat_tables(of)
            if len(self.track.conditions) > 1:
                samples = samples.filter(pa.compute.equal(samples["condition"], index))
            yield condition, self.track.sums(condition, samples, log_odds=about["log_odds"])


def _baseline_key(baseline: Baseline) -> str:
    return f"{slug(baseline.id)}-{digest({'baseline': baseline.spec()}, 12)}"


def _about(baseline: Baseline) -> JSON:
    return {"label": baseline.id, "title": baseline.title, "kind": baseline.kind, "paper": ""}
