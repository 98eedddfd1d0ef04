"""The model files in the cache: where they are, and whether they are what the registry says."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

from personalllm.backends.models.extra import find_entry, load_entries
from personalllm.backends.models.registry import ModelEntry, StoredFile
from personalllm.core.errors import ModelFileError
from personalllm.core.storage import cache_dir, file_sha256, write_json
from personalllm.core.types import JSON

__all__ = ["ModelState", "model_folder", "model_path", "model_problems", "model_state", "verify"]

ModelState: TypeAlias = Literal["ready", "absent", "damaged"]

_STAMP = "verified.json"


def model_folder(name: str) -> Path:
    """Return the folder of a model in the cache, which need not exist."""
    return cache_dir("models", name)


def _stamp_of(file: StoredFile, path: Path) -> JSON:
    """Return what must not change between a verification and a use."""
    stat = path.stat()
    return {"sha256": file.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}


def _read_stamp(folder: Path) -> JSON:
    """Return the record of the last verification, empty if there is none that can be read."""
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(entry: ModelEntry, folder: Path) -> None:
    """Record that the files of a folder have just been verified."""
    write_json(folder / _STAMP, {file.name: _stamp_of(file, folder / file.name) for file in entry.files})


def model_problems(entry: ModelEntry, folder: Path, *, rehash: bool) -> list[str]:
    """Compare the files of a folder with the registry.

    Args:
        entry: What the files should be.
        folder: Where they are.
        rehash: Whether to compute every SHA-256 anew; otherwise only for files that changed since the last
            verification (by size, modification and change time).

    Returns:
        One sentence for each file that is missing, partial or different; empty if all are right.
    """
    stamp = {} if rehash else _read_stamp(folder)
    problems = []
    for file in entry.files:
        path = folder / file.name
        if not path.is_file():
            problems.append(f"{path} is missing.")
        elif (size := path.stat().st_size) != file.size:
            problems.append(f"{path} has {size:,} bytes instead of {file.size:,}.")
        elif stamp.get(file.name) != _stamp_of(file, path) and (digest := file_sha256(path)) != file.sha256:
            problems.append(f"{path} has sha256 {digest} instead of {file.sha256}.")
    if not problems and stamp != {file.name: _stamp_of(file, folder / file.name) for file in entry.files}:
        with contextlib.suppress(OSError):  # a read-only cache is verified anew each time
            write_stamp(entry, folder)
    return problems


def model_state(name: str) -> ModelState:
    """Return whether a model's files are in the cache and as registered.

    Raises:
        UnknownName: If no model has that name.
    """
    entry = find_entry(name)
    folder = model_folder(name)
    if not folder.is_dir():
        return "absent"
    return "damaged" if model_problems(entry, folder, rehash=False) else "ready"


def model_path(name: str, file: str | None = None) -> Path:
    """Return where a model's file is, after a check that it is the right one; never downloads.

    The check is cheap unless a file changed since it was last verified, in which case it is hashed again.

    Args:
        name: Name of the model, e.g. `smollm2-135m-instruct`.
        file: Name of one of its files; without it, the model's only file, or the folder of a model of several files.

    Returns:
        Path of the file or folder.

    Raises:
        UnknownName: If no model has that name.
        ModelFileError: If a file is missing, partial or tampered with; names it.
    """
    entry = find_entry(name)
    folder = model_folder(name)
    remedy = f"Run: personalllm models pull {name}"
    if not folder.is_dir():
        raise ModelFileError(f"The model {name!r} is not in the cache ({folder}).", remedy)
    problems = model_problems(entry, folder, rehash=False)
    if problems:
        raise ModelFileError(f"The model {name!r} cannot be used: {' '.join(problems)}", remedy)
    if file is not None:
        if file not in {stored.name for stored in entry.files}:
            names = ", ".join(stored.name for stored in entry.files)
            raise ModelFileError(f"The model {name!r} has no file {file!r}.", f"Its files: {names}.")
        return folder / file
    return folder / entry.files[0].name if len(entry.files) == 1 else folder


def verify(names: Iterable[str] | None = None) -> list[str]:
    """Compute the SHA-256 of every file anew and refuse what differs.

    Args:
        names: Models to verify; all that are in the cache if None.

    Returns:
        The names of the models, all of them right.

    Raises:
        UnknownName: If no model has such a name.
        ModelFileError: If a file is missing, partial or tampered with; names every such file.
    """
    chosen = [n for n in load_entries() if model_folder(n).is_dir()] if names is None else list(names)
    bad: dict[str, list[str]] = {}
    for name in chosen:
        problems = model_problems(find_entry(name), model_folder(name), rehash=True)
        if problems:
            bad[name] = problems
    if bad:
        lines = " ".join(problem for problems in bad.values() for problem in problems)
        raise ModelFileError(f"Not as registered: {lines}", f"Run: personalllm models pull {' '.join(bad)}")
    return chosen
