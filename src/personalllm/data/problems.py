"""Collect validation problems: one for each kind, file and column, with the rows and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from personalllm.core.errors import DataError

__all__ = ["InvalidBenchmark", "Problem", "ProblemLog", "Severity", "raise_for"]

Severity = Literal["error", "warning"]
_ROWS_NAMED = 3
_COLUMNS_NAMED = 12


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a benchmark file.

    Attributes:
        file: Path of the file, as it was found.
        column: Name of the column; empty if the problem concerns the whole file.
        row: First row concerned; row 1 is the first, below the header of a CSV file. None if no single row is to blame.
        message: What is wrong, with the number of rows and the first few of them.
        remedy: How to fix it.
        severity: `"error"` stops `load`, `"warning"` does not.
        kind: Short stable name of the problem, e.g. `"score-not-finite"`.
        count: Number of rows concerned (1 if it is about no row).
    """

    file: str
    column: str
    row: int | None
    message: str
    remedy: str
    severity: Severity = "error"
    kind: str = ""
    count: int = 1

    def __str__(self) -> str:
        where = f"{self.file}, column {self.column}" if self.column else self.file
        return f"{where}: {self.message}. {self.remedy}"


class InvalidBenchmark(DataError):
    """A source breaks the schema; its attribute `problems` lists everything that validation found."""

    def __init__(self, message: str, remedy: str, problems: list[Problem]) -> None:
        super().__init__(message, remedy)
        self.problems = problems

    def __reduce__(self) -> tuple[type[InvalidBenchmark], tuple[str, str, list[Problem]]]:
        return type(self), (self.message, self.remedy, self.problems)


@dataclass(slots=True)
class _Entry:
    message: str
    remedy: str
    severity: Severity
    rows: list[int] = field(default_factory=list)
    count: int = 0


class ProblemLog:
    """Collects problems while files are read and folds repeats of the same kind in the same column together."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str, str], _Entry] = {}

    def add(
        self,
        kind: str,
        file: object,
        column: str,
        message: str,
        remedy: str,
        *,
        rows: Iterable[int] = (),
        severity: Severity = "error",
    ) -> None:
        """Record a problem; further `rows` (from 0) of the same kind in the same column are counted, not repeated."""
        entry = self._entries.setdefault((kind, str(file), column), _Entry(message, remedy, severity))
        for row in rows:
            entry.count += 1
            if len(entry.rows) < _ROWS_NAMED:
                entry.rows.append(int(row) + 1)

    @property
    def has_errors(self) -> bool:
        """True if at least one problem stops loading."""
        return any(entry.severity == "error" for entry in self._entries.values())

    def problems(self) -> list[Problem]:
        """Return the problems, errors first, at most twelve columns of each kind; the last one counts the others."""
        named: dict[str, int] = {}
        left_out: dict[str, list[Problem]] = {}
        problems: list[Problem] = []
        for (kind, file, column), entry in self._entries.items():
            problem = Problem(
                file=file,
                column=column,
                row=entry.rows[0] if entry.rows else None,
                message=entry.message + _rows_phrase(entry),
                remedy=entry.remedy,
                severity=entry.severity,
                kind=kind,
                count=max(1, entry.count),
            )
            named[kind] = named.get(kind, 0) + 1
            (problems if named[kind] <= _COLUMNS_NAMED else left_out.setdefault(kind, [])).append(problem)
        for kind, omitted in left_out.items():
            first = omitted[0]
            message = f"the same problem ({kind}) in {len(omitted)} more columns, from {first.column!r} on"
            count = sum(problem.count for problem in omitted)
            problems.append(Problem(first.file, "", None, message, first.remedy, first.severity, kind, count))
        return sorted(problems, key=lambda problem: problem.severity != "error")


def _rows_phrase(entry: _Entry) -> str:
    if not entry.count:
        return ""
    rows = ", ".join(str(row) for row in entry.rows)
    if entry.count == 1:
        return f" in row {rows}"
    return f" in {entry.count} rows ({rows}{', ...' if entry.count > len(entry.rows) else ''})"


def raise_for(source: object, problems: list[Problem], remedy: str = "") -> None:
    """Raise if a problem stops loading.

    Raises:
        InvalidBenchmark: With the first five errors in its message and all problems in its attribute `problems`.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return
    lines = "".join(f"\n  - {problem}" for problem in errors[:5])
    more = f"\n  - and {len(errors) - 5} more" if len(errors) > 5 else ""
    plural = "problem" if len(errors) == 1 else "problems"
    raise InvalidBenchmark(
        f"{source} is not a benchmark in the released schema, {len(errors)} {plural}:{lines}{more}",
        remedy or "They are all in the attribute `problems` of this error.",
        problems,
    )
