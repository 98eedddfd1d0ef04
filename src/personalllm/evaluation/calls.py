"""Call a method's own code: name it if it fails, check what it returns, give each unit of work its own copy."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from personalllm.core.errors import PersonalLLMError, RunError, UserError
from personalllm.core.types import F32, Histories, Queries
from personalllm.evaluation.contract import Backends, NamedMethod
from personalllm.methods.answers import UTILITIES_REMEDY, check_utilities
from personalllm.methods.base import Method

__all__ = ["adapt", "checked", "fitted", "own_copy", "running", "utilities_of"]


@contextmanager
def running(label: str, step: str) -> Iterator[None]:
    """Name the method and the step if the method's own code fails.

    Raises:
        RunError: Instead of any exception that is not of this package, which stays as its cause.
    """
    try:
        yield
    except PersonalLLMError:
        raise
    except Exception as error:  # anyone's code runs here, and may raise anything
        raise RunError(
            f"The method {label!r} failed in {step}: {type(error).__name__}: {error}.",
            "Run personalllm.testing.check_method on it.",
        ) from error


def fitted(pool: Histories, backends: Backends, method: NamedMethod, seed: int) -> Method:
    """Return a fresh copy of a method, bound to the backends and fitted on the pool."""
    copied = method.method.clone()
    backends.bind(copied, seed)
    with running(method.label, "fit"):
        copied.fit(pool)
    return copied


def own_copy(pool: Histories, backends: Backends, method: Method, label: str, seed: int) -> Method:
    """Return a deep copy of a fitted method, so that no unit of work sees what another one left behind.

    The backends, the corpus and the columns of the pool cannot change, so they are shared.

    Args:
        pool: What it was fitted on.
        backends: Handed over to the copy again.
        method: Fitted.
        label: Its name in messages.
        seed: Of the unit.

    Raises:
        RunError: If what it learned cannot be copied.
    """
    columns = [getattr(part, field.name) for part in (pool, pool.corpus) for field in dataclasses.fields(part)]
    shared = (backends.embedder, backends.llm, backends.signals, pool, *columns)
    with running(label, "a deep copy of what fit learned"):
        copied = copy.deepcopy(method, {id(value): value for value in shared})
    return backends.bind(copied, seed)


def checked(label: str, utilities: Any, shape: tuple[int, int]) -> F32:
    """Return the utilities that a method returned if they keep the contract.

    Raises:
        UserError: If type, shape or values are wrong; names the method.
    """
    scores = check_utilities(label, utilities, shape)
    bad = np.isnan(scores)
    if bad.any():
        query, column = (int(i) for i in np.argwhere(bad)[0])
        raise UserError(
            f"The method {label!r} returned NaN for {int(bad.sum())} of {bad.size} candidates "
            f"(first: query {query}, column {column}).",
            UTILITIES_REMEDY,
        )
    return scores


def adapt(label: str, method: Method, histories: Histories) -> None:
    """Let a method learn about the target users."""
    with running(label, "adapt"):
        method.adapt(histories)


def utilities_of(label: str, method: Method, queries: Queries) -> F32:
    """Return a method's utilities, float32 (n_queries, n_responses); it is not called without queries."""
    shape = (len(queries), queries.corpus.n_responses)
    if not len(queries):
        return np.empty(shape, np.float32)
    with running(label, "utilities"):
        utilities = method.utilities(queries)
    return checked(label, utilities, shape)
