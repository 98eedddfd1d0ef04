"""Read from data what protocols depend on: kind, sizes, the reference response model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from personalllm.core.errors import DataError, UnknownName, UserError
from personalllm.evaluation.parts import Sizes, load_track

if TYPE_CHECKING:
    from personalllm.data import Benchmark

__all__ = [
    "Data",
    "benchmark_sizes",
    "check_data",
    "check_people",
    "default_reference",
    "holds_people",
    "holds_ratings",
    "people_sizes",
]

Data: TypeAlias = Any
"""A `data.Benchmark`, or `data.Preferences` or `data.Ratings` of people."""


def check_data(data: object) -> None:
    """Raise unless data are a benchmark, or people's preferences or ratings.

    Raises:
        UserError: If they are anything else; says how to load them.
    """
    if hasattr(data, "reward_models") or holds_people(data):
        return
    given = f"{data!r:.60}" if isinstance(data, str | int | float | None) else type(data).__name__
    example = repr(data) if isinstance(data, str) else "..."
    raise UserError(
        f"data must be a Benchmark, Preferences or Ratings, got {given}.",
        f"Load them first: pl.load({example}), or pl.Preferences.from_rows(...) for rows of people's comparisons.",
    )


def holds_people(data: Data) -> bool:
    """Return whether data are people's preferences or ratings, without importing their classes."""
    return (hasattr(data, "histories") or holds_ratings(data)) and not hasattr(data, "reward_models")


def holds_ratings(data: Data) -> bool:
    """Return whether data are people's ratings, without importing their class."""
    return hasattr(data, "n_items") and hasattr(data, "table")


def check_people(people: Data, track: str) -> None:
    """Raise unless people can be evaluated in a track.

    Raises:
        UserError: If not; says which track can.
    """
    if not load_track(track).people:
        raise UserError(f"People are not evaluated in the {track} track.", "Use the predict track.")
    if track != "predict" and not holds_ratings(people):
        raise UserError(
            f"The {track} track needs what people think of each response; {people.name} has comparisons alone.",
            "Use the predict track, or give ratings or rankings (personalllm.Ratings).",
        )


def people_sizes(people: Data) -> Sizes:
    """Return the sizes of people's preferences or ratings."""
    if holds_ratings(people):
        return Sizes(people.n_items, people.n_items, people.n_users, rated=True)
    return Sizes(people.n_topics, people.n_topics, people.n_users)


def benchmark_sizes(benchmark: Benchmark, history_split: str, split: str) -> Sizes:
    """Return the sizes of two splits of a benchmark.

    Raises:
        DataError: If one of them has no prompts.
    """
    return Sizes(_rows(benchmark, history_split), _rows(benchmark, split))


def _rows(benchmark: Benchmark, split: str) -> int:
    """Return the number of prompts of a split, at least 1."""
    if split not in benchmark.splits or not len(benchmark.splits[split]):
        raise DataError(
            f"The benchmark {benchmark.name!r} has no prompts in the split {split!r}; "
            f"it has {', '.join(sorted(benchmark.splits)) or 'none'}.",
            _nearest_split(split, benchmark)
            or "Mark rows in the column `split` as 'train' (histories) and 'test' (queries), or name other splits.",
        )
    return len(benchmark.splits[split])


def _nearest_split(split: str, benchmark: Benchmark) -> str:
    near = UnknownName.nearest(split, benchmark.splits)
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else ""


def default_reference(benchmark: Benchmark) -> str:
    """Return the response model that the benchmark names, or the one with the best mean standardised score."""
    named = benchmark.metadata.get("reference_response_model")
    if named is not None:
        return str(named)
    from personalllm.data import Standardiser  # deferred: protocols are made without it as a rule

    table = benchmark.score_table(Standardiser.fit(benchmark, split="train"), benchmark.rows("train"))
    means = table.values.mean(axis=2, dtype=np.float64)
    models = benchmark.response_model_index[benchmark.rows("train")]
    totals = np.bincount(models.ravel(), means.ravel(), minlength=len(benchmark.response_models))
    counts = np.bincount(models.ravel(), minlength=len(benchmark.response_models))
    return benchmark.response_models[int(np.argmax(np.where(counts > 0, totals / np.maximum(counts, 1), -np.inf)))]
