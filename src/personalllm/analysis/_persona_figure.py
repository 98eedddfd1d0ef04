"""The figure of persona prompting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from personalllm.core.plotting import INK, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from personalllm.analysis._persona_effect import PersonaPopulation

__all__ = ["persona_figure"]

_BINS = np.linspace(0, 1, 21)


def persona_figure(population: PersonaPopulation) -> Figure:
    """Draw where the variance of the scores lies, and how often a persona votes as the scorer does without one."""
    from matplotlib.figure import Figure

    with drawing(text_as_paths=True):
        figure = Figure(figsize=(8.2, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        _shares(left, population)
        _agreement(right, population)
        figure.suptitle(
            f"{len(population.personas)} personas, {population.votes.n_prompts} prompts, scored by {population.scorer}",
            fontsize=9.5,
            x=0.01,
            ha="left",
        )
        figure.draw_without_rendering()
        return figure


def _shares(axes: Axes, population: PersonaPopulation) -> None:
    values = 100 * np.nan_to_num(population.variance_shares())
    labels = ("response", "persona", "persona's own view\nof a response")
    styles = ((INK["accent"], ""), (INK["soft"], "...."), (INK["paper"], "////"))
    for row, (value, (colour, hatch)) in enumerate(zip(values, styles, strict=True)):
        axes.barh(row, value, 0.62, color=colour, hatch=hatch, edgecolor=INK["ink"], linewidth=0.8)
        axes.text(value + 1.5, row, f"{value:.1f} %", va="center", fontsize=9)
    axes.set_yticks(range(3), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 25))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title("Variance of the scores of a prompt, %", fontsize=9.5, loc="left")


def _agreement(axes: Axes, population: PersonaPopulation) -> None:
    values = population.agreement[np.isfinite(population.agreement)]
    heights, _, _ = axes.hist(values, list(_BINS), color=INK["soft"], edgecolor=INK["ink"], linewidth=0.8)
    top = max(float(np.max(heights)), 1.0)
    chance = 1 / population.votes.n_options
    marks = [(chance, ":", f"chance {chance:.1%}")]
    if len(values):
        marks.append((float(values.mean()), "-", f"mean {values.mean():.1%}"))
    for value, style, label in marks:
        axes.axvline(value, color=INK["mark"], linestyle=style, linewidth=1.8, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.1 * top)
    axes.set_xticks(np.linspace(0, 1, 5), ["0", "25", "50", "75", "100"])
    axes.set_xlabel("% of prompts")
    axes.set_ylabel("personas")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Votes as the scorer does without a persona", fontsize=9.5, loc="left")
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
