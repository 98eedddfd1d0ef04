"""What a run tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Progress", "ProgressEvent"]


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One step of a run.

    Attributes:
        method: Label.
        stage: `start` (what was found on disk is in `done`), `prepare` (fitting begins), `step` (a unit more is done),
            `finish`, or `damaged` (a file was cut off or altered and is made again; `message` names it).
        done: Rows done: users in the rank track, queries in the generate track.
        total: Rows in all.
        message: A sentence for `damaged`.
    """

    method: str
    stage: Literal["start", "prepare", "step", "finish", "damaged"]
    done: int = 0
    total: int = 0
    message: str = ""


Progress: TypeAlias = Callable[[ProgressEvent], None]
