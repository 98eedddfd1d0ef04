"""Prepare the input of the kernels: checked float32 scores and weights, tiles, threads; and define the utility."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.types import F32, I32
from personalllm.users.draws import check_count
from personalllm.users.population import Population

if TYPE_CHECKING:
    from personalllm.data import ScoreTable

__all__ = [
    "Scores",
    "blocks",
    "checked_scores",
    "checked_weights",
    "default_threads",
    "dot",
    "indices",
    "rows_of",
    "run_blocks",
]

Scores: TypeAlias = "ScoreTable | F32"

_MAX_RESPONSES = 255


def checked_scores(population: Population, scores: Scores) -> F32:
    """Return the scores, float32 (n_prompts, n_responses, n_reward_models), after a check against the population.

    Raises:
        AxisMismatch: If the reward models or the shape do not fit.
        ParameterError: If a score is not finite or there are more than 255 responses.
    """
    if isinstance(scores, np.ndarray):
        values = scores
    else:
        population.check_reward_models(scores.reward_models)
        values = scores.values
    if values.ndim != 3 or values.shape[2] != population.n_reward_models:
        raise AxisMismatch(
            f"The scores have shape {values.shape}; the population has {population.n_reward_models} reward models.",
            "Give standardised scores (n_prompts, n_responses, n_reward_models).",
        )
    if values.dtype != np.float32:
        raise ParameterError("scores", "float32", str(values.dtype))
    if not 1 <= values.shape[1] <= _MAX_RESPONSES:
        raise ParameterError("scores", f"of 1 to {_MAX_RESPONSES} responses", values.shape)
    with np.errstate(invalid="ignore"):
        finite = bool(np.isfinite(values.sum(dtype=np.float64)))
    if not finite:
        raise ParameterError("scores", "finite", "NaN or infinity")
    return values


def checked_weights(population: Population) -> F32:
    """Return the weights rounded to float32, C-contiguous (n_users, n_reward_models)."""
    return np.ascontiguousarray(population.weights, dtype=np.float32)


def indices(name: str, values: npt.ArrayLike, upper: int) -> npt.NDArray[np.int64]:
    """Return integers as int64 after a check that each is in [0, upper).

    Raises:
        ParameterError: If a value is not an integer or is out of range.
    """
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ParameterError(name, "integers", str(array.dtype))
    if array.size and not (int(array.min()) >= 0 and int(array.max()) < upper):
        raise ParameterError(name, f"in [0, {upper})", (int(array.min()), int(array.max())))
    return array.astype(np.int64)


def dot(weights: F32, scores: F32) -> F32:
    r"""Return $\sum_b w_b s_b$ over the first axis, in its order, each product and sum rounded to float32.

    NumPy multiplies and adds in two passes, so no fused operation can change the last bit.

    Args:
        weights: float32 (n_reward_models, ...).
        scores: float32 (n_reward_models, ...), broadcast against the weights.
    """
    total: F32 = np.multiply(weights[0], scores[0])
    product = np.empty_like(total)
    for w, s in zip(weights[1:], scores[1:], strict=True):
        np.multiply(w, s, out=product)
        np.add(total, product, out=total)
    return total


def blocks(n: int, size: int) -> Iterator[slice]:
    """Yield slices that cover range(n), each of at most `size`."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def default_threads() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_blocks(work: Callable[[slice], None], n: int, size: int, threads: int | None) -> None:
    """Call `work` on each block of range(n), on several threads; a failure is raised here.

    Raises:
        ParameterError: If `threads` is neither an integer >= 1 nor None.
    """
    workers = default_threads() if threads is None else check_count("threads", threads)
    if workers == 1 or n <= size:
        for block in blocks(n, size):
            work(block)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, blocks(n, size)):
            pass


def rows_of(prompts: npt.ArrayLike, n_users: int, n_prompts: int) -> I32:
    """Return prompts (n_users, k) as int32 after a check of shape and range.

    Raises:
        AxisMismatch: If there is not one row for each user.
        ParameterError: If a prompt is out of range.
    """
    array = indices("prompts", prompts, n_prompts)
    if array.ndim != 2 or array.shape[0] != n_users:
        raise AxisMismatch(
            f"The prompts have shape {array.shape} for {n_users} users.", "Give one row of prompts for each user."
        )
    return array.astype(np.int32)
