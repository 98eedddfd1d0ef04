"""Hold what a page is made of (findings, figures, tables of text), and fit tables to the width of a terminal."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from personalllm.report.numbers import ABSENT

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["Column", "Drawing", "Finding", "Grid", "Row", "terminal_table"]

_STYLES = {"baseline": "dim", "oracle": "dim italic"}
_GAP = 2
_NAME_WIDTHS = (16, 34)


@dataclass(frozen=True, slots=True)
class Finding:
    """What can be concluded from a run: what it is about, and the sentences."""

    topic: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A figure of a page.

    Attributes:
        key: Anchor, and stem of the file.
        title: Heading.
        caption: What it shows.
        figure: The figure.
        description: What it shows, for those who cannot see it.
    """

    key: str
    title: str
    caption: str
    figure: Figure
    description: str = "The tables have the numbers."


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Heading.
        note: A few words that stand under it.
        numeric: Whether its cells are numbers, which are set to the right and never broken.
        optional: 0 if it is always shown; a narrow terminal leaves out the columns with the largest numbers first.
    """

    heading: str
    note: str = ""
    numeric: bool = True
    optional: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        name: What stands in the first column.
        cells: Texts; what follows a line break stands in small type below the rest.
        label: What a user types for the row; empty if it is no method.
        kind: `method`, `baseline` or `oracle`; rows of one kind stand together.
    """

    name: str
    cells: tuple[str, ...]
    label: str = ""
    kind: str = "method"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table.

    Attributes:
        key: Anchor, unique within a section of a page.
        title: Heading.
        caption: What it shows.
        columns: All columns but the first.
        rows: Rows.
        first: Heading of the first column.
        folded: Whether a page shows it on demand only.
    """

    key: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    first: str = "Method"
    folded: bool = False

    @property
    def groups(self) -> tuple[tuple[str, tuple[Row, ...]], ...]:
        """(kind, its rows), in the order of the rows."""
        kinds = dict.fromkeys(row.kind for row in self.rows)
        return tuple((kind, tuple(row for row in self.rows if row.kind == kind)) for kind in kinds)

    def without_empty_columns(self, keep: int = 0) -> Grid:
        """Return the table without the columns that have no number in any row, but for the first `keep`."""
        empty = ("", ABSENT)
        n = len(self.columns)
        shown = [i for i in range(n) if i < keep or any(row.cells[i] not in empty for row in self.rows)]
        rows = tuple(replace(row, cells=tuple(row.cells[i] for i in shown)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[i] for i in shown), rows=rows)


def _column_width(grid: Grid, index: int, *, one_line: bool) -> int:
    """Return the characters that a column needs: its longest line, or its longest word if it holds prose."""
    column = grid.columns[index]
    words = [word for text in (column.heading, column.note) for word in text.split()]
    cells = [row.cells[index] for row in grid.rows]
    if column.numeric:
        words += (
            [cell.replace("\n", " ") for cell in cells] if one_line else [line for c in cells for line in c.split("\n")]
        )
    else:
        words += [word for cell in cells for word in cell.split()]
    return max(map(len, words), default=1)


def _name_width(grid: Grid) -> int:
    shortest, longest = _NAME_WIDTHS
    return max(shortest, min(longest, max((len(row.label or row.name) for row in grid.rows), default=0)))


def _layout(grid: Grid, width: int) -> tuple[list[int], bool]:
    """Return the columns that fit, and whether an interval has room beside its number rather than below it."""
    room = width - min(_name_width(grid), _NAME_WIDTHS[0] + 6) - _GAP
    every = range(len(grid.columns))
    if sum(_column_width(grid, i, one_line=True) + _GAP for i in every) <= room:
        return list(every), True
    shown: list[int] = []
    for index in sorted(every, key=lambda i: grid.columns[i].optional):
        needed = _column_width(grid, index, one_line=False) + _GAP
        if needed <= room or not grid.columns[index].optional:
            shown.append(index)
            room -= needed
    return sorted(shown), False


def terminal_table(grid: Grid, width: int, *, frame: bool = True) -> Table:
    """Return a table to print with rich: texts are shown as they are, without markup, and no number is broken.

    Args:
        grid: What to show.
        width: Columns of the terminal. Where they are too few, intervals stand below their numbers, then optional
            columns are left out; the caption names them.
        frame: Whether lines are drawn; without them a table is easier to read by a program.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown, one_line = _layout(grid, width)
    missing = dict.fromkeys(column.heading for i, column in enumerate(grid.columns) if i not in shown)
    caption = f"{grid.caption} A wider terminal also shows: {', '.join(missing)}." if missing else grid.caption
    table = Table(
        title=Text(grid.title), title_justify="left", caption=Text(caption), caption_justify="left",
        box=box.SIMPLE_HEAD if frame else None, padding=(0, _GAP - frame, 0, 0), pad_edge=False, show_edge=False,
    )  # fmt: skip
    shortest, longest = _NAME_WIDTHS if frame else (None, None)
    table.add_column(Text(grid.first), min_width=shortest, max_width=longest, overflow="fold")
    for index in shown:
        column = grid.columns[index]
        narrow = _column_width(grid, index, one_line=one_line)
        lines = [
            line for text in (column.heading, column.note) for line in textwrap.wrap(text, narrow if frame else width)
        ]
        justify = "right" if column.numeric else "left"
        heading = Text(("\n" if frame else " ").join(lines))
        table.add_column(heading, justify=justify, no_wrap=column.numeric, min_width=narrow)  # type: ignore[arg-type]
    for kind, rows in grid.groups:
        for row in rows:
            cells = [row.cells[index].replace("\n", " " if one_line else "\n") for index in shown]
            table.add_row(Text(row.label or row.name), *map(Text, cells), style=_STYLES.get(kind, ""))
        table.add_section()
    return table
