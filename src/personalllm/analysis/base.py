"""What every analysis gives back: tables, a figure, and the caveats that go with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Analysis"]


class Analysis(ABC):
    """The result of an analysis; a frozen dataclass derives from it and adds what was measured.

    Attributes:
        id: Stem of the names of its files, e.g. `"diversity"`.
        title: What it shows, as a heading.
    """

    id: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def tables(self) -> dict[str, Any]:
        """Return `name -> pyarrow.Table`, tidy: one row an observation, units in the names of the columns."""

    @abstractmethod
    def plot(self) -> Figure:
        """Return the figure, legible in grey and at 800 pixels."""

    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """Return the caveats, one sentence each: who scored, which rule for ties, what is not shown."""
