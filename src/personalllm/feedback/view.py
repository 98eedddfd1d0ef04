"""Present a benchmark to methods: texts only, with the responses in a random order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch
from personalllm.core.seeding import generator
from personalllm.core.types import U8, Corpus
from personalllm.users.draws import user_blocks
from personalllm.users.tables import indices

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = ["CorpusView"]


class _Texts(Sequence[str]):
    """Strings of an Arrow array, made when asked for."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return str(self._array[range(len(self))[index]].as_py())


class _Rows(Sequence[tuple[str, ...]]):
    """Rows of `width` strings of an Arrow array, made when asked for."""

    def __init__(self, array: Any, width: int) -> None:
        self._array = array
        self.width = width

    def __len__(self) -> int:
        return len(self._array) // self.width

    @overload
    def __getitem__(self, index: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return tuple(self._array.slice(row * self.width, self.width).to_pylist())


class CorpusView:
    """Shows a benchmark as a `Corpus` with the responses of each prompt in a seeded random order.

    The texts stay in Arrow; a Python string is made only when one is asked for. The responses are copied in their new
    order, so that nothing which is handed to a method knows the order of the benchmark.

    Args:
        benchmark: What is shown.
        seed: Seed of the order; the order of a prompt does not depend on how many prompts follow.

    Attributes:
        corpus: The texts.
        order: uint8 (n_prompts, n_responses), read-only: column j of prompt p in the corpus is response
            `order[p, j]` of the benchmark.
    """

    def __init__(self, benchmark: Benchmark, seed: int) -> None:
        order = np.empty((benchmark.n_prompts, benchmark.n_responses), np.uint8)
        for block, rows in user_blocks(len(order)):
            keys = generator(seed, "response order", block).random((rows.stop - rows.start, order.shape[1]))
            order[rows] = keys.argsort(axis=1)
        columns = order.argsort(axis=1).astype(np.uint8)
        order.setflags(write=False)
        self.order: U8 = order
        self._columns: U8 = columns
        self.seed = seed
        places = np.arange(len(order), dtype=np.int64)[:, None] * order.shape[1] + order
        ordered = benchmark.responses.take(places.ravel())
        self.corpus = Corpus(_Texts(benchmark.prompts), _Rows(ordered, order.shape[1]))

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return int(self.order.shape[0])

    @property
    def n_responses(self) -> int:
        """Number of responses of each prompt."""
        return int(self.order.shape[1])

    def to_columns(self, prompt: npt.ArrayLike, response: npt.ArrayLike) -> U8:
        """Return the corpus columns, uint8, at which some responses of the benchmark stand.

        Args:
            prompt: Integers, rows.
            response: Integers of a shape that broadcasts with `prompt`, responses of the benchmark.

        Raises:
            ParameterError: If an index is out of range.
        """
        return self._look_up(self._columns, prompt, "response", response)

    def to_responses(self, prompt: npt.ArrayLike, column: npt.ArrayLike) -> U8:
        """Return the responses of the benchmark, uint8, that stand at some corpus columns.

        Args:
            prompt: Integers, rows.
            column: Integers of a shape that broadcasts with `prompt`, columns of the corpus.

        Raises:
            ParameterError: If an index is out of range.
        """
        return self._look_up(self.order, prompt, "column", column)

    def _look_up(self, table: U8, prompt: npt.ArrayLike, name: str, position: npt.ArrayLike) -> U8:
        rows = indices("prompt", prompt, self.n_prompts)
        return np.asarray(table[rows, indices(name, position, self.n_responses)])

    def check_size(self, n_prompts: int, n_responses: int) -> None:
        """Check that interactions refer to all prompts and responses of this view.

        Raises:
            AxisMismatch: If the sizes differ.
        """
        if (n_prompts, n_responses) != (self.n_prompts, self.n_responses):
            raise AxisMismatch(
                f"The interactions refer to {n_prompts} prompts of {n_responses} responses; the benchmark has "
                f"{self.n_prompts} of {self.n_responses}.",
                "Score all rows of the benchmark, or map the rows with pool.on_rows(rows, n_prompts).",
            )
