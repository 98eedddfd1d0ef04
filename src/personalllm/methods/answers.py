"""Bring what a method's `utilities` returns into one form, and say what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from personalllm.core.errors import UserError
from personalllm.core.types import F32, Queries

if TYPE_CHECKING:
    from personalllm.methods.base import Method

__all__ = ["UTILITIES_REMEDY", "check_utilities", "of_any_width"]

M = TypeVar("M", bound="Method")

UTILITIES_REMEDY = (
    "utilities() must return a preference for each candidate: numbers (n_queries, n_responses) without NaN."
)
"""What to do about utilities that break the contract."""


def check_utilities(label: str, utilities: Any, shape: tuple[int, int]) -> F32:
    """Return what `utilities` returned if it holds numbers in this shape; they are float32 by then.

    Raises:
        UserError: If it does not; names the method.
    """
    if not isinstance(utilities, np.ndarray) or utilities.dtype != np.float32:
        what = f"an array of {utilities.dtype}" if isinstance(utilities, np.ndarray) else type(utilities).__name__
        raise UserError(f"The method {label!r} returned {what}, not an array of numbers.", UTILITIES_REMEDY)
    if utilities.shape != shape:
        raise UserError(f"The method {label!r} returned shape {utilities.shape}, expected {shape}.", UTILITIES_REMEDY)
    return utilities


def _as_float32(utilities: Any) -> Any:
    """Return lists and arrays of numbers as a float32 array; anything else as it is, which `check_utilities` names."""
    try:
        numbers = np.asarray(utilities)
    except ValueError:  # lists of different lengths
        return utilities
    with np.errstate(over="raise"):
        return numbers.astype(np.float32, copy=False) if numbers.dtype.kind in "fiu" else utilities


def of_any_width(score: Callable[[M, Queries], Any]) -> Callable[[M, Queries], F32]:
    """Let `utilities` return any numbers, and take prompts with different numbers of responses.

    It is called once for each number of responses, and the results are padded.
    """

    @wraps(score)
    def utilities(self: M, queries: Queries) -> F32:
        corpus = queries.corpus
        counts = corpus.counts[queries.prompt]
        if (counts == corpus.n_responses).all():
            scores: F32 = _as_float32(score(self, queries))
            return scores
        result = np.full((len(queries), corpus.n_responses), -np.inf, dtype=np.float32)
        for count in np.unique(counts[counts > 0]).tolist():
            rows = np.flatnonzero(counts == count)
            part = Queries(corpus.first_columns(count), queries.n_users, queries.user[rows], queries.prompt[rows])
            result[rows, :count] = check_utilities(self.id, _as_float32(score(self, part)), (len(rows), count))
        return result

    return utilities
