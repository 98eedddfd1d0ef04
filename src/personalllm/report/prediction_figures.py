"""Figures of the predict track: learning curves, calibration, strata, counterfactuals.

Series differ in marker, fill and line as well as in colour, so that the figures read in grey.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from personalllm.core.plotting import INK, bare, key_of_series, look, new_figure, short, whisker
from personalllm.report.prediction_views import PredictionView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.evaluation.prediction.metrics import Cell
    from personalllm.evaluation.prediction.results import LearnerResult

__all__ = ["curves_figure", "dots_figure", "each_figure", "prediction_figures", "reliability_figure"]

_LABELS = {"accuracy": "Accuracy", "log_loss": "Log-loss"}
_LINES: dict[str, Any] = {"null": (0, (1, 2)), "oracle": (0, (6, 2))}
_COLUMNS = 3
_FEW = 0.02
_BRIEF = 21


def prediction_figures(view: PredictionView) -> dict[str, Figure]:
    """Return the figures of a run by name, those for which it has numbers; call within `drawing`."""
    made: dict[str, Figure] = {"curves": curves_figure(view, "accuracy")}
    if view.learners:
        made["each"] = each_figure(view)
    if any(math.isfinite(view.at(one, "log_loss").value) for one in view.learners):
        made["log-loss"] = curves_figure(view, "log_loss")
        made["reliability"] = reliability_figure(view)
    strata = [(stratum, view.headline, name) for stratum, name in zip(view.contested, _quarters(view), strict=True)]
    if strata:
        made["contested"] = dots_figure(view, view.rows, strata)
    if view.counterfactuals and view.learners:
        other = [("all", cell, _history(cell)) for cell in view.counterfactuals]
        made["counterfactuals"] = dots_figure(view, view.learners, [("all", view.headline, "own history"), *other])
    return made


def _quarters(view: PredictionView) -> list[str]:
    return [f"{25 * n}\u2013{25 * (n + 1)} % disagree" for n in range(len(view.contested))]


def _history(cell: Cell) -> str:
    return {"flipped": "own, labels flipped", "other-user": "another user's"}.get(cell.history, cell.history)


def _line(axis: Axes, view: PredictionView, one: LearnerResult, metric: str, cell: Cell, **style: Any) -> None:
    """Draw a learner's curve: a line, its markers, and an interval at each point if asked for."""
    shots, bars = view.shots(cell), style.pop("bars", False)
    curve = view.results.curve(one.id, metric, cell)
    at = [(x, curve[k]) for x, k in enumerate(shots) if k in curve and math.isfinite(curve[k].value)]
    if not at:
        return
    offset = style.pop("offset", 0.0)
    axis.plot([x + offset for x, _ in at], [value.value for _, value in at], **style)
    for x, value in at if bars else ():
        whisker(axis, x + offset, value.low, value.high, upright=True, colour=style["color"])


def _references(axis: Axes, view: PredictionView, metric: str, cell: Cell, *, named: bool) -> None:
    """Draw nulls and oracles as level lines, named at the right edge."""
    ends: list[tuple[float, str, str]] = []
    for one in (*view.nulls, *view.oracles):
        value = view.at(one, metric, cell).value
        if math.isfinite(value):
            colour = INK["muted"] if one.kind == "null" else INK["ink"]
            if axis.get_ylim()[0] <= value <= axis.get_ylim()[1]:
                axis.axhline(value, color=colour, linewidth=0.9, linestyle=_LINES[one.kind], zorder=1)
            ends.append((value, short(one.id, 19), colour))
    if named:
        _name_ends(axis, ends)


