"""Define every metric: its name, its unit, and how it follows from the sums of users.

A metric without `value` is a mean over users of each user's own mean, or a ratio of two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from personalllm.core.errors import UnknownName
from personalllm.core.types import F64
from personalllm.evaluation.contract import Metric, Resamples
from personalllm.evaluation.measures import MEAN_GRAIN, N_BINS, rounded

__all__ = [
    "CHOICE_METRICS",
    "MIN_GROUP",
    "ONLINE_METRICS",
    "PAIR_METRICS",
    "PEOPLE_RANK_METRICS",
    "RANK_METRICS",
    "metric_by_id",
    "ratio",
]

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


def _worst_decile(resamples: Resamples, column: str = "correct", sign: int = 1) -> F64:
    """Return the mean of a column of the worst tenth of users, rounded up to whole users; sign -1 if less is better.

    In a resample a user may count several times, so the tenth is filled by weight. The worst quarter nearly always
    holds it; all users are sorted in only where it does not.
    """
    n = resamples.columns["n"]
    users = np.flatnonzero(n > 0)
    if not len(users):
        return np.full(len(resamples.weights), np.nan)
    mean = rounded(resamples.columns[column][users] / n[users], MEAN_GRAIN)
    weights = resamples.weights[:, users]
    size = np.ceil(weights.sum(axis=1) / 10)
    order = np.argsort(sign * mean, kind="stable")
    width = min(len(order), max(16, len(order) // 4))
    while True:
        within = np.minimum(weights[:, order[:width]].cumsum(axis=1), size[:, None])
        if width == len(order) or (within[:, -1] >= size).all():
            return ratio(np.diff(within, axis=1, prepend=0.0) @ mean[order[:width]], size)
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


def _mean(name: str, heading: str, unit: Unit, column: str = "", *, higher_is_better: bool, **more: Any) -> Metric:
    """Return a metric that is the mean of a column, by default the one of its own name."""
    return Metric(name, heading, unit, higher_is_better, {column or name: 1.0}, **more)


def _personalisation_share(column: str, note: str) -> Metric:
    """Return what a method reaches of the way from the best on text and pool alone to the user inferred exactly."""
    zero, ceiling = f"text_only_{column}", f"known_basis_{column}"
    return Metric(
        *("ps", "PS", "ratio"),
        higher_is_better=True,
        top={column: 1.0, zero: -1.0},
        bottom={ceiling: 1.0, zero: -1.0},
        note=note,
    )


CHOICE_METRICS = (
    _mean("utility", "Mean utility", "sd", higher_is_better=True, note="sd of the scores"),
    # a ratio of means over users: a mean of the users' own ratios would be governed by those with next to no room
    Metric(
        *("gain", "Gain", "ratio"),
        higher_is_better=True,
        top={"utility": 1.0, "population_best_utility": -1.0},
        bottom={"oracle_utility": 1.0, "population_best_utility": -1.0},
        note="1 = oracle",
    ),
    _mean("win_rate_reference", "Win rate", "share", higher_is_better=True, note="vs the reference model"),
    _mean("win_rate_best", "Win rate", "share", higher_is_better=True, note="vs user\u2019s best stored"),
    _mean("regret", "Regret", "sd", higher_is_better=False, note="lower is better"),
)
"""Metrics of the tracks that give each user a response, in the order of their tables."""

RANK_METRICS = (_personalisation_share("utility", "0 = text-only, 1 = known-basis"), *CHOICE_METRICS)
"""The same with the personalisation share, where the responses are stored ones."""

_PEOPLE_NOTES = {
    "ps": "not defined for people",
    "utility": "their own ratings",
    "gain": "0 = popularity, 1 = own best",
    "win_rate_best": "vs own best",
}

PEOPLE_RANK_METRICS = tuple(
    replace(metric, note=_PEOPLE_NOTES.get(metric.id, metric.note))
    for metric in RANK_METRICS
    if metric.id != "win_rate_reference"
)
"""The same for people, who have no reference response model."""

_CALIBRATION: dict[str, Any] = {"higher_is_better": False, "log_odds": True}
_OF_USERS: dict[str, Any] = {"higher_is_better": True, "shifted": True, "users_only": True, "note": "accuracy"}

PAIR_METRICS = (
    # on accuracy, which every method has; the log-loss of one that gives no probabilities is not defined
    _personalisation_share("correct", "of accuracy; 0 = text-only, 1 = known-basis"),
    _mean("accuracy", "Accuracy", "share", "correct", higher_is_better=True, pooled="correct"),
    _mean("log_loss", "Log-loss", "nats", "log_loss", **_CALIBRATION, pooled="log_loss", note="0.693 = coin"),
    Metric("ece", "ECE", "ratio", reads=_BIN_COLUMNS, value=_ece, **_CALIBRATION, shifted=True, note="lower is better"),
    _mean("brier", "Brier", "ratio", "brier", **_CALIBRATION, note="0.25 = coin"),
    _mean("regret", "Regret", "sd", "regret", higher_is_better=False, note="lower is better"),
    _mean("tau", "Kendall tau", "ratio", "tau", higher_is_better=True),
    Metric(
        *("length_controlled", "Length-controlled", "share"),
        higher_is_better=True,
        top={"longer:correct": 0.5, "shorter:correct": 0.5},
        reads=_SIDE_COLUMNS,
        value=_length_controlled,
        note="accuracy",
    ),
    Metric("worst_decile", "Worst decile", "share", reads=("correct", "n"), value=_worst_decile, **_OF_USERS),
    Metric("minority", "Minority", "share", reads=("correct", "n", "group"), value=_minority, **_OF_USERS),
)
"""Metrics of the tracks that predict preferences, in the order of their tables."""

_LOST: dict[str, Any] = {"higher_is_better": False}

ONLINE_METRICS = (
    *(metric for metric in RANK_METRICS if metric.id in {"ps", "gain"}),
    _mean("regret", "Regret", "sd", **_LOST, note="simple, on prompts held out"),
    _mean("average_regret", "Average regret", "sd", **_LOST, note="cumulative, both shown"),
    _mean("weak_regret", "Weak regret", "sd", **_LOST, note="cumulative, better shown"),
    _mean("questions", "Questions", "ratio", "asked", **_LOST, note="asked so far"),
    _mean("accuracy", "Accuracy", "share", "correct", higher_is_better=True),
    _mean("log_loss", "Log-loss", "nats", "log_loss", **_LOST, log_odds=True, note="0.693 = coin"),
    _mean("changed", "Changed", "share", higher_is_better=True, note="next question if the answer is turned"),
    Metric(
        *("worst_decile", "Worst decile", "sd"),
        **_LOST,
        reads=("regret", "n"),
        value=partial(_worst_decile, column="regret", sign=-1),
        shifted=True,
        users_only=True,
        note="regret",
    ),
    _mean("utility", "Mean utility", "sd", higher_is_better=True, note="sd of the scores"),
)
"""Metrics of the track that asks round by round, in the order of their tables."""
