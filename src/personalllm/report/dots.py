"""Draw estimates with intervals as dots, and how single users fare as boxes.

Methods are filled circles, baselines and oracles hollow diamonds, so that the figures read in grey as well.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from personalllm.core.plotting import INK, bare, key_of_series, look, new_figure, whisker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.core.types import F64
    from personalllm.evaluation.contract import Estimate, Metric
    from personalllm.evaluation.results import MethodResult
    from personalllm.report.views.base import View

__all__ = ["Panel", "Series", "boxes_figure", "dots_figure"]

_MAX_DOTS = 60
_ROOM = 0.75
_NAME_WIDTH = 25


@dataclass(frozen=True, slots=True)
class Series:
    """Estimates of all rows under one condition.

    Attributes:
        name: What the key of the figure calls it; unused if the panel has one series only.
        values: One for each row.
    """

    name: str
    values: Sequence[Estimate]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of a figure.

    Attributes:
        metric: What it shows.
        series: At most six.
        lines: Position of a vertical line -> its name and the side on which it stands.
        clipped: Whether intervals are drawn only as far as they do not dwarf the estimates and the lines.
    """

    metric: Metric
    series: Sequence[Series]
    lines: Mapping[float, tuple[str, Literal["left", "center", "right"]]] = field(default_factory=dict)
    clipped: bool = False


def _label(name: str) -> str:
    """Return a name on at most two lines, without a remark in brackets at its end."""
    name = re.sub(r"(?<=.)\s*\([^()]*\)$", "", name)
    lines = textwrap.wrap(name, _NAME_WIDTH) or [name]
    rest = textwrap.shorten(" ".join(lines[1:]), _NAME_WIDTH, placeholder="\u2026")
    return "\n".join([*lines[:1], rest]).rstrip()


def _axes(view: View, rows: Sequence[MethodResult], n: int) -> tuple[Figure, list[Axes], F64]:
    """Return a figure with n panels side by side, the rows' names at the left, and the height of each row."""
    from matplotlib.ticker import MaxNLocator

    heights = np.array([-float(i) - 0.55 * (row.kind != "method") for i, row in enumerate(rows)])
    figure = new_figure(1.25 + 0.36 * len(rows))
    axes = list(figure.subplots(1, n, sharey=True, squeeze=False)[0])
    for axis in axes:
        bare(axis, grid="x")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_ylim(heights.min(initial=0.0) - 0.7, 0.7)
        if 0 < (n_methods := sum(row.kind == "method" for row in rows)) < len(rows):
            axis.axhline(heights[n_methods - 1 : n_methods + 1].mean(), color=INK["rule"], linewidth=0.8)
    axes[0].set_yticks(heights, [_label(view.name(row)) for row in rows])
    for text, row in zip(axes[0].get_yticklabels(), rows, strict=True):
        if row.kind != "method":
            text.set_color(INK["muted"])
            text.set_fontstyle("italic")
    return figure, axes, heights


def _style(row: MethodResult) -> dict[str, Any]:
    if row.kind == "method":
        return {"marker": "o", "color": INK["accent"], "markerfacecolor": INK["accent"], "markersize": 6}
    return {"marker": "D", "color": INK["muted"], "markerfacecolor": INK["paper"], "markersize": 5.5}


def _limits(panel: Panel) -> tuple[float, float] | None:
    """Return the range of a panel, or None if there is nothing to draw."""
    values = [value for series in panel.series for value in series.values]
    points = [value.value for value in values if math.isfinite(value.value)]
    if not points:
        return None
    points += panel.lines
    ends = points + [end for value in values for end in (value.low, value.high) if math.isfinite(end)]
    low, high = min(ends), max(ends)
    if panel.clipped:
        room = _ROOM * (max(points) - min(points))
        low, high = max(low, min(points) - room), min(high, max(points) + room)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _dot(axis: Axes, height: float, value: Estimate, style: dict[str, Any]) -> None:
    """Draw an estimate and its interval; an end outside the panel becomes an arrowhead at its edge."""
    if not math.isfinite(value.value):
        return
    left, right = axis.get_xlim()
    whisker(axis, height, max(value.low, left), min(value.high, right), upright=False, colour=style["color"])
    for outside, edge, arrow in ((value.low < left, left, "<"), (value.high > right, right, ">")):
        if outside:
            axis.plot([edge], [height], arrow, color=style["color"], markersize=5, clip_on=False)
    axis.plot([value.value], [height], linestyle="none", markeredgewidth=1.3, zorder=4, **style)


