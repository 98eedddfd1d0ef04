"""Estimate metrics from the sums of users, with 95 % intervals by resampling users.

A resample says how often each user counts, so all sums of all resamples are one matrix product. The resampled users
depend on the seed and the number of users alone: equal seeds give the same users for every method, which makes
differences paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F64
from personalllm.evaluation.contract import Estimate, Metric, Resamples, Sums
from personalllm.evaluation.measures import MEAN_GRAIN, SUM_GRAIN, rounded
from personalllm.evaluation.metrics import ratio

__all__ = ["ALL", "Key", "difference", "estimate", "percentiles", "resample", "stratum_sizes", "user_means"]

Key: TypeAlias = tuple[str, str]
"""Stratum and id of a metric."""

ALL = "all"
"""The stratum of all users and pairs."""

_BLOCK = 4_000_000
_DRAWN = 2_000_000


def estimate(sums: Sums, metrics: Sequence[Metric], *, draws: int = 2000, seed: int = 0) -> dict[Key, Estimate]:
    """Return every metric under a condition, in every stratum, with its 95 % interval.

    Strata: `all`; `contested-1` to `contested-4`, the quarter of the pool population that prefers the rejected
    response, over all pairs of the stratum; and the groups of users that the sums name, e.g. `rm:NAME`, users whose
    largest weight is on that RM, for the metrics that are means over users.

    The intervals are percentiles of the metric over resampled users. Metrics that resampling noise moves (an absolute
    value, a selection of the worst) have their resamples shifted so that the estimate is their mean. One user alone
    says nothing about others, so a stratum of one has no interval (NaN).

    Args:
        sums: Of one method under one condition.
        metrics: Of its track.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        `(stratum, metric)` -> estimate; NaN where a metric is undefined.
    """
    statistics = dict(_statistics(sums, metrics))
    points = _points(sums, statistics)
    drawn = _drawn(sums, statistics, draws, seed)
    return {key: _estimate(statistic, points[key], drawn[key], lowest=0.0) for key, statistic in statistics.items()}


def resample(sums: Sums, metric: Metric, stratum: str = ALL, *, draws: int, seed: int) -> F64:
    """Return a metric of resampled users, float64 (draws,); NaN where it is undefined.

    Raises:
        ParameterError: If the sums have no such stratum of the metric.
    """
    key = (stratum, metric.id)
    return _drawn(sums, {key: _statistic(sums, metric, stratum)}, draws, seed)[key]


def difference(a: Sums, b: Sums, metric: Metric, stratum: str = ALL, *, draws: int, seed: int) -> Estimate:
    """Return a metric of `a` minus that of `b`, paired by user.

    Raises:
        AxisMismatch: If the two are not of the same users and pairs.
        ParameterError: If the sums have no such stratum of the metric.
    """
    if (a.pairing, a.n_clusters) != (b.pairing, b.n_clusters):
        raise AxisMismatch("A paired difference needs the same users and test pairs on both sides.")
    key = (stratum, metric.id)
    points, drawn = [], []
    for sums in (a, b):
        statistics = {key: _statistic(sums, metric, stratum)}
        points.append(_points(sums, statistics)[key])
        drawn.append(_drawn(sums, statistics, draws, seed)[key])
    # a difference may be negative, whatever the metric
    return _estimate(statistics[key], points[0] - points[1], drawn[0] - drawn[1], lowest=-math.inf)


def user_means(sums: Sums, metric: Metric) -> F64:
    """Return float64 (n_users,): each user's own mean of a metric; NaN where it is undefined.

    Raises:
        ParameterError: If the metric is not a mean over users.
    """
    if metric.per_user is None:
        raise ParameterError("metric", "one that is a mean over users", metric.id)
    if not _is_defined(sums, metric):
        return np.full(sums.n_clusters, np.nan)
    return metric.per_user({name: sums.columns[name].astype(np.float64) for name in metric.reads})


def stratum_sizes(sums: Sums) -> dict[str, tuple[int, int]]:
    """Return stratum -> users with test pairs in it, and test pairs; (n_users, 0) without pairs."""
    n = sums.columns.get("n")
    if n is None:
        return {ALL: (sums.n_clusters, 0)}
    parts = {ALL: n}
    parts |= {stratum: sums.columns[f"{prefix}n"] for stratum, prefix in _pair_strata(sums)}
    parts |= {name: np.where(users, n, np.float32(0)) for name, users in _groups(sums)}
    return {name: (int((part > 0).sum()), int(part.sum(dtype=np.float64))) for name, part in parts.items()}


def percentiles(draws: F64) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval of the draws that are defined; NaN without any."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)


def _estimate(statistic: _Statistic, value: float, draws: F64, *, lowest: float) -> Estimate:
    """Return a value with the percentile interval of its resamples."""
    defined = draws[~np.isnan(draws)]
    if math.isnan(value) or statistic.size < 2 or not len(defined):
        return Estimate(value, math.nan, math.nan)
    if not statistic.metric.shifted:
        return Estimate(value, *percentiles(defined))
    # noise moves all resamples to one side of the estimate, which may then lie outside of their percentiles
    low, high = percentiles(defined + (value - math.fsum(defined.tolist()) / len(defined)))
    return Estimate(value, max(low, lowest), high)


@dataclass(frozen=True, eq=False, slots=True)
class _Statistic:
    """A metric in a stratum.

    Attributes:
        metric: The metric.
        size: Users (or prompts) that have a part in the stratum.
        columns: float64 (n_clusters,), what is added up, rounded so that the sums are exact.
        value: From the sums of resamples to the metric.
    """

    metric: Metric
    size: int
    columns: Mapping[str, F64]
    value: Callable[[Resamples], F64]


def _statistics(sums: Sums, metrics: Sequence[Metric]) -> Iterator[tuple[Key, _Statistic]]:
    """Yield every stratum with each of its metrics."""
    # the masks are made once, so that the metrics of a stratum share the column in which its users are counted
    present = (sums.columns["n"] > 0 if "n" in sums.columns else np.ones(sums.n_clusters)).astype(np.float64)
    for metric in metrics:
        yield (ALL, metric.id), _of_users(sums, metric, present)
    for stratum, prefix in _pair_strata(sums):
        for metric in metrics:
            if metric.pooled:
                yield (stratum, metric.id), _of_pairs(sums, metric, prefix)
    for stratum, users in _groups(sums):
        present = users.astype(np.float64)
        for metric in metrics:
            if metric.per_user is not None:
                yield (stratum, metric.id), _of_users(sums, metric, present)


def _statistic(sums: Sums, metric: Metric, stratum: str) -> _Statistic:
    statistics = dict(_statistics(sums, (metric,)))
    if (stratum, metric.id) not in statistics:
        strata = ", ".join(name for name, _ in statistics)
        raise ParameterError("stratum", f"one in which {metric.id} is known ({strata})", stratum)
    return statistics[stratum, metric.id]


def _pair_strata(sums: Sums) -> list[tuple[str, str]]:
    """Return the strata of pairs and the prefixes of their columns."""
    return [(f"contested-{q}", f"contested{q}_") for q in range(1, 5) if f"contested{q}_n" in sums.columns]


def _groups(sums: Sums) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield the groups of users that somebody with test pairs belongs to."""
    for index, name in enumerate(sums.groups):
        users = (sums.columns["group"] == index) & (sums.columns["n"] > 0)
        if users.any():
            yield name, users


