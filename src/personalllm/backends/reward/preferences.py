"""Read preference pairs from a file and split them by prompt."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, DataError
from personalllm.core.types import I32

__all__ = ["Preferences", "read_preferences"]

_REQUIRED = ("prompt", "chosen", "rejected")
_FORMATS = ".jsonl, .jsonl.gz, .parquet or .csv"


@dataclass(frozen=True, eq=False, slots=True)
class Preferences:
    """Pairs of responses of which somebody preferred one.

    Attributes:
        prompts: Prompt of each pair, length n.
        chosen: The preferred response of each pair.
        rejected: The other one.
        groups: What must not stand on both sides of a split, one a pair: the prompt unless the file says otherwise.
    """

    prompts: tuple[str, ...]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.prompts) == len(self.chosen) == len(self.rejected) == len(self.groups):
            raise AxisMismatch("The columns of the preferences differ in length.")

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Sequence[int] | npt.NDArray[Any]) -> Preferences:
        """Return the pairs at some rows, in that order."""
        columns = (self.prompts, self.chosen, self.rejected, self.groups)
        return Preferences(*(tuple(column[int(i)] for i in rows) for column in columns))

    def flipped(self) -> Preferences:
        """Return the same pairs with chosen and rejected swapped, for somebody who wants the opposite."""
        return Preferences(self.prompts, self.rejected, self.chosen, self.groups)

    def group_index(self) -> I32:
        """Return int32 (n,): pairs of one group share a number, counted from 0 in order of appearance."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(group, len(numbers)) for group in self.groups], np.int32)

    def split(self, held_out: float) -> tuple[Preferences, Preferences]:
        """Split into pairs to fit on and pairs held out, by group.

        A group's side follows from the SHA-256 of its text, so it is the same in every file: models fitted on
        different files, or on mixtures of files, never see each other's held-out groups.

        Where groups are wider than prompts (dialogues that end in the same "Yes, please."), a prompt can be in groups
        of both sides; such pairs are left out of the held-out ones, so that no prompt is on both sides.

        Args:
            held_out: Expected share of groups held out, in (0, 1).

        Returns:
            (to fit on, held out).
        """
        side = {group: _unit(group) < held_out for group in dict.fromkeys(self.groups)}
        out = np.array([side[group] for group in self.groups], bool)
        fitted = self.take(np.flatnonzero(~out))
        seen = frozenset(fitted.prompts)
        return fitted, self.take([i for i, held in enumerate(out) if held and self.prompts[i] not in seen])

    @classmethod
    def concatenate(cls, parts: Sequence[Preferences]) -> Preferences:
        """Return the pairs of several collections, one after the other."""
        return cls(
            tuple(text for part in parts for text in part.prompts),
            tuple(text for part in parts for text in part.chosen),
            tuple(text for part in parts for text in part.rejected),
            tuple(text for part in parts for text in part.groups),
        )


def _unit(text: str) -> float:
    """Map a text to a number in [0, 1) that looks random and is the same everywhere."""
    digest = hashlib.sha256(b"personalllm preference split\x00" + text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{path}, line {number}: not JSON ({error.msg}).", "Write one JSON object on each line."
                    ) from error


def _arrow_rows(path: Path) -> Iterator[tuple[int, Any]]:
    from pyarrow import ArrowInvalid, csv, parquet

    try:
        if path.suffix == ".csv":
            options = csv.ConvertOptions(column_types=dict.fromkeys((*_REQUIRED, "group"), "string"))
            parsing = csv.ParseOptions(newlines_in_values=True)
            table = csv.read_csv(path, parse_options=parsing, convert_options=options)
        else:
            table = parquet.read_table(path)
    except ArrowInvalid as error:
        raise DataError(f"{path} cannot be read: {error}.", f"Give a whole file: {_FORMATS}.") from error
    first = 2 if path.suffix == ".csv" else 1
    yield from enumerate(table.to_pylist(), first)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if not path.is_file():
        raise DataError(f"There is no preference file {path}.", f"Give the path of a {_FORMATS} file.")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        try:
            yield from _json_lines(path)
        except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}.", "Give a whole file in UTF-8.") from error
    elif path.suffix in (".parquet", ".csv"):
        yield from _arrow_rows(path)
    else:
        raise DataError(f"{path} has an unknown format.", f"Give a {_FORMATS} file.")


def read_preferences(path: str | Path) -> Preferences:
    r"""Read the preference pairs of a file.

    The columns `prompt`, `chosen` and `rejected` hold text; the optional column `group` names what must stay on one
    side of a split (the prompt if absent). Other columns are ignored. Pairs of two equal responses are refused.

    Args:
        path: `.jsonl`, `.jsonl.gz`, `.parquet` or `.csv`.

    Raises:
        DataError: If the file is absent, cut off, has no pair, or a row breaks the schema: says the row and the column.

    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = Path(folder.name) / "pairs.jsonl"
    >>> _ = file.write_text('{"prompt": "Hello?", "chosen": "Hello!", "rejected": "What?"}\n')
    >>> read_preferences(file).chosen
    ('Hello!',)
    >>> folder.cleanup()
    """
    path = Path(path)
    columns: tuple[list[str], list[str], list[str], list[str]] = ([], [], [], [])
    for number, row in _rows(path):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: not an object.", f"Give each row the columns {', '.join(_REQUIRED)}.")
        for name, column in zip(_REQUIRED, columns, strict=False):
            value = row.get(name)
            if not isinstance(value, str) or (name == "prompt" and not value.strip()):
                given = "absent" if name not in row else repr(value)
                raise DataError(f"{where}: {name!r} must be text, got {given}.", f"Fill the column {name!r}.")
            column.append(value)
        if row["chosen"] == row["rejected"]:
            raise DataError(f"{where}: chosen and rejected are the same text.", "Leave such pairs out.")
        group = row.get("group")
        columns[3].append(row["prompt"] if group is None else str(group))
    if not columns[0]:
        raise DataError(f"{path} has no preference pair.", f"Give rows with {', '.join(_REQUIRED)}.")
    return Preferences(*map(tuple, columns))
