"""Show the results of a run outside of reports: a figure, a table for notebooks, numbers in a line."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from personalllm.core.plotting import INK, bare, drawing, look, new_figure, short, whisker
from personalllm.evaluation.contract import Condition, Estimate, Metric

if TYPE_CHECKING:
    from personalllm.evaluation.results import Results

__all__ = ["html_table", "plot_results", "shown_estimate"]

_MAX_CURVES = 6


def plot_results(results: Results, metric: Metric, at: Condition) -> Any:
    """Return a `matplotlib.figure.Figure` of a metric.

    Args:
        results: Of any track.
        metric: One of its metrics.
        at: Condition; curves run through it, whatever its shots.
    """
    ranked = [r for r in results.leaderboard(metric.id, at) if not math.isnan(r.estimates[at]["all", metric.id].value)]
    curves = {row.label: results.curve(row.label, metric.id, at) for row in ranked}
    with drawing(text_as_paths=False):
        if any(len(curve) > 1 for curve in curves.values()):
            figure = new_figure(3.6)
            axis = figure.add_subplot()
            for index, row in enumerate([row for row in ranked if row.kind == "method"][:_MAX_CURVES]):
                curve, style = curves[row.label], look(index)
                values = [estimate.value for estimate in curve.values()]
                axis.plot(list(curve), values, color=style.stroke, linestyle=style.line, label=short(row.label))
                for shots, estimate in curve.items():
                    whisker(axis, shots, estimate.low, estimate.high, upright=True, colour=style.stroke)
            axis.legend(frameon=False, fontsize=9)
            axis.set_xlabel("shots")
            axis.set_ylabel(metric.heading)
            bare(axis, grid="y")
            return figure
        figure = new_figure(0.9 + 0.3 * len(ranked))
        axis = figure.add_subplot()
        for index, row in enumerate(ranked):
            estimate = row.estimates[at]["all", metric.id]
            axis.plot([estimate.value], [index], "o", color=INK["accent" if row.kind == "method" else "muted"])
            whisker(axis, index, estimate.low, estimate.high, upright=False)
        axis.set_yticks(range(len(ranked)), [short(row.label) for row in ranked])
        axis.invert_yaxis()
        axis.set_xlabel(metric.heading)
        bare(axis, grid="x")
        return figure


def html_table(results: Results) -> str:
    """Return a table for notebooks; every text in it is escaped."""
    shown = results.shown_metrics()
    head = "".join(f"<th>{escape(metric.heading)}</th>" for metric in shown)
    rows = []
    for result in results.leaderboard():
        estimates = result.estimates[results.headline]
        cells = "".join(f"<td>{escape(shown_estimate(estimates['all', metric.id]).strip())}</td>" for metric in shown)
        rows.append(f"<tr><th>{escape(result.label)}</th><td>{result.kind}</td>{cells}</tr>")
    caption = f"{results.data_name}, {results.track} track, protocol {results.fingerprint}"
    caption += f" ({results.preset})" if results.preset else ""
    caption += f". {results.about_intervals()}"
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr><th>Method</th><th>Kind</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def shown_estimate(estimate: Estimate) -> str:
    """Return a number with its interval, three decimals; blanks of the same width if it is not defined."""
    if math.isnan(estimate.value):
        return " " * 22
    interval = "" if math.isnan(estimate.low) else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:6.3f}{interval}"
