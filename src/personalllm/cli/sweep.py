"""`personalllm sweep`: evaluate every combination of lists of values, in one table, and test for a winner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personalllm.cli import options as o

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.evaluation import Sweep
    from personalllm.evaluation.contests import SweepCell
    from personalllm.report.tables import Grid

__all__ = ["sweep"]

Vary = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=VALUE,VALUE,...",
        help="Values of a parameter of the methods, or of protocol.FIELD; several lists are combined. Repeatable.",
        show_default=False,
    ),
]
Methods = Annotated[
    list[str],
    typer.Argument(help="As for evaluate; 'all' is not allowed.", autocompletion=o.complete_methods),
]
Metric = Annotated[str | None, typer.Option(help="What cells are compared by.", **o.default("the track's main metric"))]


def sweep(
    methods: Methods,
    *,
    vary: Vary,
    data: o.DataOptions,
    out: o.Out = Path("runs"),
    dry_run: o.DryRun = False,
    metric: Metric = None,
    protocol: o.ProtocolOptions,
    backends: o.BackendOptions,
    executor: o.Executor = "serial",
) -> None:
    """Evaluate every combination of values and print one table; every cell is an ordinary run, and re-running resumes.

    A winner is named only if it beats every other cell on the same users: paired tests, corrected for their number.
    """
    from rich.console import Console

    from personalllm.cli.evaluate import build_workers
    from personalllm.cli.progress import embed_texts, resumable, watch
    from personalllm.evaluation import plan_sweep, run_sweep
    from personalllm.evaluation.resolve import named
    from personalllm.report.terminal import output_console

    loaded = data.load()
    cells = plan_sweep(methods, _axes(vary), loaded, protocol=protocol.build(loaded))
    if dry_run:
        _show_plan(cells, output_console())
        return
    entries = [named(cell.method) for cell in cells]
    workers = build_workers(executor)
    objects = backends.build(entries, {cell.protocol.track for cell in cells}, loaded)
    console = Console(stderr=True)
    if any("embedder" in entry.method.needs for entry in entries):
        embed_texts(loaded, objects["embedder"], console)
    with resumable(console), watch(console) as progress:
        swept = run_sweep(cells, loaded, metric=metric, executor=workers, out=out, progress=progress, **objects)
    _show(swept, output_console())


def _axes(vary: Sequence[str]) -> dict[str, Sequence[Any]]:
    from personalllm.core.errors import UserError
    from personalllm.evaluation import parse_axis

    axes: dict[str, Sequence[Any]] = {}
    for text in vary:
        name, values = parse_axis(text)
        if name in axes:
            raise UserError(f"--vary {name} is given twice.", "Give all its values at once, separated by commas.")
        axes[name] = values
    return axes


def _show_plan(cells: Sequence[SweepCell], console: Console) -> None:
    """List the cells and how much work they are."""
    from rich.text import Text

    from personalllm.evaluation import load_track

    for number, cell in enumerate(cells):
        console.print(Text(f"{number:4d}  {cell}"), soft_wrap=True)
    weights: Counter[str] = Counter()
    for cell in cells:
        weights[load_track(cell.protocol.track).work_unit] += cell.weight
    work = ", ".join(f"{weight:,} {unit}" for unit, weight in weights.items())
    runs = len({cell.protocol.fingerprint for cell in cells})
    console.print(
        Text(
            f"{len(cells)} cells under {runs} protocol{'s' * (runs > 1)}: {work}, fewer where an earlier run has them. "
            "Nothing was run."
        ),
        soft_wrap=True,
    )


def _show(swept: Sweep, console: Console) -> None:
    """Print the table, the verdicts and the files."""
    from rich.text import Text

    from personalllm.report.terminal import show_table

    if swept.rows[0].preset:
        text = f"Preset {swept.rows[0].preset} (first cell; the table's file has the others)"
        console.print(Text(text), soft_wrap=True)
    show_table(_grid(swept), console)
    for contest in swept.contests:
        console.print(Text(contest.sentence()), soft_wrap=True)
    for path in swept.files:
        console.print(Text(f"Table: {path}"), soft_wrap=True)


def _grid(swept: Sweep) -> Grid:
    """Return a row for each cell, cells of the same users together; the name of a row is its values."""
    from personalllm.evaluation.settings import shown
    from personalllm.report.leaderboard import metric_column
    from personalllm.report.numbers import ABSENT, metric_value
    from personalllm.report.tables import Column, Grid, Row

    several_sets = len(swept.contests) > 1
    main = swept.contests[0].metric
    other_metrics = [metric for metric in swept.rows[0].results.metrics if metric.id != main.id]
    columns = [Column(axis.removeprefix("protocol."), numeric=False) for axis in swept.axes]
    columns += [metric_column(main), Column("Behind the best"), Column("Holm p", optional=1)]
    columns += [Column("Verdict", numeric=False)]
    columns += [metric_column(metric, optional=2 + n) for n, metric in enumerate(other_metrics)]
    rows = []
    for number, contest in enumerate(swept.contests):
        for row in contest.rows:
            difference = contest.difference(row)
            cells = [shown(row.cell.values[axis]) for axis in swept.axes]
            cells += [metric_value(row.estimate(main.id), main)]
            cells += [
                metric_value(difference.difference, main) if difference else ABSENT,
                f"{difference.p_holm:.2g}" if difference else ABSENT,
                contest.verdict(row),
            ]
            cells += [metric_value(row.estimate(metric.id), metric) for metric in other_metrics]
            name = row.cell.base + (f" (set {number})" if several_sets else "")
            rows.append(Row(name, tuple(cells), name))
    return Grid("sweep", "", "", tuple(columns), tuple(rows))
