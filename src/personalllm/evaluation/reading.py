"""From a store to results, without the benchmark and without the backends."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from personalllm.core.errors import DataError, UnknownName, UserError
from personalllm.core.types import JSON
from personalllm.evaluation.generate import to_samples
from personalllm.evaluation.metrics import Draws, differences, draw_metrics
from personalllm.evaluation.results import METRICS, Estimate, MethodResult, Results, Sample
from personalllm.evaluation.store import DiskStore, Store, from_json, read_done, read_json

__all__ = ["assemble", "compare", "read_results"]


def assemble(store: Store, manifest: JSON, keys: list[str]) -> Results:
    """Return the results of complete methods.

    Args:
        store: Where they are kept.
        manifest: Of the run.
        keys: Their keys, in the order wanted; of several with the same label only the first counts.

    Raises:
        DataError: If a file is absent, cut off or altered; names it.
    """
    results, sources = [], {}
    for key in keys:
        done = read_done(store.directory / key) if isinstance(store, DiskStore) else store.read_done(key)
        if done is None:
            raise DataError(f"The run has no {key!r}.", "Run the same evaluation again: it mends the run.")
        summary, per_user = done
        if summary["label"] in sources:
            continue
        result = MethodResult(
            id=summary["label"],
            title=summary["title"],
            spec=summary["spec"],
            track=summary["track"],
            kind=summary["kind"],
            n_users=summary["n_users"],
            n_queries=summary["n_queries"],
            seconds=store.seconds(key),
            metrics={
                name: Estimate(*(from_json(summary["metrics"][name][end]) for end in ("value", "low", "high")))
                for name in METRICS
            },
            versus_reference={},
            per_user=per_user,
            counts=summary["counts"],
        )
        results.append(result)
        sources[result.id] = partial(_samples, store, key)
    protocol = manifest["protocol"]
    directory = store.directory if isinstance(store, DiskStore) else None
    found = Results(
        protocol=protocol,
        fingerprint=manifest["fingerprint"],
        benchmark_name=protocol["benchmark"],
        methods=tuple(results),
        directory=directory,
        manifest=manifest,
        sources=sources,
    )
    return compare(found, default_versus(found))


def _samples(store: Store, key: str) -> list[Sample]:
    return to_samples(store.read_parts(key))


def default_versus(results: Results) -> str:
    """Return `random` if it is among the methods, else the first method, else the population-best policy."""
    labels = [result.id for result in results.methods if result.kind == "method"]
    if "random" in labels:
        return "random"
    return labels[0] if labels else "population-best"


def compare(results: Results, versus: str) -> Results:
    """Return the results with every `versus_reference` as a paired difference from one method.

    Args:
        results: From `evaluate` or `read_results`.
        versus: Label of a method or a reference policy in the results.

    Raises:
        UnknownName: If there is none of that label; lists the nearest.
    """
    labels = [result.id for result in results.methods]
    if versus not in labels:
        raise UnknownName("method in these results", versus, labels)
    seed, n = results.protocol["seed"], results.protocol["bootstrap_draws"]
    draws: list[Draws] = [draw_metrics(result.per_user, draws=n, seed=seed) for result in results.methods]
    other = labels.index(versus)
    compared = tuple(
        dataclasses.replace(
            result,
            versus_reference=differences(result.per_user, mine, results[versus].per_user, draws[other]),
        )
        for result, mine in zip(results.methods, draws, strict=True)
    )
    return dataclasses.replace(results, methods=compared, versus=versus)


def read_results(directory: str | Path, *, versus: str | None = None) -> Results:
    """Read a run back, every complete method in it; of an edited one, the version that was asked for last.

    Args:
        directory: The run directory, or the folder of runs if there is just one run in it.
        versus: Label of the method to compare with; None: as `evaluate` chooses it.

    Raises:
        UserError: If there is no run, or several, or one of the predict track.
        DataError: If a file of the run is cut off or altered; names it.
    """
    folder = _find_run(Path(directory))
    manifest = read_json(folder / "manifest.json")
    if not {"protocol", "fingerprint"} <= set(manifest):
        raise DataError(f"{folder / 'manifest.json'} describes no run.", "Run the same evaluation again.")
    if manifest["protocol"].get("track") == "predict":
        raise UserError(f"The run in {folder} is of the predict track.", "Read it with load_prediction().")
    order: list[str] = []
    if (folder / "leaderboard.json").exists():
        order = [str(key) for key in read_json(folder / "leaderboard.json").get("order", [])]
    written = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    complete = sorted(written, key=lambda key: (-written[key], key))
    keys = [key for key in order if key in complete] + [key for key in complete if key not in order]
    results = assemble(DiskStore(folder, str(manifest["fingerprint"])), manifest, keys)
    ranked = sorted(results.methods, key=lambda result: result.kind == "reference")
    results = dataclasses.replace(results, methods=tuple(ranked))
    return compare(results, versus) if versus else results


def _find_run(folder: Path) -> Path:
    """Return the run directory."""
    if (folder / "manifest.json").is_file():
        return folder
    runs = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if len(runs) == 1:
        return runs[0]
    if runs:
        names = ", ".join(run.name for run in runs)
        raise UserError(f"{folder} holds {len(runs)} runs: {names}.", f"Name one of them, e.g. {runs[0]}.")
    raise UserError(f"There is no run in {folder}.", f"Make one with: personalllm evaluate random --out {folder}")
