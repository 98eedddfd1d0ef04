"""A benchmark: prompts, responses, raw scores, splits and a content fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, DataError, ParameterError
from personalllm.core.types import F32, I32, JSON, U8
from personalllm.data.content import fingerprint_of, index_models, split_rows
from personalllm.data.files import Part
from personalllm.data.problems import ProblemLog, raise_for
from personalllm.data.scan import Scan
from personalllm.data.standardise import Standardiser

__all__ = ["Benchmark", "ScoreTable", "benchmark_from_scan"]


@dataclass(frozen=True, eq=False, slots=True)
class ScoreTable:
    """Standardised scores with the names of their last axis.

    Attributes:
        values: float32 (n_prompts, n_responses, n_reward_models), in standard deviations, higher is better.
        reward_models: Names in the order of the last axis.
    """

    values: F32
    reward_models: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[2] != len(self.reward_models):
            raise AxisMismatch(
                f"Scores of shape {self.values.shape} do not have a last axis of {len(self.reward_models)} RMs.",
                "Give an array (n_prompts, n_responses, n_reward_models).",
            )

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return int(self.values.shape[0])

    @property
    def n_responses(self) -> int:
        """Number of responses of each prompt."""
        return int(self.values.shape[1])


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Benchmark:
    """A benchmark: the texts in Arrow, the raw scores memory-mapped where they come from a file, all read-only.

    Attributes:
        name: What it was loaded from, for people; not part of the fingerprint.
        fingerprint: SHA-256 of the content in hexadecimal, the same for every file format.
        prompt_ids: pyarrow large_string (n_prompts,).
        prompts: pyarrow large_string (n_prompts,).
        subsets: pyarrow large_string (n_prompts,): the part of the corpus that the prompt comes from.
        responses: pyarrow large_string (n_prompts * n_responses,), row-major.
        response_models: Distinct names of the LLMs, in the order of their first appearance.
        response_model_index: uint8 (n_prompts, n_responses) into `response_models`.
        reward_models: RM names in sorted order, the last axis of `scores`.
        scores: float32 (n_prompts, n_responses, n_reward_models), raw (not standardised).
        splits: Rows of each split, int32, ascending.
        metadata: What the writer noted beside the table, e.g. the reward ensemble; not part of the fingerprint.
    """

    name: str
    fingerprint: str
    prompt_ids: Any
    prompts: Any
    subsets: Any
    responses: Any
    response_models: tuple[str, ...]
    response_model_index: U8
    reward_models: tuple[str, ...]
    scores: F32
    splits: Mapping[str, I32]
    metadata: JSON

    def __repr__(self) -> str:
        splits = ", ".join(f"{split} {len(rows)}" for split, rows in self.splits.items())
        return (
            f"Benchmark({self.name!r}: {self.n_prompts} prompts ({splits}), {self.n_responses} responses, "
            f"{len(self.reward_models)} reward models, fingerprint {self.fingerprint[:12]})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        values = [getattr(self, name) for name in self.__slots__]
        splits = self.__slots__.index("splits")
        values[splits] = dict(values[splits])
        return _restore, tuple(values)

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return int(self.scores.shape[0])

    @property
    def n_responses(self) -> int:
        """Number of responses of each prompt."""
        return int(self.scores.shape[1])

    def rows(self, split: str) -> I32:
        """Return the rows of a split, int32, ascending.

        Raises:
            ParameterError: If the benchmark has no such split.
        """
        if split not in self.splits:
            raise ParameterError("split", f"one of {', '.join(sorted(self.splits))}", split)
        return self.splits[split]

    def prompt(self, row: int) -> str:
        """Return the text of a prompt."""
        return str(self.prompts[_inside("row", row, self.n_prompts)].as_py())

    def response(self, row: int, column: int) -> str:
        """Return the text of response `column` of prompt `row`, both counted from 0."""
        place = _inside("row", row, self.n_prompts) * self.n_responses
        return str(self.responses[place + _inside("column", column, self.n_responses)].as_py())

    def row_splits(self) -> list[str]:
        """Return the split of every row, length n_prompts."""
        names = np.empty(self.n_prompts, dtype=object)
        for split, rows in self.splits.items():
            names[rows] = split
        return list(names)

    def score_table(self, standardiser: Standardiser, rows: npt.ArrayLike | None = None) -> ScoreTable:
        """Return the standardised scores `(raw - mean) / sd` of some rows, or of all.

        Args:
            standardiser: Must carry the reward models of this benchmark in the same order.
            rows: Rows of the benchmark, (n,); None for all.

        Raises:
            AxisMismatch: If the reward models differ.
        """
        if standardiser.reward_models != self.reward_models:
            raise AxisMismatch(
                f"The standardiser is for {', '.join(standardiser.reward_models)}; "
                f"the benchmark has {', '.join(self.reward_models)}.",
                "Fit one on the benchmark: Standardiser.fit(benchmark).",
            )
        scores = self.scores if rows is None else self.scores[np.asarray(rows)]
        return ScoreTable(standardiser.apply(scores), self.reward_models)

    @classmethod
    def from_arrays(
        cls,
        *,
        name: str,
        prompt_ids: Sequence[str],
        prompts: Sequence[str],
        subsets: Sequence[str],
        splits: Sequence[str],
        responses: Sequence[Sequence[str]],
        response_models: Sequence[str] | Sequence[Sequence[str]],
        reward_models: Sequence[str],
        scores: npt.ArrayLike,
        metadata: JSON | None = None,
    ) -> Benchmark:
        """Build a benchmark from Python values; it is checked as a file would be.

        Args:
            name: For people.
            prompt_ids: Distinct ids, length n_prompts.
            prompts: Texts, length n_prompts.
            subsets: Names, length n_prompts.
            splits: `"train"` or `"test"` for each prompt, length n_prompts.
            responses: Texts, n_prompts rows of n_responses.
            response_models: One name for each response column, or n_prompts rows of n_responses.
            reward_models: Names in the order of the last axis of `scores`; they are sorted on the way in.
            scores: Raw scores (n_prompts, n_responses, n_reward_models).
            metadata: JSON to keep with the table.

        Raises:
            AxisMismatch: If the lengths do not fit together.
            DataError: If a text is empty, an id stands twice or a score is not finite.

        >>> bench = Benchmark.from_arrays(
        ...     name="tiny", prompt_ids=["a"], prompts=["Hi?"], subsets=["s"], splits=["test"],
        ...     responses=[["Hello.", "Yes."]], response_models=["m1", "m2"],
        ...     reward_models=["z", "b"], scores=[[[1.0, 2.0], [3.0, 4.0]]])
        >>> bench.reward_models, bench.response(0, 1), float(bench.scores[0, 1, 0])
        (('b', 'z'), 'Yes.', 4.0)
        """
        texts = {"prompt_id": prompt_ids, "prompt": prompts, "subset": subsets, "split": splits}
        with np.errstate(over="ignore"):
            table = np.asarray(scores, dtype=np.float32)
        if table.ndim != 3 or table.shape[2] != len(reward_models):
            raise AxisMismatch(
                f"scores have shape {table.shape}.",
                f"Give (n_prompts, n_responses, n_reward_models) with {len(reward_models)} reward models.",
            )
        _check_reward_models(reward_models)
        by_row = _rows_of_models(response_models, len(table))
        _check_lengths(texts, responses, by_row, table)
        columns = _wide_columns(texts, responses, by_row, reward_models, table)
        log = ProblemLog()
        scan = Scan([Part(Path(name), "memory", table=columns)], log)
        benchmark = benchmark_from_scan(name, scan, metadata or {})
        raise_for(name, log.problems())
        if benchmark is None:
            raise DataError(f"{name} holds no rows.", "Give at least one prompt.")
        return benchmark


def _restore(*values: Any) -> Benchmark:
    benchmark = Benchmark(*values)
    arrays: list[Any] = [benchmark.scores, benchmark.response_model_index, *benchmark.splits.values()]
    for array in arrays:
        array.setflags(write=False)
    object.__setattr__(benchmark, "splits", MappingProxyType(dict(benchmark.splits)))
    return benchmark


def _inside(name: str, value: int, upper: int) -> int:
    if not 0 <= value < upper:
        raise ParameterError(name, f"in [0, {upper})", value)
    return int(value)


@dataclass(frozen=True, slots=True)
class _Joined:
    texts: dict[str, Any]
    splits: list[str]
    models: list[str]
    scores: F32


def benchmark_from_scan(name: str, scan: Scan, metadata: JSON) -> Benchmark | None:
    """Read a source to its end and build the benchmark; None if the scan found errors (they are in its log)."""
    joined = _join(scan)
    if joined is None or scan.schema is None:
        return None
    n_responses = joined.scores.shape[1]
    response_models, index = index_models(joined.models, n_responses)
    for array in (joined.scores, index):
        array.setflags(write=False)
    unsigned = Benchmark(
        name=name,
        fingerprint="",
        prompt_ids=joined.texts["prompt_ids"],
        prompts=joined.texts["prompts"],
        subsets=joined.texts["subsets"],
        responses=joined.texts["responses"],
        response_models=response_models,
        response_model_index=index,
        reward_models=scan.schema.reward_models,
        scores=joined.scores,
        splits=split_rows(joined.splits),
        metadata=metadata,
    )
    return replace(unsigned, fingerprint=fingerprint_of(unsigned))


def _join(scan: Scan) -> _Joined | None:
    import pyarrow as pa

    pieces: dict[str, list[Any]] = {"prompt_ids": [], "prompts": [], "subsets": [], "responses": []}
    splits: list[str] = []
    models: list[str] = []
    scores: list[F32] = []
    interned: dict[str, str] = {}
    for batch in scan.batches():
        if scan.log.has_errors:
            pieces = {key: [] for key in pieces}
            continue
        for key, chunks in pieces.items():
            chunks.append(getattr(batch, key))
        splits += batch.splits
        models += [interned.setdefault(model, model) for model in batch.models.to_pylist()]
        scores.append(batch.scores)
    if scan.log.has_errors or not scores:
        return None
    texts = {}
    for key, chunks in pieces.items():
        texts[key] = pa.concat_arrays(chunks)
        chunks.clear()
    return _Joined(texts, splits, models, np.concatenate(scores))


def _check_reward_models(names: Sequence[str]) -> None:
    """Check that names can stand in the columns `response_1_NAME` of the released wide schema."""
    unusable = [name for name in names if not name.strip() or name == "model" or "\n" in name]
    if unusable or len(set(names)) != len(names):
        raise ParameterError("reward_models", "distinct names of one line, none of them 'model'", tuple(names))


def _rows_of_models(models: Sequence[str] | Sequence[Sequence[str]], n_prompts: int) -> list[Sequence[str]]:
    names = [model for model in models if isinstance(model, str)]
    if len(names) == len(models):
        return [names] * n_prompts
    return [row for row in models if not isinstance(row, str)]


def _wide_columns(
    texts: Mapping[str, Sequence[str]],
    responses: Sequence[Sequence[str]],
    models: Sequence[Sequence[str]],
    reward_models: Sequence[str],
    table: F32,
) -> dict[str, Any]:
    """Return the columns of the released wide schema."""
    import pyarrow as pa

    columns: dict[str, Any] = {key: list(values) for key, values in texts.items()}
    for i in range(table.shape[1]):
        columns[f"response_{i + 1}"] = [row[i] for row in responses]
        columns[f"response_{i + 1}_model"] = [row[i] for row in models]
        for b, reward_model in enumerate(reward_models):
            columns[f"response_{i + 1}_{reward_model}"] = pa.array(np.ascontiguousarray(table[:, i, b]))
    return columns


def _check_lengths(
    texts: Mapping[str, Sequence[str]],
    responses: Sequence[Sequence[str]],
    models: Sequence[Sequence[str]],
    table: F32,
) -> None:
    n_prompts, n_responses, _ = table.shape
    lengths = {key: len(values) for key, values in texts.items()}
    lengths |= {"responses": len(responses), "response_models": len(models)}
    wrong = [f"{key} {length}" for key, length in lengths.items() if length != n_prompts]
    if wrong:
        raise AxisMismatch(f"The scores have {n_prompts} prompts, but: {', '.join(wrong)}.", "Give equal lengths.")
    for key, rows in (("responses", responses), ("response_models", models)):
        odd = next((row for row, values in enumerate(rows) if len(values) != n_responses), None)
        if odd is not None:
            raise AxisMismatch(f"{key}[{odd}] has {len(rows[odd])} entries; the scores have {n_responses}.")
