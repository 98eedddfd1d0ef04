"""Find the files of a source, with their formats and splits; the rows are read in `personalllm.data.rows`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from personalllm.core.errors import DataError
from personalllm.core.types import JSON

__all__ = [
    "METADATA_KEY",
    "SUFFIXES",
    "Format",
    "Part",
    "check_shards",
    "file_part",
    "find_parts",
    "parquet_notes",
    "split_of",
]

METADATA_KEY = b"personalllm"
"""Key under which the writer of a Parquet file notes what else is known of it, as JSON."""

Format: TypeAlias = Literal["parquet", "json", "csv", "arrow", "memory"]
SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
}
"""Format of each file suffix; text formats may also end in `.gz`."""
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?:[-_.].*)?\Z")
_SPLIT_NAMES = {"valid": "validation", "val": "validation", "dev": "validation"}
_SHARD = re.compile(r"(.*?)(\d{5})(-of-)(\d{5})(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a source, or a table in memory.

    Attributes:
        path: The file; of a table in memory, its name for messages.
        format: How it is read.
        split: The split that its name or folder gives; None if neither does.
        expected_rows: Number of rows according to the folder's own description; None if it has none.
        table: The content of a table in memory: a pyarrow table, columns by name, or a list of dicts.
    """

    path: Path
    format: Format
    split: str | None = None
    expected_rows: int | None = None
    table: Any = None


def find_parts(source: Path) -> list[Part]:
    """Return the files of a source in the order in which their rows are counted: train, test, then by name.

    Args:
        source: A file, a folder of files of one format, or a folder that `datasets` wrote with `save_to_disk`.

    Raises:
        DataError: If there is nothing to read, files of several formats are in one folder, or a shard is missing.
    """
    if source.is_file():
        return [file_part(source)]
    if not source.is_dir():
        raise DataError(
            f"There is no file or folder {str(source)!r}.",
            'Give a path, or one of the names "mini" and "personalllm".',
        )
    if (source / "state.json").is_file() or (source / "dataset_dict.json").is_file():
        return _sorted_parts(_datasets_parts(source))
    paths = [path for path in sorted(source.rglob("*")) if path.is_file() and not _is_hidden(path, source)]
    formats = {path: kind for path in paths if (kind := _format_of(path))}
    # JSON files beside others describe them (dataset_infos.json); they are data only where nothing else is.
    formats = {path: kind for path, kind in formats.items() if path.suffix.lower() != ".json"} or formats
    kinds = sorted(set(formats.values()))
    if not kinds:
        raise DataError(f"The folder {source} holds no file of rows.", f"Put {', '.join(SUFFIXES)} files there.")
    if len(kinds) > 1:
        raise DataError(
            f"The folder {source} holds files of several formats ({', '.join(kinds)}).",
            "Give one of the files, or keep one format in the folder.",
        )
    check_shards(formats)
    return _sorted_parts(
        Part(path, kind, split_of(path.name) or _split_of_folder(path, source)) for path, kind in formats.items()
    )


def file_part(path: Path, kind: Format | None = None) -> Part:
    """Return one file, of the format that its suffix says unless `kind` is given.

    Raises:
        DataError: If the file is absent or its suffix is unknown.
    """
    if not path.is_file():
        raise DataError(f"There is no file {str(path)!r}.", "Check the path.")
    kind = kind or _format_of(path)
    if kind is None:
        raise DataError(f"{path} has an unknown suffix.", f"Use one of {', '.join(SUFFIXES)}; texts also with .gz.")
    return Part(path, kind, split_of(path.name))


def check_shards(paths: Iterable[Path]) -> None:
    """Check that files named `...00000-of-00003...` are complete.

    Raises:
        DataError: If one of a set is missing; names it.
    """
    sets: defaultdict[tuple[Path, str, str, str, str], set[int]] = defaultdict(set)
    for path in paths:
        if match := _SHARD.match(path.name):
            head, number, of, total, tail = match.groups()
            sets[path.parent, head, of, total, tail].add(int(number))
    for (folder, head, of, total, tail), numbers in sets.items():
        # Some tools count shards from 0, others from 1.
        first = 0 if 0 in numbers or int(total) not in numbers else 1
        missing = sorted(set(range(first, first + int(total))) - numbers)
        if missing:
            names = ", ".join(f"{head}{number:05d}{of}{total}{tail}" for number in missing[:3])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise DataError(
                f"{folder} lacks {names}{more}, of {int(total)} shards.",
                "Download the missing files; to read only some shards, give one file, or rename them.",
            )


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _format_of(path: Path) -> Format | None:
    name = path.name.lower()
    kind = next((kind for suffix, kind in SUFFIXES.items() if name.removesuffix(".gz").endswith(suffix)), None)
    return None if name.endswith(".gz") and kind in ("parquet", "arrow") else kind


def split_of(name: str) -> str | None:
    """Return the split that the name of a file or folder gives: train, test, validation, or None."""
    match = _SPLIT.match(name.lower())
    return _SPLIT_NAMES.get(match[1], match[1]) if match else None


def _split_of_folder(path: Path, root: Path) -> str | None:
    parents = path.relative_to(root).parts[:-1]
    return next((split for split in map(split_of, reversed(parents)) if split), None)


def _sorted_parts(parts: Iterable[Part]) -> list[Part]:
    order = {"train": 0, "test": 1}
    return sorted(parts, key=lambda part: (order.get(part.split or "", 2), part.split or "", str(part.path)))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "Write the folder again with `save_to_disk`.") from error


def _datasets_parts(folder: Path) -> list[Part]:
    """Return the Arrow files of a folder that `datasets` wrote with `save_to_disk`."""
    if (folder / "dataset_dict.json").is_file():
        splits = _read_json(folder / "dataset_dict.json").get("splits", [])
        return [part for split in splits for part in _dataset_parts(folder / split, split)]
    return _dataset_parts(folder, None)


def _dataset_parts(folder: Path, split: str | None) -> list[Part]:
    state = _read_json(folder / "state.json")
    split = split or state.get("_split") or None
    names = [item["filename"] for item in state.get("_data_files", [])]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise DataError(
            f"{folder / 'state.json'} names {', '.join(missing) or 'no data file'}, which is not in the folder.",
            "Copy the whole folder that `save_to_disk` wrote.",
        )
    rows = None
    if len(names) == 1 and (folder / "dataset_info.json").is_file():
        info = (_read_json(folder / "dataset_info.json").get("splits") or {}).get(split or "", {})
        rows = info.get("num_examples") if isinstance(info, dict) else None
    return [Part(folder / name, "arrow", split_of(split) or split if split else None, rows) for name in names]


def parquet_notes(parts: Sequence[Part]) -> JSON:
    """Return what the writer of the first part noted under `METADATA_KEY`, if it is Parquet and says anything."""
    import pyarrow.parquet as pq

    if parts[0].format != "parquet":
        return {}
    try:
        value = json.loads((pq.read_metadata(parts[0].path).metadata or {}).get(METADATA_KEY, b"{}"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
