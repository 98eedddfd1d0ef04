"""Make the leaderboard of a run: metrics with intervals, differences with verdicts, and what the methods cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from personalllm.evaluation.contract import Estimate
from personalllm.report.numbers import ABSENT, count, duration, metric_value, number
from personalllm.report.tables import Column, Grid, Row

if TYPE_CHECKING:
    from personalllm.evaluation.contract import Condition, Metric
    from personalllm.evaluation.differences import Difference
    from personalllm.evaluation.results import MethodResult, Results

__all__ = [
    "KINDS",
    "UNDEFINED",
    "differences",
    "leaderboard",
    "leading_metrics",
    "metric_column",
    "negated",
    "ranked",
    "verdict",
]

KINDS = ("method", "baseline", "oracle")
"""Kinds of rows in the order of the tables."""

_MAX_SHOTS = 7
UNDEFINED = Estimate(math.nan, math.nan, math.nan)
"""Stands for a number that a method does not have."""


def ranked(results: Results, at: Condition | None = None) -> tuple[MethodResult, ...]:
    """Return methods, then baselines, then oracles, the best of each kind first."""
    rows = results.leaderboard(at=at)
    return tuple(row for kind in KINDS for row in rows if row.kind == kind)


def negated(value: Estimate) -> Estimate:
    """Return the estimate of `b - a` from that of `a - b`."""
    return Estimate(-value.value, -value.high, -value.low)


def metric_column(metric: Metric, *, optional: int = 0) -> Column:
    """Return the column of a metric."""
    percent = "%" if metric.unit == "share" else ""
    return Column(metric.heading, ", ".join(text for text in (metric.note, percent) if text), optional=optional)


def verdict(difference: Difference | None) -> str:
    """Return whether `b` of a comparison is better than `a`, and the corrected p-value below it."""
    if difference is None or not math.isfinite(difference.p_holm):
        return ABSENT
    word = {None: "not clear", difference.b: "better"}.get(difference.better, "worse")
    p = "p < 0.001" if difference.p_holm < 0.001 else f"p = {difference.p_holm:.3f}"
    return f"{word}\n{p}"


def leaderboard(
    results: Results, *, versus: str | None = None, at: Condition | None = None, curve: bool = False
) -> Grid:
    """Return the leaderboard: a row for each method, baseline and oracle.

    Args:
        results: Of any track.
        versus: Label that differences are taken from; None: the best method.
        at: Condition; None: that of the headline.
        curve: Whether the first metric is shown at every number of shots, not under `at` alone.
    """
    condition = at or results.headline
    main, rows = results.metric(results.main_metric), ranked(results, condition)
    compared = {pair.b: pair for pair in results.comparisons(main.id, condition, versus)}
    rival = next(iter(compared.values())).a if compared else versus
    leading = [each for each in leading_metrics(results) if any(_is_known(row, each, condition) for row in rows)]
    first = leading[0] if leading else main
    shots = _shots(results, first, condition) if curve else ()
    columns = [Column(f"{k} shots" if not i else str(k), optional=min(i, 1) * (1 + i)) for i, k in enumerate(shots)]
    others = [metric for metric in results.metrics if metric is not main and metric not in leading]
    columns += [replace(metric_column(each), heading=f"{each.heading}({condition.shots})") for each in leading]
    columns += [
        replace(metric_column(main), heading=f"{main.heading} at {condition.shots}" if shots else main.heading),
        Column(f"vs {rival}", "difference"),
        Column("Verdict", numeric=False),
    ]
    columns += [metric_column(metric, optional=10 + i) for i, metric in enumerate(others)]
    columns.append(Column("Time", "all, per user", optional=30))

    def cells(row: MethodResult) -> tuple[str, ...]:
        estimates = row.estimates[condition]
        gap = compared.get(row.label)
        values = {
            metric.id: metric_value(estimates.get(("all", metric.id), UNDEFINED), metric) for metric in results.metrics
        }
        line = results.curve(row.label, first.id, condition) if shots else {}
        return (
            *(metric_value(line[k], first).partition("\n")[0] if k in line else ABSENT for k in shots),
            *(values[metric.id] for metric in (*leading, main)),
            metric_value(negated(gap.difference), main, signed=True) if gap else ABSENT,
            verdict(gap),
            *(values[metric.id] for metric in others),
            _cost(row),
        )

    tested = any(math.isfinite(pair.p_holm) for pair in compared.values())
    grid = Grid(
        "leaderboard",
        _title(results, condition),
        f"{results.about_intervals(condition)} Differences from {rival} are paired"
        f"{'; verdicts are Holm-corrected at 5 %' * tested}. {_below(rows)}".rstrip(),
        tuple(columns),
        tuple(Row(row.title or row.label, cells(row), row.label, row.kind) for row in rows),
    )
    return grid.without_empty_columns(keep=len(shots) + len(leading))


def _below(rows: Sequence[MethodResult]) -> str:
    """Return what the rows below the methods are, of the kinds that there are."""
    meanings = {"baseline": "baselines, which ignore the user", "oracle": "oracles, which see the scores"}
    kinds = {row.kind for row in rows}
    listed = ", and ".join(meaning for kind, meaning in meanings.items() if kind in kinds)
    return f"Below the methods: {listed}." if listed else ""


def leading_metrics(results: Results) -> tuple[Metric, ...]:
    """Return the metrics that stand before the main one: headlines that are no means, so that verdicts are on it."""
    return results.metrics[: [metric.id for metric in results.metrics].index(results.main_metric)]


def _is_known(row: MethodResult, metric: Metric, at: Condition) -> bool:
    return not math.isnan(row.estimates.get(at, {}).get(("all", metric.id), UNDEFINED).value)


def _shots(results: Results, metric: Metric, at: Condition) -> tuple[int, ...]:
    """Return at most seven numbers of shots of the curve below those of `at`, evenly spread from the first one."""
    every = sorted({k for row in results.methods for k in results.curve(row.label, metric.id, at)} - {at.shots})
    n = min(len(every), _MAX_SHOTS)
    return tuple(every[i * len(every) // n] for i in range(n))


def _title(results: Results, at: Condition) -> str:
    n = max((row.sums[at].n_clusters for row in results.methods if at in row.sums), default=0)
    axis = next((row.sums[at].axis for row in results.methods if at in row.sums), "users")
    condition = f", {at}" if len(results.conditions) > 1 else ""
    history = results.protocol.get("history", {}).get("counterfactual", "none")
    counterfactual = "" if history == "none" else f", counterfactual history ({history})"
    return f"{results.data_name}, {results.track} track{counterfactual}: {count(n)} {axis}{condition}"


def _cost(row: MethodResult) -> str:
    """Return the time of a method in all, and that of adapting to one user below it."""
    seconds = row.seconds.get("total", math.nan)
    if row.kind != "method" or not math.isfinite(seconds):
        return ABSENT
    each = row.seconds_per_user
    return f"{duration(seconds)}\n{number(1000 * each, 2)} ms" if math.isfinite(each) else duration(seconds)


def differences(
    results: Results, versus: str, metrics: Sequence[Metric], *, at: Condition | None = None, key: str = "differences"
) -> Grid:
    """Return how every method and baseline differs from one of them, in several metrics.

    Args:
        results: Of any track.
        versus: Label that differences are taken from.
        metrics: What is compared; the first one has a column of verdicts.
        at: Condition; None: that of the headline.
        key: Anchor.
    """
    compared = {
        metric.id: {pair.b: pair for pair in results.comparisons(metric.id, at, versus)}
        for metric in metrics
        if not math.isnan(results.estimate(versus, metric.id, at).value)
    }
    rows = []
    for row in ranked(results, at):
        pairs = {metric.id: compared.get(metric.id, {}).get(row.label) for metric in metrics}
        if any(pairs.values()):
            gaps = [(metric, pairs[metric.id]) for metric in metrics]
            cells = [
                metric_value(negated(pair.difference), metric, signed=True) if pair else ABSENT for metric, pair in gaps
            ]
            cells.append(verdict(pairs[metrics[0].id]))
            rows.append(Row(row.title or row.label, tuple(cells), row.label, row.kind))
    name = results[versus].title or versus
    sure = (
        f", with 95 % intervals over {results.over}; verdicts on {metrics[0].heading.lower()}, Holm-corrected at 5 %."
    )
    if not any(math.isfinite(pair.difference.low) for pairs in compared.values() for pair in pairs.values()):
        sure = f". {results.shortage(at)}".rstrip()
    return Grid(
        key,
        f"Differences from {name}",
        f"Each row minus {name}, paired{sure}",
        (*(metric_column(metric) for metric in metrics), Column("Verdict", numeric=False)),
        tuple(rows),
    )
