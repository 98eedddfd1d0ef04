"""Features of the responses: a table (n_prompts, n_responses, n_features) filled by classifiers that are handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, ParameterError, UnknownName
from personalllm.core.protocols import TextClassifier
from personalllm.core.types import F32
from personalllm.data import Benchmark

__all__ = ["FeatureProgress", "Features", "measure_features"]

_CHUNK = 256

FeatureProgress = Callable[[int, int], None]
"""Called with (texts that are done, all texts), summed over the classifiers."""


@dataclass(frozen=True, eq=False)
class Features:
    """Measured features of every response.

    Attributes:
        values: float32 (n_prompts, n_responses, n_features), in the units of each classifier; NaN where a feature has
            no value, such as the mean word length of a text without words; read-only.
        names: Distinct names of the last axis.
        measured_by: Identity of the classifier of each feature.

    Raises:
        AxisMismatch: If names, identities and values do not fit together.
        ParameterError: If a name stands twice, or a value is infinite.
    """

    values: F32
    names: tuple[str, ...]
    measured_by: tuple[str, ...]

    def __post_init__(self) -> None:
        values = np.array(self.values, np.float32)
        if values.ndim != 3 or values.shape[2] != len(self.names) or len(self.measured_by) != len(self.names):
            raise AxisMismatch(
                f"Values of shape {values.shape}, {len(self.names)} names and {len(self.measured_by)} identities.",
                "Give an array (n_prompts, n_responses, n_features), a name and an identity for each feature.",
            )
        if len(set(self.names)) != len(self.names):
            raise ParameterError("names", "distinct", self.names)
        if np.isinf(values).any():
            raise ParameterError("values", "finite, or NaN for none", "infinity")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return int(self.values.shape[0])

    @property
    def n_responses(self) -> int:
        """Number of responses of each prompt."""
        return int(self.values.shape[1])

    def select(self, names: Sequence[str]) -> Features:
        """Return some of the features, in the order of `names`.

        Raises:
            UnknownName: If there is no feature of that name; lists the nearest ones.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise UnknownName("feature", unknown[0], self.names)
        places = [self.names.index(name) for name in names]
        return Features(self.values[:, :, places], tuple(names), tuple(self.measured_by[i] for i in places))

    def table(self) -> Any:
        """Return a pyarrow table, one row for each prompt, response and feature; `value` is null where there is none.

        Prompts and responses are counted from 0 in the order of `values`.
        """
        import pyarrow as pa

        prompt, response, feature = np.indices(self.values.shape).reshape(3, -1)
        return pa.table(
            {
                "prompt": prompt.astype(np.int32),
                "response": response.astype(np.int32),
                "feature": pa.array(np.array(self.names, dtype=object)[feature], pa.string()),
                "value": pa.array(self.values.ravel(), from_pandas=True),
            }
        )


def measure_features(
    benchmark: Benchmark,
    classifiers: TextClassifier | Sequence[TextClassifier],
    rows: npt.ArrayLike | None = None,
    *,
    progress: FeatureProgress | None = None,
) -> Features:
    """Measure the responses of a benchmark (paper, section 3); equal texts are measured once.

    Args:
        benchmark: Where the responses are.
        classifiers: What measures; their features stand one after the other.
        rows: Rows of the benchmark, integers (n_prompts,); None for all.
        progress: Called after every 256 texts of a classifier with (done, all).

    Returns:
        Features of shape (n_prompts, n_responses, n_features).

    Raises:
        ParameterError: If a row is out of range, two classifiers share a feature's name, or a value is infinite.
        AxisMismatch: If a classifier returns another shape than it should.
    """
    tools = [classifiers] if isinstance(classifiers, TextClassifier) else list(classifiers)
    if not tools:
        raise ParameterError("classifiers", "one classifier or more", classifiers)
    texts = _responses(benchmark, rows)
    number_of = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    distinct, index = list(number_of), [number_of[text] for text in texts]
    total, done, columns = len(distinct) * len(tools), 0, []
    for classifier in tools:
        column = np.empty((len(distinct), len(classifier.features)), np.float32)
        for start in range(0, len(distinct), _CHUNK):
            chunk = distinct[start : start + _CHUNK]
            values = np.asarray(classifier.measure(chunk), np.float32)
            if values.shape != (len(chunk), column.shape[1]):
                raise AxisMismatch(
                    f"The classifier {classifier.identity!r} returned shape {values.shape} for {len(chunk)} texts and "
                    f"{column.shape[1]} features.",
                    "measure() must return one row for each text and one column for each feature.",
                )
            column[start : start + len(chunk)] = values
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        columns.append(column[index])
    return Features(
        np.concatenate(columns, axis=1).reshape(-1, benchmark.n_responses, sum(c.shape[1] for c in columns)),
        tuple(name for classifier in tools for name in classifier.features),
        tuple(classifier.identity for classifier in tools for _ in classifier.features),
    )


def _responses(benchmark: Benchmark, rows: npt.ArrayLike | None) -> list[str]:
    """Return the texts of the responses of some rows, row-major."""
    chosen = np.arange(benchmark.n_prompts) if rows is None else np.asarray(rows)
    if chosen.ndim != 1 or not (np.issubdtype(chosen.dtype, np.integer) or not chosen.size):
        raise ParameterError("rows", "a list of integers", f"{chosen.dtype} of shape {chosen.shape}")
    if not chosen.size or not (chosen.min() >= 0 and chosen.max() < benchmark.n_prompts):
        raise ParameterError("rows", f"one row or more, each in [0, {benchmark.n_prompts})", chosen.tolist()[:3])
    n = benchmark.n_responses
    flat = (chosen[:, None].astype(np.int64) * n + np.arange(n)).ravel()
    return [str(text) for text in benchmark.responses.take(flat).to_pylist()]
