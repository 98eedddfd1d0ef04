"""Define the events that a run reports to its caller."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Progress", "ProgressEvent", "silent", "warned"]


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One step of a run.

    Attributes:
        method: Label; empty for `note`.
        stage: `start` (`done` is what was read from disk), `prepare` (fitting begins), `step` (a unit more is done),
            `finish`, `damaged` (a file was cut off or altered and is computed again; `message` names it), or `note`
            (`message` says something of the whole run).
        done: Weight of the units done: users, requests, test pairs or fits, as the track has it.
        total: Weight of all units.
        message: A sentence for `damaged` and `note`.
    """

    method: str
    stage: Literal["start", "prepare", "step", "finish", "damaged", "note"]
    done: int = 0
    total: int = 0
    message: str = ""


Progress: TypeAlias = Callable[[ProgressEvent], None]


def silent(_event: ProgressEvent) -> None:
    """Report nothing."""


def warned(event: ProgressEvent) -> None:
    """Turn a note into a warning, for callers without a progress display."""
    warnings.warn(event.message, stacklevel=3)