def _upright(axis: Axes, x: float, text: str, align: Literal["left", "center", "right"]) -> None:
    """Draw a vertical line with its name above the panel."""
    axis.axvline(x, color=INK["mark"], linewidth=1.0, linestyle=(0, (4, 3)), zorder=0.8)
    axis.annotate(
        text, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
        ha=align, va="bottom", fontsize=8.5, color=INK["mark"],
    )  # fmt: skip


def dots_figure(view: View, rows: Sequence[MethodResult], panels: Sequence[Panel]) -> Figure:
    """Draw metrics of some rows as dots with 95 % intervals, one panel for each metric; call within `drawing`.

    Args:
        view: Names the rows.
        rows: From top to bottom.
        panels: From left to right.
    """
    figure, axes, heights = _axes(view, rows, len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        axis.set_xlim(_limits(panel))
        axis.set_xlabel(panel.metric.heading)
        for index, series in enumerate(panel.series):
            several, looks = len(panel.series) > 1, look(index)
            shift = 0.14 * ((len(panel.series) - 1) / 2 - index)
            for height, row, value in zip(heights, rows, series.values, strict=True):
                style = _style(row)
                if several:
                    style = {
                        "marker": looks.marker,
                        "color": looks.stroke,
                        "markerfacecolor": looks.face,
                        "markersize": 6,
                    }
                _dot(axis, float(height) + shift, value, style)
        for x, (text, align) in panel.lines.items():
            _upright(axis, x, text, align)
    names = [series.name for series in panels[0].series]
    if len(names) > 1:
        key_of_series(figure, names, bars=False)
    return figure


def _box(axis: Axes, height: float, values: F64, row: MethodResult, index: int) -> None:
    """Draw the 5, 25, 50, 75 and 95 % points of the users, and each user if they are few, else their mean."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return
    low, first, middle, third, high = np.quantile(finite, [0.05, 0.25, 0.5, 0.75, 0.95])
    edge, fill = (INK["accent"], INK["soft"]) if row.kind == "method" else (INK["muted"], INK["paper"])
    axis.plot([low, high], [height, height], color=edge, linewidth=1.2, zorder=2)
    axis.barh(height, third - first, left=first, height=0.46, color=fill, edgecolor=edge, linewidth=1.0, zorder=3)
    axis.plot([middle, middle], [height - 0.23, height + 0.23], color=edge, linewidth=2.4, zorder=4)
    if finite.size <= _MAX_DOTS:
        # a sine spreads the dots evenly and, unlike a random shift, in the same way each time
        jitter = 0.17 * np.sin(2.4 * np.arange(finite.size) + index)
        style: dict[str, Any] = {"markeredgecolor": edge, "markerfacecolor": INK["paper"], "markersize": 3, "zorder": 5}
        axis.plot(finite, height + jitter, "o", **style)
        return
    style = {**_style(row), "markerfacecolor": INK["paper"], "markersize": 4.5}
    axis.plot([finite.mean()], [height], linestyle="none", markeredgewidth=1.2, zorder=6, **style)


def boxes_figure(
    view: View, rows: Sequence[MethodResult], panels: Mapping[str, Sequence[F64 | None]], zero: str
) -> Figure:
    """Draw one value for each user as boxes; call within `drawing`.

    Args:
        view: Names the rows.
        rows: From top to bottom.
        panels: Label of the axis -> values of the users, float64 (n_users,), for each row; None draws nothing.
        zero: Name of the line at 0 in the last panel.
    """
    figure, axes, heights = _axes(view, rows, len(panels))
    for axis, (label, values) in zip(axes, panels.items(), strict=True):
        for index, (height, row, of_users) in enumerate(zip(heights, rows, values, strict=True)):
            if of_users is not None:
                _box(axis, float(height), of_users, row, index)
        axis.set_xlabel(label)
    _upright(axes[-1], 0.0, zero, "center")
    return figure
