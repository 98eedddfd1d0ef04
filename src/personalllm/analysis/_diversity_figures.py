"""The figures of preference diversity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from personalllm.analysis.intervals import Measured
from personalllm.core.plotting import INK, bare, drawing, key_of_series, look, new_figure, short, whisker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.analysis.diversity import Diversity

__all__ = ["diversity_figure"]

_MOST_OPTIONS = 12


def diversity_figure(result: Diversity, *, plotted_bins: bool) -> Figure:
    """Draw the three panels of the paper's figure, populations side by side."""
    names = [votes.name for votes in result.populations]
    options = _options(result, names)
    row = 0.17 * max(len(names), 2) + 0.1
    with drawing(text_as_paths=True):
        figure = new_figure(3.5 + row * len(options))
        grid = figure.add_gridspec(2, 2, width_ratios=(3, 5), height_ratios=(2.6, row * len(options)))
        left, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        below = figure.add_subplot(grid[1, :])
        _bars(left, [result.of("top share at most", name) for name in names], percent=True)
        left.set_xlabel("Top response's share of the votes, at most")
        left.set_ylabel("% of prompts")
        winners = "winners as plotted" if plotted_bins else "winners"
        _bars(right, [result.of(winners, name) for name in names], percent=False)
        right.set_xlabel("Distinct winners, labels as in the paper's figure" if plotted_bins else "Distinct winners")
        _rows(below, [result.of("wins", name) for name in names], options)
        below.set_xlabel("% of votes")
        key_of_series(figure, names, bars=True)
        figure.draw_without_rendering()
    return figure


def _options(result: Diversity, names: Sequence[str]) -> list[str]:
    """Return the options that get most votes, most first, at most so many as can be drawn."""
    totals: dict[str, float] = {}
    for name in names:
        for option, one in result.of("wins", name).items():
            totals[option] = totals.get(option, 0.0) + one.value
    return sorted(totals, key=lambda option: -totals[option])[:_MOST_OPTIONS]


def _bars(axis: Axes, series: Sequence[Mapping[str, Measured]], *, percent: bool) -> None:
    """Draw groups of bars, one group for each level, one bar for each series, in per cent."""
    levels = list(dict.fromkeys(level for one in series for level in one))
    width = 0.82 / len(series)
    for index, one in enumerate(series):
        style = look(index)
        for place, level in enumerate(levels):
            if level not in one:
                continue
            at = place + (index - (len(series) - 1) / 2) * width
            axis.bar(
                at, 100 * one[level].value, 0.86 * width,
                color=style.face, edgecolor=style.edge, hatch=style.hatch, linewidth=0.9, zorder=2,
            )  # fmt: skip
            whisker(axis, at, 100 * one[level].low, 100 * one[level].high, upright=True)
    axis.set_xticks(range(len(levels)), [f"{100 * float(level):g} %" if percent else level for level in levels])
    axis.set_ylim(bottom=0)
    bare(axis, grid="y")


def _rows(axis: Axes, series: Sequence[Mapping[str, Measured]], options: Sequence[str]) -> None:
    """Draw a row for each option with a marker for each series, in per cent."""
    step = 0.74 / len(series)
    for index, one in enumerate(series):
        style = look(index)
        for place, option in enumerate(options):
            if option not in one:
                continue
            at = place + (index - (len(series) - 1) / 2) * step
            axis.barh(
                at, 100 * one[option].value, 0.84 * step,
                color=style.face, edgecolor=style.edge, hatch=style.hatch, linewidth=0.9, zorder=2,
            )  # fmt: skip
            whisker(axis, at, 100 * one[option].low, 100 * one[option].high, upright=False)
    axis.set_yticks(range(len(options)), [short(option.rsplit("/", 1)[-1]) for option in options])
    axis.set_ylim(len(options) - 0.4, -0.6)
    axis.set_xlim(left=0)
    bare(axis, grid="x")
    axis.spines["bottom"].set_color(INK["rule"])
