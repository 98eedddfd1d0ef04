"""Sweeps over the predict track: every combination of lists of values, as ordinary runs, and one long table."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.protocols import TextEmbedder
from personalllm.data import Benchmark
from personalllm.evaluation.contest import SweepCell
from personalllm.evaluation.prediction.comparisons import LEVEL, PairedDifference, Side, paired_differences
from personalllm.evaluation.prediction.metrics import HIGHER_IS_BETTER, USER_MEANS, Cell
from personalllm.evaluation.prediction.results import PredictResults
from personalllm.evaluation.prediction.run import predict
from personalllm.evaluation.prediction.task import PredictionTask
from personalllm.evaluation.progress import Progress
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.results import Estimate
from personalllm.evaluation.sweep import PREFIX, check_cells, named_progress, plan_sweep, sweep_stem
from personalllm.evaluation.sweep_table import axis_column, write_sweep_table
from personalllm.methods.base import Method

__all__ = [
    "PredictContest",
    "PredictSweepResults",
    "PredictSweepRow",
    "run_prediction_sweep",
    "sweep_prediction",
]

_NAMED = 6


@dataclass(frozen=True, eq=False)
class PredictSweepRow:
    """A cell of a sweep and the run that it stands in.

    Attributes:
        cell: The combination of values.
        results: Of the run: the cell's learner is `cell.label`; learners of cells with the same protocol, nulls and
            oracles stand beside it.
    """

    cell: SweepCell
    results: PredictResults

    @property
    def at(self) -> Cell:
        """The cell of the predict track's grid that stands for the run."""
        return self.results.headline

    def estimate(self, metric: str) -> Estimate:
        """Return the learner's metric at `at`."""
        return self.results.estimate(self.cell.label, metric, self.at)


@dataclass(frozen=True, eq=False)
class PredictContest:
    """The cells of a sweep that predict the same pairs of the same users, and the best of them.

    Attributes:
        metric: What is compared, at the cell of the grid that stands for each run.
        rows: In the order of the sweep.
        best: The best by the metric; of equal ones the first.
        differences: Between the best and every other row.
    """

    metric: str
    rows: tuple[PredictSweepRow, ...]
    best: PredictSweepRow
    differences: tuple[PairedDifference, ...]

    @cached_property
    def ties(self) -> tuple[str, ...]:
        """The cells that cannot be told from the best at the family-wise level."""
        best = str(self.best.cell)
        return tuple(difference.b for difference in self.differences if difference.better != best)

    @property
    def winner(self) -> PredictSweepRow | None:
        """The best cell if it beats every other one at the family-wise level, else None."""
        return self.best if self.differences and not self.ties else None

    def sentence(self) -> str:
        """Say what can be said of the best cell."""
        n_users = len(self.best.results[self.best.cell.label].sums[self.best.at]["n"])
        if not self.differences:
            return f"{self.best.cell}: the only cell on its {n_users:,} users, so it is compared with none."
        among = f"among {len(self.rows)} cells that predict the same pairs of {n_users:,} users ({self.best.at})"
        n_tests = len(self.differences)
        tests = f"paired sign-flip tests over users, Holm-corrected for {n_tests} comparison{'s' * (n_tests > 1)}"
        if self.winner:
            largest = max(difference.p_holm for difference in self.differences)
            return (
                f"Winner by {self.metric} {among}: {self.best.cell} ({tests}; largest p {largest:.2g}). "
                "It was chosen on these users: expect its lead to shrink on others."
            )
        listed = "; ".join(self.ties[:_NAMED])
        listed += f"; and {len(self.ties) - _NAMED} more" if len(self.ties) > _NAMED else ""
        return (
            f"No winner by {self.metric} {among}. The best is {self.best.cell}, but it cannot be told from: {listed} "
            f"({tests}, at {LEVEL:.0%})."
        )


