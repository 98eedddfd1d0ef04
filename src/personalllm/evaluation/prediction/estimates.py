"""From each user's sums to the metrics of a cell, with intervals by resampling users.

All metrics are ratios of sums over users, so a resample of users costs one row of a matrix product. Values are rounded
to 2**-24 (a user's means to 2**-32) before they are added, which makes every sum exact: neither the order of the users
nor the number of threads can change a digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from personalllm.core.errors import AxisMismatch
from personalllm.core.seeding import generator
from personalllm.core.types import F32, F64
from personalllm.evaluation.prediction.metrics import N_BINS, PREDICTION_METRICS, USER_MEANS, user_means
from personalllm.evaluation.results import Estimate

__all__ = ["FEWEST_USERS", "CellDraws", "Estimates", "Key", "cell_difference", "draw_cell", "estimate_cell"]

Key: TypeAlias = tuple[str, str]
CellDraws: TypeAlias = dict[Key, F64]
Estimates: TypeAlias = dict[Key, Estimate]

FEWEST_USERS = 5
"""A reward model counts for `minority` if it is the strongest one of at least so many users."""

_GRAIN = 2.0**24
_GRAIN_OF_MEANS = 2.0**32
_BLOCK = 4_000_000
_DRAWN = 2_000_000
_QUARTERS = range(1, 5)
_SHIFTED = ("ece", "worst_decile", "minority")
_SUM = {"accuracy": "correct", "log_loss": "log_loss"}
_OF_USER = ("has", *USER_MEANS)
_BINNED = [f"bin{b:02d}_{name}" for b in range(N_BINS) for name in ("n", "confidence", "correct")]
_SIDES = [f"{side}_{name}" for side in ("longer", "shorter") for name in ("n", "correct")]
_CONTESTED = [f"contested{q}_{name}" for q in _QUARTERS for name in ("n", "correct", "log_loss")]
_POOLED = [*_BINNED, *_SIDES, *_CONTESTED]


def estimate_cell(
    sums: Mapping[str, F32], reward_models: Sequence[str] = (), *, draws: int = 2000, seed: int = 0
) -> Estimates:
    """Return every metric of a cell, in every stratum, with its 95 % interval over users.

    Strata and their metrics: `all` has `PREDICTION_METRICS`; `contested-1` to `contested-4` (which quarter of the pool
    population prefers the rejected response) have accuracy and log-loss over all pairs of the stratum; `rm:NAME` (users
    whose largest weight is on the RM) has `USER_MEANS`, for each RM that is somebody's strongest.

    The intervals are percentiles of the metric over resampled users. ECE, worst decile and minority are moved by
    resampling noise (an absolute value, a selection of the worst), so their resamples are shifted to have the estimate
    as their mean. One user alone says nothing about others, so a stratum of one has no interval (NaN).

    Args:
        sums: From `user_sums`.
        reward_models: Names that `sums["strongest"]` points to.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        `(stratum, metric)` -> estimate; NaN where it is not defined.
    """
    table = _Columns(sums, reward_models)
    keys = table.keys()
    point = _statistics(table, keys, np.ones((1, table.n_users)))
    resampled = _drawn(table, keys, draws, seed)
    return {key: _estimate(key[1], float(point[key][0]), _of_several(table, key, resampled[key])) for key in keys}


def draw_cell(
    sums: Mapping[str, F32],
    reward_models: Sequence[str] = (),
    *,
    draws: int,
    seed: int,
    only: Key | None = None,
) -> CellDraws:
    """Return the metrics of resampled users; equal seeds and numbers of users give the same users.

    Args:
        sums: From `user_sums`.
        reward_models: Names that `sums["strongest"]` points to.
        draws: Number of resamples.
        seed: Seed of the resamples.
        only: Just this stratum and metric; None: all.

    Returns:
        float64 (draws,) for each `(stratum, metric)`.
    """
    table = _Columns(sums, reward_models)
    return _drawn(table, table.keys() if only is None else [only], draws, seed)


def cell_difference(
    sums: Mapping[str, F32],
    other: Mapping[str, F32],
    key: Key,
    reward_models: Sequence[str] = (),
    *,
    draws: int,
    seed: int,
) -> Estimate:
    """Return a metric of one learner minus that of another in the same cell, paired by user.

    Args:
        sums: From `user_sums`.
        other: The same of the other learner, for the same users and pairs.
        key: Stratum and metric.
        reward_models: Names that `sums["strongest"]` points to.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        AxisMismatch: If the users or their numbers of pairs differ.
    """
    if not np.array_equal(sums["n"], other["n"]):
        raise AxisMismatch("A paired difference needs the same users and test pairs on both sides.")
    tables = [_Columns(side, reward_models) for side in (sums, other)]
    points = [float(_statistics(table, [key], np.ones((1, table.n_users)))[key][0]) for table in tables]
    resampled = [_of_several(table, key, _drawn(table, [key], draws, seed)[key]) for table in tables]
    return _estimate(key[1], points[0] - points[1], resampled[0] - resampled[1], least=-math.inf)


def _of_several(table: _Columns, key: Key, draws: F64) -> F64:
    """Return the resamples of a stratum, none if it is of fewer than two users."""
    return draws if table.size(key[0]) > 1 else draws[:0]


def _estimate(metric: str, value: float, draws: F64, least: float = 0.0) -> Estimate:
    """Return a value with the percentile interval of its resamples, those that are defined."""
    defined = draws[~np.isnan(draws)]
    if math.isnan(value) or not len(defined):
        return Estimate(value, math.nan, math.nan)
    if metric in _SHIFTED:
        defined = defined + (value - math.fsum(defined.tolist()) / len(defined))
    low, high = (float(end) for end in np.quantile(defined, (0.025, 0.975)))
    return Estimate(value, max(low, least) if metric in _SHIFTED else low, high)


@lru_cache(maxsize=4)
def _resamples(n_users: int, draws: int, seed: int) -> npt.NDArray[np.uint16]:
    """Return uint16 (draws, n_users): how often each user is drawn, the same users as in the other tracks."""
    rng = generator(seed, "bootstrap", n_users)
    counts = np.empty((draws, n_users), np.uint16)
    step = max(1, _DRAWN // n_users)
    for start in range(0, draws, step):
        users = rng.integers(0, n_users, (min(step, draws - start), n_users), dtype=np.int32)
        place = users + np.arange(len(users), dtype=np.int64)[:, None] * n_users
        drawn = np.bincount(place.ravel(), minlength=users.size)
        counts[start : start + len(users)] = drawn.reshape(len(users), n_users)
    counts.flags.writeable = False
    return counts


class _Columns:
    """What is added up over users: float64 (n_users,) by name, rounded so that sums are exact.

    A user without test pairs in the cell has 0 in `has` and everywhere else. What is not known is NaN.
    """

    def __init__(self, sums: Mapping[str, F32], reward_models: Sequence[str]) -> None:
        self.n_users = len(sums["n"])
        self.has = sums["n"] > 0
        self.columns: dict[str, F64] = {"has": self.has.astype(np.float64)}
        for metric in USER_MEANS:
            self.columns[metric] = _rounded(np.where(self.has, user_means(sums, metric), 0.0), _GRAIN_OF_MEANS)
        missing = np.full(self.n_users, np.nan)
        for name in _POOLED:
            self.columns[name] = _rounded(sums[name].astype(np.float64), _GRAIN) if name in sums else missing
        self.groups: dict[str, int] = {}
        own = dict(self.columns)
        strongest = sums["strongest"] if "strongest" in sums else np.full(self.n_users, -1, np.float32)
        for place, name in enumerate(reward_models):
            of = (strongest == place) & self.has
            if of.any():
                self.groups[name] = int(of.sum())
                self.columns |= {f"rm:{name} {column}": np.where(of, own[column], 0.0) for column in _OF_USER}

    def keys(self) -> list[Key]:
        """Return every stratum with each of its metrics."""
        strata = [(f"contested-{q}", metric) for q in _QUARTERS for metric in ("accuracy", "log_loss")]
        by_rm = [(f"rm:{name}", metric) for name in self.groups for metric in USER_MEANS]
        return [*(("all", metric) for metric in PREDICTION_METRICS), *strata, *by_rm]

    def size(self, stratum: str) -> int:
        """Return how many users have test pairs in a stratum."""
        if stratum.startswith("rm:"):
            return self.groups.get(stratum.removeprefix("rm:"), 0)
        if stratum.startswith("contested-"):
            return int((self.columns[f"contested{stratum[-1]}_n"] > 0).sum())
        return int(self.has.sum())

    def minorities(self) -> list[str]:
        """Return the prefixes of the groups that are large enough for `minority`."""
        return [f"rm:{name} " for name, size in self.groups.items() if size >= FEWEST_USERS]

    def needs(self, key: Key) -> list[str]:
        """Return the columns that a statistic adds up."""
        stratum, metric = key
        if stratum.startswith("contested-"):
            prefix = f"contested{stratum[-1]}_"
            return [f"{prefix}n", f"{prefix}{_SUM[metric]}"]
        if stratum.startswith("rm:"):
            return [f"{stratum} has", f"{stratum} {metric}"]
        if metric in USER_MEANS:
            return ["has", metric]
        if metric == "minority":
            return [f"{prefix}{column}" for prefix in self.minorities() for column in ("has", "accuracy")]
        return {"ece": _BINNED, "length_controlled": _SIDES}.get(metric, [])


def _rounded(values: F64, grain: float) -> F64:
    rounded: F64 = np.rint(values * grain) / grain
    return rounded


def _drawn(table: _Columns, keys: Sequence[Key], draws: int, seed: int) -> CellDraws:
    """Return the statistics of resampled users, float64 (draws,) each."""
    counts = _resamples(table.n_users, draws, seed)
    step = max(1, _BLOCK // table.n_users)
    blocks = [counts[start : start + step].astype(np.float64) for start in range(0, draws, step)]
    parts = [_statistics(table, keys, block) for block in blocks]
    return {key: np.concatenate([part[key] for part in parts]) for key in keys}


def _statistics(table: _Columns, keys: Sequence[Key], weights: F64) -> CellDraws:
    """Return float64 (n,) for each key.

    Args:
        table: The columns.
        keys: Strata and metrics.
        weights: float64 (n, n_users), how often each user counts.
    """
    names = list(dict.fromkeys(name for key in keys for name in table.needs(key)))
    totals: dict[str, F64] = {}
    if names:
        added = weights @ np.stack([table.columns[name] for name in names], axis=1)
        totals = {name: added[:, place] for place, name in enumerate(names)}
    return {key: _statistic(table, key, totals, weights) for key in keys}


def _statistic(table: _Columns, key: Key, totals: Mapping[str, F64], weights: F64) -> F64:
    """Return float64 (n,): one metric of one stratum."""
    if key == ("all", "worst_decile"):
        if not table.has.any():
            return np.full(len(weights), np.nan)
        return _worst_tenth(table.columns["accuracy"][table.has], weights[:, table.has])
    if key == ("all", "minority"):
        groups = [_ratio(totals[f"{prefix}accuracy"], totals[f"{prefix}has"]) for prefix in table.minorities()]
        return np.fmin.reduce(groups) if groups else np.full(len(weights), np.nan)
    if key == ("all", "ece"):
        n, confidence, correct = _triples(totals)
        return _ratio(np.abs(confidence - correct).sum(axis=0), n.sum(axis=0))
    if key == ("all", "length_controlled"):
        sides = [_ratio(totals[f"{side}_correct"], totals[f"{side}_n"]) for side in ("longer", "shorter")]
        return (sides[0] + sides[1]) / 2
    n_name, value_name = table.needs(key)
    return _ratio(totals[value_name], totals[n_name])


def _triples(totals: Mapping[str, F64]) -> tuple[F64, F64, F64]:
    """Return the bins' counts, confidences and right predictions, float64 (N_BINS, n) each."""
    n, confidence, correct = (
        np.stack([totals[f"bin{b:02d}_{name}"] for b in range(N_BINS)]) for name in ("n", "confidence", "correct")
    )
    return n, confidence, correct


def _ratio(total: F64, n: F64) -> F64:
    """Return total / n; NaN where n is 0 or not known."""
    ratio: F64 = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
    return ratio


def _worst_tenth(accuracy: F64, weights: F64) -> F64:
    """Return the mean accuracy of the worst tenth of users, rounded up to whole users.

    Args:
        accuracy: float64 (n_users,).
        weights: float64 (n, n_users), how often each user counts.
    """
    size = np.ceil(weights.sum(axis=1) / 10)
    order = np.argsort(accuracy, kind="stable")
    width = min(len(order), max(16, len(order) // 4))
    while True:
        within = np.minimum(weights[:, order[:width]].cumsum(axis=1), size[:, None])
        if width == len(order) or (within[:, -1] >= size).all():
            taken = np.diff(within, axis=1, prepend=0.0)
            return _ratio(taken @ accuracy[order[:width]], size)
        width = len(order)
