"""Keep a run: atomic, checked on the way back, and with the same bytes whether it was interrupted or not.

In `OUT/<protocol fingerprint>/`:

- `manifest.json`: protocol, versions, fingerprints, seeds;
- `leaderboard.json`: the order of the methods;
- `<id>-<digest>/samples/part-00000.parquet` ...: the samples of each unit of work, each with `part-00000.json`, written
  after it;
- `<id>-<digest>/sums-users.parquet`: what the samples of each condition add up to for each user (`sums-prompts.parquet`
  if for each prompt instead); `sums-by-prompt.parquet` and `sums-by-cell.parquet`: the same answers by prompt and by
  hashed cell, for intervals over users and prompts;
- `<id>-<digest>/record.json`: estimates and counts, written last, so its presence means that the method is complete;
- `<id>-<digest>/timing.json`: wall-clock seconds, kept apart from everything that must be reproducible.

Every JSON file carries the format, the protocol's fingerprint, the key and the SHA-256 of what it describes, and is
checked against all of them when it is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.errors import DataError
from personalllm.core.storage import atomic_path, digest, file_sha256, write_json
from personalllm.core.types import JSON
from personalllm.evaluation.contract import Condition, Estimate, Estimates, Sums, Table, Unit
from personalllm.evaluation.protocol import RUN_FORMAT

__all__ = ["DiskStore", "MethodRecord", "Store", "from_json", "read_json", "to_json", "write_table"]

_REMEDY = "Run the same evaluation again: it recomputes what is missing."


@dataclass(frozen=True, eq=False)
class MethodRecord:
    """What is kept of a complete method.

    Attributes:
        about: `label`, `title`, `kind`, `paper`, `spec`, `log_odds` and `counts`, as JSON.
        sums: Condition -> sums.
        estimates: Condition -> `(stratum, metric)` -> estimate.
    """

    about: JSON
    sums: Mapping[Condition, Sums]
    estimates: Mapping[Condition, Estimates]


class Store:
    """Keeps a run in memory; `DiskStore` keeps it in a folder.

    Args:
        fingerprint: Of the protocol.

    Attributes:
        damaged: Files that were cut off, altered or not of this run, and were not read.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.damaged: list[Path] = []
        self._units: dict[tuple[str, int], Table] = {}
        self._records: dict[str, MethodRecord] = {}
        self._seconds: dict[str, dict[str, float]] = {}

    def read_unit(self, unit: Unit) -> Table | None:
        """Return the samples of a unit; None if they are absent or damaged."""
        return self._units.get((unit.key, unit.index))

    def has_unit(self, unit: Unit) -> bool:
        """Return whether the samples of a unit exist and are undamaged, without reading them."""
        return (unit.key, unit.index) in self._units

    def write_unit(self, unit: Unit, samples: Table) -> None:
        """Keep the samples of a unit."""
        self._units[unit.key, unit.index] = samples

    def read_samples(self, key: str) -> Table:
        """Return the samples of all units of a method, in order."""
        import pyarrow as pa

        return pa.concat_tables([self._units[name, index] for name, index in sorted(self._units) if name == key])

    def read_method(self, key: str) -> MethodRecord | None:
        """Return the record of a complete method; None if it is not complete or damaged."""
        return self._records.get(key)

    def write_method(self, key: str, record: MethodRecord) -> None:
        """Keep the record of a complete method."""
        self._records[key] = record

    def seconds(self, key: str) -> dict[str, float]:
        """Return the wall-clock seconds spent on a method in all sessions, by name."""
        return dict(self._seconds.get(key, {}))

    def add_seconds(self, key: str, seconds: Mapping[str, float]) -> None:
        """Add wall-clock seconds to a method's."""
        self._seconds[key] = _added(self.seconds(key), seconds)


