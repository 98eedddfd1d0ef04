"""The one object of the data room: prompts, responses, raw scores, splits and a content fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.storage import canonical_json
from personalllm.core.types import F32, I32, JSON, U8
from personalllm.data.schema import MAX_RESPONSES
from personalllm.data.standardise import Standardiser

__all__ = ["Benchmark", "ScoreTable", "fingerprint_of", "split_rows"]

_MAX_RESPONSE_MODELS = 256


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
        from personalllm.data.build import benchmark_from_values

        return benchmark_from_values(
            name=name,
            texts={"prompt_id": prompt_ids, "prompt": prompts, "subset": subsets, "split": splits},
            responses=responses,
            response_models=response_models,
            reward_models=reward_models,
            scores=scores,
            metadata=metadata or {},
        )


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


def split_rows(splits: Sequence[str]) -> Mapping[str, I32]:
    """Return the rows of each split, train and test first."""
    names = np.asarray(splits, dtype=object)
    order = sorted(set(splits), key=lambda split: (split != "train", split != "test", split))
    found = {split: np.flatnonzero(names == split).astype(np.int32) for split in order}
    for rows in found.values():
        rows.setflags(write=False)
    return MappingProxyType(found)


def index_models(names: Sequence[str], n_responses: int) -> tuple[tuple[str, ...], U8]:
    """Return the distinct response models in order of appearance, and uint8 (n_prompts, n_responses) into them."""
    distinct = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(distinct) > _MAX_RESPONSE_MODELS or n_responses > MAX_RESPONSES:
        raise ParameterError("response models", f"at most {_MAX_RESPONSE_MODELS} distinct names", len(distinct))
    index = np.fromiter((distinct[name] for name in names), np.uint8, len(names)).reshape(-1, n_responses)
    return tuple(distinct), index


def fingerprint_of(benchmark: Benchmark) -> str:
    """Return the SHA-256 of the content: ids, texts, subsets, splits, response models, scores and RM names.

    It does not depend on the file format, the order of the columns, the name or the metadata.
    """
    state = hashlib.sha256()
    header = {
        "format": "personalllm-benchmark-1",
        "shape": list(benchmark.scores.shape),
        "reward_models": list(benchmark.reward_models),
        "response_models": list(benchmark.response_models),
        "splits": {
            split: hashlib.sha256(rows.astype("<i4").tobytes()).hexdigest() for split, rows in benchmark.splits.items()
        },
    }
    state.update(canonical_json(header).encode())
    for texts in (benchmark.prompt_ids, benchmark.prompts, benchmark.subsets, benchmark.responses):
        _hash_texts(state, texts)
    state.update(np.ascontiguousarray(benchmark.response_model_index).data)
    state.update(np.ascontiguousarray(benchmark.scores, dtype="<f4").data)
    return state.hexdigest()


def _hash_texts(state: Any, texts: Any) -> None:
    """Feed the lengths and the bytes of a large_string array to a hash, without copying the bytes."""
    _, offsets, data = texts.buffers()
    begin = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    state.update(np.diff(begin).astype("<i8").tobytes())
    if data is not None and len(begin):
        state.update(memoryview(data)[int(begin[0]) : int(begin[-1])])
