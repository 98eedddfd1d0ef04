"""Read prompts from the files of known data sets, and from plain JSONL, CSV and Parquet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from personalllm.build.readers_rows import BadRow, read_rows
from personalllm.build.recipe import Source
from personalllm.core.errors import DataError, UserError

__all__ = ["RawPrompt", "read_source", "source_files"]

_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPLIT = re.compile(r"[-_.](train|test|valid(ation)?|dev)\Z", re.IGNORECASE)
_SPLIT_NAMES = frozenset(("train", "test", "valid", "validation", "dev"))
_NAMED = 5


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """A prompt as a file holds it, surrounding white space removed.

    Attributes:
        text: The prompt; may be empty.
        subset: Its subset.
        path: Its file.
        place: Where it stands there, e.g. `"line 3"`.
    """

    text: str
    subset: str
    path: Path = field(default=Path(), compare=False)
    place: str = field(default="", compare=False)


def source_files(source: Source, folder: Path, key: str = "`files`") -> list[Path]:
    """Return the files of a source, each once, in the order of their paths.

    Args:
        source: Whose patterns.
        folder: What they are relative to.
        key: Where they stand in the recipe, for messages.

    Raises:
        UserError: If a pattern matches nothing.
    """
    found: dict[Path, Path] = {}
    for pattern in source.files:
        given = Path(pattern).expanduser()
        root = Path(given.anchor) if given.is_absolute() else folder
        files = {path for path in root.glob(str(given.relative_to(given.anchor))) if path.is_file()}
        if not files:
            where = "" if given.is_absolute() else f" in {folder.resolve()}"
            raise UserError(
                f"No file matches {pattern!r}{where}.{_nearest_file(root / given)}",
                f"Mend {key} in the recipe; patterns are relative to the recipe's folder.",
            )
        for path in sorted(files):
            found.setdefault(path.resolve(), path)
    return sorted(found.values())


def _nearest_file(path: Path) -> str:
    """Return the files beside a path whose names are near to its own, as a question."""
    beside = [other.name for other in path.parent.glob("*") if other.is_file()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, sorted(beside), n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def read_source(source: Source, paths: Sequence[Path]) -> Iterator[RawPrompt]:
    """Yield the prompts of a source, row by row; rows of a subset that is not asked for are passed over.

    Args:
        source: How the files are read.
        paths: Its files.

    Raises:
        DataError: If a row is damaged or is not of the format; names file and line of the first five.
    """
    bad = _BadRows(source.reader)
    prompt_of = _READERS[source.reader]
    wanted = frozenset(source.only)
    seen = some = False
    for path in paths:
        try:
            for row in read_rows(path, source.reader):
                some = True
                if isinstance(row, BadRow):
                    bad.add(row)
                    continue
                try:
                    text, subset = prompt_of(source, path, row.values)
                    subset = _subset(subset)
                except _NotOfTheFormat as error:
                    bad.add(BadRow(path, row.place, str(error)), error.column)
                    continue
                if wanted and subset not in wanted:
                    continue
                seen = True
                if not bad.rows:
                    yield RawPrompt(text.strip(), source.subset or subset, path, row.place)
        except DataError as error:
            bad.raise_for_any(error)
    bad.raise_for_any()
    if not some:
        raise DataError(
            f"Source {source.label!r} holds no row in {len(paths)} {'file' if len(paths) == 1 else 'files'}.",
            "Look whether the files were downloaded in full, or leave the source out.",
        )
    if wanted and not seen:
        raise UserError(
            f"Source {source.label!r} holds no row of the subsets {', '.join(map(repr, source.only))}.",
            "Mend `only` in the recipe: it takes the names that the rows use.",
        )


class _NotOfTheFormat(ValueError):
    """A row lacks what its format promises; `column` is one that is not there at all."""

    def __init__(self, message: str, column: str = "") -> None:
        super().__init__(message)
        self.column = column


@dataclass(slots=True)
class _BadRows:
    reader: str
    rows: list[BadRow] = field(default_factory=list)
    count: int = 0
    absent: Counter[tuple[Path, str]] = field(default_factory=Counter)
    said: dict[int, tuple[Path, str]] = field(default_factory=dict)

    def add(self, row: BadRow, absent: str = "") -> None:
        """Note a row; those of a file that lack the same column are named once."""
        self.count += 1
        key = (row.path, absent)
        if absent:
            self.absent[key] += 1
        if len(self.rows) < _NAMED and self.absent[key] < 2:
            if absent:
                self.said[len(self.rows)] = key
            self.rows.append(row)

    @property
    def lines(self) -> list[str]:
        """One line for each row that is named; of rows that lack a column, how many more there are in the file."""
        others = [self.absent[self.said[i]] - 1 if i in self.said else 0 for i in range(len(self.rows))]
        lines = [
            f"{row}{f' (and {n:,} more rows of the file)' if n else ''}"
            for row, n in zip(self.rows, others, strict=True)
        ]
        rest = self.count - len(self.rows) - sum(others)
        return [*lines, f"and {rest:,} more"] if rest else lines

    def raise_for_any(self, end: DataError | None = None) -> None:
        """Raise if there were bad rows, or because of `end`, at which reading stopped."""
        if not self.rows:
            if end is not None:
                raise end
            return
        lines = "".join(f"\n  - {line}" for line in self.lines)
        plural = "row" if self.count == 1 else "rows"
        stopped = f"\n  - {end.message}" if end is not None else ""
        raise DataError(
            f"{self.count} {plural} cannot be read as {self.reader}:{lines}{stopped}",
            f"Mend or remove them. {_EXPECTED[self.reader]}",
        )


def _text(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        near = get_close_matches(column, sorted(row), n=2, cutoff=0.6)
        meant = f". Did you mean {' or '.join(map(repr, near))}?" if near else ""
        held = ", ".join(map(repr, sorted(row))) or "nothing"
        raise _NotOfTheFormat(f"there is no {column!r}; it has {held}{meant}", column)
    value = row[column]
    if not isinstance(value, str):
        raise _NotOfTheFormat(f"{column!r} is {'empty (null)' if value is None else 'not a text'}")
    return value


def _subset(name: str) -> str:
    name = name.strip()
    if not name:
        raise _NotOfTheFormat("the name of its subset is empty")
    if not name.isprintable():
        raise _NotOfTheFormat(f"{name!r}, the name of its subset, holds a character that cannot be printed")
    return name


def _plain(source: Source, path: Path, row: Mapping[str, Any]) -> tuple[str, str]:
    del path
    text = _text(row, source.columns.get("prompt", "prompt"))
    if source.subset and not source.only:
        return text, source.subset
    return text, _text(row, source.columns.get("subset", "subset"))


def _hh_rlhf(source: Source, path: Path, row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the first human turn; the subset is the folder (helpful-base/train.jsonl.gz) or the file's name."""
    del source
    dialogue = _text(row, "chosen")
    turns = _TURN.split(dialogue)
    if len(turns) < 3 or turns[0].strip() or turns[1] != "Human":
        raise _NotOfTheFormat("'chosen' does not begin with a human turn")
    name = path.name.split(".")[0]
    name = path.parent.name if name.lower() in _SPLIT_NAMES else _SPLIT.sub("", name)
    return turns[2], f"hh-rlhf-{name}"


