"""Define a check, and run a list of them: up to the first failure, or all with a verdict each."""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Literal, TypeVar

__all__ = ["Check", "Clauses", "Outcome", "require_all", "run_checks"]

T = TypeVar("T")
_OWN_FOLDER = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """One clause of a contract.

    Attributes:
        name: Short and unique within its list, e.g. `equal-seeds`.
        asks: What the clause asks, as a sentence.
        run: Raises `AssertionError` with what is broken unless the clause is kept.
        remedy: The usual fix of such a failure.
        after: Names of the checks without which this one says nothing.
    """

    name: str
    asks: str
    run: Callable[[], None]
    remedy: str = ""
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a check.

    Attributes:
        check: The check.
        verdict: `passed`, `failed`, or `skipped` because a check that it builds on failed.
        seconds: How long it took.
        message: What is broken, or which failed check it builds on; empty if it passed.
    """

    check: Check
    verdict: Literal["passed", "failed", "skipped"]
    seconds: float
    message: str = ""


def require_all(checks: Iterable[Check]) -> None:
    """Run checks up to the first that fails, and let what it raises through."""
    for check in checks:
        check.run()


def run_checks(checks: Iterable[Check]) -> Iterator[Outcome]:
    """Run every check and yield what came of each as soon as it is known; whatever a check raises is its message.

    >>> from personalllm.testing import HashEmbedder, embedder_checks
    >>> {outcome.verdict for outcome in run_checks(embedder_checks(HashEmbedder()))}
    {'passed'}
    """
    without: set[str] = set()
    for check in checks:
        missing = [name for name in check.after if name in without]
        if missing:
            without.add(check.name)
            yield Outcome(check, "skipped", 0.0, f"it builds on {', '.join(missing)}")
            continue
        start = time.perf_counter()
        message = _failure(check)
        seconds = time.perf_counter() - start
        if message:
            without.add(check.name)
        yield Outcome(check, "failed" if message else "passed", seconds, message)


def _failure(check: Check) -> str:
    """Return what a check raised, or an empty text."""
    try:
        check.run()
    except AssertionError as error:
        return str(error) or _raised(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (third-party code: any failure is its verdict)
        return _raised(error)
    return ""


def _raised(error: BaseException) -> str:
    """Return the type and the text of an exception, and the last line outside this package that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not str(Path(frame.filename).resolve()).startswith(_OWN_FOLDER)]
    where = f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""
    return f"It raises {type(error).__name__}: {error}{where}."


class Clauses(Generic[T]):
    """Functions that each check one clause of a subject; `of(subject)` gives the checks in the order of definition."""

    def __init__(self) -> None:
        self._clauses: list[tuple[str, str, Callable[[T], None], str, tuple[str, ...]]] = []

    def clause(
        self, name: str, remedy: str = "", *, after: tuple[str, ...] = ()
    ) -> Callable[[Callable[[T], None]], Callable[[T], None]]:
        """Add the decorated function; the first line of its docstring says what is asked, the rest is the remedy.

        Args:
            name: As for `Check`.
            remedy: The remedy where several clauses share it and the docstring has one line.
            after: As for `Check`.
        """

        def keep(run: Callable[[T], None]) -> Callable[[T], None]:
            asks, _, rest = (inspect.getdoc(run) or "").partition("\n\n")
            self._clauses.append((name, asks, run, remedy or " ".join(rest.split()), after))
            return run

        return keep

    def of(self, subject: T) -> tuple[Check, ...]:
        """Return the checks of a subject."""
        return tuple(
            Check(name, asks, partial(run, subject), remedy, after) for name, asks, run, remedy, after in self._clauses
        )