class DiskStore(Store):
    """Keeps a run in a folder.

    Args:
        directory: The run directory.
        fingerprint: Of the protocol.
    """

    def __init__(self, directory: Path, fingerprint: str) -> None:
        super().__init__(fingerprint)
        self.directory: Path = directory

    def read_unit(self, unit: Unit) -> Table | None:
        """Return a unit's samples, or None if the file is absent, damaged or another unit's."""
        path = self._unit_path(unit)
        if not path.exists():
            return None
        try:
            return self._read_unit(path, unit.key, unit.spec())
        except DataError:
            self.damaged.append(path)
            return None

    def has_unit(self, unit: Unit) -> bool:
        """Return whether a unit's file exists and agrees with its note; its table is not parsed."""
        path = self._unit_path(unit)
        try:
            self._check_unit(path, unit.key, unit.spec())
        except DataError:
            return False
        return True

    def write_unit(self, unit: Unit, samples: Table) -> None:
        """Write a unit's samples, then its note, both atomically."""
        path = self._unit_path(unit)
        write_table(path, samples)
        note = self._bound(unit.key) | {"unit": unit.spec(), "sha256": file_sha256(path)}
        write_json(path.with_suffix(".json"), note)

    def read_samples(self, key: str) -> Table:
        """Return the samples of a complete method.

        Raises:
            DataError: If a unit is damaged or missing; names it.
        """
        import pyarrow as pa

        record = self._checked_record(key)
        paths = sorted((self.directory / key / "samples").glob("part-*.parquet"))
        if len(paths) != record["n_units"]:
            raise DataError(
                f"{self.directory / key / 'samples'} has {len(paths)} of {record['n_units']} parts.", _REMEDY
            )
        return pa.concat_tables([self._read_unit(path, key) for path in paths])

    def read_method(self, key: str) -> MethodRecord | None:
        """Return the record of a complete method; None if it is not complete, or a file was damaged."""
        path = self.directory / key / "record.json"
        if not path.exists():
            return None
        try:
            return self.load_method(key)
        except DataError:
            self.damaged.append(path)
            return None

    def load_method(self, key: str) -> MethodRecord:
        """Return the record of a complete method.

        Raises:
            DataError: If a file is missing, damaged or of another run or method; names it.
        """
        content = self._checked_record(key)
        tables = {}
        for name, sha256 in content["sums_sha256"].items():
            path = self.directory / key / f"sums-{name}.parquet"
            if not path.exists() or file_sha256(path) != sha256:
                raise DataError(f"{path} is missing, cut off or was altered.", _REMEDY)
            tables[name] = read_table(path)
        return _record_from_json(content, tables)

    def write_method(self, key: str, record: MethodRecord) -> None:
        """Write the sums, then the record with their digests."""
        content, tables = _record_to_json(record)
        hashes = {}
        for name, table in tables.items():
            path = self.directory / key / f"sums-{name}.parquet"
            write_table(path, table)
            hashes[name] = file_sha256(path)
        n_units = len(list((self.directory / key / "samples").glob("part-*.parquet")))
        content |= self._bound(key) | {"sums_sha256": hashes, "n_units": n_units}
        write_json(self.directory / key / "record.json", content | {"sha256": digest(content, 64)})

    def seconds(self, key: str) -> dict[str, float]:
        """Return the wall-clock seconds of all sessions, by name; nothing if the note was lost."""
        try:
            note = read_json(self.directory / key / "timing.json")
            self._check_bound(self.directory / key / "timing.json", note, key)
            return {str(name): float(value) for name, value in note.get("seconds", {}).items()}
        except (DataError, AttributeError, TypeError, ValueError):
            return {}

    def add_seconds(self, key: str, seconds: Mapping[str, float]) -> None:
        """Add wall-clock seconds to a method's note."""
        total = {name: round(value, 3) for name, value in _added(self.seconds(key), seconds).items()}
        write_json(self.directory / key / "timing.json", self._bound(key) | {"seconds": total})

    def _unit_path(self, unit: Unit) -> Path:
        return self.directory / unit.key / "samples" / _part_name(unit.index)

    def _bound(self, key: str) -> JSON:
        """Return what binds a file to this format, this run and a method."""
        return {"format": RUN_FORMAT, "fingerprint": self.fingerprint, "key": key}

    def _check_bound(self, path: Path, note: JSON, key: str) -> None:
        for name, value in self._bound(key).items():
            if note.get(name) != value:
                raise DataError(f"{path} has the {name} {note.get(name)!r}, expected {value!r}.", _REMEDY)

    def _read_unit(self, path: Path, key: str, unit: JSON | None = None) -> Table:
        """Return a unit's samples if its note agrees with them, with this run and with the unit."""
        self._check_unit(path, key, unit)
        return read_table(path)

    def _check_unit(self, path: Path, key: str, unit: JSON | None) -> None:
        """Raise unless a note agrees with its samples, with this run and with the unit, or the number of its file."""
        note = read_json(path.with_suffix(".json"))
        self._check_bound(path.with_suffix(".json"), note, key)
        if not path.exists():
            raise DataError(f"{path} is missing.", _REMEDY)
        if note.get("sha256") != file_sha256(path):
            raise DataError(f"{path} is cut off or was altered.", _REMEDY)
        noted = note.get("unit")
        right = noted == unit if unit else isinstance(noted, dict) and path.name == _part_name(noted.get("index"))
        if not right:
            raise DataError(f"{path} belongs to another unit of work.", _REMEDY)

    def _checked_record(self, key: str) -> JSON:
        path = self.directory / key / "record.json"
        record = read_json(path)
        if record.pop("sha256", None) != digest(record, 64):
            raise DataError(f"{path} was altered.", _REMEDY)
        self._check_bound(path, record, key)
        return record


