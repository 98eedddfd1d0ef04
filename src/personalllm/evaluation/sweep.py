"""Run sweeps: every combination of lists of values, as ordinary runs of any track."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.protocols import ChatModel, Executor, RewardEnsemble, TextEmbedder
from personalllm.core.storage import atomic_path, digest
from personalllm.data import Benchmark
from personalllm.evaluation.contests import (
    PREFIX,
    Contest,
    SweepCell,
    SweepRow,
    hold_contests,
    long_table,
    wide_table,
)
from personalllm.evaluation.contract import Backends, Metric, Table, Track
from personalllm.evaluation.parts import load_track
from personalllm.evaluation.presets import as_protocol, get_preset
from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.resolve import named, parse_method, resolve, split_list
from personalllm.evaluation.results import Results
from personalllm.evaluation.run import bound_backends, evaluate, make_track, open_track
from personalllm.evaluation.settings import describe_changes, nest, parse_setting, read_value, shown
from personalllm.evaluation.store import write_table
from personalllm.methods.base import Method
from personalllm.methods.registry import get_method

__all__ = ["Sweep", "parse_axis", "plan_sweep", "run_sweep", "sweep"]


@dataclass(frozen=True, eq=False)
class Sweep:
    """The results of a sweep.

    Attributes:
        rows: One for each cell, in the order of the sweep.
        contests: The cells on the same users and queries, and the best of each such set.
        files: Of the tables; empty if the sweep was kept in memory.
    """

    rows: tuple[SweepRow, ...]
    contests: tuple[Contest, ...]
    files: tuple[Path, ...] = field(default=())

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, in their order."""
        return tuple(self.rows[0].cell.values)

    @property
    def winner(self) -> SweepRow | None:
        """The winner if all cells have the same users and queries and one beats all others; else None."""
        return self.contests[0].winner if len(self.contests) == 1 else None

    def table(self) -> Table:
        """Return a `pyarrow.Table`, one row for each cell: axes, metrics with intervals, sizes, verdict."""
        return wide_table(self.rows, self.axes, self.contests)

    def long_table(self) -> Table:
        """Return a long `pyarrow.Table`: the rows of `Results.table` of every cell, its values in front."""
        return long_table(self.rows, self.axes)

    def __str__(self) -> str:
        """Return a line for each cell and the verdicts."""
        metric = self.contests[0].metric.id
        estimates = [(row.cell, row.estimate(metric)) for row in self.rows]
        lines = [f"{cell}: {metric} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for cell, e in estimates]
        return "\n".join([*lines, *(contest.sentence() for contest in self.contests)])

    __repr__ = __str__


def parse_axis(text: str) -> tuple[str, tuple[Any, ...]]:
    """Split `NAME=VALUE,VALUE,...`; values are JSON, else plain text.

    Raises:
        UserError: If the text has another form.

    >>> parse_axis("protocol.population.alpha=0.05,0.1")
    ('protocol.population.alpha', (0.05, 0.1))
    """
    name, _ = parse_setting(text)
    values = tuple(read_value(item.strip()) for item in split_list(text.partition("=")[2]))
    return name, values


def plan_sweep(
    methods: Sequence[Method | str],
    axes: Mapping[str, Sequence[Any]],
    data: Benchmark | Any,
    track: str | None = None,
    protocol: Protocol | str | Mapping[str, Any] | None = None,
) -> tuple[SweepCell, ...]:
    """Return the cells of a sweep, each checked; nothing is run and no backend is needed.

    Args:
        methods: Objects, or names as `evaluate` takes them (no baselines, not `all`).
        axes: Name -> values; `protocol.population.alpha` and the like are fields of the protocol, all other names
            parameters of every method.
        data: As for `evaluate`.
        track: As for `evaluate`.
        protocol: As for `evaluate`; what is not varied.

    Returns:
        The product of methods and axes, the last axis fastest.

    Raises:
        UserError: If an axis is empty or has a value twice, two cells are the same run, or a cell cannot be run:
            names the cell.
    """
    if not methods:
        raise UserError("A sweep needs a method.", "Name one, e.g. icl.")
    for name, values in axes.items():
        if not values or len({digest(_plain(value)) for value in values}) < len(values):
            raise ParameterError(f"the axis {name!r}", "a list of different values", list(values))
    plan = _Plan(as_protocol(protocol, data, track), data)
    cells: list[SweepCell] = []
    seen: dict[tuple[str, str], SweepCell] = {}
    for method, combination in product(methods, product(*axes.values())):
        cell = plan.cell(method, dict(zip(axes, combination, strict=True)))
        key = (named(cell.method).key, cell.protocol.fingerprint)
        if key in seen:
            raise UserError(
                f"The cells {str(seen[key])!r} and {str(cell)!r} are the same run.", "Leave one of the values out."
            )
        seen[key] = cell
        cells.append(cell)
    return tuple(cells)


class _Plan:
    """Builds cells; a protocol that several of them have is built once."""

    def __init__(self, protocol: Protocol, data: Any) -> None:
        self.protocol, self.data = protocol, data
        self.tracks: dict[str, Track] = {}

    def cell(self, method: Method | str, values: dict[str, Any]) -> SweepCell:
        settings = {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}
        params = {name: value for name, value in values.items() if not name.startswith(PREFIX)}
        base = method if isinstance(method, str) else named(method).label
        name = ", ".join([base, *(f"{axis}={shown(value)}" for axis, value in values.items())])
        try:
            track = self.track(settings)
            built = _with(method, params)
            (entry,), _ = resolve([built], type(track), signals=track.protocol.signals)
            track.check_history(entry)
        except UserError as error:
            raise _refusal(name, error) from None
        weight = sum(unit.weight for unit in track.units(entry.key))
        return SweepCell(base, values, built, entry.label, track.protocol, weight)

    def track(self, settings: dict[str, Any]) -> Track:
        """Return the track with some settings changed, without backends."""
        key = digest(_plain(settings))
        if key not in self.tracks:
            changed = self.protocol.changed(self.data, **nest(settings)) if settings else self.protocol
            self.tracks[key] = open_track(changed, self.data, Backends())
        return self.tracks[key]


def _with(method: Method | str, params: Mapping[str, Any]) -> Method:
    """Return a method with some parameters changed."""
    if isinstance(method, Method):
        unknown = [name for name in params if name not in method.params()]
        if unknown:
            raise UserError(f"The method {method.id!r} has no parameter {unknown[0]!r}.", "Leave the axis out.")
        return type(method)(**{**method.params(), **params})
    name, fixed = parse_method(method)
    twice = [param for param in params if param in fixed]
    if twice:
        raise UserError(f"{twice[0]!r} is fixed by {method!r} and varied too.", "Do one of the two.")
    try:
        return get_method(name, **fixed, **params)
    except TypeError as error:
        raise UserError(f"The method {name!r} cannot be built: {error}.", "Check the types of its values.") from None


def _plain(value: Any) -> Any:
    """Return tuples as lists, so that the digest of a value does not depend on which it was."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def sweep(
    methods: Sequence[Method | str],
    axes: Mapping[str, Sequence[Any]],
    data: Any,
    track: str | None = None,
    protocol: Protocol | str | Mapping[str, Any] | None = None,
    *,
    metric: str | None = None,
    **options: Any,
) -> Sweep:
    """Evaluate every combination of the axes' values: `plan_sweep`, then `run_sweep`.

    Args:
        methods: As for `plan_sweep`.
        axes: As for `plan_sweep`.
        data: As for `evaluate`.
        track: As for `evaluate`.
        protocol: As for `evaluate`; what is not varied.
        metric: What cells are compared by; None: the main metric of the track.
        **options: `embedder`, `llm`, `rewards`, `executor`, `out` and `progress`, as for `run_sweep`.

    Raises:
        UserError: As `plan_sweep` and `evaluate`; what can be known beforehand is said before anything runs.
        RunError: If a method's own code fails.
    """
    return run_sweep(plan_sweep(methods, axes, data, track, protocol), data, metric=metric, **options)


def run_sweep(
    cells: Sequence[SweepCell],
    data: Any,
    *,
    metric: str | None = None,
    embedder: TextEmbedder | str | None = None,
    llm: ChatModel | str | None = None,
    rewards: RewardEnsemble | str | None = None,
    executor: Executor | str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Evaluate planned cells; every cell stands in an ordinary run, so the same call again goes on where it stopped.

    Cells of the same users and queries are compared: the best is tested against every other one by flipping the signs
    of the users' differences, Holm-corrected, and is the winner only if it beats them all at a family-wise level of
    5 %.

    Args:
        cells: From `plan_sweep`.
        data: The data that they were planned for.
        metric: What cells are compared by, a mean over users; None: the main metric of the track.
        embedder: As for `evaluate`.
        llm: As for `evaluate`.
        rewards: As for `evaluate`.
        executor: As for `evaluate`.
        out: Folder of runs, where the tables are written too (`sweep-<digest>.csv`, `.parquet`, one row for each cell;
            `sweep-<digest>-long.parquet`, all that was estimated); None keeps all in memory.
        progress: Called after each step; a label is followed by the cell's settings of the protocol.

    Raises:
        UserError: If a cell lacks a backend (before anything runs; names the cell), and as `evaluate`.
        RunError: If a method's own code fails.
    """
    backends = bound_backends(embedder, llm, rewards)
    compared = _compared_metric(cells[0].protocol.track, metric)
    groups: dict[str, list[SweepCell]] = {}
    for cell in cells:
        groups.setdefault(cell.protocol.fingerprint, []).append(cell)
    for group in groups.values():
        _check(group, data, backends)
    results: dict[str, Results] = {}
    for fingerprint, group in groups.items():
        results[fingerprint] = evaluate(
            [cell.method for cell in group],
            data,
            protocol=group[0].protocol,
            embedder=backends.embedder,
            llm=backends.llm,
            rewards=backends.rewards,
            executor=executor,
            out=out,
            progress=progress and _named_progress(progress, group[0]),
        )
    rows = tuple(SweepRow(cell, results[cell.protocol.fingerprint], _relation(cell.protocol)) for cell in cells)
    swept = Sweep(rows, hold_contests(rows, compared))
    return swept if out is None else dataclasses.replace(swept, files=_write_tables(swept, Path(out)))


def _compared_metric(track: str, metric: str | None) -> Metric:
    """Return the metric that cells are compared by; only a mean over users has a sign-flip test."""
    kind = load_track(track)
    means = {each.id: each for each in kind.metrics if each.is_mean}
    if (metric or kind.headline) not in means:
        raise ParameterError("metric", f"one of {', '.join(means)}", metric)
    chosen: Metric = means[metric or kind.headline]
    return chosen


def _check(cells: Sequence[SweepCell], data: Any, backends: Backends) -> None:
    """Raise if a cell, all of one protocol, lacks a backend; names the cell."""
    track: Track | None = None
    for cell in cells:
        try:
            track = track or make_track(cell.protocol, data, backends)
            track.check(named(cell.method))
        except UserError as error:
            raise _refusal(str(cell), error) from None


def _refusal(cell: str, error: UserError) -> UserError:
    return UserError(f"The cell {cell!r} cannot be run: {error.message}", error.remedy)


def _relation(protocol: Protocol) -> str:
    return describe_changes(protocol.preset, get_preset(protocol.preset).changes(protocol)) if protocol.preset else ""


def _named_progress(progress: Progress, cell: SweepCell) -> Progress:
    """Return a progress callback whose labels say which settings of the protocol a run has."""
    settings = [f"{name}={shown(value)}" for name, value in cell.values.items() if name.startswith(PREFIX)]

    def report(event: ProgressEvent) -> None:
        progress(dataclasses.replace(event, method=" ".join([event.method, *settings])))

    return report


def _write_tables(swept: Sweep, folder: Path) -> tuple[Path, ...]:
    """Write the tables, each atomically; return the files."""
    import pyarrow.csv

    stem = digest([[row.results.fingerprint, named(row.cell.method).key] for row in swept.rows], 12)
    files = tuple(folder / f"sweep-{stem}{suffix}" for suffix in (".csv", ".parquet", "-long.parquet"))
    with atomic_path(files[0]) as temporary:
        pyarrow.csv.write_csv(swept.table(), temporary)
    write_table(files[1], swept.table())
    write_table(files[2], swept.long_table())
    return files