def _helpsteer(source: Source, path: Path, row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the prompt; of a dialogue (HelpSteer2) its first turn."""
    del source, path
    return _text(row, "prompt").partition("<extra_id_1>")[0], "HelpSteer"


def _rewardbench(source: Source, path: Path, row: Mapping[str, Any]) -> tuple[str, str]:
    del source, path
    return _text(row, "prompt"), _text(row, "subset")


def _alpacaeval(source: Source, path: Path, row: Mapping[str, Any]) -> tuple[str, str]:
    del source, path
    return _text(row, "instruction"), f"alpacaeval-{_text(row, 'dataset')}"


_READERS: dict[str, Callable[[Source, Path, Mapping[str, Any]], tuple[str, str]]] = {
    "hh-rlhf": _hh_rlhf,
    "helpsteer": _helpsteer,
    "rewardbench": _rewardbench,
    "alpacaeval": _alpacaeval,
    "jsonl": _plain,
    "csv": _plain,
    "parquet": _plain,
}
_PLAIN_COLUMNS = 'It needs the texts "prompt" and "subset": map other names with `columns`, or set `subset`.'
_EXPECTED = {
    "hh-rlhf": 'Each row needs "chosen", a dialogue that begins with "\\n\\nHuman:".',
    "helpsteer": 'Each row needs the text "prompt".',
    "rewardbench": 'Each row needs the texts "prompt" and "subset".',
    "alpacaeval": 'Each row needs the texts "instruction" and "dataset".',
    "jsonl": _PLAIN_COLUMNS,
    "csv": _PLAIN_COLUMNS,
    "parquet": _PLAIN_COLUMNS,
}
