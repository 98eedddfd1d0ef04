"""Find the best cell of a sweep, and what can be claimed of it: paired tests, corrected for their number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from personalllm.core.types import JSON
from personalllm.evaluation.contract import Condition, Estimate, Metric, Sums, Table
from personalllm.evaluation.differences import LEVEL, Difference, paired_differences
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.results import MethodResult, Results
from personalllm.evaluation.settings import shown
from personalllm.methods.base import Method

__all__ = ["PREFIX", "Contest", "SweepCell", "SweepRow", "hold_contests", "long_table", "wide_table"]

PREFIX = "protocol."
"""An axis of this prefix is a field of the protocol; every other one is a parameter of the methods."""

_NAMED = 6
_PATTERNS = 400
"""Sign patterns for each comparison: more than between methods, since sweeps have many cells."""


@dataclass(frozen=True, eq=False)
class SweepCell:
    """A combination of values: one method under one protocol.

    Attributes:
        base: The method that was varied, as it was named.
        values: Axis -> value.
        method: With the cell's parameters, unfitted.
        label: The method's label.
        protocol: With the cell's settings, not yet bound to backends.
        weight: Queries, requests or test pairs of the cell, as the track has it.
    """

    base: str
    values: Mapping[str, Any]
    method: Method
    label: str
    protocol: Protocol
    weight: int

    def __str__(self) -> str:
        """Return the method and the values in one line."""
        return ", ".join([self.base, *(f"{name}={shown(value)}" for name, value in self.values.items())])


@dataclass(frozen=True, eq=False)
class SweepRow:
    """A cell and the run that it stands in.

    Attributes:
        cell: The combination of values.
        results: Of the run: the cell's method is `cell.label`; methods of cells with the same protocol and the
            baselines stand beside it.
        preset: How the protocol relates to its preset; empty if it has none.
    """

    cell: SweepCell
    results: Results
    preset: str = ""

    @property
    def result(self) -> MethodResult:
        """What the cell's method reached."""
        return self.results[self.cell.label]

    @property
    def at(self) -> Condition:
        """The main condition of the run."""
        return self.results.headline

    @property
    def sums(self) -> Sums:
        """What the method's samples add up to at `at`."""
        return self.results.sums(self.cell.label, self.at)

    def estimate(self, metric: str | None = None) -> Estimate:
        """Return a metric of the cell at `at`; None: the main metric of the track."""
        return self.results.estimate(self.cell.label, metric or self.results.main_metric, self.at)


