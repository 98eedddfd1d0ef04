"""Figures: mean utility and gain with intervals, and how the users fare one by one.

Methods are filled circles, references hollow diamonds, so that the figures read in grey as well.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from personalllm.core.plotting import INK, drawing, save_figure
from personalllm.report.views import POPULATION_BEST, TrackView, as_sequence, track_views, user_benefits, user_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.evaluation import Estimate, MethodResult, Results

__all__ = ["distribution_figure", "leaderboard_figure", "write_figures"]

_WIDTH = 8.2
_STRIP_LIMIT = 60


def _label(name: str) -> str:
    """Return a name on at most two lines, without a remark in brackets at its end."""
    name = re.sub(r"(?<=.)\s*\([^()]*\)$", "", name)
    lines = textwrap.wrap(name, 25) or [name]
    return "\n".join([*lines[:1], textwrap.shorten(" ".join(lines[1:]), 25, placeholder="\u2026")]).rstrip()


def _positions(view: TrackView) -> npt.NDArray[np.float64]:
    """Return the height of each row: downwards, with a gap before the references."""
    gap = 0.55 if view.methods and view.references else 0.0
    return np.array([-(i + (gap if i >= len(view.methods) else 0.0)) for i in range(len(view.drawn))])


def _panels(view: TrackView, n: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with n panels side by side and the rows' names at the left."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    spacing = ConstrainedLayoutEngine(wspace=0.09, w_pad=0.02, h_pad=0.03)
    figure = Figure(figsize=(_WIDTH, 1.05 + 0.36 * (len(view.drawn) + 0.55)), layout=spacing)
    figure.set_facecolor("none")
    axes = list(figure.subplots(1, n, sharey=True, squeeze=False)[0])
    heights = _positions(view)
    for axis in axes:
        axis.set_facecolor("none")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0, pad=8)
        axis.tick_params(axis="x", color=INK["rule"], labelsize=9)
        axis.grid(visible=True, axis="x", color=INK["rule"], linewidth=0.5)
        axis.set_axisbelow(True)
        axis.set_ylim(heights[-1] - 0.7, 0.7)
        if view.methods and view.references:
            line = (heights[len(view.methods) - 1] + heights[len(view.methods)]) / 2
            axis.axhline(line, color=INK["rule"], linewidth=0.8)
    axes[0].set_yticks(heights, [_label(view.name(row)) for row in view.drawn])
    for text, row in zip(axes[0].get_yticklabels(), view.drawn, strict=True):
        if row.kind != "method":
            text.set_color(INK["muted"])
            text.set_fontstyle("italic")
    return figure, axes


def _look(row: MethodResult) -> dict[str, Any]:
    if row.kind == "method":
        return {"marker": "o", "color": INK["accent"], "markerfacecolor": INK["accent"], "markersize": 6}
    return {"marker": "D", "color": INK["muted"], "markerfacecolor": INK["paper"], "markersize": 5.5}


def _span(values: Sequence[Estimate], key: str) -> tuple[float, float] | None:
    """Return the range of a panel, or None if there is nothing to draw.

    The intervals of gain can be huge when few users are evaluated, so they are shown only as far as they do not dwarf
    the estimates.
    """
    points = [value.value for value in values if math.isfinite(value.value)]
    if not points:
        return None
    ends = points + [end for value in values for end in (value.low, value.high) if math.isfinite(end)]
    low, high = min(ends), max(ends)
    if key == "gain":
        least, most = min(0.0, *points), max(1.0, *points)
        room = 0.75 * (most - least)
        low, high = max(min(low, 0.0), least - room), min(max(high, 1.0), most + room)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _whisker(axis: Axes, height: float, value: Estimate, row: MethodResult) -> None:
    """Draw an estimate and its interval; an end outside the panel becomes an arrowhead at its edge."""
    if not math.isfinite(value.value):
        return
    colour = _look(row)["color"]
    if math.isfinite(value.low) and math.isfinite(value.high):
        left, right = axis.get_xlim()
        low, high = max(value.low, left), min(value.high, right)
        axis.plot([low, high], [height, height], color=colour, linewidth=1.8, solid_capstyle="butt")
        for end, inside, arrow in ((low, value.low >= left, "<"), (high, value.high <= right, ">")):
            if inside:
                axis.plot([end, end], [height - 0.13, height + 0.13], color=colour, linewidth=1.2)
            else:
                axis.plot([end], [height], arrow, color=colour, markersize=5, clip_on=False)
    axis.plot([value.value], [height], linestyle="none", markeredgewidth=1.3, **_look(row))


def _upright(axis: Axes, x: float, text: str, align: Literal["left", "center", "right"] = "center") -> None:
    """Draw a vertical line with its name above the panel."""
    axis.axvline(x, color=INK["mark"], linewidth=1.0, linestyle=(0, (4, 3)), zorder=0.8)
    axis.annotate(
        text, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
        ha=align, va="bottom", fontsize=8.5, color=INK["mark"],
    )  # fmt: skip


def leaderboard_figure(view: TrackView) -> Figure:
    """Draw mean utility and gain of every row as dots with 95 % intervals."""
    panels = [key for key in ("mean_utility", "gain") if any(key in row.metrics for row in view.drawn)]
    figure, axes = _panels(view, max(len(panels), 1))
    for axis, key in zip(axes, panels, strict=False):
        shown = {row.id: row.metrics[key] for row in view.drawn if key in row.metrics}
        axis.set_xlim(_span(list(shown.values()), key))
        for height, row in zip(_positions(view), view.drawn, strict=True):
            if row.id in shown:
                _whisker(axis, float(height), shown[row.id], row)
        if key == "gain":
            _upright(axis, 0.0, "best without\nknowing the user", "right")
            _upright(axis, 1.0, "oracle", "left")
            axis.set_xlabel("Gain")
        else:
            axis.set_xlabel("Mean utility")
    return figure


def _box(axis: Axes, height: float, values: npt.NDArray[np.float64], row: MethodResult, index: int) -> None:
    """Draw the 5, 25, 50, 75 and 95 % points of the users, and each user if they are few, else their mean."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return
    low, first, middle, third, high = np.quantile(finite, [0.05, 0.25, 0.5, 0.75, 0.95])
    method = row.kind == "method"
    edge, fill = (INK["accent"], INK["soft"]) if method else (INK["muted"], INK["paper"])
    axis.plot([low, high], [height, height], color=edge, linewidth=1.2, zorder=2)
    axis.barh(height, third - first, left=first, height=0.46, color=fill, edgecolor=edge, linewidth=1.0, zorder=3)
    axis.plot([middle, middle], [height - 0.23, height + 0.23], color=edge, linewidth=2.4, zorder=4)
    if finite.size <= _STRIP_LIMIT:
        jitter = 0.17 * np.sin(2.4 * np.arange(finite.size) + index)
        axis.plot(
            finite, height + jitter, "o", markeredgecolor=edge, markerfacecolor=INK["paper"], markersize=3, zorder=5
        )
        return
    look = {**_look(row), "markerfacecolor": INK["paper"], "markersize": 4.5}
    axis.plot([finite.mean()], [height], linestyle="none", markeredgewidth=1.2, zorder=6, **look)


