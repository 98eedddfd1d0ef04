"""A store that somebody watches: what is found damaged is told as soon as it is come upon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from personalllm.evaluation.progress import Progress, ProgressEvent
from personalllm.evaluation.store import Store, Unit

__all__ = ["Watched", "unwatched"]


def unwatched(_event: ProgressEvent) -> None:
    """Nobody watches."""


@dataclass(frozen=True, eq=False)
class Watched:
    """What the runs of all tracks share.

    Attributes:
        store: Where the run is kept.
        progress: Called after each step.
    """

    store: Store
    progress: Progress

    def complete(self, key: str, label: str) -> bool:
        """Tell whether a method is complete in the store."""
        before = len(self.store.damaged)
        complete = self.store.read_done(key) is not None
        self._report_damage(label, before)
        return complete

    def read(self, unit: Unit, label: str) -> Any | None:
        """Return the table of a unit, or None if it is not there or not whole."""
        before = len(self.store.damaged)
        table = self.store.read_part(unit)
        self._report_damage(label, before)
        return table

    def _report_damage(self, label: str, before: int) -> None:
        for path in self.store.damaged[before:]:
            message = f"{path} is cut off, altered or not of this run; it is made again."
            self.progress(ProgressEvent(label, "damaged", message=message))
