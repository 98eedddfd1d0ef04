"""Draw the reproduction: curves by number of shots, in-context learning left, learning across users right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from personalllm.core.plotting import INK, bare
from personalllm.evaluation.contract import Estimate
from personalllm.papers.personalllm_2025.plan import EMBEDDINGS, FEEDBACK, ZERO_SHOT
from personalllm.papers.personalllm_2025.printed import find_paper_row, win_rate_error
from personalllm.report.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.papers.personalllm_2025.reproduction import Reproduction

__all__ = ["paper_figure", "reproduction_figure"]

_METRICS = (("utility", "Mean utility"), ("win_rate_reference", "Win rate vs {reference}, %"))
_SIZE = (8.2, 7.1)
_LOOKS: dict[str, tuple[str, Any, str, bool]] = {
    "icl/winning": ("o", "-", "accent", True),
    "icl/winning-and-losing": ("s", (0, (5, 2)), "accent", False),
    "icl/losing": ("v", (0, (1, 1.4)), "mark", True),
    "icl/losing-as-winning": ("X", (0, (4, 1.5, 1, 1.5)), "mark", False),
    "self-icl/winning": ("D", "-", "muted", False),
    "meta-icl/winning-minus-losing": ("o", "-", "accent", True),
    "meta-icl/winning": ("^", (0, (5, 2)), "accent", False),
    "meta-icl/losing": ("v", (0, (1, 1.4)), "mark", True),
    "lookup-icl/winning": ("P", (0, (4, 1.5, 1, 1.5)), "mark", False),
}
"""Marker, line style, role of the colour, filled or not."""
_LEFT = {f"icl/{mode}": f"ICL, {name}" for mode, name in FEEDBACK.items()} | {"self-icl/winning": "Self-ICL, winning"}
_RIGHT = {f"meta-icl/{key}": f"Meta-ICL, {name}" for key, name in EMBEDDINGS.items()}
_RIGHT |= {"lookup-icl/winning": "Look-up ICL", "self-icl/winning": "Self-ICL, winning"}
_PANELS = ((_LEFT, "In-context learning, by what is shown"), (_RIGHT, "Learning across users, by user embedding"))
_REACH = 0.35
_LABEL = 0.125
UP, DOWN = "\u2191", "\u2193"
_DODGE = 0.46
_LINES: dict[str, tuple[str, Any]] = {
    ZERO_SHOT: ("ink", (0, (6, 3))),
    "reference": ("muted", (0, (2, 2))),
    "population-best": ("muted", "-"),
    "oracle": ("muted", (0, (6, 2, 1, 2))),
}


@dataclass(frozen=True)
class _Data:
    """What one figure shows.

    Attributes:
        points: Series -> shots -> estimate, for each metric.
        lines: Reference -> (text, level), for each metric.
        zero: Estimate of zero-shot, for each metric.
        reference: Name of the reference response model.
        shots: Numbers of shots.
    """

    points: dict[str, dict[str, dict[int, Estimate]]]
    lines: dict[str, dict[str, tuple[str, float]]]
    zero: dict[str, Estimate]
    reference: str
    shots: tuple[int, ...]


def reproduction_figure(reproduction: Reproduction) -> Figure:
    """Draw our cells with the users' own histories; call within `core.plotting.drawing`."""
    points: dict[str, dict[str, dict[int, Estimate]]] = {metric: {} for metric, _ in _METRICS}
    for row in reproduction.rows:
        if row.cell.method != ZERO_SHOT:
            series = f"{row.cell.method}/{row.cell.variant}"
            for metric, values in points.items():
                values.setdefault(series, {})[row.cell.shots] = row.estimate(metric)
    zero = reproduction.row(ZERO_SHOT)
    own = reproduction.own
    reference = own.protocol["reference_response_model"]
    stored = {name: own.estimate(name, "utility").value for name in ("population-best", "oracle", f"model:{reference}")}
    lines = {
        "utility": {
            ZERO_SHOT: ("zero-shot", zero.estimate("utility").value),
            "reference": (reference, stored[f"model:{reference}"]),
            "population-best": ("best for all users", stored["population-best"]),
            "oracle": ("best for each user", stored["oracle"]),
        },
        "win_rate_reference": {
            ZERO_SHOT: ("zero-shot", zero.estimate("win_rate_reference").value),
            "reference": ("even", 0.5),
        },
    }
    of_zero = {metric: zero.estimate(metric) for metric, _ in _METRICS}
    return _draw(_Data(points, lines, of_zero, reference, reproduction.plan.shots))


