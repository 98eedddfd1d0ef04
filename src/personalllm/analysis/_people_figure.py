"""The figure that sets simulated users beside people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalllm.core.plotting import INK, bare, drawing, new_figure, short, whisker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from personalllm.analysis.people import People

__all__ = ["people_figure"]


def _chance(quantity: str, n_options: set[int], n_voters: int) -> float | None:
    """Return the percentage that voters who choose at random would show; None if the numbers of options differ."""
    if len(n_options) != 1:
        return None
    (n,) = n_options
    return {"disagreement": 100 * (1 - n ** (1.0 - n_voters)), "pair agreement": 100 / n}.get(quantity)


def people_figure(result: People) -> Figure:
    """Draw a row for each population, people as filled diamonds and simulated users as hollow circles."""
    panels = {
        "disagreement": f"Prompts on which {result.n_voters} voters\nare not of one mind, %",
        "pair agreement": "Two voters choose\nthe same option, %",
        "entropy": f"Mean entropy of the votes of\n{result.n_voters} voters, nats",
    }
    everyone = (*result.real, *result.simulated)
    n_options = {votes.n_options for votes in everyone}
    with drawing(text_as_paths=True):
        figure = new_figure(1.4 + 0.36 * len(everyone))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (quantity, title) in zip(axes, panels.items(), strict=True):
            scale = 1.0 if quantity == "entropy" else 100.0
            for row, votes in enumerate(everyone):
                one = result.of(quantity, votes.name)
                whisker(axis, row, scale * one.low, scale * one.high, upright=False)
                person = one.level == "people"
                colour = INK["mark"] if person else INK["accent"]
                axis.plot(
                    [scale * one.value], [row], "D" if person else "o", color=colour,
                    markerfacecolor=colour if person else INK["paper"], markersize=6, zorder=4,
                )  # fmt: skip
            chance = _chance(quantity, n_options, result.n_voters)
            if chance is not None:
                axis.axvline(chance, color=INK["muted"], linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
                axis.annotate(
                    "chance", (chance, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                    textcoords="offset points", ha="center", va="bottom", fontsize=8.5, color=INK["muted"],
                )  # fmt: skip
            axis.margins(x=0.08)
            axis.set_xlabel(title)
            bare(axis, grid="x")
        axes[0].set_yticks(range(len(everyone)), [short(votes.name, 30) for votes in everyone])
        axes[0].set_ylim(len(everyone) - 0.4, -0.6)
        figure.draw_without_rendering()
    return figure
