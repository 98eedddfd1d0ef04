"""Estimate metrics from sums, with 95 % intervals over users and prompts, or over users alone.

Intervals over both follow from the two-way clustered variance (`core.crossed`). Intervals over users alone, the prompts
fixed, are percentiles of resamples: a resample says how often each user counts, so all sums of all resamples are one
matrix product. The resampled users depend on the seed and the number of users alone: equal seeds give the same users
for every method, which makes differences paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from personalllm.core.crossed import (
    MIN_PAIRED_USERS,
    Over,
)
from personalllm.core.errors import AxisMismatch, ParameterError
from personalllm.core.seeding import generator
from personalllm.core.types import F64
from personalllm.evaluation.contract import Estimate, Key, Metric, Resamples, Sums
from personalllm.evaluation.means import ALL, Parts, column_mean, combined, is_defined, user_mean, user_weight
from personalllm.evaluation.measures import MEAN_GRAIN, SUM_GRAIN, rounded
from personalllm.evaluation.metrics import ratio

__all__ = [
    "difference",
    "estimate",
    "percentiles",
    "resample",
    "stratum_sizes",
]

_BLOCK = 4_000_000
_DRAWN = 2_000_000
_UNKNOWN = (math.nan, math.nan)


def estimate(
    sums: Sums, metrics: Sequence[Metric], *, over: Over = "users and prompts", draws: int = 2000, seed: int = 0
) -> dict[Key, Estimate]:
    """Return every metric under a condition, in every stratum, with its 95 % interval.

    Strata: `all`; `contested-1` to `contested-4`, the quarter of the pool population that prefers the rejected
    response, over all pairs of the stratum; and the groups of users that the sums name, e.g. `rm:NAME`, users whose
    largest weight is on that RM, for the metrics that are means over users.

    Over users and prompts, means have t intervals and ratios Fieller's; a metric that is neither (the ECE, the worst
    decile), and one of fewer than `MIN_USERS` users or `MIN_PROMPTS` prompts, has none (NaN). Over users alone, the
    intervals are percentiles of the metric over resampled users. Metrics that resampling noise moves (an absolute
    value, a selection of the worst) have their resamples shifted so that the estimate is their mean. One user alone
    says nothing about others, so a stratum of one has no interval.

    Args:
        sums: Of one method under one condition.
        metrics: Of its track.
        over: What is taken to be drawn at random.
        draws: Number of resamples, over users.
        seed: Seed of the resamples.

    Returns:
        `(stratum, metric)` -> estimate; NaN where a metric is undefined.
    """
    statistics = dict(_statistics(sums, metrics))
    points = _points(sums, statistics)
    if over == "users":
        drawn = _drawn(sums, statistics, draws, seed)
        return {key: _estimate(statistic, points[key], drawn[key], lowest=0.0) for key, statistic in statistics.items()}
    part = cache(lambda stratum, column: column_mean(sums, stratum, column))
    estimates = {}
    for (stratum, name), statistic in statistics.items():
        ends = _UNKNOWN
        if not math.isnan(points[stratum, name]):
            ends = Parts.of(sums, statistic.metric, stratum, part).interval(over)
        estimates[stratum, name] = Estimate(points[stratum, name], *ends)
    return estimates


def resample(
    sums: Sums, metric: Metric, stratum: str = ALL, *, over: Over = "users and prompts", draws: int, seed: int
) -> F64:
    """Return draws of a metric, float64 (draws,); NaN where it is undefined.

    Over users these are resamples; over users and prompts draws from the normal distribution of the linearised metric,
    with the variance of users plus that of prompts (see `core.crossed.Mean.draws`). Equal seeds give draws that are
    paired between methods.

    Raises:
        ParameterError: If the sums have no such stratum of the metric.
    """
    key, statistic = (stratum, metric.id), _statistic(sums, metric, stratum)
    if over == "users":
        return _drawn(sums, {key: statistic}, draws, seed)[key]
    parts = Parts.of(sums, metric, stratum)
    if parts.top is None or parts.too_few(over, MIN_PAIRED_USERS):
        return np.full(draws, math.nan)
    linear = parts.linear()
    sizes = {"users": len(linear.users), "prompts": len(linear.prompts)}
    rngs = [generator(seed, "multipliers", axis, n) for axis, n in sizes.items()]
    step = max(1, _BLOCK // max(sizes.values()))
    blocks = [min(step, draws - start) for start in range(0, draws, step)]
    drawn = ([rng.standard_normal((block, n)) for rng, n in zip(rngs, sizes.values(), strict=True)] for block in blocks)
    return np.concatenate([linear.draws(users, prompts, over) for users, prompts in drawn])


def difference(
    a: Sums, b: Sums, metric: Metric, stratum: str = ALL, *, over: Over = "users and prompts", draws: int, seed: int
) -> tuple[Estimate, float]:
    """Return a metric of `a` minus that of `b`, paired by user and prompt, and its two-sided p-value.

    Over users alone the p-value is NaN: flipping signs needs all comparisons that are made together.

    Raises:
        AxisMismatch: If the two are not of the same users and pairs.
        ParameterError: If the sums have no such stratum of the metric.
    """
    if (a.pairing, a.n_clusters) != (b.pairing, b.n_clusters):
        raise AxisMismatch("A paired difference needs the same users and test pairs on both sides.")
    key = (stratum, metric.id)
    statistics = [{key: _statistic(sums, metric, stratum)} for sums in (a, b)]
    points = [_points(sums, statistic)[key] for sums, statistic in zip((a, b), statistics, strict=True)]
    gap = points[0] - points[1]
    if over != "users":
        parts = Parts.of(a, metric, stratum) - Parts.of(b, metric, stratum)
        ends = _UNKNOWN if math.isnan(gap) else parts.interval(over, MIN_PAIRED_USERS)
        p_value = math.nan if math.isnan(ends[0]) else parts.p_value(over)
        return Estimate(gap, *ends), p_value
    drawn = [_drawn(sums, statistic, draws, seed)[key] for sums, statistic in zip((a, b), statistics, strict=True)]
    # a difference may be negative, whatever the metric
    return _estimate(statistics[0][key], gap, drawn[0] - drawn[1], lowest=-math.inf), math.nan


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
            if metric.is_mean:
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


def _undefined(resamples: Resamples) -> F64:
    return np.full(len(resamples.weights), np.nan)


def _ratio_of_means(resamples: Resamples) -> F64:
    return ratio(resamples.totals["top"], resamples.totals["bottom"])


def _of_users(sums: Sums, metric: Metric, present: F64) -> _Statistic:
    """Return a metric of the users for whom `present`, float64 (n_clusters,), is 1."""
    size = int(present.sum())
    if not is_defined(sums, metric):
        return _Statistic(metric, size, {}, _undefined)
    if metric.value is not None:
        columns = {name: rounded(sums.columns[name].astype(np.float64), SUM_GRAIN) for name in metric.columns}
        return _Statistic(metric, size, columns, metric.value)

    def mean(name: str) -> F64:
        return rounded(weight * np.where(present > 0, user_mean(sums, name), 0.0), MEAN_GRAIN)

    weight = user_weight(sums)
    bottom = combined(metric.bottom, mean) if metric.bottom else weight * present
    return _Statistic(metric, size, {"bottom": bottom, "top": combined(metric.top, mean)}, _ratio_of_means)


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