def _is_defined(sums: Sums, metric: Metric) -> bool:
    """Tell whether the sums have what a metric needs: what is unknown is no zero."""
    return all(name in sums.columns for name in metric.reads) and not (metric.users_only and sums.axis != "users")


def _undefined(resamples: Resamples) -> F64:
    return np.full(len(resamples.weights), np.nan)


def _mean_over_users(resamples: Resamples) -> F64:
    return ratio(resamples.totals["mean"], resamples.totals["users"])


def _of_users(sums: Sums, metric: Metric, present: F64) -> _Statistic:
    """Return a metric of the users for whom `present`, float64 (n_clusters,), is 1."""
    size = int(present.sum())
    if not _is_defined(sums, metric):
        return _Statistic(metric, size, {}, _undefined)
    if metric.value is not None:
        columns = {name: rounded(sums.columns[name].astype(np.float64), metric.grain) for name in metric.reads}
        return _Statistic(metric, size, columns, metric.value)
    means = rounded(np.where(present > 0, user_means(sums, metric), 0.0), MEAN_GRAIN)
    return _Statistic(metric, size, {"users": present, "mean": means}, _mean_over_users)


def _of_pairs(sums: Sums, metric: Metric, prefix: str) -> _Statistic:
    """Return a metric over all pairs of a stratum, pooled over users: few users have many of the rare ones."""
    size = int((sums.columns[f"{prefix}n"] > 0).sum())
    name, n = f"{prefix}{metric.pooled}", f"{prefix}n"
    if name not in sums.columns:
        return _Statistic(metric, size, {}, _undefined)
    columns = {column: rounded(sums.columns[column].astype(np.float64), SUM_GRAIN) for column in (n, name)}
    return _Statistic(metric, size, columns, lambda resamples: ratio(resamples.totals[name], resamples.totals[n]))


