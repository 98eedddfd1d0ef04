"""Draw learning curves: one panel for each kind of users and prompts, and one for each method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from personalllm.core.plotting import INK, bare, key_of_series, look, new_figure, short, whisker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.evaluation.contract import Condition, Metric
    from personalllm.evaluation.results import MethodResult
    from personalllm.report.views.base import View

__all__ = ["curves_figure", "each_figure", "small_panels"]

_LINES: dict[str, Any] = {"baseline": (0, (1, 2)), "oracle": (0, (6, 2))}
_COLUMNS = 3
_MAX_FULL = 6
_MARGIN = 0.02
_REACH = 0.35
_BRIEF = 21
_MAX_NATS = 2 * math.log(2)
_LABEL_GAP = 0.075


def _line(axis: Axes, view: View, row: MethodResult, metric: Metric, at: Condition, **style: Any) -> None:
    """Draw a method's curve: a line, its markers, and an interval at each point if asked for."""
    bars, offset = style.pop("bars", False), style.pop("offset", 0.0)
    curve = view.results.curve(row.label, metric.id, at)
    points = [(x, curve[k]) for x, k in enumerate(view.shots(at)) if k in curve and math.isfinite(curve[k].value)]
    if not points:
        return
    axis.plot([x + offset for x, _ in points], [value.value for _, value in points], **style)
    for x, value in points if bars else ():
        whisker(axis, x + offset, value.low, value.high, upright=True, colour=style["color"])


def _levels(axis: Axes, view: View, metric: Metric, at: Condition, *, names: bool) -> None:
    """Draw baselines and oracles as level lines, with their names at the right edge, apart from each other."""
    low, high = axis.get_ylim()
    levels = []
    for row in (*view.baselines, *view.oracles):
        value = view.at(row, metric.id, at).value
        if low <= value <= high:
            colour = INK["muted"] if row.kind == "baseline" else INK["ink"]
            axis.axhline(value, color=colour, linewidth=0.9, linestyle=_LINES[row.kind], zorder=1)
            levels.append((value, short(row.label, 19), colour))
    height = -math.inf
    for value, name, colour in sorted(levels) if names else ():
        height = max(value, height + _LABEL_GAP * (high - low))
        axis.annotate(
            name, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", ha="left", fontsize=8.5, color=colour, annotation_clip=False,
        )  # fmt: skip


