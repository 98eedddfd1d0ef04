"""Sweeps: every combination of lists of values, as ordinary runs, and one table of what came of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from personalllm.core.errors import ParameterError, UserError
from personalllm.core.protocols import ChatModel, RewardEnsemble, TextEmbedder
from personalllm.core.storage import digest
from personalllm.data import Benchmark
from personalllm.evaluation.contest import Contest, SweepCell, SweepRow, hold_contests
from personalllm.evaluation.presets import get_preset
from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.protocol import Protocol
from personalllm.evaluation.resolve import Entry, parse_method, resolve, split_list
from personalllm.evaluation.run import evaluate
from personalllm.evaluation.settings import describe_changes, nest, parse_setting, read_value, shown
from personalllm.evaluation.sweep_table import sweep_table, write_sweep_table
from personalllm.evaluation.task import Task
from personalllm.methods.base import Method
from personalllm.methods.registry import get_method

__all__ = [
    "PREFIX",
    "SweepResults",
    "check_cells",
    "named_progress",
    "parse_axis",
    "plan_sweep",
    "run_sweep",
    "sweep",
    "sweep_stem",
]

PREFIX = "protocol."
"""An axis of this prefix is a field of the protocol; every other one is a parameter of the methods."""


@dataclass(frozen=True, eq=False)
class SweepResults:
    """What a sweep found.

    Attributes:
        rows: One for each cell, in the order of the sweep.
        contests: The cells on the same users and queries, and the best of each such set.
        files: The table's files; empty if the sweep was kept in memory.
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

    def table(self) -> Any:
        """Return a `pyarrow.Table`, one row for each cell: axes, metrics with intervals, sizes, verdict."""
        return sweep_table(self.rows, self.axes, self.contests)

    def __str__(self) -> str:
        """Return a line for each cell and the verdicts."""
        metrics = [(row.cell, row.result.metrics["mean_utility"]) for row in self.rows]
        lines = [f"{cell}: utility {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for cell, e in metrics]
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
    methods: Sequence[Method | str], axes: Mapping[str, Sequence[Any]], protocol: Protocol, benchmark: Benchmark
) -> tuple[SweepCell, ...]:
    """Return the cells of a sweep, each checked; nothing is run and no backend is needed.

    Args:
        methods: Objects, or names as `evaluate` takes them (no reference policies, not `all`).
        axes: Name -> values; `protocol.population.alpha` and the like are fields of the protocol, all other names
            parameters of every method.
        protocol: What is not varied.
        benchmark: The benchmark that it was made for.

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
    cells: list[SweepCell] = []
    seen: dict[tuple[str, str], SweepCell] = {}
    protocols: dict[str, Protocol] = {}
    for method, combination in product(methods, product(*axes.values())):
        cell = _cell(method, dict(zip(axes, combination, strict=True)), protocol, benchmark, protocols)
        key = (Entry.of(cell.method).key, cell.protocol.fingerprint)
        if key in seen:
            raise UserError(
                f"The cells {str(seen[key])!r} and {str(cell)!r} are the same run.", "Leave one of the values out."
            )
        seen[key] = cell
        cells.append(cell)
    return tuple(cells)


def _cell(
    method: Method | str,
    values: dict[str, Any],
    protocol: Protocol,
    benchmark: Benchmark,
    protocols: dict[str, Protocol],
) -> SweepCell:
    """Build a cell; protocols that were built before are taken from `protocols`."""
    settings = {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}
    params = {name: value for name, value in values.items() if not name.startswith(PREFIX)}
    base = method if isinstance(method, str) else Entry.of(method).label
    name = ", ".join([base, *(f"{axis}={shown(value)}" for axis, value in values.items())])
    try:
        key = digest(_plain(settings))
        if key not in protocols:
            protocols[key] = protocol.changed(benchmark, **nest(settings)) if settings else protocol
        built = _with(method, params)
        changed = protocols[key]
        (entry,), _ = resolve([built], changed.track)
        if changed.track != "predict":
            Task(changed, benchmark).check_queries(built.history)
    except UserError as error:
        raise _refusal(name, error) from None
    return SweepCell(base, values, built, entry.label, changed, *_sizes(changed, benchmark))


def _sizes(protocol: Protocol, benchmark: Benchmark) -> tuple[int, int]:
    """Return how many users are evaluated, and on how many queries; in the predict track, test pairs."""
    n_users = min(protocol.limit or protocol.population.n_users, protocol.population.n_users)
    asked = len(benchmark.splits[protocol.split])
    spec = protocol.prediction
    if spec is None:
        return n_users, n_users * (protocol.prompts_per_user or asked)
    counts = {"unseen": n_users, "seen": spec.n_seen_users}
    known = len(benchmark.splits[protocol.history_split])
    compared = {"unseen": max(spec.shots), "seen": protocol.pool.pairs_per_user}
    left = {"unseen": dict.fromkeys(counts, asked), "seen": {kind: known - compared[kind] for kind in counts}}
    pairs = sum(counts[u] * (spec.test_pairs or left[prompts][u]) for u in spec.users for prompts in spec.prompts)
    return sum(counts[users] for users in spec.users), pairs


def _with(method: Method | str, params: Mapping[str, Any]) -> Method:
    """Return a method with some parameters changed."""
    if isinstance(method, Method):
        unknown = [name for name in params if name not in method.params()]
        if unknown:
            raise UserError(f"The method {method.id!r} has no parameter {unknown[0]!r}.", "Leave the axis out.")
        return type(method)(**{**method.params(), **params})
    name, own = parse_method(method)
    twice = [param for param in params if param in own]
    if twice:
        raise UserError(f"{twice[0]!r} is fixed by {method!r} and varied too.", "Do one of the two.")
    try:
        return get_method(name, **own, **params)
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
    protocol: Protocol,
    benchmark: Benchmark,
    *,
    embedder: TextEmbedder | None = None,
    llm: ChatModel | None = None,
    rewards: RewardEnsemble | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> SweepResults:
    """Evaluate every combination of the axes' values: `plan_sweep`, then `run_sweep`.

    Args:
        methods: As for `plan_sweep`.
        axes: As for `plan_sweep`.
        protocol: What is not varied.
        benchmark: The benchmark that it was made for.
        embedder: For the methods that need one.
        llm: For the generate track, and the methods that need one.
        rewards: For the generate track.
        out: As for `run_sweep`.
        progress: As for `run_sweep`.

    Raises:
        UserError: As `plan_sweep` and `evaluate`; what can be known beforehand is said before anything runs.
        RunError: If a method's own code fails.
    """
    cells = plan_sweep(methods, axes, protocol, benchmark)
    return run_sweep(cells, benchmark, embedder=embedder, llm=llm, rewards=rewards, out=out, progress=progress)


def run_sweep(
    cells: Sequence[SweepCell],
    benchmark: Benchmark,
    *,
    embedder: TextEmbedder | None = None,
    llm: ChatModel | None = None,
    rewards: RewardEnsemble | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> SweepResults:
    """Evaluate planned cells; every cell is an ordinary run, so the same call again goes on where it stopped.

    Cells of the same users and queries are compared: the best by mean utility is tested against every other by
    flipping the signs of the users' differences, Holm-corrected, and is the winner only if it beats them all at a
    family-wise level of 5 %.

    Args:
        cells: From `plan_sweep`.
        benchmark: The benchmark that they were planned for.
        embedder: For the methods that need one.
        llm: For the generate track, and the methods that need one.
        rewards: For the generate track.
        out: Folder of runs, where the table is written too (`sweep-<digest>.csv`, `.parquet`); None keeps all in
            memory.
        progress: Called after each step; a label is followed by the cell's settings of the protocol.

    Raises:
        UserError: If a cell lacks a backend (before anything runs; names the cell), and as `evaluate`.
        RunError: If a method's own code fails.
    """
    check_cells(cells, lambda cell: _check(cell, benchmark, embedder, llm))
    groups: dict[str, list[SweepCell]] = {}
    for cell in cells:
        groups.setdefault(cell.protocol.fingerprint, []).append(cell)
    found: dict[int, SweepRow] = {}
    for group in groups.values():
        results = evaluate(
            [cell.method for cell in group],
            group[0].protocol,
            benchmark,
            embedder=embedder,
            llm=llm,
            rewards=rewards,
            out=out,
            progress=progress and named_progress(progress, group[0]),
        )
        for cell in group:
            found[id(cell)] = SweepRow(cell, results[cell.label], results.fingerprint, _relation(cell.protocol))
    rows = tuple(found[id(cell)] for cell in cells)
    swept = SweepResults(rows, hold_contests(rows))
    if out is None:
        return swept
    stem = sweep_stem((row.fingerprint, row.cell.method) for row in rows)
    return dataclasses.replace(swept, files=write_sweep_table(Path(out), swept.table(), stem))


def check_cells(cells: Sequence[SweepCell], check: Callable[[SweepCell], None]) -> None:
    """Check every cell before anything runs.

    Raises:
        UserError: Of the first check that does, with the cell's name.
    """
    for cell in cells:
        try:
            check(cell)
        except UserError as error:
            raise _refusal(str(cell), error) from None


def _check(cell: SweepCell, benchmark: Benchmark, embedder: TextEmbedder | None, llm: ChatModel | None) -> None:
    if cell.protocol.track == "predict":
        raise UserError("It is of the predict track.", "Use sweep_prediction(), or run_prediction_sweep().")
    cell.method.clone().bind(embedder=embedder, llm=llm)
    Task(cell.protocol, benchmark).check_history(cell.method.history, embedder)


def _refusal(cell: str, error: UserError) -> UserError:
    return UserError(f"The cell {cell!r} cannot be run: {error.message}", error.remedy)


def _relation(protocol: Protocol) -> str:
    return describe_changes(protocol.preset, get_preset(protocol.preset).changes(protocol)) if protocol.preset else ""


def sweep_stem(cells: Iterable[tuple[str, Method]]) -> str:
    """Return the name of a sweep's files.

    Args:
        cells: Of each cell, the fingerprint of its run and its method.
    """
    return f"sweep-{digest([[fingerprint, Entry.of(method).key] for fingerprint, method in cells], 12)}"


def named_progress(progress: Progress, cell: SweepCell) -> Progress:
    """Return a progress callback whose labels say which settings of the protocol a run has."""
    settings = [f"{name}={shown(value)}" for name, value in cell.values.items() if name.startswith(PREFIX)]

    def tell(event: ProgressEvent) -> None:
        progress(dataclasses.replace(event, method=" ".join([event.method, *settings])))

    return tell
