"""Print tables and runs: fitted to a terminal; elsewhere a line for each row, for programs to read."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING

from personalllm.report.answer import answer
from personalllm.report.leaderboard import leaderboard
from personalllm.report.tables import Grid, terminal_table
from personalllm.report.views import make_view, make_views

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from personalllm.evaluation.results import Results

__all__ = ["output_console", "show_answer", "show_results", "show_rows", "show_table"]

_PIPE = 10_000


def output_console() -> Console:
    """Return a console on standard output; where that is no terminal, it breaks no line."""
    from rich.console import Console as RichConsole

    console = RichConsole()
    return console if console.is_terminal else RichConsole(width=_PIPE)


def show_table(grid: Grid, console: Console) -> None:
    """Print a table as wide as the terminal allows; where there is no terminal, each row on one line without frames."""
    frame = console.is_terminal
    _print(terminal_table(grid, console.width if frame else _PIPE, frame=frame), console)


def show_rows(
    console: Console,
    headings: Sequence[str],
    rows: Iterable[Sequence[str] | None],
    *,
    title: str = "",
    numeric: Container[str] = (),
    header: bool = True,
) -> None:
    """Print rows of texts as a table; where there is no terminal, each row on one line without frames.

    Args:
        console: Where to print.
        headings: A heading for each column.
        rows: Cells, with rich's markup; None for a line between rows.
        title: Title, with markup.
        numeric: Headings of columns that are set to the right and not broken.
        header: Whether the headings are shown.
    """
    from rich import box
    from rich.table import Table

    frame = console.is_terminal
    table = Table(
        box=box.SIMPLE_HEAD if frame and header else None, pad_edge=False, padding=(0, 2 - (frame and header), 0, 0),
        title=title or None, title_justify="left", title_style="bold", show_header=header, show_edge=False,
    )  # fmt: skip
    for heading in headings:
        number = heading in numeric
        text = heading if frame else " ".join(heading.split())
        table.add_column(text, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*(row if frame else (" ".join(cell.split()) for cell in row)))
    _print(table, console)


def _print(table: Table, console: Console) -> None:
    """Print a table; where there is no terminal, title and caption are lines of their own and no line ends in space."""
    from rich.console import Console as RichConsole

    if console.is_terminal:
        console.print(table)
        return
    title, caption = table.title, table.caption
    table.title = table.caption = None
    wide = RichConsole(width=_PIPE, color_system=None)
    with wide.capture() as captured:
        wide.print(table)
    if title:
        console.print(title, soft_wrap=True, highlight=False)
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    if caption:
        console.print(caption, soft_wrap=True, highlight=False)


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


def show_answer(results: Sequence[Results], console: Console) -> None:
    """Print whether personalisation helped, and what that follows from; nothing if the runs do not say."""
    from rich.text import Text

    answered = answer(make_views(results))
    if answered is None:
        return
    console.print(Text("\nDid personalisation help?", "bold"))
    for line in (answered.verdict, *(f"{finding.topic}: {finding.text}" for finding in answered.findings)):
        console.print(Text(line), soft_wrap=not console.is_terminal)