@dataclass(frozen=True, eq=False)
class PredictSweepResults:
    """What a sweep over the predict track found.

    Attributes:
        rows: One for each cell, in the order of the sweep.
        contests: The cells that predict the same pairs of the same users.
        files: The table's files; empty if the sweep was kept in memory.
    """

    rows: tuple[PredictSweepRow, ...]
    contests: tuple[PredictContest, ...]
    files: tuple[Path, ...] = field(default=())

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, in their order."""
        return tuple(self.rows[0].cell.values)

    def table(self) -> Any:
        """Return a tidy `pyarrow.Table`: the rows of `PredictResults.table` of every cell, its values in front.

        Columns: `sweep_cell` (from 0), `method` (as it was named), one for each axis, those of
        `PredictResults.table`, `preset`, `fingerprint`. Nulls and oracles stand once for each run, with no
        `sweep_cell` and no values of the axes that are parameters of the methods.
        """
        return _long_table(self.rows, self.axes)

    def __str__(self) -> str:
        """Return a line for each cell and the verdicts."""
        metric = self.contests[0].metric
        found = [(row.cell, row.at, row.estimate(metric)) for row in self.rows]
        lines = [f"{cell}: {metric} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}] ({at})" for cell, at, e in found]
        return "\n".join([*lines, *(contest.sentence() for contest in self.contests)])

    __repr__ = __str__


def sweep_prediction(
    methods: Sequence[Method | str],
    axes: Mapping[str, Sequence[Any]],
    protocol: Protocol,
    benchmark: Benchmark,
    *,
    embedder: TextEmbedder | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> PredictSweepResults:
    """Plan a sweep over the predict track and run it, see `plan_sweep` and `run_prediction_sweep`.

    Args:
        methods: Objects, or names as `predict` takes them (not `all`).
        axes: Name -> values, e.g. `{"protocol.population.alpha": [0.05, 0.1], "protocol.feedback.pairs": ["random"]}`;
            a name without `protocol.` is a parameter of every method.
        protocol: What is not varied.
        benchmark: The benchmark that it was made for.
        embedder: For the learners that need one.
        out: Folder of runs; None keeps all in memory.
        progress: Called after each step.
    """
    cells = plan_sweep(methods, axes, protocol, benchmark)
    return run_prediction_sweep(cells, benchmark, embedder=embedder, out=out, progress=progress)


def run_prediction_sweep(
    cells: Sequence[SweepCell],
    benchmark: Benchmark,
    *,
    embedder: TextEmbedder | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    metric: str = "accuracy",
) -> PredictSweepResults:
    """Evaluate planned cells of the predict track; every cell stands in an ordinary run, which resumes.

    Cells that predict the same pairs of the same users are compared, at the least seen users and prompts and the most
    shots: the best is tested against every other by flipping the signs of the users' differences, Holm-corrected.

    Args:
        cells: From `plan_sweep`.
        benchmark: The benchmark that they were planned for.
        embedder: For the learners that need one.
        out: Folder of runs, where the table is written too (`sweep-<digest>.csv`, `.parquet`).
        progress: Called after each step; a label is followed by the cell's settings of the protocol.
        metric: What cells are compared by, one of `USER_MEANS`; every learner must have it.

    Raises:
        UserError: If a cell is of another track or lacks a backend (before anything runs; names the cell).
        RunError: If a learner's own code fails.
    """
    if metric not in USER_MEANS:
        raise ParameterError("metric", f"one of {', '.join(USER_MEANS)}", metric)
    check_cells(cells, lambda cell: _check(cell, benchmark, embedder))
    groups: dict[str, list[SweepCell]] = {}
    for cell in cells:
        groups.setdefault(cell.protocol.fingerprint, []).append(cell)
    found: dict[str, PredictResults] = {}
    for fingerprint, group in groups.items():
        found[fingerprint] = predict(
            [cell.method for cell in group],
            group[0].protocol,
            benchmark,
            embedder=embedder,
            out=out,
            progress=progress and named_progress(progress, group[0]),
        )
    rows = tuple(PredictSweepRow(cell, found[cell.protocol.fingerprint]) for cell in cells)
    swept = PredictSweepResults(rows, _contests(rows, metric))
    if out is None:
        return swept
    stem = sweep_stem((row.results.fingerprint, row.cell.method) for row in rows)
    return dataclasses.replace(swept, files=write_sweep_table(Path(out), swept.table(), stem))


def _check(cell: SweepCell, benchmark: Benchmark, embedder: TextEmbedder | None) -> None:
    """Raise if a cell is of another track or lacks a backend."""
    if cell.protocol.track != "predict":
        raise UserError(
            f"It is of the {cell.protocol.track} track.", "Use sweep(), or a protocol of the predict track."
        )
    signals = PredictionTask(cell.protocol, benchmark).signals
    cell.method.clone().bind(embedder=embedder, signals=signals)


def _contests(rows: Sequence[PredictSweepRow], metric: str) -> tuple[PredictContest, ...]:
    groups: dict[str, list[PredictSweepRow]] = {}
    for row in rows:
        groups.setdefault(_predicted(row), []).append(row)
    return tuple(_contest(tuple(group), metric) for group in groups.values())


def _predicted(row: PredictSweepRow) -> str:
    """Return a digest of which pairs of which users a row predicts."""
    sums = row.results[row.cell.label].sums[row.at]
    names = ("n", "longer_n", "shorter_n", "strongest")
    content = b"".join(sums[name].tobytes() for name in names if name in sums)
    return hashlib.sha256(content).hexdigest()


def _contest(rows: tuple[PredictSweepRow, ...], metric: str) -> PredictContest:
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    best = max(rows, key=lambda row: sign * row.estimate(metric).value)
    sides = {id(row): Side(str(row.cell), row.results[row.cell.label].sums[row.at]) for row in rows}
    pairs = [(sides[id(best)], sides[id(row)]) for row in rows if row is not best]
    protocol = best.cell.protocol
    differences = paired_differences(pairs, ("all", metric), draws=protocol.bootstrap_draws, seed=protocol.seed)
    return PredictContest(metric, rows, best, differences)


def _long_table(rows: Sequence[PredictSweepRow], axes: Sequence[str]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {axis: axis_column([row.cell.values[axis] for row in rows]) for axis in axes}
    tables: dict[str, Any] = {}
    parts = []
    for number, row in enumerate(rows):
        fingerprint = row.results.fingerprint
        values = {axis: columns[axis][number] for axis in axes}
        fixed: dict[str, Any] = {"preset": row.results.preset or None, "fingerprint": fingerprint}
        first = fingerprint not in tables
        if first:
            tables[fingerprint] = row.results.table()
        table = tables[fingerprint]
        own = {"sweep_cell": number, "method": row.cell.base} | values
        parts.append(_with_columns(table.filter(pc.field("learner") == row.cell.label), own, fixed))
        if first:
            beside = {axis: value if axis.startswith(PREFIX) else None for axis, value in values.items()}
            others = table.filter(pc.field("kind") != "learner")
            parts.append(_with_columns(others, {"sweep_cell": None, "method": None} | beside, fixed))
    joined = pa.concat_tables(parts, promote_options="permissive")
    blank = [name for name in joined.column_names if pa.types.is_null(joined.schema.field(name).type)]
    for name in blank:
        place = joined.column_names.index(name)
        joined = joined.set_column(place, name, pa.nulls(len(joined), pa.string()))
    return joined


def _with_columns(table: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """Return a table with constant columns in front and behind; a name that is taken gets `axis ` in front."""
    import pyarrow as pa

    taken = {*table.column_names, *after}
    made = {f"axis {name}" if name in taken else name: value for name, value in before.items()}
    names = [*made, *table.column_names, *after]
    constant = {name: pa.array([value] * len(table)) for name, value in (*made.items(), *after.items())}
    return pa.table({name: constant[name] if name in constant else table[name] for name in names})
