"""Publish a benchmark on the hub: checked, in the released layout, in one commit."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from personalllm.core.errors import ParameterError, PersonalLLMError, RunError, UserError
from personalllm.data.benchmark import Benchmark
from personalllm.data.dataset_card import dataset_card
from personalllm.data.hub import (
    check_connection_allowed,
    check_repository,
    hub_client,
    hub_endpoint,
    hub_failures,
    hub_token,
    quiet_hub,
)
from personalllm.data.loading import load
from personalllm.data.writing import write_parquet

__all__ = ["Pushed", "push_benchmark"]

_TRIES = 3
_FILE_NAMES = ("train", "test", "validation")
_OURS = re.compile(r"data/[A-Za-z0-9_]+-\d{5}-of-\d{5}\.parquet")
_BRANCH = re.compile(r"(?!/)(?!.*//)(?!.*\.\.)[A-Za-z0-9._/-]{1,100}(?<!/)(?<!\.lock)")
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Pushed:
    """The result of a push, or of its dry run.

    Attributes:
        url: Page of the dataset.
        source: What `load` takes to get the benchmark back.
        files: Path in the repository -> bytes, the card included.
        removed: Paths of an earlier push that are not part of this one.
        card: The card's text.
        fingerprint: Of the benchmark.
        n_prompts: Number of prompts.
        private: Whether only those with access see it; None for a rehearsal.
        commit: The commit that holds the files now; empty for a rehearsal.
        changed: Whether a commit was made; False if the hub held the same files already, and for a rehearsal.
    """

    url: str
    source: str
    files: Mapping[str, int]
    removed: tuple[str, ...]
    card: str
    fingerprint: str
    n_prompts: int
    private: bool | None = None
    commit: str = ""
    changed: bool = False


def push_benchmark(
    source: str | Path,
    repository: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Upload a benchmark to the hub as a dataset in the released layout, with a card, in one commit.

    The repository is made if it is not there. Files of an earlier push that this one does not have are removed in the
    same commit, so the dataset is always that of one push. If the hub holds the same files already, nothing is
    committed. The hub is `$HF_ENDPOINT`; the token comes from `$HF_TOKEN` and from nowhere else.

    Args:
        source: As for `load`.
        repository: `OWNER/NAME`.
        private: True or None: a new repository is private. False: it is public. A repository that is there stays as it
            is; one that is public is refused if this is True, one that is private if this is False.
        revision: Branch, made if it is not there; `main` if None.
        dry_run: Do everything but connect.

    Raises:
        InvalidBenchmark: If the benchmark has errors; nothing is sent.
        UserError: If the token is missing, refused or not allowed to write, or the repository holds Parquet files
            that are not from a push.
        OfflineError: If connections are switched off and the hub is not on this machine.
        RunError: If the upload fails; the dataset is as it was.
        MissingExtra: If the extra `hub` is not installed.
    """
    check_repository(repository)
    if revision is not None and not _BRANCH.fullmatch(revision):
        raise ParameterError("revision", "the name of a branch", revision)
    endpoint = hub_endpoint()
    if not dry_run:
        check_connection_allowed(endpoint)
        _require_token(endpoint)
    benchmark = load(source)
    url = f"{endpoint}/datasets/{repository}" + (f"/tree/{revision}" if revision else "")
    back = f"hf://datasets/{repository}" + (f"@{revision}" if revision else "")
    with tempfile.TemporaryDirectory(prefix="personalllm-push-") as name:
        files, card = _write_release(benchmark, Path(name), repository)
        sizes = {path: (Path(name) / path).stat().st_size for path in files}
        done = Pushed(url, back, sizes, (), card, benchmark.fingerprint, benchmark.n_prompts)
        if dry_run:
            return done
        hub = _Hub(endpoint, repository, revision or "main", private=private)
        message = f"Add {benchmark.n_prompts} prompts, fingerprint {benchmark.fingerprint[:16]}"
        commit, changed, removed = hub.push({path: Path(name) / path for path in files}, message)
    return Pushed(
        url, back, sizes, removed, card, benchmark.fingerprint, benchmark.n_prompts, hub.private, commit, changed
    )


def _require_token(endpoint: str) -> None:
    if not hub_token():
        raise UserError(
            f"There is no token for {endpoint}.",
            "Put one with write access into the environment variable HF_TOKEN.",
        )


def _write_release(benchmark: Benchmark, folder: Path, repository: str) -> tuple[list[str], str]:
    """Write the Parquet files and the card below a folder; return their paths in it and the card.

    There is one file for each split if the rows of each split stand together in the order in which they are read
    back; otherwise one file with a column `split`, because the order of the rows is part of the fingerprint.
    """
    names = [name for name in _FILE_NAMES if name in benchmark.splits]
    order = np.concatenate([benchmark.splits[name] for name in names]) if names else np.empty(0)
    paths: dict[str, Sequence[str]] = {}
    if len(names) == len(benchmark.splits) and np.array_equal(order, np.arange(benchmark.n_prompts)):
        for name in names:
            paths[name] = [f"data/{name}-00000-of-00001.parquet"]
            write_parquet(benchmark, folder / paths[name][0], benchmark.splits[name], split=False)
    else:
        paths["full"] = ["data/full-00000-of-00001.parquet"]
        write_parquet(benchmark, folder / paths["full"][0])
    again = load(folder, cache=False)
    if again.fingerprint != benchmark.fingerprint:
        raise RunError(
            f"Written in the released layout, {benchmark.name} has the fingerprint {again.fingerprint}, "
            f"not {benchmark.fingerprint}; nothing was sent."
        )
    card = dataset_card(benchmark, paths, repository)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return [*(path for some in paths.values() for path in some), "README.md"], card


