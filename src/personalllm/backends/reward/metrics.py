"""Measure how well a reward model orders pairs, and how far length explains its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch
from personalllm.core.seeding import generator
from personalllm.core.types import JSON

__all__ = ["Accuracy", "accuracy", "length_correlations", "lengths", "rank_correlation", "top_agreement"]

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of pairs in the right order, with its 95 % interval.

    Attributes:
        value: In [0, 1].
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def spec(self) -> JSON:
        """Return the three numbers, rounded to four decimals, as JSON."""
        return {"value": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4)}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def accuracy(margins: npt.ArrayLike, groups: npt.ArrayLike, seed: int = 0) -> Accuracy:
    """Return the share of positive margins with a 95 % interval that respects groups.

    A margin is the score of the chosen minus that of the rejected response; a margin of 0 counts one half. The interval
    is a percentile bootstrap (2,000 resamples) over whole groups, since the pairs of one prompt are not independent.

    Args:
        margins: (n,) numbers, n >= 1.
        groups: int (n,), pairs with the same number are drawn together.
        seed: Of the resampling.

    Raises:
        AxisMismatch: If there is no pair, or the two arguments differ in length.

    >>> accuracy([1.0, -1.0, 2.0, 0.0], [0, 1, 2, 3]).value
    0.625
    """
    values = np.asarray(margins, np.float64)
    if values.ndim != 1 or not values.size or values.shape != np.shape(groups):
        raise AxisMismatch(f"Margins of shape {values.shape} do not fit groups of shape {np.shape(groups)}.")
    right = (values > 0) + 0.5 * (values == 0)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    size, hits = np.bincount(group), np.bincount(group, weights=right)
    rng = generator("reward accuracy", seed)
    counts = rng.multinomial(len(size), np.full(len(size), 1.0 / len(size)), size=_RESAMPLES)
    low, high = np.quantile((counts @ hits) / (counts @ size), (0.025, 0.975))
    return Accuracy(float(right.mean()), float(low), float(high))


def lengths(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return int64 (n,): the number of characters of each text."""
    return np.array([len(text) for text in texts], np.int64)


def rank_correlation(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Return Spearman's rank correlation of two columns, 0.0 where one of them is constant.

    >>> round(rank_correlation([1, 2, 3], [10, 20, 40]), 3)
    1.0
    """
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(np.asarray(a)), rankdata(np.asarray(b))])
    ranks -= ranks.mean(axis=1, keepdims=True)
    scale = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float(ranks[0] @ ranks[1]) / scale if scale > 0 else 0.0


def top_agreement(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return how often each two reward models rank the same response first.

    Args:
        scores: (n_prompts, n_responses, n_reward_models); the first response wins a tie.

    Returns:
        float64 (n_reward_models, n_reward_models) in [0, 1], ones on the diagonal.
    """
    best = scores.argmax(axis=1)
    return np.asarray((best[:, :, None] == best[:, None, :]).mean(axis=0), np.float64)


def length_correlations(scores: npt.ArrayLike, characters: npt.ArrayLike) -> tuple[float, float]:
    """Return two rank correlations of score and length: over all responses, and the mean over prompts of those within.

    Args:
        scores: (n_prompts, n_responses), of one reward model.
        characters: int (n_prompts, n_responses).

    Returns:
        (over all responses, within prompts), each in [-1, 1].
    """
    score, length = np.asarray(scores), np.asarray(characters)
    within = [rank_correlation(a, b) for a, b in zip(score, length, strict=True)]
    return rank_correlation(score.ravel(), length.ravel()), float(np.mean(within))
