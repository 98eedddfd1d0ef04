"""The published release: where its files are, and what to do without a network."""

from __future__ import annotations

import os
from pathlib import Path

from personalllm.errors import MissingExtra, OfflineError
from personalllm.storage import cache_dir

__all__ = ["DATASET", "REVISION", "fetch_release", "release_folder"]

DATASET = "namkoong-lab/PersonalLLM"
REVISION = "main"
"""Revision of the dataset that is fetched; `$PERSONALLLM_DATA_REVISION` overrides it.

A commit would pin the data. None could be verified when this was written (no hub was within reach), so the branch
stands here until one is; the content fingerprint of what was loaded is in every protocol, so a change upstream shows.
"""
_PATTERNS = ["*.parquet", "**/*.parquet"]


def release_folder() -> Path:
    """Return the folder below the cache in which the release is looked for, and to which it is fetched."""
    return cache_dir("hub", "personalllm")


def fetch_release(*, revision: str | None = None, connect: bool = True) -> Path:
    """Return the folder that holds the release, and fetch it first if it is not there.

    Args:
        revision: Commit, tag or branch of the dataset; None for `$PERSONALLLM_DATA_REVISION`, else `REVISION`.
        connect: False to look on this machine only.

    Raises:
        OfflineError: If the files are not there and must not or cannot be fetched; says where to put them.
        MissingExtra: If the files are not there and the extra `hub` is not installed.
    """
    folder = release_folder()
    if any(folder.rglob("*.parquet")):
        return folder
    if not connect:
        raise _unreachable("connections are switched off by $PERSONALLLM_OFFLINE")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "hub") from error
    wanted = revision or os.environ.get("PERSONALLLM_DATA_REVISION") or REVISION
    partial = folder.with_name("personalllm.partial")
    try:
        snapshot_download(DATASET, repo_type="dataset", revision=wanted, local_dir=partial, allow_patterns=_PATTERNS)
    except _failures() as error:
        reason = str(error).partition("\n")[0] or "no answer"
        raise _unreachable(f"{type(error).__name__}: {reason}") from error
    if not any(partial.rglob("*.parquet")):
        raise _unreachable(f"the revision {wanted!r} holds no Parquet file")
    partial.replace(folder)
    return folder


def _failures() -> tuple[type[BaseException], ...]:
    """Return the exceptions by which a download says that it failed."""
    from huggingface_hub import errors

    return (OSError, ValueError, getattr(errors, "HTTPError", OSError))


def _unreachable(reason: str) -> OfflineError:
    return OfflineError(
        f"The dataset {DATASET} is not on this machine and cannot be fetched ({reason}).",
        f"On a machine with a network, download the Parquet files of the splits train and test from "
        f"https://huggingface.co/datasets/{DATASET} (folder data/: train-*.parquet, test-*.parquet) and put them into "
        f"{release_folder()}; load reads them from there.",
    )