def distribution_figure(view: TrackView) -> Figure | None:
    """Draw the users' utilities, and their differences from the best policy that ignores who the user is.

    Returns:
        The figure; None if no row carries per-user utilities.
    """
    utilities = [user_values(row) for row in view.drawn]
    benefits = [None if row.id == POPULATION_BEST else user_benefits(row) for row in view.drawn]
    panels = [values for values in (utilities, benefits) if any(item is not None for item in values)]
    if not panels:
        return None
    figure, axes = _panels(view, len(panels))
    for axis, values in zip(axes, panels, strict=True):
        for index, (height, row, item) in enumerate(zip(_positions(view), view.drawn, values, strict=True)):
            if item is not None:
                _box(axis, float(height), item, row, index)
    axes[0].set_xlabel("Utility, one value per user")
    if len(panels) == 2:
        axes[1].set_xlabel("Difference, one value per user")
        _upright(axes[1], 0.0, "best without\nknowing the user")
    return figure


def figures_of(view: TrackView) -> dict[str, Figure]:
    """Return the figures of a track by name."""
    made = {"leaderboard": leaderboard_figure(view), "distribution": distribution_figure(view)}
    return {name: figure for name, figure in made.items() if figure is not None}


def write_figures(results: Results | Sequence[Results], directory: str | Path) -> list[Path]:
    """Write the figures of every track as SVG and PNG, `<track>-<figure>.svg` and `.png`; equal input, equal SVG.

    Args:
        results: One or several results.
        directory: Where to write; made if absent.

    Returns:
        The files, in the order in which they were written.
    """
    written: list[Path] = []
    with drawing(text_as_paths=True):
        for view in track_views(as_sequence(results)):
            for name, figure in figures_of(view).items():
                written += save_figure(figure, Path(directory) / f"{view.key}-{name}")
    return written
