"""`personalllm sweep --track predict`: the runs and the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from personalllm.cli.options import BackendOptions
    from personalllm.data import Benchmark
    from personalllm.evaluation import SweepCell
    from personalllm.evaluation.prediction.sweep import PredictSweepResults

__all__ = ["run_cells", "show_cells"]

_WIDE = 150


def run_cells(
    cells: Sequence[SweepCell], benchmark: Benchmark, options: BackendOptions, out: Path
) -> PredictSweepResults:
    """Run the cells, watched."""
    from rich.console import Console

    from personalllm.cli.leaderboard import watch
    from personalllm.cli.progress import embed_texts, resumable
    from personalllm.evaluation import resolve
    from personalllm.evaluation.prediction.sweep import run_prediction_sweep

    entries, _ = resolve([cell.method for cell in cells], "predict")
    embedder = options.build(entries, "predict", benchmark.metadata)["embedder"]
    console = Console(stderr=True)
    if embedder is not None:
        embed_texts(benchmark, embedder, console)
    with resumable(console), watch(console) as progress:
        return run_prediction_sweep(cells, benchmark, embedder=embedder, out=out, progress=progress)


def show_cells(results: PredictSweepResults, console: Console) -> None:
    """Print the table, the verdicts and the files."""
    from rich.markup import escape

    if results.rows[0].results.preset:
        console.print(
            f"Preset {escape(results.rows[0].results.preset)} (first cell; the table's file has the others)",
            highlight=False,
            soft_wrap=True,
        )
    console.print(_table(results, plain=not console.is_terminal, wide=console.width >= _WIDE))
    for contest in results.contests:
        console.print(escape(contest.sentence()), highlight=False, soft_wrap=True)
    for path in results.files:
        console.print(f"Table: {escape(str(path))}", highlight=False, soft_wrap=True)


def _table(results: PredictSweepResults, *, plain: bool, wide: bool) -> Table:
    """Return a row for each cell, cells that predict the same pairs together."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from personalllm.cli.leaderboard import interval_cell
    from personalllm.evaluation.settings import shown

    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    several = len({row.cell.base for row in results.rows}) > 1
    apart = len(results.contests) > 1
    for name in (*(["pairs"] if apart else []), *(["method"] if several else [])):
        table.add_column(name, overflow="fold")
    for axis in results.axes:
        table.add_column(escape(axis.removeprefix("protocol.")), overflow="fold")
    for name in ("shots", "accuracy %", "log-loss", "behind the best %", "Holm p"):
        table.add_column(name, justify="right", no_wrap=True)
    gap = " " if wide else "\n"
    for place, contest in enumerate(results.contests):
        compared = {difference.b: difference for difference in contest.differences}
        for row in contest.rows:
            found = compared.get(str(row.cell))
            values = [*([f"set {place}"] if apart else []), *([row.cell.base] if several else [])]
            values += [shown(row.cell.values[axis]) for axis in results.axes]
            loss = row.estimate("log_loss").value
            table.add_row(
                *(escape(value) for value in values),
                str(row.at.shots),
                interval_cell(row.estimate("accuracy"), gap, percent=True),
                "" if math.isnan(loss) else f"{loss:.3f}",
                interval_cell(found.difference, gap, percent=True) if found else "-",
                f"{found.p_holm:.2g}" if found else "-",
            )
    return table