@dataclass(frozen=True, eq=False)
class Contest:
    """The cells that were evaluated on the same users and queries, and the best of them.

    Attributes:
        metric: What is compared.
        rows: In the order of the sweep.
        best: The best by the metric; of equal ones the first. A row without a value is best only if none has one.
        differences: Between the best and every other row with a value, in their order; labels are those of the cells.
    """

    metric: Metric
    rows: tuple[SweepRow, ...]
    best: SweepRow
    differences: tuple[Difference, ...]

    @cached_property
    def ties(self) -> tuple[SweepRow, ...]:
        """The cells that do not differ significantly from the best at the family-wise level."""
        best = str(self.best.cell)
        labels = {difference.b for difference in self.differences if difference.better != best}
        return tuple(row for row in self.rows if str(row.cell) in labels)

    @property
    def winner(self) -> SweepRow | None:
        """The best cell if it beats every other one at the family-wise level, else None."""
        return self.best if self.differences and not self.ties else None

    def difference(self, row: SweepRow) -> Difference | None:
        """Return the best cell's difference from a row; None for itself and for a row without a value."""
        return next((difference for difference in self.differences if difference.b == str(row.cell)), None)

    def verdict(self, row: SweepRow) -> str:
        """Return what a row is, in a few words."""
        if math.isnan(row.estimate(self.metric.id).value):
            return "not defined"
        if row is self.best:
            if self.differences and not self._tested:
                return "best, no test"
            return "winner" if self.winner else "best, no winner" if self.differences else "alone"
        if not self._tested:
            return "no test"
        return "not significantly different from the best" if row in self.ties else "behind"

    @property
    def _tested(self) -> bool:
        return any(math.isfinite(difference.p_holm) for difference in self.differences)

    def sentence(self) -> str:
        """Return what can be claimed of the best cell."""
        n_users, n_tests = self.best.sums.n_clusters, len(self.differences)
        users = f"{n_users:,} {self.best.sums.axis}"
        if math.isnan(self.best.estimate(self.metric.id).value):
            return f"No winner: {self.metric.id} is not defined for any cell on these {users}; choose another metric."
        if not self.differences:
            with_value = f" with a {self.metric.id}" if len(self.rows) > 1 else ""
            return f"{self.best.cell}: the only cell{with_value} on its {users}, so it is compared with none."
        where = f" ({self.best.at})" if len(self.best.results.conditions) > 1 else ""
        among = f"among {n_tests + 1} cells on the same {users}{where}"
        over = self.best.results.over
        tests = f"paired tests over {over}, Holm-corrected for {n_tests} comparison{'s' * (n_tests > 1)}"
        if not self._tested:
            return f"No verdict by {self.metric.id} {among}. {self.best.results.shortage(self.best.at)}".rstrip()
        if self.winner:
            largest = max(difference.p_holm for difference in self.differences)
            return (
                f"Winner by {self.metric.id} {among}: {self.best.cell} ({tests}; largest p {largest:.2g}). "
                "It was chosen on these users: expect its lead to shrink on others."
            )
        ties = "; ".join(str(row.cell) for row in self.ties[:_NAMED])
        if len(self.ties) > _NAMED:
            ties += f"; and {len(self.ties) - _NAMED} more, marked in the table"
        # with n users the smallest p of a sign-flip test is 2 / 2**n
        few = over == "users" and n_tests * 2.0 ** (1 - n_users) > LEVEL
        return (
            f"No winner by {self.metric.id} {among}. The best is {self.best.cell}, but it is not significantly "
            f"different from: {ties} ({tests}, at {LEVEL:.0%})."
            f"{' With so few users no cell could be a winner.' if few else ''}"
        )


def hold_contests(rows: Sequence[SweepRow], metric: Metric) -> tuple[Contest, ...]:
    """Return a contest for each set of rows with the same users and queries."""
    groups: dict[tuple[str, int], list[SweepRow]] = {}
    for row in rows:
        groups.setdefault((row.sums.pairing, row.sums.n_clusters), []).append(row)
    return tuple(_contest(tuple(group), metric) for group in groups.values())


def _contest(rows: tuple[SweepRow, ...], metric: Metric) -> Contest:
    sign = 1 if metric.higher_is_better else -1
    defined = [row for row in rows if not math.isnan(row.estimate(metric.id).value)]
    best = max(defined, key=lambda row: sign * row.estimate(metric.id).value, default=rows[0])
    sums = {str(row.cell): row.sums for row in rows}
    pairs = [(str(best.cell), str(row.cell)) for row in defined if row is not best]
    protocol = best.cell.protocol
    differences = paired_differences(
        *(sums, pairs, metric),
        over=protocol.intervals,
        draws=protocol.bootstrap_draws,
        seed=protocol.seed,
        patterns=_PATTERNS,
    )
    return Contest(metric, rows, best, differences)


