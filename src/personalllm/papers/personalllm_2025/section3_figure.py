"""The figure that sets a table's diversity against the paper's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalllm.core.plotting import INK, bare, drawing, key_of_series, look, new_figure, whisker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.papers.personalllm_2025.section3 import PaperComparison

__all__ = ["paper_figure"]

_PANELS = {
    "top share at most": "Top share at most 50, 75, 95 %",
    "winners as plotted": "Distinct winners, bins as plotted",
    "wins": "Wins of the response models",
}


def paper_figure(result: PaperComparison) -> Figure:
    """Draw one panel for each quantity, the paper's figures across, this table's upwards, in per cent."""
    names = list(dict.fromkeys(row.population for row in result.compared))
    quantities = {row.quantity for row in result.compared}
    panels = {quantity: title for quantity, title in _PANELS.items() if quantity in quantities}
    with drawing(text_as_paths=True):
        figure = new_figure(3.5)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (quantity, title) in zip(axes, panels.items(), strict=True):
            rows = [row for row in result.compared if row.quantity == quantity]
            ends = [100 * value for row in rows for value in (row.paper, row.here, row.low, row.high) if value == value]
            top = 1.06 * max(ends, default=1.0)
            axis.plot([0, top], [0, top], color=INK["mark"], linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
            for row in rows:
                style = look(names.index(row.population))
                whisker(axis, 100 * row.paper, 100 * row.low, 100 * row.high, upright=True, colour=INK["muted"])
                axis.plot(
                    [100 * row.paper], [100 * row.here], style.marker,
                    markerfacecolor=style.face, markeredgecolor=style.stroke, markersize=6, zorder=4,
                )  # fmt: skip
            axis.set_xlim(0, top)
            axis.set_ylim(0, top)
            axis.set_aspect("equal")
            axis.set_title(title, fontsize=9.5)
            axis.set_xlabel("Paper, %")
            bare(axis, grid="both")
        axes[0].set_ylabel("This table, %")
        key_of_series(figure, [n if n == "persona" else f"alpha {n}" for n in names], bars=False)
        figure.draw_without_rendering()
    return figure
