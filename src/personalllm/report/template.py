"""Render pages from templates: every text is escaped, a missing value is an error."""

from __future__ import annotations

import json
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personalllm.core.storage import atomic_path
from personalllm.report import numbers
from personalllm.report.examples import excerpt

if TYPE_CHECKING:
    from jinja2 import Environment
    from pyarrow import Table

__all__ = ["render", "write_page", "write_table"]


def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    folder = resources.files("personalllm.report").joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["stylesheet"] = Markup(folder.joinpath("report.css").read_text(encoding="utf-8"))  # noqa: S704
    environment.filters |= {
        "number": numbers.number,
        "signed": partial(numbers.number, signed=True),
        "percent": numbers.percent,
        "count": numbers.count,
        "duration": numbers.duration,
        "excerpt": excerpt,
        "interval": numbers.interval,
        "quoted": lambda text: text.replace("'", "\u2019"),
        "json": partial(json.dumps, indent=2, sort_keys=True, ensure_ascii=False),
    }
    return environment


def render(template: str, **values: Any) -> str:
    """Return a page: `template` names a file in `templates` that extends `base.html.j2`."""
    return _environment().get_template(template).render(**values)


def write_page(path: str | Path, default: str, template: str, **values: Any) -> Path:
    """Render a page and write it, atomically.

    Args:
        path: File to write; for an existing folder, `default` in it.
        default: Name of the file in a folder.
        template: File in `templates`.
        **values: What the template shows.

    Returns:
        The file written.
    """
    target = Path(path) / default if Path(path).is_dir() else Path(path)
    text = render(template, **values)
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def write_table(table: Table, stem: Path) -> list[Path]:
    """Write an Arrow table as `stem.csv` and `stem.parquet`, atomically; return the files."""
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("csv", "parquet")]
    for target, write in zip(files, (pa_csv.write_csv, pq.write_table), strict=True):
        with atomic_path(target) as temporary:
            write(table, temporary)
    return files
