"""The option `--column OURS=THEIRS` of the commands that read rows."""

from __future__ import annotations

from typing import Annotated

import typer

from personalllm.core.errors import UserError

__all__ = ["ColumnNames", "parse_columns"]

ColumnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="COLUMN=NAME", help="What the file calls a column, e.g. prompt=question. Repeatable."
    ),
]


def parse_columns(options: list[str] | None) -> dict[str, str]:
    """Return what a source calls its columns.

    Raises:
        UserError: If an option is not of the form COLUMN=NAME.

    >>> parse_columns(["user=annotator"])
    {'user': 'annotator'}
    """
    columns: dict[str, str] = {}
    for text in options or ():
        ours, sign, theirs = text.partition("=")
        if not (sign and ours.strip() and theirs.strip()):
            raise UserError(f"Cannot read --column {text!r}.", "Write COLUMN=NAME, e.g. --column user=annotator.")
        columns[ours.strip()] = theirs.strip()
    return columns
