"""Read prompts from the files of known data sets, and from plain rows of any format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from personalllm.build.recipe import Source
from personalllm.core.errors import DataError, UserError
from personalllm.data.cells import BadCell, Row
from personalllm.data.files import Format, check_shards, file_part
from personalllm.data.rows import read_entries
from personalllm.data.text_rows import BadRow

__all__ = ["RawPrompt", "read_source", "source_files"]

_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPLIT = re.compile(r"[-_.](train|test|valid(ation)?|dev)\Z", re.IGNORECASE)
_SPLIT_NAMES = frozenset(("train", "test", "valid", "validation", "dev"))
_LISTED = 5


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """A prompt as a file holds it, surrounding white space removed.

    Attributes:
        text: The prompt; may be empty.
        subset: Its subset.
        path: Its file.
        location: Where it is there, e.g. `"line 3"`.
    """

    text: str
    subset: str
    path: Path = field(default=Path(), compare=False)
    location: str = field(default="", compare=False)


def source_files(source: Source, folder: Path, key: str = "`files`") -> list[Path]:
    """Return the files of a source, each once, in the order of their paths.

    Args:
        source: Whose patterns.
        folder: What they are relative to.
        key: Where they are in the recipe, for messages.

    Raises:
        UserError: If a pattern matches nothing, or a shard of the files is missing.
    """
    paths: dict[Path, Path] = {}
    for pattern in source.files:
        given = Path(pattern).expanduser()
        root = Path(given.anchor) if given.is_absolute() else folder
        matches = {path for path in root.glob(str(given.relative_to(given.anchor))) if path.is_file()}
        if not matches:
            where = "" if given.is_absolute() else f" in {folder.resolve()}"
            raise UserError(
                f"No file matches {pattern!r}{where}.{_nearest_file(root / given)}",
                f"Fix {key} in the recipe; patterns are relative to the recipe's folder.",
            )
        if len(matches) > 1:
            check_shards(matches)
        for path in sorted(matches):
            paths.setdefault(path.resolve(), path)
    return sorted(paths.values())


def _nearest_file(path: Path) -> str:
    """Return the files beside a path whose names are near to its own, as a question."""
    beside = [other.name for other in path.parent.glob("*") if other.is_file()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, sorted(beside), n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def read_source(source: Source, paths: Sequence[Path]) -> Iterator[RawPrompt]:
    """Yield the prompts of a source, row by row; rows of subsets that are not wanted are skipped.

    Args:
        source: How the files are read.
        paths: Its files.

    Raises:
        DataError: If a row is damaged or is not of the format; names file and line of the first five.
        UserError: If `only` leaves no row.
    """
    reader = _READERS[source.reader]
    bad = _BadRows(source.reader, reader.expected)
    any_row = any_wanted = False
    for path in paths:
        try:
            for entry in read_entries([file_part(path, reader.format)], reader.columns, columns=_renames(source)):
                any_row = True
                prompt = entry if isinstance(entry, BadRow) else _prompt(source, path, entry)
                if isinstance(prompt, BadRow | BadCell):
                    bad.add(prompt)
                elif not source.only or prompt.subset in source.only:
                    any_wanted = True
                    if not bad.count:
                        yield replace(prompt, subset=source.subset or prompt.subset)
        except DataError as error:
            bad.raise_for_any(error)
    bad.raise_for_any()
    if not any_row:
        raise DataError(
            f"Source {source.label!r} holds no row in {len(paths)} {'file' if len(paths) == 1 else 'files'}.",
            "Look whether the files were downloaded in full, or leave the source out.",
        )
    if source.only and not any_wanted:
        raise UserError(
            f"Source {source.label!r} holds no row of the subsets {', '.join(map(repr, source.only))}.",
            "Fix `only` in the recipe: it takes the names that the rows use.",
        )


def _renames(source: Source) -> dict[str, str]:
    """Return what the files call the columns that are read."""
    fixed_subset = bool(source.subset and not source.only)
    return {column: heading for column, heading in source.columns.items() if not (fixed_subset and column == "subset")}


def _prompt(source: Source, path: Path, row: Row) -> RawPrompt | BadCell:
    try:
        text, subset = _READERS[source.reader].prompt_of(source, path, row)
    except BadCell as error:
        return error
    subset = subset.strip()
    if not subset:
        return row.bad("the name of its subset is empty")
    if not subset.isprintable():
        return row.bad(f"{subset!r}, the name of its subset, holds a character that cannot be printed")
    return RawPrompt(text.strip(), subset, path, row.location)


class _BadRows:
    """Rows that cannot be used: the first five are listed, those of a file that lack the same column once."""

    def __init__(self, reader: str, expected: str) -> None:
        self.count = 0
        self._reader, self._expected = reader, expected
        self._listed: dict[tuple[str, str], tuple[str, int]] = {}

    def add(self, bad: BadRow | BadCell) -> None:
        """Count a row."""
        self.count += 1
        where = bad.where.rsplit(", ", 1)[0] if isinstance(bad, BadCell) and bad.missing_column else str(self.count)
        key = (where, bad.missing_column if isinstance(bad, BadCell) else "")
        if key in self._listed or len(self._listed) < _LISTED:
            line, repeats = self._listed.get(key, (_line(bad), -1))
            self._listed[key] = line, repeats + 1

    def raise_for_any(self, end: DataError | None = None) -> None:
        """Raise if there were bad rows, or because of `end`, at which reading stopped."""
        if not self.count:
            if end is not None:
                raise end
            return
        lines = [f"{line} (and {n:,} more rows of the file)" if n else line for line, n in self._listed.values()]
        n_unlisted = self.count - sum(1 + n for _, n in self._listed.values())
        lines += [f"and {n_unlisted:,} more"] if n_unlisted else []
        lines += [] if end is None else [end.message]
        plural = "row" if self.count == 1 else "rows"
        raise DataError(
            f"{self.count} {plural} cannot be read as {self._reader}:" + "".join(f"\n  - {line}" for line in lines),
            f"Fix or remove them. {self._expected}",
        )


def _line(bad: BadRow | BadCell) -> str:
    return str(bad) if isinstance(bad, BadRow) else bad.message.removesuffix(".")


def _plain(source: Source, path: Path, row: Row) -> tuple[str, str]:
    del path
    text = row.text("prompt", missing="")
    return text, source.subset if source.subset and not source.only else row.text("subset")


def _hh_rlhf(source: Source, path: Path, row: Row) -> tuple[str, str]:
    """Return the first human turn; the subset is the folder (helpful-base/train.jsonl.gz) or the file's name."""
    del source
    turns = _TURN.split(row.text("chosen"))
    if len(turns) < 3 or turns[0].strip() or turns[1] != "Human":
        raise row.bad("'chosen' does not begin with a human turn")
    name = path.name.split(".")[0]
    name = path.parent.name if name.lower() in _SPLIT_NAMES else _SPLIT.sub("", name)
    return turns[2], f"hh-rlhf-{name}"


