"""Where a run keeps what it has: atomic, checked on the way back, and the same whether it was interrupted or not.

In `OUT/<protocol fingerprint>/`:

- `manifest.json`: protocol, versions, fingerprints, seeds;
- `leaderboard.json`: the order of the methods;
- `<method id>-<spec digest>/samples/part-00000.parquet` ...: what each unit of work gave, each with
  `part-00000.json`, written after it: the unit and the SHA-256 of the file;
- `<method id>-<spec digest>/per_user.parquet`: the per-user means;
- `<method id>-<spec digest>/metrics.json`: written last, so its presence means that the method is complete;
- `<method id>-<spec digest>/timing.json`: wall-clock seconds, kept apart from everything that must be reproducible.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.errors import DataError
from personalllm.core.storage import atomic_path, digest, file_sha256, write_json
from personalllm.core.types import F32, JSON

__all__ = ["DiskStore", "Store", "Unit", "from_json", "read_done", "read_json", "read_table", "to_json"]

_MEND = "Run the same evaluation again: it mends the run."


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work of one method: rows `start` to `stop`.

    Rows are users in the rank track and queries in the generate track.

    Attributes:
        method: Key of the method.
        index: Position among the units of the method.
        start: First row.
        stop: Row after the last.
        seed: Derived from the protocol, the method and the rows, so that order and parallelism change nothing.
    """

    method: str
    index: int
    start: int
    stop: int
    seed: int

    def spec(self) -> JSON:
        """Return the unit as JSON."""
        return {name: getattr(self, name) for name in ("method", "index", "start", "stop", "seed")}


def to_json(value: float) -> float | None:
    """Return a number as JSON has it: NaN becomes null."""
    return None if math.isnan(value) else value


def from_json(value: float | None) -> float:
    """Return a number from JSON: null becomes NaN."""
    return math.nan if value is None else float(value)


def read_json(path: Path) -> JSON:
    """Return the object in a JSON file.

    Raises:
        DataError: If the file is not there, cut off, or not an object; names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}: {error}.", _MEND) from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object.", _MEND)
    return value


class Store:
    """What the runners need of a store; this base class keeps everything in memory.

    Args:
        fingerprint: Of the protocol.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.damaged: list[Path] = []
        self._parts: dict[tuple[str, int], Any] = {}
        self._done: dict[str, tuple[JSON, dict[str, F32]]] = {}
        self._seconds: dict[str, float] = {}

    def read_part(self, unit: Unit) -> Any | None:
        """Return the Arrow table of a unit, or None if it is not there or not whole."""
        return self._parts.get((unit.method, unit.index))

    def write_part(self, unit: Unit, table: Any) -> None:
        """Keep the Arrow table of a unit."""
        self._parts[unit.method, unit.index] = table

    def read_parts(self, key: str) -> list[Any]:
        """Return the Arrow tables of all units of a method, in order."""
        return [table for (name, _), table in sorted(self._parts.items(), key=lambda item: item[0]) if name == key]

    def read_done(self, key: str) -> tuple[JSON, dict[str, F32]] | None:
        """Return the summary and the per-user arrays of a complete method, or None."""
        return self._done.get(key)

    def write_done(self, key: str, summary: JSON, per_user: dict[str, F32]) -> None:
        """Keep the summary and the per-user arrays of a complete method."""
        self._done[key] = (summary, per_user)

    def seconds(self, key: str) -> float:
        """Return the wall-clock seconds spent on a method in all sessions."""
        return self._seconds.get(key, 0.0)

    def add_seconds(self, key: str, seconds: float) -> None:
        """Add wall-clock seconds to a method's."""
        self._seconds[key] = self.seconds(key) + seconds


