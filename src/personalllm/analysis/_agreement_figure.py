"""The figure of the agreement between users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalllm.core.plotting import INK, bare, drawing, new_figure, short, whisker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.agreement import Agreement

__all__ = ["agreement_figure"]


def agreement_figure(result: Agreement) -> Figure:
    """Draw a row for each population: 5, 25, 50, 75 and 95 % of the pairs of users, and the mean with its interval."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = [votes.name for votes in result.populations]
    with drawing(text_as_paths=True):
        figure = new_figure(1.3 + 0.42 * len(names))
        axis = figure.subplots()
        for row, name in enumerate(names):
            pairs = {level: one.value for level, one in result.of("users", name).items()}
            if pairs:
                axis.plot([pairs["5 %"], pairs["95 %"]], [row, row], color=INK["accent"], linewidth=1.2, zorder=2)
                axis.barh(
                    row, pairs["75 %"] - pairs["25 %"], left=pairs["25 %"], height=0.46,
                    color=INK["soft"], edgecolor=INK["accent"], linewidth=1.0, zorder=3,
                )  # fmt: skip
                middle = pairs["median"]
                axis.plot([middle, middle], [row - 0.23, row + 0.23], color=INK["accent"], linewidth=2.4, zorder=4)
            mean = result.of("pair agreement", name)["mean"]
            whisker(axis, row, mean.low, mean.high, upright=False)
            axis.plot([mean.value], [row], "D", color=INK["ink"], markerfacecolor=INK["paper"], markersize=6, zorder=6)
        axis.set_yticks(range(len(names)), [short(name) for name in names])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xlim(-0.01, 1.01)
        axis.set_xlabel("Share of prompts on which two users choose the same response")
        bare(axis, grid="x")
        handles = [
            Line2D([], [], color=INK["ink"], marker="D", markerfacecolor=INK["paper"], label="mean, 95 % interval"),
            Patch(facecolor=INK["soft"], edgecolor=INK["accent"], label="pairs of users: 5, 25, 50, 75, 95 %"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
        figure.draw_without_rendering()
    return figure
