"""Read runs back: one reader for every track, for one run or a folder of runs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from personalllm.core.errors import DataError, UserError
from personalllm.core.types import JSON
from personalllm.evaluation.contract import Condition
from personalllm.evaluation.manifest import read_order
from personalllm.evaluation.parts import load_track
from personalllm.evaluation.protocol import RUN_FORMAT, fingerprint_of
from personalllm.evaluation.results import MethodResult, Results
from personalllm.evaluation.store import DiskStore, MethodRecord, Store, read_json

__all__ = ["assemble", "load_results", "load_run"]

T = TypeVar("T")

_KEYS = ("protocol", "fingerprint", "conditions")
_REMEDY = "Run the same evaluation again."
_KINDS = ("method", "baseline", "oracle")


def load_results(path: str | Path) -> tuple[Results, ...]:
    """Read back every run in a folder; neither the data nor the backends are needed. For one run see `load_run`.

    A run that is incomplete or of another version is left out with a warning that names it, if another one is not.

    Args:
        path: The folder that was given as `out`, or a run directory.

    Returns:
        The results of each run, by name of its folder; of a run directory that run alone.

    Raises:
        UserError: If there is no run, or none that is complete and of this version of the package.
        DataError: If a file of a run is cut off, altered or of another run; names it.
    """
    folders = _runs(Path(path))
    results: list[Results] = []
    failures: list[UserError] = []
    for folder in folders:
        try:
            results.append(_load(folder))
        except DataError:
            raise
        except UserError as error:
            failures.append(error)
    if not results:
        raise failures[0]
    for failure in failures:
        warnings.warn(f"Left out: {failure}", stacklevel=2)
    return tuple(results)


def load_run(path: str | Path) -> Results:
    """Read one run back; neither the data nor the backends are needed.

    Args:
        path: The run directory, or the folder of runs if there is only one run in it.

    Raises:
        UserError: If there is no run, or several.
        DataError: If a file of the run is cut off, altered or of another run; names it.
    """
    folders = _runs(Path(path))
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise UserError(
            f"{path} holds {len(folders)} runs: {names}.",
            f"Name one of them, e.g. {folders[0]}, or read all with load_results.",
        )
    return _load(folders[0])


def assemble(store: Store, manifest: JSON, keys: Sequence[str]) -> Results:
    """Return the results of a run.

    Args:
        store: Where the run is kept.
        manifest: From `manifest.write_manifest`.
        keys: Of methods and baselines, in order; of two versions of a method the first counts.

    Raises:
        DataError: If one of them is missing or damaged; names it.
    """
    methods: dict[str, MethodResult] = {}
    sources = {}
    track = load_track(manifest["protocol"]["track"])
    conditions = tuple(Condition.from_spec(spec) for spec in manifest["conditions"])
    for key in keys:
        record = store.load_method(key) if isinstance(store, DiskStore) else store.read_method(key)
        if record is None:
            raise DataError(f"The run has no {key!r}.", "Run the same evaluation again: it recomputes what is missing.")
        label = record.about["label"]
        if label not in methods:
            methods[label] = _method(record, conditions, store.seconds(key))
            sources[label] = partial(store.read_samples, key)
    return Results(
        protocol=manifest["protocol"],
        fingerprint=manifest["fingerprint"],
        track=track.id,
        methods=tuple(sorted(methods.values(), key=lambda method: _KINDS.index(method.kind))),
        metrics=(track.people_metrics if manifest["protocol"].get("folds") else None) or track.metrics,
        main_metric=track.headline,
        conditions=conditions,
        directory=store.directory if isinstance(store, DiskStore) else None,
        manifest=manifest,
        sources=sources,
    )


def _method(record: MethodRecord, conditions: Sequence[Condition], seconds: Mapping[str, float]) -> MethodResult:
    sums, estimates = dict(record.sums), dict(record.estimates)
    if record.about["kind"] != "method":
        sums, estimates = _shared(sums, conditions), _shared(estimates, conditions)
    return MethodResult(sums=sums, estimates=estimates, seconds=seconds, **record.about)


def _shared(values: Mapping[Condition, T], conditions: Sequence[Condition]) -> dict[Condition, T]:
    """Return the values of a baseline under every number of shots: one that depends on them has all of its own."""
    by_line = {dataclasses.replace(condition, shots=0): value for condition, value in values.items()}
    lines = {condition: dataclasses.replace(condition, shots=0) for condition in conditions}
    return {condition: values.get(condition, by_line[line]) for condition, line in lines.items() if line in by_line}


def _runs(folder: Path) -> list[Path]:
    """Return the run directories."""
    if (folder / "manifest.json").is_file():
        return [folder]
    runs = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if not runs:
        raise UserError(f"There is no run in {folder}.", f"Make one with: personalllm evaluate random --out {folder}")
    return runs


def _load(folder: Path) -> Results:
    manifest = read_json(folder / "manifest.json")
    if manifest.get("format") != RUN_FORMAT:
        raise UserError(
            f"The run in {folder} has files of format {manifest.get('format', 1)}; this version reads format "
            f"{RUN_FORMAT}.",
            "Run the same evaluation again, or read it with the version of personalllm in its manifest.json.",
        )
    if not set(_KEYS) <= set(manifest):
        raise DataError(f"{folder / 'manifest.json'} describes no run.", _REMEDY)
    protocol = manifest["protocol"]
    if not isinstance(protocol, dict) or fingerprint_of(protocol) != manifest["fingerprint"]:
        raise DataError(f"The protocol in {folder / 'manifest.json'} was altered: it has another fingerprint.", _REMEDY)
    try:
        [Condition.from_spec(spec) for spec in manifest["conditions"]]
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{folder / 'manifest.json'} has conditions that are none.", _REMEDY) from None
    order = read_order(folder / "leaderboard.json", manifest["fingerprint"])
    written = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/record.json")}
    complete = sorted(written, key=lambda key: (-written[key], key))
    if not complete:
        raise UserError(f"No method of the run in {folder} is complete.", _REMEDY)
    keys = [key for key in order if key in complete] + [key for key in complete if key not in order]
    return assemble(DiskStore(folder, str(manifest["fingerprint"])), manifest, keys)