def paper_figure() -> Figure:
    """Draw the same of the paper's numbers; intervals of 1.96 standard errors, which only the win rates allow."""
    points: dict[str, dict[str, dict[int, Estimate]]] = {metric: {} for metric, _ in _METRICS}
    for series in {**_LEFT, **_RIGHT}:
        method, _, variant = series.partition("/")
        feedback, embedding = ("winning", variant) if method == "meta-icl" else (variant, "")
        for shots in (1, 3, 5):
            row = find_paper_row(method, shots, feedback=feedback, embedding=embedding)
            if row is not None:
                for metric, values in points.items():
                    values.setdefault(series, {})[shots] = _paper_estimate(metric, row.value(metric))
    zero_row = find_paper_row(ZERO_SHOT, 0)
    assert zero_row is not None  # noqa: S101
    zero = {metric: _paper_estimate(metric, zero_row.value(metric)) for metric, _ in _METRICS}
    lines: dict[str, dict[str, tuple[str, float]]] = {
        metric: {ZERO_SHOT: ("zero-shot", estimate.value)} for metric, estimate in zero.items()
    }
    lines["win_rate_reference"]["reference"] = ("even", 0.5)
    return _draw(_Data(points, lines, zero, "gpt-4o", (1, 3, 5)))


def _paper_estimate(metric: str, value: float) -> Estimate:
    half = 1.96 * win_rate_error(value) if metric != "utility" else math.nan
    return Estimate(value, value - half, value + half)


def _draw(data: _Data) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE)
    figure.set_facecolor("none")
    axes = figure.subplots(
        2, 2, sharex=True, sharey="row",
        gridspec_kw={"left": 0.085, "right": 0.825, "top": 0.945, "bottom": 0.222, "wspace": 0.07, "hspace": 0.11},
    )  # fmt: skip
    for (metric, title), row in zip(_METRICS, axes, strict=True):
        scale = 1.0 if metric == "utility" else 100.0
        drawn, beyond = _limits(row[0], data, metric, scale)
        for axis, (series, heading) in zip(row, _PANELS, strict=True):
            _panel(axis, data, metric, list(series), scale)
            for name, (_, level) in drawn.items():
                colour, style = _LINES[name]
                axis.axhline(level * scale, color=INK[colour], linewidth=1.0, linestyle=style, zorder=1)
            if metric == "utility":
                axis.set_title(heading, fontsize=9.5, loc="left", color=INK["ink"], pad=6)
            else:
                axis.set_xlabel("Examples shown")
        row[0].set_ylabel(title.format(reference=_short(data.reference, 20)))
        _margin(row[1], drawn, beyond, scale)
    for (series, _), axis in zip(_PANELS, axes[1], strict=True):
        _legend(axis, [(key, label) for key, label in series.items() if data.points["utility"].get(key)])
    return figure


def _limits(
    axis: Axes, data: _Data, metric: str, scale: float
) -> tuple[dict[str, tuple[str, float]], dict[str, tuple[str, float]]]:
    """Set the range of a row of panels; return the reference lines within reach and those beyond."""
    values = [value for series in data.points[metric].values() for value in series.values()]
    values.append(data.zero[metric])
    ends = [end for value in values for end in (value.value, value.low, value.high) if math.isfinite(end)]
    low, high = min(ends), max(ends)
    reach = _REACH * (high - low or 1.0)
    lines = data.lines[metric]
    drawn = {name: line for name, line in lines.items() if low - reach <= line[1] <= high + reach}
    levels = [level for _, level in drawn.values()]
    low, high = min([low, *levels]), max([high, *levels])
    margin = 0.06 * (high - low or 1.0)
    axis.set_ylim((low - margin) * scale, (high + margin) * scale)
    return drawn, {name: line for name, line in lines.items() if name not in drawn}


