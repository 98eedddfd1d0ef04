"""Load benchmarks from the hub: the published release, and any dataset in the released layout."""

from __future__ import annotations

import importlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from personalllm.core.errors import OfflineError, ParameterError, UserError
from personalllm.core.registry import import_extra
from personalllm.core.storage import atomic_directory, atomic_path, cache_dir, is_loopback, offline

__all__ = [
    "DATASET",
    "REVISION",
    "HubDataset",
    "check_connection_allowed",
    "check_repository",
    "fetch_dataset",
    "fetch_release",
    "hub_client",
    "hub_endpoint",
    "hub_failures",
    "hub_token",
    "parse_hub_source",
    "quiet_hub",
    "release_folder",
]

DATASET = "namkoong-lab/PersonalLLM"
REVISION = "main"
"""Revision of the dataset that is fetched; `$PERSONALLLM_DATA_REVISION` overrides it.

A commit would pin the data. None could be verified when this was written (no hub was within reach), so the branch
stands here until one is; the content fingerprint of what was loaded is in every protocol, so a change upstream shows.
"""
_PATTERNS = ["*.parquet", "**/*.parquet"]
_DEFAULT_ENDPOINT = "https://huggingface.co"
_PREFIX = "hf://datasets/"
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATIENCE_SECONDS = 120.0


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
    snapshot_download = hub_client().snapshot_download
    wanted = revision or os.environ.get("PERSONALLLM_DATA_REVISION") or REVISION
    partial = folder.with_name("personalllm.partial")
    try:
        snapshot_download(DATASET, repo_type="dataset", revision=wanted, local_dir=partial, allow_patterns=_PATTERNS)
    except hub_failures() as error:
        reason = str(error).partition("\n")[0] or "no answer"
        raise _unreachable(f"{type(error).__name__}: {reason}") from error
    if not any(partial.rglob("*.parquet")):
        raise _unreachable(f"the revision {wanted!r} holds no Parquet file")
    partial.replace(folder)
    return folder


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset on the hub.

    Attributes:
        repository: `OWNER/NAME`.
        revision: Commit, tag or branch.
    """

    repository: str
    revision: str = "main"


def parse_hub_source(source: str | Path) -> HubDataset | None:
    """Return the dataset that `hf://datasets/OWNER/NAME[@REVISION]` names, or None if it is another kind of source.

    Raises:
        ParameterError: If what follows the prefix is not `OWNER/NAME[@REVISION]`.

    >>> parse_hub_source("hf://datasets/me/mine@v2")
    HubDataset(repository='me/mine', revision='v2')
    """
    if not isinstance(source, str) or not source.startswith("hf://"):
        return None
    name, at, revision = source.removeprefix(_PREFIX).partition("@")
    if not source.startswith(_PREFIX) or (at and not revision):
        raise ParameterError("source", f"{_PREFIX}OWNER/NAME or {_PREFIX}OWNER/NAME@REVISION", source)
    return HubDataset(check_repository(name), revision or "main")


def check_repository(name: str) -> str:
    """Return the name of a repository.

    Raises:
        ParameterError: If it is not `OWNER/NAME`.
    """
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise ParameterError("repository", "OWNER/NAME of letters, digits, '.', '_' and '-'", name)
    return name


def fetch_dataset(dataset: HubDataset, files: Sequence[str] = ()) -> Path:
    """Return the folder that holds files of a dataset at a revision, and fetch them first if need be.

    A branch or tag is looked up each time. While connections are switched off, or the hub cannot be reached, the copy
    that was fetched last under that name is used.

    Args:
        dataset: Which, at which revision.
        files: Patterns of the files' paths; the Parquet files if there are none.

    Returns:
        The folder; its name is the commit.

    Raises:
        OfflineError: If there is no copy on this machine and the hub must not or cannot be reached.
        UserError: If the hub has no such dataset or revision, or does not show it.
        MissingExtra: If the files are not there and the extra `hub` is not installed.
    """
    patterns = [*files] or _PATTERNS
    kind = "people" if files else "datasets"
    folder = cache_dir("hub", kind, dataset.repository.replace("/", "--"))
    known = _known_commit(folder, dataset.revision)
    held = folder / known if known else None
    if held is not None and held.is_dir() and _COMMIT.fullmatch(dataset.revision):
        return held
    endpoint = hub_endpoint()
    if offline() and not is_loopback(endpoint):
        if held is not None and held.is_dir():
            return held
        raise _absent(dataset, endpoint, "connections are switched off by $PERSONALLLM_OFFLINE")
    hub = hub_client()
    try:
        with quiet_hub():
            api = hub.HfApi(endpoint=endpoint, token=hub_token() or False)
            commit = str(api.repo_info(dataset.repository, repo_type="dataset", revision=dataset.revision).sha)
            target = folder / commit
            if not target.is_dir():
                with atomic_directory(target) as temporary:
                    _download(hub, dataset.repository, commit, endpoint, temporary, patterns)
    except hub_failures() as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404):
            raise _hidden(dataset, endpoint, int(status)) from None
        if held is not None and held.is_dir():
            return held
        reason = str(error).strip().partition("\n")[0] or "no answer"
        raise _absent(dataset, endpoint, f"{type(error).__name__}: {reason}") from None
    _remember(folder, dataset.revision, commit)
    return target


def _download(hub: Any, repository: str, commit: str, endpoint: str, folder: Path, patterns: list[str]) -> None:
    hub.snapshot_download(
        repository,
        repo_type="dataset",
        revision=commit,
        local_dir=folder,
        allow_patterns=patterns,
        endpoint=endpoint,
        token=hub_token() or False,
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if not any(path.is_file() for path in folder.rglob("*")):
        if patterns == _PATTERNS:
            raise UserError(f"The dataset {repository} holds no Parquet file.", "Push one: personalllm data push.")
        raise UserError(f"The dataset {repository} holds no file {' or '.join(patterns)}.", "Check its revision.")


def _known_commit(folder: Path, revision: str) -> str:
    """Return the commit that a revision stood for when it was last looked up, or an empty text."""
    if _COMMIT.fullmatch(revision):
        return revision
    try:
        return (folder / "refs" / revision.replace("/", "--")).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _remember(folder: Path, revision: str, commit: str) -> None:
    if not _COMMIT.fullmatch(revision):
        with atomic_path(folder / "refs" / revision.replace("/", "--")) as temporary:
            temporary.write_text(commit, encoding="utf-8")


def hub_endpoint() -> str:
    """Return the address of the hub: `$HF_ENDPOINT`, or https://huggingface.co.

    Raises:
        UserError: If it is not the address of a server, carries a password, or would send the token unencrypted.
    """
    endpoint = (os.environ.get("HF_ENDPOINT", "").strip() or _DEFAULT_ENDPOINT).rstrip("/")
    parts = urlsplit(endpoint)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "HF_ENDPOINT carries a user name, a password or a query.",
            "Give only the address, and put the token into HF_TOKEN.",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"HF_ENDPOINT={endpoint!r} is not the address of a server.", "Unset it, or give https://...")
    if parts.scheme == "http" and not is_loopback(endpoint):
        raise UserError(f"{endpoint} is not encrypted, so the token could be read on the way.", "Use https://...")
    return endpoint


def hub_token() -> str:
    """Return the token in `$HF_TOKEN`, empty if there is none; nothing else is looked at."""
    return os.environ.get("HF_TOKEN", "").strip()


def check_connection_allowed(endpoint: str) -> None:
    """Raise `OfflineError` if the offline switch forbids this hub."""
    if offline() and not is_loopback(endpoint):
        raise OfflineError(
            f"PERSONALLLM_OFFLINE is set, and {endpoint} is not on this machine.",
            "Unset PERSONALLLM_OFFLINE to push there.",
        )


@contextmanager
def quiet_hub(*, plain_uploads: bool = False) -> Iterator[None]:
    """Keep the hub's client from waiting for ever and from printing, for the length of a block.

    Args:
        plain_uploads: Whether files go to the hub itself by HTTP rather than to its Xet storage, which other servers
            do not have.
    """
    hub_client()
    constants: Any = importlib.import_module("huggingface_hub.constants")
    utils: Any = importlib.import_module("huggingface_hub.utils")
    session = utils.get_session()
    before = (
        utils.logging.get_verbosity(),
        utils.are_progress_bars_disabled(),
        getattr(constants, "HF_HUB_DISABLE_XET", None),
        getattr(session, "timeout", None),
    )
    utils.logging.set_verbosity_error()
    if not before[1]:
        utils.disable_progress_bars()
    if plain_uploads and before[2] is not None:
        constants.HF_HUB_DISABLE_XET = True
    session.timeout = _PATIENCE_SECONDS
    try:
        yield
    finally:
        utils.logging.set_verbosity(before[0])
        if not before[1]:
            utils.enable_progress_bars()
        if before[2] is not None:
            constants.HF_HUB_DISABLE_XET = before[2]
        session.timeout = before[3]


def hub_client() -> Any:
    """Return the package `huggingface_hub`.

    Raises:
        MissingExtra: If it is not installed.
    """
    return import_extra("huggingface_hub", "hub")


def hub_failures() -> tuple[type[BaseException], ...]:
    """Return the exceptions by which the hub's client says that it failed."""
    from huggingface_hub import errors

    return (OSError, ValueError, RuntimeError, getattr(errors, "HTTPError", OSError))


def _unreachable(reason: str) -> OfflineError:
    return OfflineError(
        f"The dataset {DATASET} is not on this machine and cannot be fetched ({reason}).",
        f"On a machine with a network, download the Parquet files of the splits train and test from "
        f"https://huggingface.co/datasets/{DATASET} (folder data/: train-*.parquet, test-*.parquet) and put them into "
        f"{release_folder()}; load reads them from there.",
    )


def _absent(dataset: HubDataset, endpoint: str, reason: str) -> OfflineError:
    return OfflineError(
        f"The dataset {dataset.repository} is not on this machine and cannot be fetched from {endpoint} ({reason}).",
        "Try again with a network, or download its Parquet files elsewhere and give their folder.",
    )


def _hidden(dataset: HubDataset, endpoint: str, status: int) -> UserError:
    given = "the token in HF_TOKEN may not read it" if hub_token() else "it is private and HF_TOKEN is not set"
    return UserError(
        f"{endpoint} shows no dataset {dataset.repository} at {dataset.revision!r} ({status}).",
        f"Check its name and revision; or {given}.",
    )
