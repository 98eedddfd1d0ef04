"""All analyses of a benchmark in one folder: tables, figures and a page that needs nothing but itself."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personalllm.core.errors import UserError
from personalllm.core.plotting import drawing, save_figure
from personalllm.core.storage import atomic_directory
from personalllm.report import numbers
from personalllm.report.examples import excerpt
from personalllm.report.page import Figure
from personalllm.report.svg import inline_svg
from personalllm.report.tables import Column, Grid, Row
from personalllm.report.template import render, write_table

if TYPE_CHECKING:
    from personalllm.analysis.base import Analysis

__all__ = ["check_folder", "write_analyses"]

_ROWS, _MAX_ROWS = 12, 100
_OPEN_ROWS = 30
_PAGE = "index.html"
_HOLDS = {"tables": (".parquet", ".csv"), "figures": (".svg", ".png")}
_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Section:
    """An analysis as the page shows it."""

    figure: Figure
    notes: tuple[Any, ...]
    tables: tuple[Grid, ...]


def write_analyses(
    analyses: Mapping[str, Analysis],
    directory: str | Path,
    *,
    title: str,
    lead: str,
    facts: Mapping[str, str],
    absent: Mapping[str, str] | None = None,
    footer: str = "",
) -> Path:
    """Write tables (Parquet and CSV), figures (SVG and PNG) and one HTML page; equal analyses give equal files.

    All is made in a temporary folder first, so a failure leaves what was there. Tables and figures of an earlier page
    in the same folder are replaced, other files are kept.

    Args:
        analyses: By key, in the order of the page; the key is the stem of the figures' names.
        directory: Where to write; made if absent.
        title: Heading of the page.
        lead: A sentence below it.
        facts: Name and value of what was analysed.
        absent: Analyses that are not there, and why.
        footer: Versions and the like.

    Returns:
        The page, `DIR/index.html`.

    Raises:
        UserError: If there is no analysis, two tables have the same name, or the folder cannot be written.
    """
    if not analyses:
        raise UserError("There is no analysis to write.", "Name at least one.")
    folder = check_folder(directory)
    tables = {
        key: {_file_name(key, name): table for name, table in analysis.tables().items()}
        for key, analysis in analyses.items()
    }
    names = [name for of_analysis in tables.values() for name in of_analysis]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two tables are called {', '.join(twice)}.", "Give each analysis its own key.")
    words = {"title": title, "lead": lead, "facts": facts, "footer": footer}
    missing = {name: _note(why) for name, why in (absent or {}).items()}
    with _replaced(folder) as temporary:
        for part in _HOLDS:
            (temporary / part).mkdir()
        sections = []
        for key, analysis in analyses.items():
            for name, table in tables[key].items():
                write_table(table, temporary / "tables" / name)
            figure = analysis.plot()
            with drawing(text_as_paths=True):
                save_figure(figure, temporary / "figures" / key)
            sections.append(_section(key, analysis, figure, tables[key]))
        text = render("analyses.html.j2", sections=sections, absent=missing, **words)
        (temporary / _PAGE).write_text(text, encoding="utf-8")
    return folder / _PAGE


def check_folder(directory: str | Path) -> Path:
    """Return a folder into which a page can be written; it may be absent, or hold an earlier page.

    Raises:
        UserError: If it is a file, or its `tables` or `figures` hold anything that is no table or figure.
    """
    folder = Path(directory)
    nearest = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    if not nearest.is_dir():
        raise UserError(f"{nearest} is not a folder.", "Name a folder; it is made if absent.")
    for part, suffixes in _HOLDS.items():
        inside = folder / part
        foreign = [inside] if inside.exists() and not inside.is_dir() else []
        if inside.is_dir():
            foreign = sorted(path for path in inside.iterdir() if path.suffix not in suffixes)
        if foreign:
            raise UserError(
                f"{foreign[0]} is in the way: {inside} would be replaced.", "Move it, or name another folder."
            )
    return folder


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; if the block ends well its contents become those of `folder`, the page last."""
    if not folder.exists():
        with atomic_directory(folder) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as name:
        temporary = Path(name)
        yield temporary
        (folder / _PAGE).unlink(missing_ok=True)
        for part in _HOLDS:
            if (folder / part).exists():
                shutil.rmtree(folder / part)
            (temporary / part).replace(folder / part)
        (temporary / _PAGE).replace(folder / _PAGE)


def _file_name(key: str, name: str) -> str:
    """Return the stem of a table's files, which begins with the analysis.

    >>> _file_name("regressions", "user_table"), _file_name("audit", "audit_pairs")
    ('regressions-user-table', 'audit-pairs')
    """
    name = name.replace("_", "-")
    return name if name == key or name.startswith(f"{key}-") else f"{key}-{name}"


def _note(text: str) -> Any:
    """Return a note as markup: escaped, what stands in backticks as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    marked = [escape(part) if i % 2 == 0 else Markup("<code>{}</code>").format(part) for i, part in enumerate(parts)]
    return Markup("").join(marked)


def _section(key: str, analysis: Analysis, figure: Any, tables: Mapping[str, Any]) -> Section:
    notes = analysis.notes()
    figure.set_facecolor("none")
    with drawing(text_as_paths=False):
        svg = inline_svg(figure, key=key, title=analysis.title, description=" ".join(notes))
    files = Figure(key, analysis.title, f"Files: figures/{key}.svg, .png", svg)
    grids = [_grid(name, table, folded=index > 0) for index, (name, table) in enumerate(tables.items())]
    return Section(files, tuple(_note(note) for note in notes), tuple(grids))


def _grid(name: str, table: Any, *, folded: bool) -> Grid:
    """Return a table, or the first rows of a long one, folded away unless it is the first and short."""
    import pyarrow.types as pt

    shown = table if table.num_rows <= _MAX_ROWS else table.slice(0, _ROWS)
    columns = [
        Column(field.name.replace("_", " "), numeric=pt.is_floating(field.type) or pt.is_integer(field.type))
        for field in table.schema
    ]
    rows = [Row("", tuple(map(_cell, row.values()))) for row in shown.to_pylist()]
    first = f"The first {len(rows)} rows of " if len(rows) < table.num_rows else ""
    return Grid(
        name,
        f"{name}: {numbers.count(table.num_rows)} rows",
        f"{first}tables/{name}.csv, .parquet",
        tuple(columns),
        tuple(rows),
        first="",
        folded=folded or len(rows) > _OPEN_ROWS,
    )


def _cell(value: Any) -> str:
    if value is None:
        return numbers.ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return numbers.count(value)
    if isinstance(value, float):
        whole = math.isfinite(value) and value.is_integer() and abs(value) >= 10
        return numbers.number(value, 0 if whole else 3)
    if isinstance(value, (list, tuple)):
        return excerpt(", ".join(_cell(item) for item in value), _CHARACTERS)
    return excerpt(str(value), _CHARACTERS)