class _Hub:
    """The hub's client for one repository and branch; its failures in words, without the token."""

    def __init__(self, endpoint: str, repository: str, branch: str, *, private: bool | None) -> None:
        self._hub = hub_client()
        self._api = self._hub.HfApi(endpoint=endpoint, token=hub_token(), library_name="personalllm")
        self._endpoint, self._repository, self._branch, self._wanted = endpoint, repository, branch, private
        self.private: bool | None = None
        self._about = {"repo_id": repository, "repo_type": "dataset"}

    def push(self, files: Mapping[str, Path], message: str) -> tuple[str, bool, tuple[str, ...]]:
        """Commit the files; return the commit, whether it is new, and what was removed.

        After a failure that may pass, it is tried again from the start: what had arrived is recognised by its digest.
        """
        for attempt in range(_TRIES):
            try:
                with quiet_hub(plain_uploads=not self._endpoint.endswith("//huggingface.co")):
                    return self._commit(files, message, self._head())
            except hub_failures() as error:
                status = _status(error)
                if attempt + 1 < _TRIES and (status >= 500 or _is_broken_connection(error)):
                    time.sleep(2.0**attempt)
                    continue
                raise self._failure(error, status) from None
        raise AssertionError("unreachable")

    def _head(self) -> str:
        """Return the commit that the branch stands at, after the repository and the branch were made if need be."""
        from huggingface_hub import errors

        self._api.whoami()
        try:
            info = self._api.repo_info(**self._about)
        except errors.RepositoryNotFoundError:
            self._api.create_repo(**self._about, private=self._wanted is not False, exist_ok=True)
            info = self._api.repo_info(**self._about)
        self.private = None if info.private is None else bool(info.private)
        if self._wanted is not None and self.private is (not self._wanted):
            is_now, wanted = ("public", "private") if self._wanted else ("private", "public")
            raise UserError(
                f"{self._repository} is there already and is {is_now}.",
                f"Make it {wanted} in its settings, leave --{wanted} out, or choose another name.",
            )
        if self._branch == "main":
            return str(info.sha)
        try:
            return str(self._api.repo_info(**self._about, revision=self._branch).sha)
        except errors.RevisionNotFoundError:
            self._api.create_branch(**self._about, branch=self._branch, exist_ok=True)
            return str(self._api.repo_info(**self._about, revision=self._branch).sha)

    def _commit(self, files: Mapping[str, Path], message: str, head: str) -> tuple[str, bool, tuple[str, ...]]:
        there = [
            str(path)
            for path in self._api.list_repo_files(**self._about, revision=head)
            if str(path).lower().endswith(".parquet") and path not in files
        ]
        strange = sorted(path for path in there if not _OURS.fullmatch(path))
        if strange:
            raise UserError(
                f"{self._repository} holds Parquet files that are not from a push: {', '.join(strange[:3])}.",
                "They would be read as part of the benchmark: remove them, or choose another name.",
            )
        operations: list[Any] = [self._hub.CommitOperationDelete(path, is_folder=False) for path in there]
        operations += [self._hub.CommitOperationAdd(path, str(local)) for path, local in files.items()]
        done = self._api.create_commit(
            **self._about, operations=operations, commit_message=message, revision=self._branch, parent_commit=head
        )
        return str(done.oid), str(done.oid) != head, tuple(there)

    def _failure(self, error: BaseException, status: int) -> PersonalLLMError:
        reason = self._words(error)
        where = f"{self._repository} on {self._endpoint}"
        if status == 401:
            return UserError(
                f"{self._endpoint} refused the token: {reason}", "Put a valid one with write access into HF_TOKEN."
            )
        if status == 403:
            return UserError(
                f"The token may not write {where}: {reason}",
                "Use a token with write access to that owner, or another name.",
            )
        if status == 404:
            return UserError(f"{where} was not found: {reason}", "Check the name of the owner and of the branch.")
        if status in (409, 412):
            return RunError(
                f"{where} was changed by somebody else during the upload: {reason} Nothing of this push was kept.",
                "Run the same command again.",
            )
        return RunError(
            f"The upload to {where} failed: {reason} The dataset is as it was.",
            "Run the same command again; what has arrived is not sent twice.",
        )

    def _words(self, error: BaseException) -> str:
        """Return what an exception says on one line, shortened, the token blotted out."""
        causes, token = _causes(error), hub_token()
        text = " ".join(f"{type(e).__name__}: {e}" for e in (causes[0], *causes[-1:][: len(causes) - 1]))
        line = " ".join((text.replace(token, "[token]") if token else text).split()).rstrip(".")
        return (line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + " ...") + "."


def _causes(error: BaseException) -> list[BaseException]:
    """Return an exception and those behind it."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return causes


def _status(error: BaseException) -> int:
    """Return the HTTP status behind an exception, 0 if there is none."""
    codes = (getattr(getattr(cause, "response", None), "status_code", None) for cause in _causes(error))
    return next((code for code in codes if isinstance(code, int)), 0)


def _is_broken_connection(error: BaseException) -> bool:
    """Return whether an exception, or one behind it, says that the connection failed or was silent for too long."""
    names = {cls.__name__ for cause in _causes(error) for cls in type(cause).__mro__}
    return not names.isdisjoint(("ConnectionError", "TimeoutError", "TransportError"))