def _limits(view: View, metric: Metric, panels: Sequence[Condition]) -> tuple[float, float]:
    """Return the range of the panels: all curves of methods and baselines, and the oracles that are not far away.

    An oracle far above would squeeze the curves; a loss of several nats, of methods that are sure and wrong, too.
    """

    def ends(rows: Sequence[MethodResult]) -> list[float]:
        curves = [view.results.curve(row.label, metric.id, panel) for row in rows for panel in panels]
        values = [end for curve in curves for e in curve.values() for end in (e.value, e.low, e.high)]
        return [value for value in values if math.isfinite(value)]

    values = ends((*view.methods, *view.baselines)) or ends(view.oracles) or [0.0]
    low, high = min(values), max(values)
    reach = _REACH * (high - low)
    near = [value for value in ends(view.oracles) if low - reach <= value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    if metric.unit == "nats":
        high = min(high, _MAX_NATS)
    if high <= low:
        low, high = low - 0.1, low + 0.1
    return low - _MARGIN * (high - low), high + 2 * _MARGIN * (high - low)


def _shots_axis(axis: Axes, view: View, at: Condition) -> None:
    shots = view.shots(at)
    bare(axis, grid="y")
    axis.set_xticks(range(len(shots)), [str(k) for k in shots])
    axis.set_xlim(-0.3, max(len(shots) - 0.7, 0.3))


def curves_figure(view: View, metric: Metric) -> Figure:
    """Draw a metric by number of shots, a panel for each kind of users and prompts; call within `drawing`.

    The best six methods have looks of their own and intervals; the others are faint lines.
    """
    panels = {(panel.users, panel.prompts): panel for panel in view.panels}
    rows = sorted({users for users, _ in panels}, reverse=True)
    columns = sorted({prompts for _, prompts in panels}, reverse=True)
    figure = new_figure(0.9 + 2.75 * len(rows))
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharey=True)
    limits, full = _limits(view, metric, view.panels), view.best_first(metric.id)[:_MAX_FULL]
    for (i, users), (j, prompts) in ((row, column) for row in enumerate(rows) for column in enumerate(columns)):
        axis, panel = grid[i, j], panels.get((users, prompts))
        if panel is None:
            axis.set_visible(False)
            continue
        _shots_axis(axis, view, panel)
        axis.set_ylim(*limits)
        axis.set_title(f"{users} users, {prompts} prompts", fontsize=9.5, loc="left", color=INK["ink"])
        last = j == len(columns) - 1 or (users, columns[j + 1]) not in panels
        _levels(axis, view, metric, panel, names=last)
        for row in view.methods:
            if row not in full:
                _line(axis, view, row, metric, panel, color=INK["rule"], linewidth=1.0, zorder=1.5)
        for index, row in reversed(list(enumerate(full))):
            style = look(index)
            _line(
                axis, view, row, metric, panel, bars=True, offset=0.06 * (index - (len(full) - 1) / 2),
                color=style.stroke, linestyle=style.line, linewidth=1.4, marker=style.marker, markersize=5,
                markerfacecolor=style.face, markeredgecolor=style.stroke, zorder=4 - 0.1 * index,
            )  # fmt: skip
        if j == 0:
            axis.set_ylabel(metric.heading)
        axis.set_xlabel("Shots: preferences known of the user")
    # titles only if four of the longest have room side by side
    titles = [view.name(row) for row in full]
    brief = [short(row.label, _BRIEF) for row in full]
    key_of_series(figure, titles if all(len(name) <= _BRIEF for name in titles) else brief, bars=False)
    return figure


def small_panels(view: View, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with a small panel for each method, its name above."""
    n = max(1, len(view.methods))
    rows = math.ceil(n / _COLUMNS)
    figure = new_figure(0.3 + height * rows)
    grid = figure.subplots(rows, min(n, _COLUMNS), squeeze=False, sharex=True, sharey=True)
    axes: list[Axes] = list(grid.ravel())
    for axis in axes[n:]:
        axis.set_visible(False)
    for index, (axis, row) in enumerate(zip(axes, view.methods, strict=False)):
        axis.set_title(short(view.name(row), 34), fontsize=9, loc="left", color=INK["ink"])
        axis.tick_params(labelbottom=index + _COLUMNS >= n)
    return figure, axes[:n]


def each_figure(view: View, metric: Metric) -> Figure:
    """Draw the curve of each method in a panel of its own, the others faint behind it; call within `drawing`."""
    figure, axes = small_panels(view, 1.55)
    at = view.headline
    limits = _limits(view, metric, [at])
    for axis, row in zip(axes, view.methods, strict=False):
        _shots_axis(axis, view, at)
        axis.set_ylim(*limits)
        _levels(axis, view, metric, at, names=False)
        for other in view.methods:
            if other is not row:
                _line(axis, view, other, metric, at, color=INK["rule"], linewidth=0.9, zorder=1.5)
        curve = view.results.curve(row.label, metric.id, at)
        points = [(x, curve[k]) for x, k in enumerate(view.shots(at)) if k in curve]
        low, high = ([getattr(e, end) for _, e in points] for end in ("low", "high"))
        axis.fill_between([x for x, _ in points], low, high, color=INK["soft"], linewidth=0, zorder=2)
        style: dict[str, Any] = {
            "color": INK["accent"],
            "linewidth": 1.8,
            "marker": "o",
            "markersize": 3.5,
            "zorder": 4,
        }
        _line(axis, view, row, metric, at, **style)
    return figure