def _name_ends(axis: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write names beside the right edge, moved apart where they would meet."""
    low, high = axis.get_ylim()
    room, below = 0.075 * (high - low), -math.inf
    for value, name, colour in sorted(ends):
        if not low <= value <= high:
            continue
        place = max(value, below + room)
        below = place
        axis.annotate(
            name, (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", ha="left", fontsize=8.5, color=colour, annotation_clip=False,
        )  # fmt: skip


def _limits(view: PredictionView, metric: str, cells: Sequence[Cell]) -> tuple[float, float]:
    """Return the range of the panels: all curves and levels but that of the true weights, which would squeeze them.

    A log-loss far above a coin's is cut off.
    """
    values = [0.5 if metric == "accuracy" else math.log(2)]
    for cell in cells:
        near = [one for one in view.oracles if one.id != "true-weights"]
        for one in (*view.learners, *view.nulls, *near):
            values += [v for e in view.results.curve(one.id, metric, cell).values() for v in (e.value, e.low, e.high)]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    if metric == "log_loss":
        high = min(high, 2 * math.log(2))
    if high <= low:
        low, high = low - 0.1, low + 0.1
    return low - _FEW * (high - low), high + 2 * _FEW * (high - low)


def _axes_of_shots(axis: Axes, view: PredictionView, cell: Cell) -> None:
    shots = view.shots(cell)
    bare(axis, grid="y")
    axis.set_xticks(range(len(shots)), [str(k) for k in shots])
    axis.set_xlim(-0.3, max(len(shots) - 0.7, 0.3))


def curves_figure(view: PredictionView, metric: str) -> Figure:
    """Draw a metric over the number of comparisons, a panel for each kind of users and prompts.

    The best six learners have looks of their own and intervals; the others are faint lines.
    """
    cells = view.panels
    rows = sorted({cell.users for cell in cells}, reverse=True)
    columns = sorted({cell.prompts for cell in cells}, reverse=True)
    figure = new_figure(0.9 + 2.75 * len(rows))
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharey=True)
    limits, shown = _limits(view, metric, cells), view.shown(metric)
    present = {(cell.users, cell.prompts): cell for cell in cells}
    for (i, users), (j, prompts) in ((r, c) for r in enumerate(rows) for c in enumerate(columns)):
        axis, cell = grid[i, j], present.get((users, prompts))
        if cell is None:
            axis.set_visible(False)
            continue
        _axes_of_shots(axis, view, cell)
        axis.set_ylim(*limits)
        axis.set_title(f"{users} {_whom(view)}, {prompts} prompts", fontsize=9.5, loc="left", color=INK["ink"])
        last = j == len(columns) - 1 or (users, columns[j + 1]) not in present
        _references(axis, view, metric, cell, named=last)
        for one in (one for one in view.learners if one not in shown):
            _line(axis, view, one, metric, cell, color=INK["rule"], linewidth=1.0, zorder=1.5)
        for index, one in reversed(list(enumerate(shown))):
            style = look(index)
            _line(
                axis, view, one, metric, cell, bars=True, offset=0.06 * (index - (len(shown) - 1) / 2),
                color=style.stroke, linestyle=style.line, linewidth=1.4, marker=style.marker, markersize=5,
                markerfacecolor=style.face, markeredgecolor=style.stroke, zorder=4 - 0.1 * index,
            )  # fmt: skip
        if j == 0:
            axis.set_ylabel(_LABELS[metric])
        axis.set_xlabel("Comparisons known of the user" if not view.of_people else "Comparisons known of the person")
    key_of_series(figure, _brief(view, shown), bars=False)
    return figure


def _brief(view: PredictionView, shown: Sequence[LearnerResult]) -> list[str]:
    """Return the titles of learners if four of the longest stand side by side, else their labels."""
    titles = [view.name(one) for one in shown]
    return titles if all(len(name) <= _BRIEF for name in titles) else [short(one.id, _BRIEF) for one in shown]


def _whom(view: PredictionView) -> str:
    return "people" if view.of_people else "users"


def _small_panels(view: PredictionView, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with a small panel for each learner, its name above."""
    n = max(1, len(view.learners))
    rows = math.ceil(n / _COLUMNS)
    figure = new_figure(0.3 + height * rows)
    grid = figure.subplots(rows, min(n, _COLUMNS), squeeze=False, sharex=True, sharey=True)
    axes: list[Axes] = list(grid.ravel())
    for axis in axes[n:]:
        axis.set_visible(False)
    for axis, one in zip(axes, view.learners, strict=False):
        axis.set_title(short(view.name(one), 34), fontsize=9, loc="left", color=INK["ink"])
    for index, axis in enumerate(axes[:n]):
        axis.tick_params(labelbottom=index + _COLUMNS >= n)
    return figure, axes[:n]


def each_figure(view: PredictionView) -> Figure:
    """Draw the accuracy curve of each learner in a panel of its own, the others faint behind it."""
    figure, axes = _small_panels(view, 1.55)
    cell = view.headline
    limits = _limits(view, "accuracy", [cell])
    for axis, one in zip(axes, view.learners, strict=False):
        _axes_of_shots(axis, view, cell)
        axis.set_ylim(*limits)
        _references(axis, view, "accuracy", cell, named=False)
        for other in view.learners:
            if other is not one:
                _line(axis, view, other, "accuracy", cell, color=INK["rule"], linewidth=0.9, zorder=1.5)
        curve = view.results.curve(one.id, "accuracy", cell)
        at = [(x, curve[k]) for x, k in enumerate(view.shots(cell)) if k in curve]
        axis.fill_between(
            [x for x, _ in at],
            [e.low for _, e in at],
            [e.high for _, e in at],
            color=INK["soft"],
            linewidth=0,
            zorder=2,
        )
        _line(
            axis, view, one, "accuracy", cell, color=INK["accent"], linewidth=1.8, marker="o", markersize=3.5, zorder=4
        )
    return figure


def reliability_figure(view: PredictionView) -> Figure:
    """Draw, for each learner that gives probabilities, how often it is right against how sure it is."""
    figure, axes = _small_panels(view, 1.75)
    for axis, one in zip(axes, view.learners, strict=False):
        bare(axis, grid="both")
        axis.set_xlim(0.46, 1.05)
        axis.set_ylim(0.25, 1.1)
        axis.plot([0.5, 1], [0.5, 1], color=INK["muted"], linewidth=0.9, linestyle=_LINES["oracle"], zorder=1)
        bins = view.results.reliability(one.id, view.headline).to_pydict() if one.log_odds else {"n_pairs": []}
        sizes = np.array(bins["n_pairs"], dtype=np.float64)
        if not sizes.sum():
            axis.text(0.75, 0.6, "no probabilities", ha="center", va="center", fontsize=8.5, color=INK["muted"])
            continue
        full = sizes > 0
        x, y = (np.array(bins[name], dtype=np.float64)[full] for name in ("confidence", "accuracy"))
        area = 6 + 150 * sizes[full] / sizes.sum()
        axis.plot(x, y, color=INK["accent"], linewidth=0.8, zorder=2)
        axis.scatter(x, y, s=area, facecolor=INK["soft"], edgecolor=INK["accent"], linewidth=1, zorder=3)
    axes[0].set_ylabel("Share right")
    axes[-1].set_xlabel("How sure")
    return figure


def dots_figure(
    view: PredictionView, shown: Sequence[LearnerResult], series: Sequence[tuple[str, Cell, str]]
) -> Figure:
    """Draw the accuracy of some rows under several conditions, a marker each, with intervals.

    Args:
        view: The run.
        shown: The rows, top to bottom.
        series: (stratum, cell, name) of each condition, at most six.
    """
    rows = [one for one in shown if math.isfinite(view.at(one, "accuracy").value)]
    figure = new_figure(1.0 + 0.36 * len(rows))
    axis = figure.subplots()
    bare(axis, grid="x")
    heights = [-float(index) - 0.5 * (one.kind != "learner") for index, one in enumerate(rows)]
    for index, (stratum, cell, _) in enumerate(series):
        style, shift = look(index), 0.14 * ((len(series) - 1) / 2 - index)
        for height, one in zip(heights, rows, strict=True):
            value = view.at(one, "accuracy", cell, stratum)
            if math.isfinite(value.value):
                whisker(axis, height + shift, value.low, value.high, upright=False, colour=style.stroke)
                axis.plot(
                    [value.value], [height + shift], style.marker, markersize=6, markerfacecolor=style.face,
                    markeredgecolor=style.stroke, zorder=4,
                )  # fmt: skip
    axis.axvline(0.5, color=INK["mark"], linewidth=1.0, linestyle=(0, (4, 3)), zorder=0.8)
    names = [view.name(one) if one.kind == "learner" else one.id for one in rows]
    axis.set_yticks(heights, ["\n".join(textwrap.wrap(short(name, 44), 24)) for name in names])
    axis.set_ylim(min(heights) - 0.6, 0.6)
    axis.set_xlabel("Accuracy (dashed: a coin)")
    key_of_series(figure, [name for _, _, name in series], bars=False)
    return figure
