"""Connect to a Ray cluster: the one at an address, or a local one that is started and stopped here."""

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
from typing import Any

from filelock import FileLock

from personalllm.core.errors import RunError, UserError
from personalllm.core.registry import import_extra

__all__ = ["connect", "first_line", "ray_data", "started_here", "stop_local"]

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_PRIVATE = {  # read when ray is imported: listen on loopback, with a token of one's own, not one in the home folder
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
_SECONDS_TO_ANSWER = 10.0
_PREFIX = "plm-ray-"
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
    ray = import_extra("ray", "ray")
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
    """Raise OSError if nothing listens at `HOST:PORT`: Ray itself would wait for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()


_local: list[tuple[Path, FileLock]] = []


def _own_folder() -> Path:
    """Return a new folder that only this user can enter; those of processes that were killed are removed.

    Ray makes the folder that it is given readable to everybody, so it is given a subfolder.
    """
    parent = Path(os.environ.get("RAY_TMPDIR") or (_SHORT if _SHORT.is_dir() else tempfile.gettempdir()))
    for path in parent.glob(f"{_PREFIX}*/"):
        _remove_if_left(path)
    folder = parent / f"{_PREFIX}{secrets.token_hex(4)}"
    lock = _lock_of(folder)
    lock.acquire(timeout=0)  # before the folder exists, so that a folder without a held lock is one that was left
    folder.mkdir(mode=0o700)
    _local.append((folder, lock))
    return folder / "r"


def _lock_of(folder: Path) -> FileLock:
    """Return the lock that marks a folder as in use; the system frees it when its process ends, however it ends."""
    return FileLock(folder.with_name(folder.name + ".lock"), mode=0o600)


def _remove_if_left(folder: Path) -> None:
    """Remove a folder whose process has ended."""
    with suppress(OSError), _lock_of(folder).acquire(timeout=0):  # Timeout, if it is in use, is an OSError
        _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(folder.name + ".lock").unlink(missing_ok=True)


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
    """Return whether the cluster is a local one that this process has started."""
    return bool(_local)


def stop_local() -> None:
    """Stop the local cluster and remove its files, if this process has started one."""
    if not _local:
        return
    import ray

    ray.shutdown()
    while _local:
        folder, lock = _local.pop()
        _remove(folder)
        lock.release()


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, without what ends it."""
    return str(error).strip().split("\n", 1)[0].rstrip(".: ")