def _helpsteer(source: Source, path: Path, row: Row) -> tuple[str, str]:
    """Return the prompt; of a dialogue (HelpSteer2) its first turn."""
    del source, path
    return row.text("prompt", missing="").partition("<extra_id_1>")[0], "HelpSteer"


def _rewardbench(source: Source, path: Path, row: Row) -> tuple[str, str]:
    del source, path
    return row.text("prompt", missing=""), row.text("subset")


def _alpacaeval(source: Source, path: Path, row: Row) -> tuple[str, str]:
    del source, path
    return row.text("instruction", missing=""), f"alpacaeval-{row.text('dataset')}"


class _Reader(NamedTuple):
    """Rules that turn the rows of a data set into prompts; `format` overrides the suffix of the files."""

    prompt_of: Callable[[Source, Path, Row], tuple[str, str]]
    columns: tuple[str, ...]
    expected: str
    format: Format | None = None


_EXPECTED = 'It needs the texts "prompt" and "subset": map other names with `columns`, or set `subset`.'
_READERS = {
    "hh-rlhf": _Reader(_hh_rlhf, ("chosen",), 'Each row needs "chosen", a dialogue that begins with "\\n\\nHuman:".'),
    "helpsteer": _Reader(_helpsteer, ("prompt",), 'Each row needs the text "prompt".'),
    "rewardbench": _Reader(_rewardbench, ("prompt", "subset"), 'Each row needs the texts "prompt" and "subset".'),
    "alpacaeval": _Reader(
        _alpacaeval, ("instruction", "dataset"), 'Each row needs the texts "instruction" and "dataset".'
    ),
    "jsonl": _Reader(_plain, ("prompt", "subset"), _EXPECTED, "json"),
    "csv": _Reader(_plain, ("prompt", "subset"), _EXPECTED, "csv"),
    "parquet": _Reader(_plain, ("prompt", "subset"), _EXPECTED, "parquet"),
}
