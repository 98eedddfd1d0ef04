"""The table of a sweep: one row for each cell."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from personalllm.core.storage import atomic_path
from personalllm.core.types import JSON
from personalllm.evaluation.contest import Contest, SweepRow
from personalllm.evaluation.results import METRICS

__all__ = ["axis_column", "sweep_table", "write_sweep_table"]


def sweep_table(rows: Sequence[SweepRow], axes: Sequence[str], contests: Sequence[Contest]) -> Any:
    """Return a `pyarrow.Table` with a row for each cell.

    Columns: `cell` (from 0), `method` (as it was named), one for each axis (integers or numbers where all values
    are, else text), `label`, each metric with `_low` and `_high`, `n_users`, `n_queries`, in the generate track
    `examples_per_query`, `empty` and `cut`, `users` (cells of the same number have the same users and queries),
    `behind_best` (mean utility, paired, with `_low` and `_high`), `p_value`, `p_holm`, `verdict`, `preset`,
    `fingerprint`. A number that is not defined is null.

    Args:
        rows: In the order of the sweep.
        axes: Names of the axes.
        contests: From `hold_contests`.
    """
    import pyarrow as pa

    places = {id(row): number for number, contest in enumerate(contests) for row in contest.rows}
    records = [
        _record(number, row) | {"users": places[id(row)]} | _standing(row, contests[places[id(row)]])
        for number, row in enumerate(rows)
    ]
    columns: JSON = {"cell": range(len(rows)), "method": [row.cell.base for row in rows]}
    for axis in axes:
        columns[axis] = axis_column([row.cell.values[axis] for row in rows])
    for name in records[0]:
        columns.setdefault(name, [record[name] for record in records])
    columns["preset"] = [row.preset or None for row in rows]
    columns["fingerprint"] = [row.fingerprint for row in rows]
    columns = {name: _typed(pa, name, list(values)) for name, values in columns.items()}
    return pa.table(columns)


def axis_column(values: list[Any]) -> list[Any]:
    """Return the values as they are if all are numbers or all are texts, else as JSON."""
    if all(isinstance(value, str) for value in values):
        return values
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return values if all(isinstance(value, int) for value in values) else [float(value) for value in values]
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def _typed(pa: Any, name: str, values: list[Any]) -> Any:
    """Return an Arrow array; a column of nulls alone keeps the type of its kind."""
    if any(value is not None for value in values):
        return pa.array(values)
    return pa.array(values, pa.string() if name == "preset" else pa.float64())


def _record(number: int, row: SweepRow) -> JSON:
    record: JSON = {"cell": number, "label": row.cell.label}
    for name in METRICS:
        estimate = row.result.metrics[name]
        record |= _three(name, estimate.value, estimate.low, estimate.high)
    record |= {"n_users": row.result.n_users, "n_queries": row.result.n_queries}
    if row.result.counts:
        counts = row.result.counts
        record["examples_per_query"] = counts["examples"] / counts["generations"]
        record |= {name: counts[name] for name in ("empty", "cut")}
    return record


def _three(name: str, value: float, low: float, high: float) -> JSON:
    """Return a number and the ends of its interval, null where it is not defined."""
    given = {name: value, f"{name}_low": low, f"{name}_high": high}
    return {key: None if math.isnan(number) else number for key, number in given.items()}


def _standing(row: SweepRow, contest: Contest) -> JSON:
    """Return how a row compares with the best of its contest."""
    compared = contest.comparison(row)
    if compared is None:
        gap = _three("behind_best", math.nan, math.nan, math.nan)
        return gap | {"p_value": None, "p_holm": None, "verdict": contest.verdict(row)}
    gap = _three("behind_best", compared.difference.value, compared.difference.low, compared.difference.high)
    return gap | {"p_value": compared.p_value, "p_holm": compared.p_holm, "verdict": contest.verdict(row)}


def write_sweep_table(folder: Path, table: Any, stem: str) -> tuple[Path, ...]:
    """Write the table as CSV and Parquet, each atomically; return the files."""
    import pyarrow.csv
    import pyarrow.parquet

    files = (folder / f"{stem}.csv", folder / f"{stem}.parquet")
    with atomic_path(files[0]) as temporary:
        pyarrow.csv.write_csv(table, temporary)
    with atomic_path(files[1]) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
    return files