def _points(sums: Sums, statistics: Mapping[Key, _Statistic]) -> dict[Key, float]:
    """Return the statistics over all users, each counting once."""
    (values,) = _evaluated(sums, statistics, [np.ones((1, sums.n_clusters))])
    return {key: float(value[0]) for key, value in values.items()}


def _drawn(sums: Sums, statistics: Mapping[Key, _Statistic], draws: int, seed: int) -> dict[Key, F64]:
    """Return the statistics of resampled users, float64 (draws,) each."""
    counts = _resamples(sums.n_clusters, draws, seed)
    step = max(1, _BLOCK // sums.n_clusters)
    blocks = (counts[start : start + step].astype(np.float64) for start in range(0, draws, step))
    parts = list(_evaluated(sums, statistics, blocks))
    return {key: np.concatenate([part[key] for part in parts]) for key in statistics}


def _evaluated(sums: Sums, statistics: Mapping[Key, _Statistic], blocks: Iterable[F64]) -> Iterator[dict[Key, F64]]:
    """Yield the statistics, float64 (n,), of each block of weights, float64 (n, n_clusters)."""
    raw = {name: column.astype(np.float64) for name, column in sums.columns.items()}
    columns = {id(column): column for statistic in statistics.values() for column in statistic.columns.values()}
    matrix = np.stack(list(columns.values()), axis=1) if columns else np.empty((sums.n_clusters, 0))
    for weights in blocks:
        added = dict(zip(columns, (weights @ matrix).T, strict=True))
        values = {}
        for key, statistic in statistics.items():
            totals = {name: added[id(column)] for name, column in statistic.columns.items()}
            values[key] = statistic.value(Resamples(totals, raw, weights))
        yield values


@lru_cache(maxsize=4)
def _resamples(n_clusters: int, draws: int, seed: int) -> npt.NDArray[np.uint16]:
    """Return uint16 (draws, n_clusters): how often each user is drawn."""
    rng = generator(seed, "bootstrap", n_clusters)
    counts = np.empty((draws, n_clusters), np.uint16)
    step = max(1, _DRAWN // n_clusters)
    for start in range(0, draws, step):
        users = rng.integers(0, n_clusters, (min(step, draws - start), n_clusters), dtype=np.int32)
        flat = users + np.arange(len(users), dtype=np.int64)[:, None] * n_clusters
        drawn = np.bincount(flat.ravel(), minlength=users.size)
        counts[start : start + len(users)] = drawn.reshape(len(users), n_clusters)
    counts.flags.writeable = False
    return counts
