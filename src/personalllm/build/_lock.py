"""One run at a time in a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from personalllm.core.errors import UserError

__all__ = ["exclusive"]


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for this run; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: If another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as stream:
        if not _taken(stream):
            raise UserError(
                f"Another run is writing to {folder}.",
                "Wait until it has ended, or give another --out. Nothing has to be deleted after a kill.",
            )
        yield


if sys.platform == "win32":
    import msvcrt

    def _taken(stream: IO[bytes]) -> bool:
        stream.seek(0)
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _taken(stream: IO[bytes]) -> bool:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