class DiskStore(Store):
    """Keeps a run in a folder; `damaged` lists the files that were found cut off or altered, and left out.

    Args:
        directory: The run directory.
        fingerprint: Of the protocol.
    """

    def __init__(self, directory: Path, fingerprint: str) -> None:
        super().__init__(fingerprint)
        self.directory: Path = directory

    def part_path(self, key: str, index: int) -> Path:
        """Return where a part is kept."""
        return self.directory / key / "samples" / f"part-{index:05d}.parquet"

    def read_part(self, unit: Unit) -> Any | None:
        """Return a unit's table, or None if the file is absent, damaged or another unit's."""
        path = self.part_path(unit.method, unit.index)
        if not path.exists():
            return None
        try:
            return self._read(path, unit.spec())
        except DataError:
            self.damaged.append(path)
            return None

    def write_part(self, unit: Unit, table: Any) -> None:
        """Write a unit's table, then its note, both atomically."""
        path = self.part_path(unit.method, unit.index)
        write_table(path, table)
        note = {"unit": unit.spec(), "protocol": self.fingerprint, "sha256": file_sha256(path)}
        write_json(path.with_suffix(".json"), note)

    def read_parts(self, key: str) -> list[Any]:
        """Return the tables of a complete method.

        Raises:
            DataError: If a part is damaged; names it.
        """
        return [self._read(path) for path in sorted((self.directory / key / "samples").glob("part-*.parquet"))]

    def _read(self, path: Path, unit: JSON | None = None) -> Any:
        """Return a part's table if its note agrees with it, with this run and with the unit."""
        note = read_json(path.with_suffix(".json"))
        if note.get("sha256") != file_sha256(path):
            raise DataError(f"{path} is cut off or was altered.", _MEND)
        if note.get("protocol") != self.fingerprint or (unit is not None and note.get("unit") != unit):
            raise DataError(f"{path} belongs to another run or another part.", _MEND)
        return read_table(path)

    def read_done(self, key: str) -> tuple[JSON, dict[str, F32]] | None:
        """Return the summary and the per-user arrays, or None if the method is not complete or was altered."""
        path = self.directory / key / "metrics.json"
        if not path.exists():
            return None
        try:
            return read_done(self.directory / key)
        except DataError:
            self.damaged.append(path)
            return None

    def write_done(self, key: str, summary: JSON, per_user: dict[str, F32]) -> None:
        """Write the per-user arrays, then the summary with their digest."""
        import pyarrow as pa

        path = self.directory / key / "per_user.parquet"
        users = np.arange(len(next(iter(per_user.values()))), dtype=np.int32)
        write_table(path, pa.table({"user": users, **per_user}))
        content = summary | {"per_user_sha256": file_sha256(path)}
        write_json(self.directory / key / "metrics.json", content | {"digest": digest(content, 64)})

    def seconds(self, key: str) -> float:
        """Return the wall-clock seconds of all sessions; 0 if the note was lost."""
        path = self.directory / key / "timing.json"
        try:
            return float(read_json(path).get("seconds", 0.0))
        except (DataError, TypeError, ValueError):
            return 0.0

    def add_seconds(self, key: str, seconds: float) -> None:
        """Add to the wall-clock seconds."""
        write_json(self.directory / key / "timing.json", {"seconds": round(self.seconds(key) + seconds, 3)})


def read_done(folder: Path) -> tuple[JSON, dict[str, F32]]:
    """Return the summary and the per-user arrays of a complete method.

    Raises:
        DataError: If a file is absent, cut off or altered; names it.
    """
    path = folder / "metrics.json"
    summary = read_json(path)
    if summary.pop("digest", None) != digest(summary, 64):
        raise DataError(f"{path} was altered or cut off.", _MEND)
    table = folder / "per_user.parquet"
    if not table.exists() or file_sha256(table) != summary["per_user_sha256"]:
        raise DataError(f"{table} is absent or was altered.", _MEND)
    columns = read_table(table)
    return summary, {name: columns[name].to_numpy() for name in columns.column_names if name != "user"}


def read_table(path: Path) -> Any:
    """Return the Arrow table of a Parquet file.

    Raises:
        DataError: If it is no Parquet file; names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=False).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is cut off or was altered: {first}.", _MEND) from None


def write_table(path: Path, table: Any) -> None:
    """Write an Arrow table as Parquet, atomically."""
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
