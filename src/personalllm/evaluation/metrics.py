"""Define every metric: its name, its unit, and how it follows from the sums of users.

A metric without `value` is the mean over users of each user's own mean, which a sign-flip test can compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from personalllm.core.errors import UnknownName
from personalllm.core.types import F64
from personalllm.evaluation.contract import Metric, Resamples
from personalllm.evaluation.measures import MEAN_GRAIN, N_BINS, rounded

__all__ = ["CHOICE_METRICS", "MIN_GROUP", "PAIR_METRICS", "metric_by_id", "ratio"]

MIN_GROUP = 5
"""A reward model counts for `minority` if it is the strongest one of at least so many users."""

_BINS = [f"bin{b:02d}" for b in range(N_BINS)]
_BIN_COLUMNS = tuple(f"{b}_{name}" for b in _BINS for name in ("n", "confidence", "correct"))
_SIDE_COLUMNS = ("longer_n", "longer_correct", "shorter_n", "shorter_correct")

Unit: TypeAlias = Literal["sd", "share", "nats", "ratio"]


def metric_by_id(metrics: Iterable[Metric], name: str) -> Metric:
    """Return the metric of an id.

    Raises:
        UnknownName: If there is none; lists the nearest.
    """
    metrics = tuple(metrics)
    for metric in metrics:
        if metric.id == name:
            return metric
    raise UnknownName("metric", name, (metric.id for metric in metrics))


def ratio(total: F64, n: F64) -> F64:
    """Return total / n, float64 of any shape; NaN where n is 0 or unknown."""
    quotient: F64 = np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0)
    return quotient


def _gain(resamples: Resamples) -> F64:
    """Return the share of the room above the best common choice that is gained; NaN where there is no room.

    A ratio of means over users: a mean of the users' own ratios would be governed by those with next to no room.
    """
    floor = resamples.totals["population_best_utility"]
    return ratio(resamples.totals["utility"] - floor, resamples.totals["oracle_utility"] - floor)


def _ece(resamples: Resamples) -> F64:
    """Return the expected calibration error: |confidence - accuracy| of each bin, weighted by its pairs."""
    n, confidence, correct = (
        np.stack([resamples.totals[f"{b}_{name}"] for b in _BINS]) for name in ("n", "confidence", "correct")
    )
    return ratio(np.abs(confidence - correct).sum(axis=0), n.sum(axis=0))


def _length_controlled(resamples: Resamples) -> F64:
    """Return the mean of the accuracies where the longer and where the shorter response is the preferred one."""
    longer, shorter = (
        ratio(resamples.totals[f"{side}_correct"], resamples.totals[f"{side}_n"]) for side in ("longer", "shorter")
    )
    return (longer + shorter) / 2


def _worst_decile(resamples: Resamples) -> F64:
    """Return the mean accuracy of the worst tenth of users, rounded up to whole users.

    In a resample a user may count several times, so the tenth is filled by weight. The worst quarter nearly always
    holds it; all users are sorted in only where it does not.
    """
    n = resamples.columns["n"]
    users = np.flatnonzero(n > 0)
    if not len(users):
        return np.full(len(resamples.weights), np.nan)
    accuracy = rounded(resamples.columns["correct"][users] / n[users], MEAN_GRAIN)
    weights = resamples.weights[:, users]
    size = np.ceil(weights.sum(axis=1) / 10)
    order = np.argsort(accuracy, kind="stable")
    width = min(len(order), max(16, len(order) // 4))
    while True:
        within = np.minimum(weights[:, order[:width]].cumsum(axis=1), size[:, None])
        if width == len(order) or (within[:, -1] >= size).all():
            return ratio(np.diff(within, axis=1, prepend=0.0) @ accuracy[order[:width]], size)
        width = len(order)


def _minority(resamples: Resamples) -> F64:
    """Return the lowest mean accuracy of the groups of users with the same strongest reward model."""
    n, group = resamples.columns["n"], resamples.columns["group"]
    indices, sizes = np.unique(group[(group >= 0) & (n > 0)], return_counts=True)
    large = indices[sizes >= MIN_GROUP]
    if not len(large):
        return np.full(len(resamples.weights), np.nan)
    member = ((group[:, None] == large) & (n > 0)[:, None]).astype(np.float64)
    accuracy = rounded(np.nan_to_num(ratio(resamples.columns["correct"], n)), MEAN_GRAIN)
    means = ratio(resamples.weights @ (member * accuracy[:, None]), resamples.weights @ member)
    # a group that a resample left empty says nothing, hence fmin
    lowest: F64 = np.fmin.reduce(means, axis=1)
    return lowest


def _mean_of_users(name: str, heading: str, unit: Unit, *, higher_is_better: bool, note: str = "") -> Metric:
    """Return a metric whose column of the same name holds each user's mean already."""
    return Metric(name, heading, unit, higher_is_better, (name,), per_user=lambda columns: columns[name], note=note)


def _mean_of_pairs(name: str, heading: str, unit: Unit, column: str, *, higher_is_better: bool, **more: Any) -> Metric:
    """Return a metric whose column holds each user's total over the number of their test pairs."""

    def mean(columns: Mapping[str, F64]) -> F64:
        return ratio(columns[column], columns["n"])

    return Metric(name, heading, unit, higher_is_better, (column, "n"), per_user=mean, **more)


CHOICE_METRICS = (
    _mean_of_users("utility", "Mean utility", "sd", higher_is_better=True, note="sd of the scores"),
    Metric(
        *("gain", "Gain", "ratio"),
        higher_is_better=True,
        reads=("utility", "population_best_utility", "oracle_utility"),
        value=_gain,
        grain=MEAN_GRAIN,
        note="1 = oracle",
    ),
    _mean_of_users("win_rate_reference", "Win rate", "share", higher_is_better=True, note="vs the reference model"),
    _mean_of_users("win_rate_best", "Win rate", "share", higher_is_better=True, note="vs user\u2019s best stored"),
    _mean_of_users("regret", "Regret", "sd", higher_is_better=False, note="lower is better"),
)
"""Metrics of the tracks that give each user a response, in the order of their tables."""

_CALIBRATION: dict[str, Any] = {"higher_is_better": False, "log_odds": True}
_OF_USERS: dict[str, Any] = {"higher_is_better": True, "shifted": True, "users_only": True, "note": "accuracy"}

PAIR_METRICS = (
    _mean_of_pairs("accuracy", "Accuracy", "share", "correct", higher_is_better=True, pooled="correct"),
    _mean_of_pairs("log_loss", "Log-loss", "nats", "log_loss", **_CALIBRATION, pooled="log_loss", note="0.693 = coin"),
    Metric("ece", "ECE", "ratio", reads=_BIN_COLUMNS, value=_ece, **_CALIBRATION, shifted=True, note="lower is better"),
    _mean_of_pairs("brier", "Brier", "ratio", "brier", **_CALIBRATION, note="0.25 = coin"),
    _mean_of_pairs("regret", "Regret", "sd", "regret", higher_is_better=False, note="lower is better"),
    _mean_of_pairs("tau", "Kendall tau", "ratio", "tau", higher_is_better=True),
    Metric(
        *("length_controlled", "Length-controlled", "share"),
        higher_is_better=True,
        reads=_SIDE_COLUMNS,
        value=_length_controlled,
        note="accuracy",
    ),
    Metric("worst_decile", "Worst decile", "share", reads=("correct", "n"), value=_worst_decile, **_OF_USERS),
    Metric("minority", "Minority", "share", reads=("correct", "n", "group"), value=_minority, **_OF_USERS),
)
"""Metrics of the tracks that predict preferences, in the order of their tables."""
