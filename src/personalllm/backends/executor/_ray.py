"""The way to a Ray cluster: the one at an address, or a local one that is started and stopped here."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from personalllm.core.errors import MissingExtra, RunError, UserError

__all__ = ["connect", "first_line", "ray_data", "started_here", "stop_local"]

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_PRIVATE = {  # read when ray is imported: listen on loopback, with a token of one's own, not one in the home folder
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
_SECONDS_TO_ANSWER = 10.0
_PREFIX = "plm-ray-"
_LOCK = "lock"
_SHORT = Path("/tmp")  # noqa: S108 - Ray's sockets lie below it and their paths may have 107 bytes


def connect(address: str | None) -> Any:
    """Return the module `ray`, connected: to the cluster it is connected to, the one at the address, or a local one.

    Raises:
        MissingExtra: If Ray is not installed.
        UserError: If there is no cluster at the address.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if address is None and "ray" not in sys.modules:
        for name, value in _PRIVATE.items():
            os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtra("ray", "ray") from error
    if ray.is_initialized():
        return ray
    if address is None:
        _start_local(ray)
        return ray
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"No Ray cluster can be reached at {address!r}: {first_line(error)}.",
            "Start one with `ray start --head`, or leave the address out to start a local one.",
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at `HOST:PORT`: Ray itself would wait for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()


_local: list[tuple[Path, IO[bytes]]] = []


def _own_folder() -> Path:
    """Return a new folder that only this user can enter; those of processes that were killed are removed.

    Ray opens the folder that it is given to everybody, so it is given one inside.
    """
    parent = Path(os.environ.get("RAY_TMPDIR") or (_SHORT if _SHORT.is_dir() else tempfile.gettempdir()))
    for path in parent.glob(f"{_PREFIX}*"):
        _remove_if_left(path)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    _local.append((folder, _marked(folder)))
    return folder / "r"


def _start_local(ray: Any) -> None:
    """Start a cluster on this machine that listens on loopback only and takes its files with it.

    Raises:
        RunError: If it does not start in two tries of half a minute, as on a machine that is far too busy.
    """
    atexit.register(stop_local)
    for tries_left in (1, 0):
        folder = str(_own_folder())
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=folder)
        except Exception as error:  # Ray raises this very class if its processes are not up in time
            ray.shutdown()
            if not tries_left:
                raise RunError(
                    f"Ray did not start on this machine: {first_line(error)}.",
                    "Try again when it is less busy, or use --executor processes.",
                ) from error
        else:
            return


def ray_data() -> Any:
    """Return the module `ray.data`, which is to show no progress of its own and warns of its own old settings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`\w+` is deprecated", DeprecationWarning)
        data = import_module("ray.data")
        context = data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return data


def started_here() -> bool:
    """Tell whether the cluster is a local one that this process has started."""
    return bool(_local)


def stop_local() -> None:
    """Stop the local cluster and remove its files, if this process has started one."""
    if not _local:
        return
    import ray

    ray.shutdown()
    while _local:
        folder, lock = _local.pop()
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


if sys.platform == "win32":

    def _marked(folder: Path) -> IO[bytes]:
        """Mark a folder as in use by this process."""
        return (folder / _LOCK).open("wb")

    def _remove_if_left(folder: Path) -> None:
        """Do nothing: an open file cannot be told from one that was left."""

else:
    import fcntl

    def _marked(folder: Path) -> IO[bytes]:
        """Mark a folder as in use while this process lives, however it ends: by a lock on a file in it."""
        stream = (folder / "new").open("wb")
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / "new").rename(folder / _LOCK)
        return stream

    def _remove_if_left(folder: Path) -> None:
        """Remove a folder whose process has ended."""
        with suppress(OSError), (folder / _LOCK).open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, without what ends it."""
    return str(error).strip().split("\n", 1)[0].rstrip(".: ")
