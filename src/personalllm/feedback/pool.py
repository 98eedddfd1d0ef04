"""Store the interactions of many users in columns; texts are referred to by row."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.core.types import I32, JSON, U8, Histories
from personalllm.feedback._parquet import check_benchmark, read_columns, text_columns, to_table, write_table
from personalllm.feedback.view import CorpusView
from personalllm.users.tables import indices

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["InteractionPool", "RatingPool"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Pool:
    """Columns of equal length, grouped by user; what the two kinds of pool share."""

    columns_: ClassVar[Mapping[str, type[Any]]]
    responses_: ClassVar[tuple[str, ...]]

    user: I32
    prompt: I32

    def __post_init__(self) -> None:
        counts = {"user": self._count("n_users"), "prompt": self._count("n_prompts")}
        length = len(self.user)
        for name, dtype in self.columns_.items():
            column = np.array(getattr(self, name))
            if column.ndim != 1 or len(column) != length:
                raise AxisMismatch(f"The column {name} has shape {column.shape}; the column user has {length} rows.")
            if name in counts or name in self.responses_:
                column = indices(name, column, counts.get(name, self._count("n_responses")))
            column = column.astype(dtype)
            column.setflags(write=False)
            object.__setattr__(self, name, column)
        if np.any(np.diff(self.user) < 0):
            raise ParameterError("user", "ascending (rows grouped by user)", "an unsorted column")

    def _count(self, name: str) -> int:
        return int(getattr(self, name))

    def __len__(self) -> int:
        return len(self.user)

    def _metadata(self) -> JSON:
        names = [entry.name for entry in fields(self) if entry.name not in self.columns_]
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in names}}

    def table(self) -> Any:
        """Return the columns as an Arrow table; the sizes and the origin are in the metadata of its schema."""
        return to_table({name: getattr(self, name) for name in self.columns_}, self._metadata())

    def write(self, path: str | PathLike[str], benchmark: Benchmark | None = None) -> None:
        """Write the pool as Parquet, atomically.

        Args:
            path: The file.
            benchmark: If given, the prompt ids and the texts are written too, dictionary-encoded: each text once.

        Raises:
            AxisMismatch: If the pool does not refer to the rows of the benchmark.
        """
        texts: dict[str, Any] = {}
        if benchmark is not None:
            check_benchmark(benchmark, self._count("n_prompts"), self._count("n_responses"))
            texts = text_columns(benchmark, self.prompt, {name: getattr(self, name) for name in self.responses_})
        write_table(Path(path), self.table(), texts)

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Self:
        """Read what `write` wrote; text columns are left aside.

        Raises:
            DataError: If the file is absent or is not such a pool.
        """
        columns, metadata = read_columns(Path(path), cls.columns_)
        if metadata.pop("kind", None) != cls.__name__:
            raise DataError(f"{path} does not hold a {cls.__name__}.", "Read it with the class that wrote it.")
        return cls(**columns, **metadata)

    def on_rows(self, rows: npt.ArrayLike, n_prompts: int) -> Self:
        """Return the pool with prompt p replaced by `rows[p]`, for scores that were a selection of a benchmark.

        Args:
            rows: Integers (n_prompts of this pool,), rows of the benchmark.
            n_prompts: Number of prompts of the benchmark.

        Raises:
            AxisMismatch: If there is not one row for each prompt of the pool.
            ParameterError: If a row is out of range.
        """
        array = indices("rows", rows, n_prompts)
        if array.shape != (self._count("n_prompts"),):
            raise AxisMismatch(f"{array.size} rows for the {self._count('n_prompts')} prompts of the pool.")
        changed: dict[str, Any] = {"prompt": array[self.prompt].astype(np.int32), "n_prompts": n_prompts}
        return replace(self, **changed)


@dataclass(frozen=True, eq=False)
class InteractionPool(_Pool):
    """Pairwise feedback of many users: user `user[i]` preferred `chosen[i]` to `rejected[i]` for `prompt[i]`.

    Rows are grouped by user, ascending, and stand in the order in which they happened.

    Attributes:
        user: int32 (n,), in [0, n_users).
        prompt: int32 (n,), in [0, n_prompts): row of the scores that made the pool.
        chosen: uint8 (n,), in [0, n_responses): response of the benchmark.
        rejected: uint8 (n,), likewise, another response.
        tie: bool (n,): the user was indifferent, and the order of the two is a coin's.
        n_users: Number of users, those without an interaction included.
        n_prompts: Number of prompts that could have been shown.
        n_responses: Responses of each prompt.
        best_worst: Whether users saw all responses, and the two are the best and the worst they named.
        origin: JSON: how the pool was made.

    Raises:
        AxisMismatch: If the columns differ in length.
        ParameterError: If a value is out of range, or the users are not ascending.
    """

    columns_ = {"user": np.int32, "prompt": np.int32, "chosen": np.uint8, "rejected": np.uint8, "tie": np.bool_}
    responses_ = ("chosen", "rejected")

    chosen: U8
    rejected: U8
    tie: npt.NDArray[np.bool_]
    n_users: int
    n_prompts: int
    n_responses: int
    best_worst: bool = False
    origin: JSON = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.any(self.chosen == self.rejected):
            raise ParameterError("rejected", "another response than chosen", "a response compared with itself")

    @property
    def n_ties(self) -> int:
        """Number of ties: the rows that `histories` leaves out."""
        return int(self.tie.sum())

    def histories(self, view: CorpusView) -> Histories:
        """Return the interactions as methods see them: ties left out, responses as columns of the view's corpus.

        How many ties were left out is `n_ties`; it is logged at level INFO too.

        Args:
            view: Of the benchmark whose scores made the pool.

        Raises:
            AxisMismatch: If the pool does not refer to all prompts and responses of the view.
        """
        view.check_size(self.n_prompts, self.n_responses)
        keep = ~self.tie
        if self.n_ties:
            _LOG.info("%d of %d interactions are ties and were left out", self.n_ties, len(self))
        prompt = self.prompt[keep]
        return Histories(
            view.corpus,
            self.n_users,
            self.user[keep],
            prompt,
            view.to_columns(prompt, self.chosen[keep]),
            view.to_columns(prompt, self.rejected[keep]),
            np.full(len(prompt), self.best_worst),
        )


@dataclass(frozen=True, eq=False)
class RatingPool(_Pool):
    """Ratings of many users: user `user[i]` gave `rating[i]` stars to `response[i]` of `prompt[i]`.

    Attributes:
        user: int32 (n,), in [0, n_users), ascending.
        prompt: int32 (n,), in [0, n_prompts): row of the scores that made the pool.
        response: uint8 (n,), in [0, n_responses): response of the benchmark.
        rating: uint8 (n,), stars from 1 up.
        n_users: Number of users, those without a rating included.
        n_prompts: Number of prompts that could have been shown.
        n_responses: Responses of each prompt.
        origin: JSON: how the pool was made.
    """

    columns_ = {"user": np.int32, "prompt": np.int32, "response": np.uint8, "rating": np.uint8}
    responses_ = ("response",)

    response: U8
    rating: U8
    n_users: int
    n_prompts: int
    n_responses: int
    origin: JSON = field(default_factory=dict, repr=False)
