"""The figure of entropy by keyword and first word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalllm.analysis.entropy import EntropyByWords, Group
from personalllm.core.plotting import INK, bare, drawing, key_of_series, look, new_figure, short, whisker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["entropy_figure"]


def _label(word: tuple[str, str], groups: dict[tuple[str, str, str], Group], names: list[str]) -> str:
    """Return the name of a row with its number of prompts, or the range of numbers over the populations."""
    kind, text = word
    counts = sorted({groups[name, kind, text].n_prompts for name in names})
    number = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    what = "all prompts" if kind == "all" else f"{kind} \u201c{short(text, 18)}\u201d"
    return f"{what} ({number})"


def entropy_figure(result: EntropyByWords) -> Figure:
    """Draw a row for each word that occurs: the mean entropy of each population; lines mark all prompts."""
    names = [votes.name for votes in result.populations]
    groups: dict[tuple[str, str, str], Group] = {(g.population, g.kind, g.word): g for g in result.groups}
    words = list(dict.fromkeys((group.kind, group.word) for group in result.groups if group.n_prompts))
    step = 0.62 / len(names)
    with drawing(text_as_paths=True):
        figure = new_figure(1.4 + (0.13 * len(names) + 0.13) * len(words))
        axis = figure.subplots()
        for index, name in enumerate(names):
            style = look(index)
            axis.axvline(
                groups[name, "all", ""].mean, color=style.stroke, linewidth=1.0, linestyle=style.line, zorder=1
            )
            for row, (kind, text) in enumerate(words):
                group = groups[name, kind, text]
                at = row + (index - (len(names) - 1) / 2) * step
                whisker(axis, at, group.low, group.high, upright=False, colour=INK["ink"])
                axis.plot(
                    [group.mean], [at], style.marker,
                    markerfacecolor=style.face, markeredgecolor=style.stroke, markersize=6.5, zorder=4,
                )  # fmt: skip
        axis.set_yticks(range(len(words)), [_label(word, groups, names) for word in words])
        axis.set_ylim(len(words) - 0.4, -0.6)
        axis.set_xlabel("Mean entropy of the vote, nats")
        bare(axis, grid="x")
        key_of_series(figure, names, bars=False)
        figure.draw_without_rendering()
    return figure
