"""Compiled loops over comparisons; imported when first needed, because numba is slow to import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

__all__ = ["margins", "pull_back"]


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile on first call, without the interpreter lock; kept on disk where a cache folder can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


@_compiled
def margins(scores, chosen, rejected, user, weights, out):  # type: ignore[no-untyped-def]
    """Write (scores of the chosen - scores of the rejected) . weights of the user for each comparison."""
    for i in range(len(chosen)):
        total = 0.0
        for k in range(scores.shape[1]):
            total += (scores[chosen[i], k] - scores[rejected[i], k]) * weights[user[i], k]
        out[i] = total


@_compiled
def pull_back(values, chosen, rejected, user, weights, out):  # type: ignore[no-untyped-def]
    """Add value * weights of the user to the chosen response's row and take it from the rejected one's."""
    for i in range(len(chosen)):
        for k in range(weights.shape[1]):
            part = values[i] * weights[user[i], k]
            out[chosen[i], k] += part
            out[rejected[i], k] -= part