def _panel(axis: Axes, data: _Data, metric: str, series: Sequence[str], scale: float) -> None:
    """Draw the curves of a panel, side by side at each number of shots so that no interval hides another."""
    curves = [key for key in series if data.points[metric].get(key)]
    bare(axis, grid="y")
    positions = {k: i for i, k in enumerate(data.shots)}
    axis.set_xticks(list(positions.values()), [str(k) for k in positions])
    axis.set_xlim(-0.5, len(positions) - 0.5)
    zero = data.zero[metric]
    if math.isfinite(zero.low):
        axis.axhspan(zero.low * scale, zero.high * scale, color=INK["rule"], alpha=0.35, linewidth=0, zorder=0.5)
    step = _DODGE / max(1, len(curves) - 1)
    for index, key in enumerate(curves):
        values = {k: value for k, value in sorted(data.points[metric][key].items()) if k in positions}
        x = [positions[k] - _DODGE / 2 + step * index for k in values] if len(curves) > 1 else list(positions.values())
        style = _style(key)
        for position, value in zip(x, values.values(), strict=True):
            if math.isfinite(value.low):
                ends = [value.low * scale, value.high * scale]
                axis.plot([position, position], ends, color=style["color"], linewidth=1.0, alpha=0.75, zorder=2)
        axis.plot(x, [value.value * scale for value in values.values()], zorder=3, **style)


def _style(key: str) -> dict[str, Any]:
    """Return the look of a curve, in the panel and in the legend."""
    marker, line, role, filled = _LOOKS[key]
    edge = {"markeredgecolor": INK[role], "markeredgewidth": 1.2, "markersize": 5.5, "linewidth": 1.3}
    face = INK[role if filled else "paper"]
    return {"color": INK[role], "linestyle": line, "marker": marker, "markerfacecolor": face, **edge}


def _short(text: str, width: int) -> str:
    text = text.rpartition("/")[2]
    return text if len(text) <= width else text[: width - 1] + "\u2026"


def _margin(
    axis: Axes, drawn: dict[str, tuple[str, float]], beyond: dict[str, tuple[str, float]], scale: float
) -> None:
    """Name the reference lines at the right of the panel; those outside the range stand with an arrow at its edge."""
    low, high = axis.get_ylim()
    labels = [((level * scale - low) / (high - low), _named(text, level, scale)) for text, level in drawn.values()]
    leaders = len(labels)
    for text, level in sorted(beyond.values(), key=lambda line: line[1]):
        above = level * scale > high
        labels.append((1.0 if above else 0.0, f"{UP if above else DOWN} {_named(text, level, scale)}"))
    order = sorted(range(len(labels)), key=lambda i: labels[i][0])
    for i, height in zip(order, spread([labels[i][0] for i in order]), strict=True):
        level, text = labels[i]
        if i < leaders:
            axis.plot(
                [1.0, 1.025],
                [level, height],
                transform=axis.transAxes,
                color=INK["muted"],
                linewidth=0.7,
                clip_on=False,
            )
        axis.annotate(
            text, (1.025, height), xycoords="axes fraction", xytext=(3, 0), textcoords="offset points", ha="left",
            va="center", fontsize=8.5, color=INK["muted"], linespacing=1.15, annotation_clip=False,
        )  # fmt: skip


def spread(levels: Sequence[float], gap: float = _LABEL) -> list[float]:
    """Return heights in [0.03, 0.97] at least `gap` apart, in the order given, near to the levels.

    >>> [round(height, 3) for height in spread([0.5, 0.9, 0.95, 1.0], 0.1)]
    [0.5, 0.77, 0.87, 0.97]
    """
    heights: list[float] = []
    for height in levels:
        heights.append(max(height, 0.03, heights[-1] + gap if heights else 0.0))
    top = 0.97
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], top)
        top = heights[i] - gap
    return heights


def _named(text: str, level: float, scale: float) -> str:
    return f"{_short(text, 18)}\n{number(level, 2) if scale == 1.0 else f'{level * scale:.0f} %'}"


def _legend(axis: Axes, series: Sequence[tuple[str, str]]) -> None:
    """Put the names of the curves below the panel, where they cover nothing."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **_style(key)) for key, label in series]
    axis.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.2), frameon=False, fontsize=9,
        handlelength=3.4, labelspacing=0.35, borderaxespad=0.0,
    )  # fmt: skip