def wide_table(rows: Sequence[SweepRow], axes: Sequence[str], contests: Sequence[Contest]) -> Table:
    """Return a `pyarrow.Table` with a row for each cell.

    Columns: `cell` (from 0), `method` (as it was named), one for each axis (integers or numbers where all values
    are, else text), `label`, each metric with `_low` and `_high`, `intervals` (over what), the counts of the track,
    `n_users`, `users` (cells of the same number have the same users and queries), `behind_best` (paired, with `_low`
    and `_high`), `p_value`, `p_holm`, `verdict`, `preset`, `fingerprint`. A number that is not defined is null.
    """
    import pyarrow as pa

    records = []
    for number, row in enumerate(rows):
        group, contest = next((g, c) for g, c in enumerate(contests) if row in c.rows)
        record: JSON = {"cell": number, "method": row.cell.base}
        record |= dict.fromkeys(axes) | {"label": row.cell.label}
        for metric in row.results.metrics:
            record |= _ends(metric.id, row.estimate(metric.id))
        record |= {"intervals": row.results.over, **row.result.counts, "n_users": row.sums.n_clusters, "users": group}
        records.append(record | _standing(row, contest))
    columns = {name: [record[name] for record in records] for name in records[0]}
    columns |= {axis: _axis_column([row.cell.values[axis] for row in rows]) for axis in axes}
    return pa.table({name: _typed(name, values) for name, values in columns.items()})


def _standing(row: SweepRow, contest: Contest) -> JSON:
    """Return how a row compares with the best of its contest."""
    difference = contest.difference(row)
    nothing = Estimate(math.nan, math.nan, math.nan)
    record = _ends("behind_best", difference.difference if difference else nothing)
    record |= {name: getattr(difference, name) if difference else None for name in ("p_value", "p_holm")}
    verdict = {"verdict": contest.verdict(row), "preset": row.preset or None}
    return record | verdict | {"fingerprint": row.results.fingerprint}


def _ends(name: str, estimate: Estimate) -> JSON:
    """Return a number and the ends of its interval, null where it is not defined."""
    given = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {key: None if math.isnan(number) else number for key, number in given.items()}


def _axis_column(values: list[Any]) -> list[Any]:
    """Return the values as they are if all are numbers or all are texts, else as JSON."""
    if all(isinstance(value, str) for value in values):
        return values
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return values if all(isinstance(value, int) for value in values) else [float(value) for value in values]
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def _typed(name: str, values: list[Any]) -> Any:
    """Return an Arrow array; a column of nulls alone keeps the type of its kind."""
    import pyarrow as pa

    if any(value is not None for value in values):
        return pa.array(values)
    return pa.array(values, pa.string() if name in ("preset", "method") else pa.float64())


def long_table(rows: Sequence[SweepRow], axes: Sequence[str]) -> Table:
    """Return a long `pyarrow.Table`: the rows of `Results.table` of every cell, its values in front.

    Columns: `sweep_cell` (from 0), `base` (the method as it was named), one for each axis, those of `Results.table`,
    `preset`, `fingerprint`. Baselines and oracles stand once for each run, with no `sweep_cell` and no values of the
    axes that are parameters of the methods.
    """
    import pyarrow as pa

    columns = {axis: _axis_column([row.cell.values[axis] for row in rows]) for axis in axes}
    fields = rows[0].results.table().schema
    # a parameter of a method may have the name of a column
    names = {axis: f"axis {axis}" if axis in {"preset", "fingerprint", *fields.names} else axis for axis in axes}
    records: list[JSON] = []
    runs: set[str] = set()
    for number, row in enumerate(rows):
        fingerprint = row.results.fingerprint
        values = {axis: columns[axis][number] for axis in axes}
        of_run = {names[axis]: value if axis.startswith(PREFIX) else None for axis, value in values.items()}
        of_cell = {"sweep_cell": number, "base": row.cell.base} | {names[axis]: values[axis] for axis in axes}
        fixed = {"preset": row.preset or None, "fingerprint": fingerprint}
        for record in row.results.table().to_pylist():
            if record["method"] == row.cell.label:
                records.append(of_cell | record | fixed)
            elif record["kind"] != "method" and fingerprint not in runs:
                records.append({"sweep_cell": None, "base": None} | of_run | record | fixed)
        runs.add(fingerprint)
    text = pa.string()
    types = [(names[axis], pa.array(columns[axis]).type) for axis in axes]
    before, after = [("sweep_cell", pa.int64()), ("base", text)], [("preset", text), ("fingerprint", text)]
    return pa.Table.from_pylist(records, schema=pa.schema([*before, *types, *fields, *after]))
