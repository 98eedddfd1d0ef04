"""Allow one run at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from personalllm.core.errors import UserError

__all__ = ["exclusive"]


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder for this run; the system releases it when the process ends, however it ends.

    Raises:
        UserError: If another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"Another run is writing to {folder}.",
            "Wait until it has ended, or give another --out. Nothing has to be deleted after a kill.",
        ) from None
