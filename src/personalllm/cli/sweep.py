"""`personalllm sweep`: every combination of lists of values, one table, and a winner only if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personalllm.cli import options as o
from personalllm.cli.leaderboard import interval_cell, output_console, watch

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from personalllm.data import Benchmark
    from personalllm.evaluation import SweepCell, SweepResults

__all__ = ["sweep"]

_WIDE = 150

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
Out = Annotated[Path, typer.Option(help="Folder of runs; the same command again resumes.")]


def sweep(
    methods: Methods,
    *,
    vary: Vary,
    data: o.Data = "mini",
    out: Out = Path("runs"),
    dry_run: o.DryRun = False,
    protocol: o.ProtocolOptions,
    backends: o.BackendOptions,
) -> None:
    """Evaluate every combination of values and print one table; every cell is an ordinary run, and re-running resumes.

    A winner is named only if it beats every other cell on the same users: paired tests, corrected for their number. In
    the predict track cells are compared by accuracy at the most shots.
    """
    from personalllm.core.errors import UserError
    from personalllm.data import load
    from personalllm.evaluation import parse_axis, plan_sweep

    axes: dict[str, Sequence[Any]] = {}
    for text in vary:
        name, values = parse_axis(text)
        if name in axes:
            raise UserError(f"--vary {name} is given twice.", "Give all its values at once, separated by commas.")
        axes[name] = values
    benchmark = load(data)
    cells = plan_sweep(methods, axes, protocol.build(benchmark), benchmark)
    if dry_run:
        _show_plan(cells, output_console())
        return
    tracks = {cell.protocol.track for cell in cells}
    if "predict" not in tracks:
        _show(_run(cells, benchmark, backends, out), output_console())
        return
    if len(tracks) > 1:
        raise UserError("The predict track cannot be swept together with another one.", "Sweep them one by one.")
    from personalllm.cli.prediction_sweep import run_cells, show_cells

    show_cells(run_cells(cells, benchmark, backends, out), output_console())


def _run(cells: Sequence[SweepCell], benchmark: Benchmark, options: o.BackendOptions, out: Path) -> SweepResults:
    """Run the cells, watched."""
    from rich.console import Console

    from personalllm.cli.progress import embed_texts, resumable
    from personalllm.evaluation import resolve, run_sweep

    tracks = dict.fromkeys(cell.protocol.track for cell in cells)
    entries = tuple(
        entry
        for track in tracks
        for entry in resolve([cell.method for cell in cells if cell.protocol.track == track], track)[0]
    )
    needed = "generate" if "generate" in tracks else "rank"
    backends = options.build(entries, needed, benchmark.metadata)
    console = Console(stderr=True)
    if any("embedder" in entry.method.needs for entry in entries):
        embed_texts(benchmark, backends["embedder"], console)
    with resumable(console), watch(console) as progress:
        return run_sweep(cells, benchmark, out=out, progress=progress, **backends)


def _show_plan(cells: Sequence[SweepCell], console: Console) -> None:
    """List the cells and what they cost."""
    from rich.markup import escape

    for number, cell in enumerate(cells):
        console.print(f"{number:4d}  {escape(str(cell))}", highlight=False, soft_wrap=True)
    requests = sum(cell.n_queries for cell in cells if cell.protocol.track == "generate")
    queries = sum(cell.n_queries for cell in cells if cell.protocol.track != "predict")
    pairs = sum(cell.n_queries for cell in cells if cell.protocol.track == "predict")
    runs = len({cell.protocol.fingerprint for cell in cells})
    work = (
        f"{queries:,} queries, {requests:,} requests to the chat model (fewer where an earlier run or the reply cache "
    )
    work += "has them)"
    if pairs:
        work = f"{pairs:,} test pairs, each predicted once for every number of shots"
    console.print(
        f"{len(cells)} cells under {runs} protocol{'s' * (runs > 1)}: {work}. Nothing was run.",
        highlight=False,
        soft_wrap=True,
    )


def _show(results: SweepResults, console: Console) -> None:
    """Print the table, the verdicts and the files."""
    from rich.markup import escape

    if results.rows[0].cell.protocol.preset:
        console.print(
            "Preset " + escape(results.rows[0].preset) + " (first cell; the table's file has the others)",
            highlight=False,
            soft_wrap=True,
        )
    console.print(_table(results, plain=not console.is_terminal, wide=console.width >= _WIDE))
    if console.width < _WIDE:
        console.print("Gain, win rates and p-values stand in the files; a wide terminal shows them.", highlight=False)
    for contest in results.contests:
        console.print(escape(contest.sentence()), highlight=False, soft_wrap=True)
    for path in results.files:
        console.print(f"Table: {escape(str(path))}", highlight=False, soft_wrap=True)


def _table(results: SweepResults, *, plain: bool, wide: bool) -> Table:
    """Return a row for each cell, cells of the same users together; the narrow one has no gain, win rate or p."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from personalllm.evaluation.settings import shown

    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    several = len({row.cell.base for row in results.rows}) > 1
    apart = len(results.contests) > 1
    names = [*(["users"] if apart else []), *(["method"] if several else [])]
    for name in (*names, *(axis.removeprefix("protocol.") for axis in results.axes)):
        table.add_column(escape(name), overflow="fold")
    for name in ("utility", *(("gain", "wins vs reference %") if wide else ()), "behind the best"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("Holm p", justify="right")
    table.add_column("", min_width=len("cannot"))
    gap = " " if wide else "\n"
    placed = [(place, contest, row) for place, contest in enumerate(results.contests) for row in contest.rows]
    for place, contest, row in placed:
        metrics = row.result.metrics
        compared = contest.comparison(row)
        values = [*([f"set {place}"] if apart else []), *([row.cell.base] if several else [])]
        values += [shown(row.cell.values[axis]) for axis in results.axes]
        table.add_row(
            *(escape(value) for value in values),
            interval_cell(metrics["mean_utility"], gap),
            *((interval_cell(metrics["gain"], gap),) if wide else ()),
            *((interval_cell(metrics["win_rate_reference"], gap, percent=True),) if wide else ()),
            interval_cell(compared.difference, gap) if compared else "-",
            *((f"{compared.p_holm:.2g}" if compared else "-",) if wide else ()),
            contest.verdict(row),
        )
    return table
