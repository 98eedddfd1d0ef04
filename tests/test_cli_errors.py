"""How the command line ends when something goes wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from personalllm.cli import app as entry
from personalllm.core.errors import RunError, UserError


def end(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    def fail() -> None:
        raise error

    monkeypatch.setattr(entry, "app", fail)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return ended.value.code


def noted(error: Exception) -> Exception:
    error.add_note("It arose in work unit 3 (prompts [a] to b).")
    return error


@pytest.mark.parametrize(
    ("make", "status", "lines"),
    [
        (
            lambda: noted(RunError("The worker broke.", "Run again.")),
            1,
            ["error: The worker broke.", "Run again.", "It arose in work unit 3 (prompts [a] to b)."],
        ),
        (lambda: UserError("No such thing [x].", "Fix it."), 2, ["error: No such thing [x].", "Fix it."]),
        (
            lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/place"),
            1,
            ["error: /full/place: No space left on device.", "Free space there, then run the same command again."],
        ),
        (
            lambda: PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/not/mine"),
            1,
            ["error: /not/mine: Permission denied.", "Give another path, or change who may read and write it."],
        ),
    ],
)
def test_an_error_is_printed_with_its_remedy_and_notes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[], Exception],
    status: int,
    lines: list[str],
) -> None:
    assert end(monkeypatch, make()) == status
    printed = capsys.readouterr()
    assert printed.err.splitlines() == lines
    assert printed.out == ""


def test_an_error_that_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(entry, "app", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        entry.main()
