"""Print a run: the leaderboard, remarks, and where the run is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalllm.report.leaderboard import leaderboard
from personalllm.report.tables import Grid, terminal_table
from personalllm.report.views import make_view

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.evaluation.results import Results

__all__ = ["show_results", "show_table"]

_PIPE = 1_000


def show_table(grid: Grid, console: Console) -> None:
    """Print a table as wide as the terminal allows; where there is no terminal, each row on one line without frames."""
    from rich.console import Console as RichConsole

    frame = console.is_terminal
    # what reads a pipe wants one line for each row, however long it is
    wide = console if frame else RichConsole(file=console.file, width=_PIPE, color_system=None)
    wide.print(terminal_table(grid, wide.width, frame=frame))


def show_results(results: Results, console: Console, versus: str | None = None) -> None:
    """Print the leaderboard, remarks, and where the run is kept.

    Args:
        results: Of any track.
        console: Where to print, see `show_table`.
        versus: Label that differences are taken from; None: the best method.
    """
    from rich.text import Text

    if results.preset:
        console.print(Text(f"Preset {results.preset}"), soft_wrap=True)
    show_table(leaderboard(results, versus=versus, curve=True), console)
    lines = list(make_view(results).remarks())
    if results.directory is not None:
        lines += [f"Results: {results.directory}", f"Report:  personalllm report {results.directory}"]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
