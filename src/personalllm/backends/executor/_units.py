"""Run one work unit anywhere: return its result, or its exception with the unit's name."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from personalllm.core.errors import RunError

__all__ = ["Failed", "Outcome", "Succeeded", "attempt", "describe", "gave_up", "note_unit", "result_of", "unreadable"]

_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A unit's result."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """A unit's exception and the traceback of the process where it arose."""

    error: Exception
    where: str


Outcome = Succeeded | Failed


def describe(index: int, unit: Any) -> str:
    """Return how a unit is named in messages: its number and its `identity`, or else its shortened repr.

    >>> describe(4, "prompts 0 to 63")
    "work unit 4 ('prompts 0 to 63')"
    """
    name = getattr(unit, "identity", None)
    text = name if isinstance(name, str) else repr(unit)
    return f"work unit {index} ({text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'})"


def note_unit(error: Exception, index: int, unit: Any, where: str = "") -> None:
    """Add a note to an exception that says which unit raised it, and where."""
    error.add_note(f"It arose in {describe(index, unit)}.{where and chr(10) + where.rstrip()}")


def attempt(function: Callable[[Any], Any], unit: Any) -> Outcome:
    """Run a unit in a worker; an exception is an outcome too, but running out of memory ends the worker.

    Raises:
        MemoryError: If the unit found no memory: it is tried again, as after a kill.
    """
    try:
        return Succeeded(function(unit))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - raised again where the result is read
        return Failed(error, traceback.format_exc())


def result_of(outcome: Outcome, index: int, unit: Any) -> Any:
    """Return a unit's result, or raise its exception with the unit's name."""
    if isinstance(outcome, Failed):
        note_unit(outcome.error, index, unit, outcome.where)
        raise outcome.error
    return outcome.value


def gave_up(index: int, unit: Any, tries: int, why: str, remedy: str = "") -> RunError:
    """Return the error for a unit whose workers died at each try."""
    return RunError(
        f"A worker process died at each of {tries} tries of {describe(index, unit)}: {why}.",
        f"It may have run out of memory: use fewer workers or smaller units. {remedy}".strip(),
    )


def unreadable(index: int, unit: Any, error: Exception) -> RunError:
    """Return the error for a unit whose result or exception cannot be unpickled."""
    return RunError(f"The outcome of {describe(index, unit)} cannot be read: {str(error).strip().split(chr(10))[0]}.")
