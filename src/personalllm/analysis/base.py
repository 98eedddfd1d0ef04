"""The contract of an analysis: how it is made from a study, its tables, its figure and its caveats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.study import Study

__all__ = ["Analysis", "Measured", "measured_table"]


class Analysis(ABC):
    """The result of an analysis; a frozen dataclass derives from it and adds what was measured.

    An analysis is one file: its result, the function that measures it, and its figure. One line in `ANALYSES`
    (`analysis/__init__.py`), or an entry point of the group `personalllm.analysis`, puts it on the page of
    `personalllm analyze`; neither the command nor the report knows one by name.

    Attributes:
        id: Stem of the names of its files and of `--only`, e.g. `"diversity"`.
        title: What it shows, as a heading.
        split: Split whose prompts it takes unless the study names one; empty for all prompts.
        one_population: Whether it looks at the users of `Study.main_alpha` only.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    split: ClassVar[str] = "test"
    one_population: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def of_study(cls, study: Study) -> Sequence[Analysis]:
        """Analyse the populations and the extra inputs of a study; several results where an input came several times.

        Raises:
            UserError: If an input that the analysis needs is missing, or the benchmark does not allow it.
        """

    @abstractmethod
    def tables(self) -> dict[str, Any]:
        """Return `name -> pyarrow.Table`, tidy: one row an observation, units in the names of the columns."""

    @abstractmethod
    def plot(self) -> Figure:
        """Return the figure, legible in grey and at 800 pixels."""

    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """Return the caveats, one sentence each: who scored, which rule for ties, what is not shown."""


class Measured(NamedTuple):
    """One figure of an analysis: of which population, which quantity, at which level, over how many prompts."""

    population: str
    quantity: str
    level: str
    value: float
    low: float
    high: float
    n_prompts: int


def measured_table(measured: Sequence[Measured]) -> Any:
    """Return figures as a pyarrow table with the columns of `Measured`, 95 % intervals in `low` and `high`."""
    import pyarrow as pa

    types = [pa.string()] * 3 + [pa.float64()] * 3 + [pa.int64()]
    schema = pa.schema([pa.field(name, kind) for name, kind in zip(Measured._fields, types, strict=True)])
    return pa.table({name: [getattr(row, name) for row in measured] for name in Measured._fields}, schema=schema)
