"""Runs of the predict track on their way to and from a store."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.errors import DataError, UserError
from personalllm.core.storage import write_json
from personalllm.core.types import F32, JSON
from personalllm.evaluation.prediction.estimates import Estimates, estimate_cell
from personalllm.evaluation.prediction.metrics import Cell, Sums
from personalllm.evaluation.prediction.results import LearnerResult, PredictResults
from personalllm.evaluation.reading import _find_run
from personalllm.evaluation.results import Estimate
from personalllm.evaluation.store import DiskStore, Store, from_json, read_done, read_json, to_json

__all__ = ["assemble_prediction", "learner_record", "load_prediction", "write_cost"]

_KINDS = ("learner", "null", "oracle")
_MEND = "Run the same evaluation again: it mends the run."


def learner_record(
    cells: Mapping[Cell, Sums], reward_models: Sequence[str], *, draws: int, seed: int
) -> tuple[JSON, dict[str, F32]]:
    """Return what `Store.write_done` keeps of a learner: the cells with their estimates, and each user's sums.

    The caller adds `label`, `title`, `spec`, `kind` (`learner`, `null`, `oracle`), `paper` and `log_odds` to the first.

    Args:
        cells: From `user_sums`; of one learner, so with the same names in every cell.
        reward_models: Names that `sums["strongest"]` points to.
        draws: Resamples of the users.
        seed: Seed of the resamples.

    Returns:
        JSON `{"cells": [...], "reward_models": [...]}`, and float32 columns of one row for each user of each cell, one
        cell after the other.
    """
    told = []
    for cell, sums in cells.items():
        estimates = estimate_cell(sums, reward_models, draws=draws, seed=seed)
        rows = [[*key, to_json(e.value), to_json(e.low), to_json(e.high)] for key, e in estimates.items()]
        told.append(cell.spec() | {"n_users": len(sums["n"]), "estimates": rows})
    names = list(next(iter(cells.values())))
    columns = {name: np.concatenate([sums[name] for sums in cells.values()]) for name in names}
    return {"cells": told, "reward_models": list(reward_models)}, columns


def assemble_prediction(
    store: Store, manifest: JSON, keys: Sequence[str], *, costs: Mapping[str, tuple[float, float]] | None = None
) -> PredictResults:
    """Return the results of complete learners.

    Args:
        store: Where they are kept.
        manifest: Of the run.
        keys: Their keys, in the order wanted; of several with the same label only the first counts.
        costs: Of each key, seconds of `fit` and seconds of `adapt` for each user; None: as `write_cost` noted them.

    Raises:
        DataError: If a file is absent, cut off or altered; names it.
    """
    found: dict[str, LearnerResult] = {}
    reward_models: tuple[str, ...] = ()
    for key in keys:
        done = read_done(store.directory / key) if isinstance(store, DiskStore) else store.read_done(key)
        if done is None:
            raise DataError(f"The run has no {key!r}.", _MEND)
        summary, columns = done
        if summary["label"] in found:
            continue
        cost = (costs or {}).get(key) or _read_cost(store, key)
        found[summary["label"]] = _learner(summary, columns, cost)
        reward_models = tuple(summary["reward_models"])
    protocol = manifest["protocol"]
    return PredictResults(
        protocol=protocol,
        fingerprint=manifest["fingerprint"],
        benchmark_name=protocol["benchmark"],
        learners=tuple(sorted(found.values(), key=lambda learner: _KINDS.index(learner.kind))),
        reward_models=reward_models,
        directory=store.directory if isinstance(store, DiskStore) else None,
        manifest=manifest,
    )


def _learner(summary: JSON, columns: Mapping[str, F32], cost: tuple[float, float]) -> LearnerResult:
    sums: dict[Cell, Sums] = {}
    estimates: dict[Cell, Estimates] = {}
    start = 0
    for told in summary["cells"]:
        cell, stop = Cell.from_spec(told), start + told["n_users"]
        sums[cell] = {name: column[start:stop] for name, column in columns.items()}
        estimates[cell] = {
            (stratum, metric): Estimate(*(from_json(end) for end in ends))
            for stratum, metric, *ends in told["estimates"]
        }
        start = stop
    return LearnerResult(
        id=summary["label"],
        title=summary["title"],
        spec=summary["spec"],
        kind=summary["kind"],
        paper=summary["paper"],
        log_odds=summary["log_odds"],
        seconds_fit=cost[0],
        seconds_adapt_per_user=cost[1],
        sums=sums,
        estimates=estimates,
    )


def write_cost(store: Store, key: str, seconds_fit: float, seconds_adapt_per_user: float) -> None:
    """Note what a learner cost, apart from everything that must be reproducible; a store in memory keeps no note."""
    if isinstance(store, DiskStore):
        cost = {"seconds_fit": seconds_fit, "seconds_adapt_per_user": seconds_adapt_per_user}
        write_json(store.directory / key / "cost.json", {name: to_json(value) for name, value in cost.items()})


def _read_cost(store: Store, key: str) -> tuple[float, float]:
    """Return the noted seconds; NaN where there is no note."""
    if not isinstance(store, DiskStore):
        return math.nan, math.nan
    try:
        noted: Any = read_json(store.directory / key / "cost.json")
        return from_json(noted.get("seconds_fit")), from_json(noted.get("seconds_adapt_per_user"))
    except (DataError, TypeError, ValueError):
        return math.nan, math.nan


def load_prediction(directory: str | Path) -> PredictResults:
    """Read a run of the predict track back, every complete learner in it; the benchmark is not needed.

    Args:
        directory: The run directory, or the folder of runs if there is just one run in it.

    Raises:
        UserError: If there is no run, several, or one of another track.
        DataError: If a file of the run is cut off or altered; names it.
    """
    folder = _find_run(Path(directory))
    manifest = read_json(folder / "manifest.json")
    if not {"protocol", "fingerprint"} <= set(manifest):
        raise DataError(f"{folder / 'manifest.json'} describes no run.", "Run the same evaluation again.")
    track = manifest["protocol"]["track"]
    if track != "predict":
        raise UserError(f"The run in {folder} is of the {track} track.", "Read it with read_results().")
    order: list[str] = []
    if (folder / "leaderboard.json").exists():
        order = [str(key) for key in read_json(folder / "leaderboard.json").get("order", [])]
    written = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    complete = sorted(written, key=lambda key: (-written[key], key))
    if not complete:
        raise UserError(f"No learner of the run in {folder} is complete.", "Run the same evaluation again.")
    keys = [key for key in order if key in complete] + [key for key in complete if key not in order]
    results = assemble_prediction(DiskStore(folder, str(manifest["fingerprint"])), manifest, keys)
    return dataclasses.replace(results, directory=folder)
