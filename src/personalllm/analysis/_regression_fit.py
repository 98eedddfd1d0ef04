"""From choices to designs: gathers each user's rows in blocks, standardises them, fits, predicts the held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.analysis._solver import FITTED, fit_logistic
from personalllm.core.errors import ParameterError
from personalllm.core.types import F64, I64
from personalllm.data import ScoreTable
from personalllm.users import Population, ranks

__all__ = ["F64", "U8", "FittedUsers", "Split", "fit_users", "split_rows"]

U8: TypeAlias = npt.NDArray[np.uint8]
Split: TypeAlias = Literal["rows", "prompts"]

_VALUES_PER_BLOCK = 1_000_000


@dataclass(frozen=True, eq=False)
class FittedUsers:
    """What was found for every user, and the standard error of the mean coefficients over prompts."""

    coefficients: F64
    accuracy: F64
    state: U8
    rank: I64
    prompt_error: F64


def split_rows(n_prompts: int, held_out: float, split: Split, seed: int) -> tuple[I64, I64]:
    """Return the training and the held-out rows, of 2 n_prompts rows; row 2 p + 1 is the lower response of prompt p.

    Raises:
        ParameterError: If `held_out` or `seed` is out of range.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < held_out < 1:
        raise ParameterError("held_out", "in (0, 1)", held_out)
    if not 0 <= seed < 2**32:
        raise ParameterError("seed", "in [0, 2**32)", seed)
    n = 2 * n_prompts if split == "rows" else n_prompts
    if not np.ceil(held_out * n) < n:
        raise ParameterError("held_out", f"small enough to leave a training row of {n}", held_out)
    train, test = (
        np.asarray(p, np.int64) for p in train_test_split(np.arange(n), test_size=held_out, random_state=seed)
    )
    if split == "rows":
        return train, test
    return tuple((2 * part[:, None] + np.arange(2)).ravel() for part in (train, test))  # type: ignore[return-value]


def fit_users(
    population: Population, scores: ScoreTable, features: F64, positions: tuple[int, int], parts: tuple[I64, I64]
) -> FittedUsers:
    """Fit the regression of every user, a block of users at a time.

    Args:
        population: The users.
        scores: Standardised scores (n_prompts, n_responses, n_reward_models).
        features: float64 (n_prompts, n_responses, n_features), finite.
        positions: Places in a user's ranking of the response labelled 1 and of the one labelled 0.
        parts: Training and held-out rows.
    """
    train, _ = parts
    n_users, n_features = population.n_users, features.shape[2]
    size = max(1, _VALUES_PER_BLOCK // (2 * len(features) * n_features))
    found: list[tuple[Any, ...]] = []
    influence, counts = np.zeros((len(features), n_features)), np.zeros(n_features)
    prompt = np.arange(len(features))[None, :, None]
    for start in range(0, n_users, size):
        block = population.subset(np.arange(start, min(start + size, n_users)))
        rows = features[prompt, ranks(block, scores, positions)].reshape(block.n_users, -1, n_features)
        coefficients, accuracy, state, rank, effect = _fit_block(rows, parts)
        found.append((coefficients, accuracy, state, rank))
        np.add.at(influence, train // 2, effect)
        counts += np.isfinite(coefficients).sum(axis=0)
    coefficients, accuracy, state, rank = (np.concatenate(column) for column in zip(*found, strict=True))
    n_clusters = len(np.unique(train // 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = influence / counts
        error = np.sqrt((mean**2).sum(axis=0) * n_clusters / (n_clusters - 1))
    return FittedUsers(coefficients, accuracy, state, rank, error)


def _fit_block(rows: F64, parts: tuple[I64, I64]) -> tuple[F64, F64, U8, I64, F64]:
    """Return coefficients, accuracies, states, ranks and the summed influence of each training row on the former."""
    train, test = parts
    known = rows[:, train]
    mean = known.mean(axis=1, keepdims=True)
    constant = np.ptp(known, axis=1, keepdims=True) == 0
    scale = np.where(constant, 1.0, known.std(axis=1, keepdims=True))
    known = np.where(constant, 0.0, (known - mean) / scale)
    labels = train % 2 == 0
    fit = fit_logistic(known, labels)
    fitted = fit.state == FITTED
    plain = np.where(fitted[:, None], fit.coefficients, 0.0)
    unseen = (rows[:, test] - mean) / scale
    unseen[np.broadcast_to(constant, unseen.shape)] = 0.0
    right = ((unseen @ plain[:, :, None])[:, :, 0] > 0) == (test % 2 == 0)
    accuracy = np.where(fitted, right.mean(axis=1), np.nan)
    coefficients = np.where(constant[:, 0], np.nan, fit.coefficients)
    usable = np.isfinite(coefficients)
    return coefficients, accuracy, fit.state, fit.rank, _influence(known[fitted], labels, plain[fitted], usable[fitted])


def _influence(design: F64, labels: npt.NDArray[np.bool_], beta: F64, usable: npt.NDArray[np.bool_]) -> F64:
    r"""Return $\sum_u H_u^{+} x_{ui} (y_i - p_{ui})$, float64 (n_rows, n_features): first-order effects of the rows."""
    chance = 0.5 * (1 + np.tanh(0.5 * (design @ beta[:, :, None])[:, :, 0]))
    weight = chance * (1 - chance)
    inverse = np.linalg.pinv((design * weight[:, :, None]).transpose(0, 2, 1) @ design, rcond=1e-9, hermitian=True)
    effect = (design * (labels - chance)[:, :, None]) @ inverse
    return np.asarray((effect * usable[:, None, :]).sum(axis=0), np.float64)