def _part_name(index: Any) -> str:
    return f"part-{index:05d}.parquet" if isinstance(index, int) else ""


def _added(seconds: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    return {name: seconds.get(name, 0.0) + more.get(name, 0.0) for name in (*seconds, *more)}


_BY_PROMPT, _BY_CELL = "by-prompt", "by-cell"


def _record_to_json(record: MethodRecord) -> tuple[JSON, dict[str, Table]]:
    """Return a record's JSON, and a table of all its sums for each of users, prompts and cells."""
    import pyarrow as pa

    conditions: list[JSON] = []
    rows: dict[str, list[Table]] = {}
    for index, (condition, sums) in enumerate(record.sums.items()):
        estimates = [
            [stratum, metric, *(to_json(end) for end in (e.value, e.low, e.high))]
            for (stratum, metric), e in record.estimates[condition].items()
        ]
        about = {"axis": sums.axis, "pairing": sums.pairing, "groups": list(sums.groups)}
        conditions.append({"condition": condition.spec(), "sums": about, "estimates": estimates})
        for name, columns in ((sums.axis, sums.columns), (_BY_PROMPT, sums.prompts), (_BY_CELL, sums.cells)):
            if columns:
                n_rows = len(next(iter(columns.values())))
                position = np.full(n_rows, index, np.int16)
                numbers = {name: np.arange(n_rows, dtype=np.int32)}
                rows.setdefault(name, []).append(pa.table({"condition": position, **numbers, **columns}))
    tables = {name: pa.concat_tables(parts, promote_options="default") for name, parts in rows.items()}
    return {"about": record.about, "conditions": conditions}, tables


def _record_from_json(content: JSON, tables: Mapping[str, Table]) -> MethodRecord:
    sums: dict[Condition, Sums] = {}
    estimates: dict[Condition, Estimates] = {}
    parts = {name: _by_condition(table) for name, table in tables.items()}
    for index, entry in enumerate(content["conditions"]):
        condition, about = Condition.from_spec(entry["condition"]), entry["sums"]
        columns, prompts, cells = (parts.get(name, {}).get(index, {}) for name in (about["axis"], _BY_PROMPT, _BY_CELL))
        sums[condition] = Sums(columns, about["axis"], about["pairing"], tuple(about["groups"]), prompts, cells)
        estimates[condition] = {
            (stratum, metric): Estimate(*(from_json(end) for end in ends))
            for stratum, metric, *ends in entry["estimates"]
        }
    return MethodRecord(content["about"], sums, estimates)


def _by_condition(table: Table) -> dict[int, dict[str, Any]]:
    """Return position of the condition -> columns of its sums; a column that it does not have is left out."""
    condition = table["condition"].to_numpy()
    starts = np.searchsorted(condition, np.unique(condition))
    slices = zip(np.unique(condition).tolist(), starts, [*starts[1:], len(condition)], strict=True)
    columns: dict[int, dict[str, Any]] = {}
    for index, start, stop in slices:
        part = table.slice(start, stop - start)
        columns[index] = {name: part[name].to_numpy() for name in table.column_names[2:] if part[name].null_count == 0}
    return columns


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
        raise DataError(f"Cannot read {path}: {error}.", _REMEDY) from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object.", _REMEDY)
    return value


def read_table(path: Path) -> Table:
    """Return a Parquet file as a `pyarrow.Table`.

    Raises:
        DataError: If the file is not there or cut off; names it.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, memory_map=False).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is cut off or was altered: {first}.", _REMEDY) from None


def write_table(path: Path, table: Table) -> None:
    """Write a table as Parquet, atomically and with the same bytes for the same table."""
    import pyarrow.parquet

    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
