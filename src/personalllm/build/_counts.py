"""Count what happened to the rows of each source."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from personalllm.build.readers import RawPrompt
from personalllm.build.recipe import Source
from personalllm.core.storage import atomic_path

__all__ = ["Counts", "SourceCounts", "counts_of"]

_SHOWN = 120


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """Counts of the rows of a source; every row is counted once besides `read`, so the others sum to it.

    Attributes:
        name: What the source is called.
        read: Rows read.
        empty: Nothing but white space.
        damaged: With a mark of wrong decoding or a control character.
        too_short: Below `min_characters`.
        too_long: Above `max_characters`.
        duplicate: Equal to a prompt before it, in this source or one that stands before it in the recipe.
        other_language: Surely not in one of `languages`.
        near_duplicate: Near to a kept prompt.
        over_limit: Usable, but more than the source's `limit`.
        not_drawn: Usable, but not needed.
        drawn: In the working folder.
    """

    name: str
    read: int = 0
    empty: int = 0
    damaged: int = 0
    too_short: int = 0
    too_long: int = 0
    duplicate: int = 0
    other_language: int = 0
    near_duplicate: int = 0
    over_limit: int = 0
    not_drawn: int = 0
    drawn: int = 0


class Counts:
    """Counts while the prompts are read, and the rows that were left out.

    Args:
        sources: The sources, in their order.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._counts: list[Counter[str]] = [Counter() for _ in sources]
        self._left_out: list[tuple[Path, str, str, str]] = []

    def add(self, source: int, what: str, n: int = 1) -> None:
        """Count n rows of a source."""
        self._counts[source][what] += n

    def leave_out(self, source: int, why: str, raw: RawPrompt) -> None:
        """Count a row of a source that is left out, and keep where it stands."""
        self.add(source, why)
        text = " ".join(raw.text[: 2 * _SHOWN].split())
        short = text if len(text) <= _SHOWN and len(raw.text) <= 2 * _SHOWN else f"{text[:_SHOWN].rstrip()} ..."
        self._left_out.append((raw.path, raw.location, why, short))

    def tables(self) -> list[SourceCounts]:
        """Return the counts of each source."""
        return [SourceCounts(s.label, **c) for s, c in zip(self._sources, self._counts, strict=True)]

    def write_left_out(self, path: Path, folder: Path) -> None:
        """Write a JSON line for each row that was left out.

        Args:
            path: Where to.
            folder: Files below it are named relative to it.
        """
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            for file, line, why, text in self._left_out:
                name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)
                fields_ = {"file": name, "line": line, "reason": why.replace("_", " "), "text": text}
                stream.write(json.dumps(fields_, ensure_ascii=True) + "\n")


def counts_of(record: Mapping[str, Any]) -> list[SourceCounts]:
    """Return the counts that a record holds."""
    names = [field.name for field in fields(SourceCounts)]
    return [SourceCounts(**{name: source[name] for name in names}) for source in record.get("sources", ())]
