"""Read one row of a source: its cells as texts, names, numbers and chat messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeGuard

from personalllm.core.errors import DataError
from personalllm.core.types import JSON, Message

__all__ = ["BadCell", "Row", "conversation", "is_messages"]

_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
}


class BadCell(DataError):
    """A cell cannot be used.

    Args:
        where: Source and place of the row.
        reason: What is wrong.
        remedy: How to fix it.
        missing_column: The column, if the row does not have it at all.
    """

    def __init__(self, where: str, reason: str, remedy: str = "", missing_column: str = "") -> None:
        super().__init__(f"{where}: {reason}.", remedy)
        self.where = where
        self.reason = reason
        self.missing_column = missing_column

    def __reduce__(self) -> tuple[type[BadCell], tuple[str, str, str, str]]:
        return type(self), (self.where, self.reason, self.remedy, self.missing_column)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source.

    Attributes:
        source: The file, or the name of the table in memory.
        location: Where the row is, e.g. `"line 3"`.
        values: Its cells by our names of the columns.
        present: The columns that the source has, by its own names.
    """

    source: str
    location: str
    values: JSON
    present: Sequence[str] = ()

    @property
    def where(self) -> str:
        """Source and place, as they start a message."""
        return f"{self.source}, {self.location}"

    def __contains__(self, column: str) -> bool:
        return column in self.values

    def bad(self, reason: str, remedy: str = "") -> BadCell:
        """Return the error that says what is wrong with this row."""
        return BadCell(self.where, reason, remedy)

    def cell(self, column: str) -> Any:
        """Return a cell; None for a missing value, which pandas writes as NaN.

        Raises:
            BadCell: If the row has no such column; names similar ones.
        """
        if column not in self.values:
            near = get_close_matches(column, sorted(self.present), n=2, cutoff=0.6)
            hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
            held = ", ".join(map(repr, sorted(self.present))) or "nothing"
            raise BadCell(
                self.where,
                f"there is no {column!r}; it has {held}",
                f"{hint}If a column has another name, map it: --column {column}=NAME, or columns={{{column!r}: NAME}}.",
                column,
            )
        value = self.values[column]
        if hasattr(value, "tolist"):  # NumPy numbers, and the arrays that pandas makes of lists in Parquet
            value = value.tolist()
        if isinstance(value, float) and math.isnan(value):
            return None
        # pandas has more missing values than NaN (NaT, NA); none is equal to itself, and NA is not even comparable.
        return None if type(value).__name__ in ("NAType", "NaTType") else value

    def text(self, column: str, *, numbers: bool = False, missing: str | None = None) -> str:
        """Return a cell as text; chat messages as one text (see `conversation`).

        Args:
            column: The column.
            numbers: True if numbers and truth values are accepted and written as Python writes them.
            missing: What a missing value stands for; None if it is refused.

        Raises:
            BadCell: If the cell is missing, is not text, or is not valid Unicode.
        """
        value = self.cell(column)
        if value is None:
            value = missing
        if is_messages(value):
            value = conversation(value)
        if numbers and isinstance(value, bool | int | float) and math.isfinite(value):
            value = str(value)
        if value is None:
            raise self.bad(f"{column!r} is empty (null)", "Fill it in, or leave the row out.")
        if not isinstance(value, str):
            raise self.bad(f"{column!r} is not a text: {value!r:.40}", "Write it as text.")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise self.bad(
                    f"{column!r} is not valid Unicode (half a surrogate pair at character {error.start})",
                    "Write the text as UTF-8 without lone surrogates.",
                ) from error
        return value

    def response(self, column: str) -> str:
        """Return a cell as the text of a response; of chat messages, the last one of the assistant.

        Raises:
            BadCell: As `text`; also if messages do not end with the assistant's.
        """
        if (turns := _turns(self.cell(column))) is None:
            return self.text(column, numbers=True)
        if _ROLES.get(str(turns[-1]["role"]).casefold()) != "assistant":
            raise self.bad(f"the messages of {column!r} do not end with the assistant's")
        return self.at(column, turns[-1]["content"]).text(column, numbers=True)

    def messages(self, column: str) -> tuple[Message, ...]:
        """Return a cell as the turns of a chat: a text is one turn of the user.

        Args:
            column: Its cell is a text or number, a message (`role`, `content`), a list of these, or a dict with such a
                list under `messages`.

        Raises:
            BadCell: If it is something else or empty, or a role is unknown.
        """
        if (turns := _turns(self.cell(column))) is None:
            return (Message("user", self.text(column, numbers=True)),)
        messages = []
        for turn in turns:
            role = str(turn["role"]).casefold()
            if role not in _ROLES:
                raise self.bad(f"{column!r} has a message of the role {role!r:.40}", f"Use one of {', '.join(_ROLES)}.")
            messages.append(Message(_ROLES[role], self.at(column, turn["content"]).text(column, numbers=True)))
        return tuple(messages)

    def at(self, column: str, value: Any) -> Row:
        """Return a row with one cell, to read a value that lies inside another cell."""
        return Row(self.source, self.location, {column: value})

    def name(self, column: str) -> str:
        """Return a cell as the name of somebody or something: a text that is not blank, or a whole number.

        Raises:
            BadCell: If it is missing, blank, holds a NUL or is something else.
        """
        value = self.cell(column)
        # pandas turns a column of whole numbers with a missing one into fractions.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        text = self.text(column)
        if not text.strip():
            raise self.bad(f"{column!r} is empty")
        if "\0" in text:
            raise self.bad(f"{column!r} holds a NUL character: {text!r:.40}", "Remove it; the file may be damaged.")
        return text

    def optional(self, column: str) -> str:
        """Return a cell as a name without surrounding space; empty if it is missing or blank."""
        value = self.cell(column) if column in self.values else None
        return "" if value is None or value == "" or str(value).isspace() else self.name(column).strip()

    def number(self, column: str, expected: str) -> float | None:
        """Return a cell as a finite number; None if it is missing or blank.

        Args:
            column: The column, which may hold a number or, as CSV does, its text.
            expected: What is expected, for the message.

        Raises:
            BadCell: If it is something else.
        """
        value = self.cell(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self.bad(f"{column} must be {expected}, got {value!r:.40}")
        return number


def _turns(value: Any) -> Sequence[JSON] | None:
    """Return the messages of a chat, of one message, or of a dict with a chat under `messages`; None if it is none."""
    if isinstance(value, dict):
        value = value.get("messages", [value])
    return value if is_messages(value) else None


def is_messages(value: Any) -> TypeGuard[Sequence[JSON]]:
    """Return whether a value is a chat: a non-empty list of dicts with `role` and `content`."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(turn, dict) and "role" in turn and "content" in turn for turn in value)
    )


def conversation(messages: Sequence[JSON]) -> str:
    r"""Return chat messages as one text: that of a single message as it is, more with their roles in front.

    >>> conversation([{"role": "user", "content": "Hi"}])
    'Hi'
    >>> conversation([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}])
    'User: Hi\n\nAssistant: Hello.'
    """
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{str(turn['role']).capitalize()}: {turn['content']}" for turn in messages)
