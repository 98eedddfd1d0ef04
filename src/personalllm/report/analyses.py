"""All analyses of a benchmark in one folder: tables, figures and a page that needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personalllm.analysis.drawing import INK, drawing
from personalllm.errors import UserError
from personalllm.report import numbers
from personalllm.report.examples import excerpt
from personalllm.report.svg import inline_svg
from personalllm.report.template import environment, stylesheet
from personalllm.storage import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.base import Analysis

__all__ = ["write_analyses"]

_ROWS = 12
_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table on the page."""

    heading: str
    numeric: bool


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The first rows of a table."""

    name: str
    n_rows: int
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """An analysis as the page shows it."""

    key: str
    title: str
    figure: str
    notes: tuple[Any, ...]
    tables: tuple[Excerpt, ...]


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
        UserError: If there is no analysis, or two tables have the same name.
    """
    if not analyses:
        raise UserError("There is no analysis to write.", "Name at least one.")
    folder = Path(directory)
    tables = {
        key: {_file_name(key, name): table for name, table in analysis.tables().items()}
        for key, analysis in analyses.items()
    }
    names = [name for found in tables.values() for name in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two tables are called {', '.join(twice)}.", "Give each analysis its own key.")
    for found in tables.values():
        for name, table in found.items():
            _write_table(table, folder / "tables" / name)
    sections = []
    for key, analysis in analyses.items():
        figure = analysis.plot()
        _write_figure(figure, folder / "figures" / key)
        sections.append(_section(key, analysis, figure, tables[key]))
    page = (
        environment()
        .get_template("analyses.html.j2")
        .render(
            css=stylesheet(),
            title=title,
            lead=lead,
            facts=facts,
            sections=sections,
            footer=footer,
            absent={name: _note(why) for name, why in (absent or {}).items()},
        )
    )
    target = folder / "index.html"
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


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
    shown = [escape(part) if i % 2 == 0 else Markup("<code>{}</code>").format(part) for i, part in enumerate(parts)]
    return Markup("").join(shown)


def _write_table(table: Any, stem: Path) -> None:
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    with atomic_path(stem.with_name(f"{stem.name}.parquet")) as temporary:
        pq.write_table(table, temporary)
    with atomic_path(stem.with_name(f"{stem.name}.csv")) as temporary:
        pa_csv.write_csv(table, temporary)


def _write_figure(figure: Figure, stem: Path) -> None:
    figure.set_facecolor(INK["paper"])
    with drawing(text_as_paths=True):
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            with atomic_path(stem.with_name(f"{stem.name}.{kind}")) as temporary:
                figure.savefig(temporary, format=kind, dpi=200, metadata=metadata)


def _section(key: str, analysis: Analysis, figure: Figure, tables: Mapping[str, Any]) -> Section:
    notes = analysis.notes()
    figure.set_facecolor("none")
    with drawing(text_as_paths=False):
        svg = inline_svg(figure, key=key, title=analysis.title, description=" ".join(notes))
    marked = tuple(_note(note) for note in notes)
    return Section(key, analysis.title, svg, marked, tuple(_excerpt(name, table) for name, table in tables.items()))


def _excerpt(name: str, table: Any) -> Excerpt:
    import pyarrow.types as pt

    columns = tuple(
        Column(field.name.replace("_", " "), pt.is_floating(field.type) or pt.is_integer(field.type))
        for field in table.schema
    )
    rows = tuple(tuple(_cell(value) for value in row.values()) for row in table.slice(0, _ROWS).to_pylist())
    return Excerpt(name, table.num_rows, columns, rows)


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
